"""Attention to what is near: a frame reads those less than `frames` away, if causal the earlier
ones alone (Longformer, 2004.05150; Mistral, 2310.06825 section 2).

In: frames [b t h], normalised, and the shared `Context`. Out: the same, to be added to the stream.
The cache is a ring of as many slots as the window has frames (slot = position mod frames), so a
decoded frame costs the same, however long the clip is: 2 w g c numbers per layer and clip.

With `sinks` each head has a learned logit s beside those of the keys, whose weight goes nowhere
(gpt-oss, 2508.10925): out = softmax([q k, s])_{:-1} v. That is the plain output times
sigmoid(lse - s), where lse is the logarithm of the sum of exp(q k), so no kernel has to know of it.

Extra axis letters here: a attention heads, g heads of keys and values, c channels per head, q
queries, s keys.
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Float, Int, Key

from genlab.config import Config
from genlab.machine.sharding import compiled_platform
from genlab.nets.attention import (
    KeysValues,
    attend_nearby,
    attend_summed,
    attend_within,
    missing_positions,
    window_chunks,
)
from genlab.nets.context import Context
from genlab.nets.layer import LayerShape
from genlab.nets.mixers.attention import SelfAttention, empty_memory, write
from genlab.nets.mixers.grouped import count_kv_heads, projection_flops
from genlab.nets.mixers.stepwise import one_by_one
from genlab.nets.param import vector


class Window(Config):
    """Every frame reads those near it, or those shortly before it."""

    kind: Literal["window"] = "window"
    frames: int = pydantic.Field(default=128, ge=1)
    """A frame reads itself and the `frames` - 1 before it, and, where the future may be seen, as
    many after it.
    """
    sinks: bool = False
    """Give each head a learned logit that takes weight away from the frames it reads."""
    kv_heads: int | None = pydantic.Field(default=None, ge=1, le=4096)
    """Heads of keys and values, each shared by heads / kv_heads heads of queries; None gives every
    head its own.
    """
    part: ClassVar[str] = "attention"
    chooses: ClassVar[bool] = False

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> "WindowAttention":
        """Return the mixer of one layer.

        Raises:
            ConfigError: if `kv_heads` does not divide the heads.
        """
        return WindowAttention(self, shape, key=key)

    def number(self, stacked: "WindowAttention", places: Int[Array, "l"]) -> None:
        """Tell stacked layers their places: all are alike."""

    def empty(self, shape: LayerShape, num_examples: int, num_slots: int) -> KeysValues:
        """Return an empty ring.

        Raises:
            ConfigError: if `kv_heads` does not divide the heads.
        """
        kv_heads = count_kv_heads(self.kv_heads, shape)
        return empty_memory(shape, kv_heads, num_examples, min(self.frames, num_slots))

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return the positions that complete the tiles of the kernel for this platform; with sinks
        there is none.
        """
        split = (*x.shape[:2], shape.heads, shape.head_channels)
        platform = compiled_platform()
        return 0 if self.sinks else missing_positions(platform, split, x.dtype, has_pairs)

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return those of the projections, and of scores and weighted sums over what each chunk of
        queries reads.
        """
        chunks = window_chunks(positions, self.frames, shape.is_causal)
        near = sum((stop - start) * (end - first) for start, stop, first, end in chunks)
        return positions * projection_flops(self.kv_heads, shape) + 4.0 * shape.width * near

    def step_flops(self, shape: LayerShape, positions: int, slots: int) -> float:
        """Return those where each position reads the ring."""
        ring = min(self.frames, slots)
        return positions * (projection_flops(self.kv_heads, shape) + 4.0 * shape.width * ring)

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return those of the scores, the weighted sums, the outputs, and the queries if they are
        not projected together with keys and values.
        """
        projections = shape.width if self.kv_heads is None else 2 * shape.width
        return 2.0 * shape.width * (projections + 2 * min(self.frames, slots))


class WindowAttention(SelfAttention):
    """Multi-head attention to nearby frames."""

    def __init__(self, config: Window, shape: LayerShape, *, key: Key[Array, ""]):
        super().__init__(
            shape.width,
            shape.heads,
            count_kv_heads(config.kv_heads, shape),
            key=key,
            output_scale=shape.output_scale,
        )
        self.frames = config.frames
        self.sinks = vector(jnp.zeros((shape.heads,))) if config.sinks else None

    def __call__(
        self, x: Float[Array, "b q h"], context: Context, cache: KeysValues | None = None
    ) -> tuple[Float[Array, "b q h"], KeysValues | None]:
        """Attend within `x`, or, with a ring, write `x` into it frame by frame and attend to it."""
        if cache is not None:
            return one_by_one(self._step, x, context, cache)
        queries, memory = self.read(x, context.rotation)
        is_valid, is_causal = context.is_valid, context.is_causal
        if self.sinks is None:
            mixed = attend_within(
                queries, memory, is_valid, is_causal=is_causal, window=self.frames
            )
        else:
            near = attend_nearby(queries, memory, is_valid, self.frames, is_causal=is_causal)
            mixed = self._drained(*near)
        # b q heads c -> b q (heads c)
        return self.project_out(mixed.reshape(x.shape)), None

    def _step(
        self, x: Float[Array, "b 1 h"], context: Context, ring: KeysValues
    ) -> tuple[Float[Array, "b 1 h"], KeysValues]:
        queries, memory = self.read(x, context.rotation)
        size = ring.keys.shape[1]
        ring = write(ring, memory, context.position % size)
        # All slots hold frames of the window once the ring is full; until then those up to now.
        is_filled = jnp.arange(size) <= context.position
        is_filled = jnp.broadcast_to(is_filled[None, None, :], (x.shape[0], 1, size))
        mixed, summed = attend_summed(queries, ring, is_filled)
        return self.project_out(self._drained(mixed, summed).reshape(x.shape)), ring

    def _drained(
        self, mixed: Float[Array, "b q a c"], summed: Float[Array, "b q a"]
    ) -> Float[Array, "b q a c"]:
        """Return what is left of the weighted sums once the sinks have taken their share."""
        if self.sinks is None:
            return mixed
        share = jax.nn.sigmoid(summed.astype(jnp.float32) - self.sinks[...][None, None, :])
        return mixed * share[..., None].astype(mixed.dtype)
