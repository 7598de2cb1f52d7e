"""Whether the accelerator computes what the CPU computes: the promises of every decoder, and each
decoder's loss and gradient on both, from the same weights, tokens and key.

The reference is float32 on the CPU at full precision. Random numbers are the same everywhere
(threefry), so noise, levels and hidden frames agree, and what is left is rounding.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, PyTree

from genlab.machine.sharding import ShardingConfig, make_mesh
from genlab.speed.hardware.families import Family, main_families, other_families, random_batch
from genlab.speed.hardware.size import DType, HardwareSize, ModelSize
from genlab.speed.hardware.step import Case, Row
from genlab.studies.contract.decoder import check_decoder
from genlab.tokens import Decoder
from genlab.training.step import split_model

CLIPS = 2
NOISE = 0.05  # of each parameter, about half of what a matrix is initialised with
# Wide enough for heads that an attention kernel takes, and small enough for a CPU.
SMALL = ModelSize("agreement", 128, 2, 2, CLIPS)


class Tolerance(NamedTuple):
    """How far two results may be apart, as shares of the reference: the loss of a clip, and the
    norm of the difference of two gradients.
    """

    loss: float
    gradient: float


# float32 at full precision differs in the order of sums; bfloat16 keeps 8 bits, 0.4 % each time. On
# a CPU bfloat16 was 0.1 % from float32 in the loss and 1 to 3 % in the gradient, in every family.
TOLERANCES: Mapping[DType, Tolerance] = {
    "float32": Tolerance(loss=1e-4, gradient=1e-3),
    "bfloat16": Tolerance(loss=1e-2, gradient=1e-1),
}


class Agreement:
    """Does the accelerator compute what the CPU computes?"""

    name = "agreement"
    question = "Does the accelerator compute what the CPU computes?"
    share = 4.0
    # The CPU is asked too, beside the accelerator.
    environment: Mapping[str, str] = {}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return loss and gradient of every family in both types, then the promises."""
        families = [*main_families(size), *other_families()]
        both: tuple[DType, ...] = ("bfloat16", "float32")
        compared = [
            Case(f"{family.name} {dtype}", partial(_compare, size, family, dtype))
            for dtype in both
            for family in families
        ]
        promises = [
            Case(f"{family.name} promises", partial(_check_promises, family)) for family in families
        ]
        return [*compared, *promises]


def _check_promises(family: Family) -> Row:
    # Promises are checked to four digits, which a tensor core's float32 does not have.
    with jax.default_matmul_precision("highest"):
        findings = check_decoder(family.decoder)
    broken = [f"{finding.promise}: {finding.problem}" for finding in findings if finding.problem]
    return {"promises": len(findings), "broken": [*broken], "passed": not broken}


def _compare(size: HardwareSize, family: Family, dtype: DType) -> Row:
    reference = loss_and_gradient(size, family, "float32", "cpu")
    found = loss_and_gradient(size, family, dtype, jax.default_backend())
    loss, gradient = distances(found, reference)
    allowed = TOLERANCES[dtype]
    return {
        "loss_distance": loss,
        "loss_tolerance": allowed.loss,
        "gradient_distance": gradient,
        "gradient_tolerance": allowed.gradient,
        # A distance that is not a number is none that is met.
        "passed": bool(loss <= allowed.loss and gradient <= allowed.gradient),
    }


def loss_and_gradient(
    size: HardwareSize, family: Family, dtype: DType, platform: str
) -> tuple[np.ndarray, PyTree]:
    """Return the loss of each clip and the gradient of their sum, computed on the first device of a
    platform.
    """
    device = jax.devices(platform)[0]
    task = size.task(SMALL, dtype, frames=size.agreeing_frames)
    build = partial(family.decoder.build, task)
    graph = split_model(nnx.eval_shape(lambda key: build(key=key), jax.random.key(0)))[0]

    def summed(params: PyTree, rest: PyTree, key: Array) -> tuple[Array, Array]:
        model = cast(Decoder, nnx.merge(graph, params, rest))
        lost = model.loss(*random_batch(task.spec, task.num_frames, CLIPS), key=key)
        return jnp.sum(lost.per_example * lost.weight), lost.per_example

    # The mesh says for which platform attention chooses its kernel; the default would be the
    # accelerator's also for the CPU.
    with jax.set_mesh(make_mesh(ShardingConfig(), [device])), jax.default_device(device):
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            params, rest = jax.jit(lambda key: split_model(build(key=key))[1:])(jax.random.key(0))
            run = jax.jit(jax.grad(summed, has_aux=True))
            gradient, losses = run(jax.jit(_shaken)(params), rest, jax.random.key(1))
    return np.asarray(losses, np.float64), jax.device_get(gradient)


def _shaken(params: PyTree) -> PyTree:
    """Return the parameters with noise on them: heads and gates of a fresh model are zero, so its
    loss would agree on any device, whatever the layers below compute.
    """
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return tree.unflatten(
        [leaf + NOISE * jax.random.normal(key, leaf.shape, leaf.dtype) for leaf, key in pairs]
    )


def distances(
    found: tuple[np.ndarray, PyTree], reference: tuple[np.ndarray, PyTree]
) -> tuple[float, float]:
    """Return how far two losses and two gradients are apart, as shares of the second."""
    loss = float(np.max(np.abs(found[0] - reference[0]) / np.abs(reference[0])))
    leaves = zip(jax.tree.leaves(found[1]), jax.tree.leaves(reference[1]), strict=True)
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in leaves]
    apart = sum(float(np.sum((a - b) ** 2)) for a, b in pairs)
    norm = sum(float(np.sum(b**2)) for _, b in pairs)
    # Where all derivatives are zero nothing was compared.
    return loss, (apart / norm) ** 0.5 if norm else math.nan
