"""Attention: every frame reads all others, or, if causal, all earlier ones (1706.03762 section
3.2).

In: frames [b t h], normalised, and the shared `Context`. Out: the same, to be added to the stream.
Queries and keys are normalised (QK-norm, 2010.04245) and rotated (RoPE, 2104.09864). The cache
holds the keys and values of every slot.

Extra axis letters here: a attention heads, c channels per head, q queries, s keys.
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key

from genlab.config import Config
from genlab.machine.sharding import COLUMNS, ROWS, compiled_platform
from genlab.nets.attention import KeysValues, attend, attend_within, missing_positions
from genlab.nets.context import Context
from genlab.nets.layer import LayerShape
from genlab.nets.linear import Linear
from genlab.nets.norm import RMSNorm
from genlab.nets.rotary import rotate


class Attention(Config):
    """Every frame reads all others, or all earlier ones."""

    kind: Literal["attention"] = "attention"
    part: ClassVar[str] = "attention"
    chooses: ClassVar[bool] = True

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> "SelfAttention":
        """Return the mixer of one layer."""
        return SelfAttention(shape.width, shape.heads, key=key, output_scale=shape.output_scale)

    def number(self, stacked: "SelfAttention", places: Int[Array, "l"]) -> None:
        """Tell stacked layers their places: all are alike."""

    def empty(self, shape: LayerShape, num_examples: int, num_slots: int) -> KeysValues:
        """Return empty keys and values."""
        cache_shape = (num_examples, num_slots, shape.heads, shape.head_channels)
        return KeysValues(jnp.zeros(cache_shape, shape.dtype), jnp.zeros(cache_shape, shape.dtype))

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return the positions that complete the tiles of the kernel for this platform."""
        split = (*x.shape[:2], shape.heads, shape.head_channels)
        return missing_positions(compiled_platform(), split, x.dtype, has_pairs)

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return those of four projections, and of scores and weighted sums over pairs."""
        return 8.0 * positions * shape.width**2 + 4 * shape.width * pairs

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return those of the scores, the weighted sums, and the projections of queries and
        outputs.
        """
        return 2.0 * shape.width * (shape.width + 2 * slots)


class SelfAttention(nnx.Module):
    """Multi-head attention with normalised, rotated queries and keys."""

    def __init__(self, width: int, heads: int, *, key: Key[Array, ""], output_scale: float):
        in_key, out_key = jax.random.split(key)
        self.heads = heads
        self.project_in = Linear(width, 3 * width, key=in_key, split=COLUMNS)
        self.query_norm = RMSNorm(width // heads)
        self.key_norm = RMSNorm(width // heads)
        self.project_out = Linear(width, width, key=out_key, scale=output_scale, split=ROWS)

    def __call__(
        self, x: Float[Array, "b q h"], context: Context, cache: KeysValues | None = None
    ) -> tuple[Float[Array, "b q h"], KeysValues | None]:
        """Attend within `x`, or, with a cache, write `x` at `context.position` and attend to all
        that is written.
        """
        b, q, h = x.shape
        # b q (heads c) -> b q heads c
        queries, keys, values = (
            part.reshape(b, q, self.heads, h // self.heads) for part in self.project_in.parts(x, 3)
        )
        # Normalised before the rotation (QK norm), so that logits stay bounded in bfloat16.
        queries = rotate(self.query_norm(queries), context.rotation)
        memory = KeysValues(rotate(self.key_norm(keys), context.rotation), values)
        if cache is not None:
            cache = _write(cache, memory, context.position)
            # Causal up to its own slot, except that all positions of a prefix see all of it.
            last_visible = jnp.maximum(context.position + jnp.arange(q), context.prefix - 1)
            is_before = jnp.arange(cache.keys.shape[1])[None, :] <= last_visible[:, None]
            mixed = attend(queries, cache, context.is_valid[:, None, :] & is_before[None])
        else:
            assert isinstance(context.prefix, int), (
                "only decoding against a cache takes a traced prefix"
            )
            mixed = attend_within(
                queries,
                memory,
                context.is_valid,
                is_causal=context.is_causal,
                prefix=context.prefix,
                is_allowed=context.is_allowed,
            )
        # b q heads c -> b q (heads c)
        return self.project_out(mixed.reshape(b, q, h)), cache


def _write(cache: KeysValues, new: KeysValues, position: Int[Array, ""] | int) -> KeysValues:
    # The compiler does this in place when the cache is carried by a loop.
    return KeysValues(
        *(
            lax.dynamic_update_slice_in_dim(old, fresh, position, 1)
            for old, fresh in zip(cache, new)
        )
    )
