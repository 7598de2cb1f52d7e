"""Matrix products and embeddings: where weights meet activations, and the only place that picks by
platform.

In: activations in the compute dtype and float32 master weights. Out: activations in the compute
dtype. Kernels are stored [in, out], which is also the fast layout for decoding one frame at a time.

XLA:CPU runs `x.T @ g`, the gradient of a kernel, at half the speed of its other products unless the
transpose is materialised first. The choice is made while lowering for a platform, so it is right in
a cross-compilation too, and the programs for TPU and GPU contain neither the barrier nor a branch.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, Key

from genlab.machine.sharding import (
    CHANNELS,
    COLUMNS,
    INPUTS,
    compiled_platform,
    constrain,
    mesh_sizes,
)
from genlab.nets.param import matrix

# Above this many rows the copy costs more than the faster product saves (tall thin products).
MAX_MATERIALISED_ROWS = 16_384
HEAD_DEVIATION = 0.5
Factors = tuple[Float[Array, "*rows i"], Float[Array, "i o"]]


@jax.custom_vjp
def matmul(x: Float[Array, "*rows i"], kernel: Float[Array, "i o"]) -> Float[Array, "*rows o"]:
    """Return `x @ kernel`, with a kernel gradient that is fast on CPU."""
    return x @ kernel


def _matmul_forward(
    x: Float[Array, "*rows i"], kernel: Float[Array, "i o"]
) -> tuple[Float[Array, "*rows o"], Factors]:
    return x @ kernel, (x, kernel)


def _matmul_backward(factors: Factors, gradient: Float[Array, "*rows o"]) -> Factors:
    x, kernel = factors
    rows = x.reshape(-1, x.shape[-1])
    row_gradients = gradient.reshape(-1, gradient.shape[-1])
    return gradient @ kernel.T, _transpose(rows) @ row_gradients


matmul.defvjp(_matmul_forward, _matmul_backward)


def _transpose(rows: Float[Array, "r i"]) -> Float[Array, "i r"]:
    if rows.shape[0] > MAX_MATERIALISED_ROWS:
        return rows.T
    return lax.platform_dependent(
        rows, cpu=lambda x: lax.optimization_barrier(x.T), default=lambda x: x.T
    )


class Linear(nnx.Module):
    """A product with a kernel of standard deviation `scale / sqrt(inputs)`; there are no biases.

    `split` says how the kernel lies on a mesh. `INPUTS` is right anywhere; `COLUMNS` and `ROWS` are
    for two products of which the first feeds the second.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        key: Key[Array, ""],
        scale: float = 1.0,
        split: PartitionSpec = INPUTS,
    ):
        kernel = scale * inputs**-0.5 * jax.random.normal(key, (inputs, outputs))
        self.kernel = matrix(kernel, split)

    def __call__(self, x: Float[Array, "*rows i"]) -> Float[Array, "*rows o"]:
        """Return the product in the dtype of `x`."""
        return matmul(x, self.kernel[...].astype(x.dtype))

    def parts(self, x: Float[Array, "*rows i"], count: int) -> list[Float[Array, "*rows p"]]:
        """Return the product cut into `count` equal parts."""
        return matmul_parts(x, self.kernel[...].astype(x.dtype), count)


def matmul_parts(
    x: Float[Array, "*rows i"], kernel: Float[Array, "i o"], count: int
) -> list[Float[Array, "*rows p"]]:
    """Return the product cut into `count` equal parts.

    For a TPU the kernel is cut, not the product: cutting that and joining its gradient are passes
    over memory. So it is where `tensor` splits the columns: a chip that holds a quarter of all
    columns together has no quarter of each part, and here weights move to fix that, which are fewer
    than activations.
    """
    is_split = mesh_sizes().get("tensor", 1) > 1
    if not is_split and compiled_platform() != "tpu":
        return jnp.split(matmul(x, kernel), count, axis=-1)
    whole = constrain(kernel, "fsdp") if is_split else kernel
    return [
        matmul(x, constrain(part, *COLUMNS) if is_split else part)
        for part in jnp.split(whole, count, axis=1)
    ]


class Embedding(nnx.Module):
    """One vector per entry, of standard deviation 1 / sqrt(width)."""

    def __init__(self, entries: int, width: int, *, key: Key[Array, ""]):
        self.table = matrix(width**-0.5 * jax.random.normal(key, (entries, width)), CHANNELS)

    def __call__(self, ids: Int[Array, "*ids"]) -> Float[Array, "*ids h"]:
        """Return the vectors of `ids`."""
        # Whole on every chip, each looks up its own clips; split by channels, it would look up
        # those of all chips.
        return jnp.take(constrain(self.table[...]), ids, axis=0, mode="clip")

    def mix(self, weights: Float[Array, "b n"]) -> Float[Array, "b h"]:
        """Return the sum of the first n vectors by these weights; further ones have none."""
        return weights @ constrain(self.table[...])[: weights.shape[1]]


class CodeEmbedding(nnx.Module):
    """A frame of K codes becomes the sum of K vectors, each codebook having its own table.

    Index `entries` of every table means a code that is absent: not yet generated, hidden, or
    outside the clip. With `code_vectors` the tables start as a random projection of the codec's own
    entries plus half the usual noise, so codes that sound alike start alike.
    """

    def __init__(
        self,
        codebooks: int,
        entries: int,
        width: int,
        *,
        key: Key[Array, ""],
        code_vectors: Float[Array, "k v d"] | None = None,
    ):
        table_key, projection_key = jax.random.split(key)
        self.tables = Embedding(codebooks * (entries + 1), width, key=table_key)
        self.entries = entries
        if code_vectors is not None:
            channels = code_vectors.shape[-1]
            projection = (channels * width) ** -0.5 * jax.random.normal(
                projection_key, (channels, width)
            )
            known = (
                jnp.pad(code_vectors, ((0, 0), (0, 1), (0, 0))).reshape(-1, channels) @ projection
            )
            self.tables.table[...] = 0.5 * self.tables.table[...] + known

    def __call__(self, codes: Int[Array, "b t k"]) -> Float[Array, "b t h"]:
        """Return the summed vectors of each frame."""
        first_rows = (self.entries + 1) * jnp.arange(codes.shape[-1])
        return self.tables(codes + first_rows[None, None, :]).sum(axis=2)


def code_heads(
    codebooks: int,
    entries: int,
    width: int,
    *,
    key: Key[Array, ""],
    code_vectors: Float[Array, "k v d"] | None = None,
) -> Float[Array, "k h v"]:
    """Return the first weights of the output heads, one per codebook.

    Without `code_vectors` they are zero, so every code starts equally likely. With them a head
    starts as a random map from the hidden vector to a point among the codec's entries, whose inner
    products are the logits: a step towards one code is then also a step towards its neighbours.
    Logits start with a deviation of `HEAD_DEVIATION`.
    """
    if code_vectors is None:
        return jnp.zeros((codebooks, width, entries))
    channels = code_vectors.shape[-1]
    directions = code_vectors / jnp.sqrt(
        jnp.mean(code_vectors**2, axis=(1, 2), keepdims=True) + 1e-8
    )
    maps = (
        HEAD_DEVIATION
        * (channels * width) ** -0.5
        * jax.random.normal(key, (codebooks, width, channels))
    )
    return jnp.einsum("khd,kvd->khv", maps, directions)
