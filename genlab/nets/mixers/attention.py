"""Attention: every frame reads all others, or, if causal, all earlier ones (1706.03762 section
3.2).

In: frames [b t h], normalised, and the shared `Context`. Out: the same, to be added to the stream.
Queries and keys are normalised (QK-norm, 2010.04245) and rotated (RoPE, 2104.09864). The cache
holds the keys and values of every slot: 2 t h numbers per layer and clip.

Extra axis letters here: a attention heads, g heads of keys and values, c channels per head, q
queries, s keys.
"""

from typing import ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config
from genlab.machine.sharding import COLUMNS, ROWS, compiled_platform
from genlab.nets.attention import KeysValues, attend, attend_within, missing_positions
from genlab.nets.context import Context
from genlab.nets.layer import LayerShape
from genlab.nets.linear import Linear
from genlab.nets.norm import RMSNorm
from genlab.nets.rotary import Rotation, rotate

Memory = TypeVar("Memory", bound=tuple)


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
        return empty_memory(shape, None, num_examples, num_slots)

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return the positions that complete the tiles of the kernel for this platform."""
        split = (*x.shape[:2], shape.heads, shape.head_channels)
        return missing_positions(compiled_platform(), split, x.dtype, has_pairs)

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return those of four projections, and of scores and weighted sums over pairs."""
        return 8.0 * positions * shape.width**2 + 4 * shape.width * pairs

    def step_flops(self, shape: LayerShape, positions: int, slots: int) -> float:
        """Return those where each position reads every slot."""
        return self.flops(shape, positions, positions * slots)

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return those of the scores, the weighted sums, and the projections of queries and
        outputs.
        """
        return 2.0 * shape.width * (shape.width + 2 * slots)


def empty_memory(
    shape: LayerShape, kv_heads: int | None, num_examples: int, num_slots: int
) -> KeysValues:
    """Return so many empty slots of keys and values."""
    cache_shape = (num_examples, num_slots, kv_heads or shape.heads, shape.head_channels)
    return KeysValues(jnp.zeros(cache_shape, shape.dtype), jnp.zeros(cache_shape, shape.dtype))


class SelfAttention(nnx.Module):
    """Multi-head attention with normalised, rotated queries and keys."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        *,
        key: Key[Array, ""],
        output_scale: float,
    ):
        in_key, out_key = jax.random.split(key)
        self.heads = heads
        self.kv_heads = kv_heads
        if kv_heads is None:
            self.project_in = Linear(width, 3 * width, key=in_key, split=COLUMNS)
        else:
            # Two kernels, each of equal parts: a mesh splits both by columns, head by head.
            query_key, key_key = jax.random.split(in_key)
            outputs = 2 * kv_heads * (width // heads)
            self.project_query = Linear(width, width, key=query_key, split=COLUMNS)
            self.project_memory = Linear(width, outputs, key=key_key, split=COLUMNS)
        self.query_norm = RMSNorm(width // heads)
        self.key_norm = RMSNorm(width // heads)
        self.project_out = Linear(width, width, key=out_key, scale=output_scale, split=ROWS)

    def __call__(
        self, x: Float[Array, "b q h"], context: Context, cache: KeysValues | None = None
    ) -> tuple[Float[Array, "b q h"], KeysValues | None]:
        """Attend within `x`, or, with a cache, write `x` at `context.position` and attend to all
        that is written.
        """
        queries, memory = self.read(x, context.rotation)
        if cache is not None:
            cache = write(cache, memory, context.position)
            is_allowed = readable(context, x.shape[1], cache.keys.shape[1])
            mixed = attend(queries, cache, is_allowed)
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
        return self.project_out(mixed.reshape(x.shape)), cache

    def read(
        self, x: Float[Array, "b q h"], angles: Rotation
    ) -> tuple[Float[Array, "b q a c"], KeysValues]:
        """Return the queries of frames, and their keys and values."""
        b, q, h = x.shape
        if self.kv_heads is None:
            parts = self.project_in.parts(x, 3)
        else:
            parts = [self.project_query(x), *self.project_memory.parts(x, 2)]
        # b q (heads c) -> b q heads c
        queries, keys, values = (part.reshape(b, q, -1, h // self.heads) for part in parts)
        # Normalised before the rotation (QK norm), so that logits stay bounded in bfloat16.
        queries = rotate(self.query_norm(queries), angles)
        return queries, KeysValues(rotate(self.key_norm(keys), angles), values)


def readable(context: Context, num_queries: int, num_slots: int) -> Bool[Array, "b q s"]:
    """Return which slots each of the next positions may read."""
    # Causal up to its own slot, except that all positions of a prefix see all of it.
    last_visible = jnp.maximum(context.position + jnp.arange(num_queries), context.prefix - 1)
    is_before = jnp.arange(num_slots)[None, :] <= last_visible[:, None]
    return context.is_valid[:, None, :] & is_before[None]


def write(cache: Memory, new: Memory, position: Int[Array, ""] | int) -> Memory:
    """Return a cache with new slots from `position` on."""

    # The compiler does this in place when the cache is carried by a loop.
    def put(old: Array, fresh: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(old, fresh, position, 1)

    return jax.tree.map(put, cache, new)
