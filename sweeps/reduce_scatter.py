"""Lab note: can the gradients of split weights be reduce-scattered, which moves half of what an
all-reduce moves?

Question   Every chip keeps a part of each weight and needs that part of its gradient alone. Does the TPU compiler make
           a reduce-scatter of the sum over chips, and if not, does it when told to?
Fixed      Four scanned layers of two products each, bfloat16, 64 clips of 896 positions, nothing run.
Varied     Who asks (the partitioner, by the layout of the gradient, or `jax.lax.psum_scatter` in the backward pass),
           matrix sizes, slices, and flags of the compiler.
Predicted  A reduce-scatter where it is asked for by name.
Result     Never (libtpu 0.0.52): an all-reduce of the whole matrices, then a slice. Training steps therefore leave the
           choice to the partitioner.

    python sweeps/reduce_scatter.py
"""

import os

from genlab.machine.topologies import COMPILER_ENVIRONMENT, find_topology

os.environ.update(COMPILER_ENVIRONMENT)  # before jax is imported

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from genlab.machine.sharding import ShardingConfig, make_mesh
from genlab.speed.aot import compile_text, describe
from genlab.speed.hlo import Program

LAYERS, CLIPS, POSITIONS = 4, 64, 896
SIZES = ((512, 2048), (2048, 5632))
SLICES = ("v5e-16", "v5p-32", "v6e-16")
FLAGS = (
    {},
    {"xla_tpu_enable_all_reduce_scatter_fusion": "true"},
    {"xla_tpu_relayout_group_size_threshold_for_reduce_scatter": "1"},
    {"xla_tpu_enable_reduce_scatter_legalizer": "false"},
    {"xla_jf_crs_combiner_threshold_in_bytes": "0"},
)
SPLIT = (PartitionSpec("fsdp", None), PartitionSpec(None, "fsdp"))
BY_CLIP = PartitionSpec("fsdp")


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def scattered(x, kernel, axis):
    """Return a product whose kernel gradient is scattered over its split axis by name."""
    return x @ kernel


def _forward(x, kernel, axis):
    return x @ kernel, (x, kernel)


def _backward(axis, residuals, gradient):
    x, kernel = residuals

    def own_part(x, gradient):
        whole = x.reshape(-1, x.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
        return jax.lax.psum_scatter(whole, "fsdp", scatter_dimension=axis, tiled=True)

    own = jax.shard_map(own_part, in_specs=(BY_CLIP, BY_CLIP), out_specs=SPLIT[axis])
    return gradient @ kernel.T, own(x, gradient)


scattered.defvjp(_forward, _backward)


def plain(x, kernel, axis):
    """Return a product; what its kernel's gradient becomes is the partitioner's choice."""
    return x @ kernel


def list_sums(product, name, sizes, flags):
    """Return what sums over chips in the compiled gradient: kind, MB and runs."""
    mesh = make_mesh(ShardingConfig(), describe(find_topology(name)))
    places = [NamedSharding(mesh, PartitionSpec(None, *spec)) for spec in SPLIT]

    def loss(kernels, x):
        def layer(x, kernels):
            up, down = (kernel.astype(x.dtype) for kernel in kernels)
            return x + product(jax.nn.silu(product(x, up, 0)), down, 1), None

        return jnp.square(
            jax.lax.scan(jax.checkpoint(layer), x, kernels)[0].astype(jnp.float32)
        ).sum()

    def step(kernels, x):
        gradients = jax.grad(loss)(kernels, x)
        return jax.tree.map(jax.lax.with_sharding_constraint, gradients, tuple(places))

    shapes = ((LAYERS, *sizes), (LAYERS, *sizes[::-1]))
    kernels = tuple(
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=p)
        for s, p in zip(shapes, places, strict=True)
    )
    x = jax.ShapeDtypeStruct(
        (CLIPS, POSITIONS, sizes[0]), jnp.bfloat16, sharding=NamedSharding(mesh, BY_CLIP)
    )
    with jax.set_mesh(mesh):
        text = compile_text(jax.jit(step).lower(kernels, x), flags)[1]
    sums = [found for found in Program(text).collectives() if "reduce" in found.kind]
    return [
        f"{found.kind} of {found.bytes_per_run / 1e6:.1f} MB in {found.runs} runs" for found in sums
    ]


if __name__ == "__main__":
    for product in (plain, scattered):
        for name in SLICES:
            for sizes in SIZES:
                for flags in FLAGS if (name, sizes) == ("v6e-16", SIZES[0]) else FLAGS[:1]:
                    said = ", ".join(f"{key}={value}" for key, value in flags.items()) or "no flags"
                    sums = "; ".join(list_sums(product, name, sizes, flags))
                    print(
                        f"{product.__name__:9} {name} {sizes[0]}x{sizes[1]}, {said}: {sums}",
                        flush=True,
                    )
