"""Attention whose heads share keys and values (GQA, 2305.13245; with one head of them MQA,
1911.02150).

In: frames [b t h], normalised, and the shared `Context`. Out: the same, to be added to the stream.
Neighbouring heads of queries read the same head of keys and values, so the cache, which bounds how
fast frames are decoded, holds 2 t g c numbers per layer and clip in place of 2 t a c.

Extra axis letters here: a attention heads, g heads of keys and values, c channels per head.
"""

from typing import ClassVar, Literal

import pydantic
from jaxtyping import Array, Float, Int, Key

from genlab.config import Config, ConfigError
from genlab.machine.sharding import compiled_platform
from genlab.nets.attention import KeysValues, missing_positions
from genlab.nets.layer import LayerShape
from genlab.nets.mixers.attention import SelfAttention, empty_memory


class GroupedAttention(Config):
    """Attention with fewer heads of keys and values than of queries."""

    kind: Literal["gqa"] = "gqa"
    kv_heads: int = pydantic.Field(default=1, ge=1, le=4096)
    """Heads of keys and values, each shared by heads / kv_heads heads of queries; 1 is multi-query
    attention.
    """
    part: ClassVar[str] = "attention"
    chooses: ClassVar[bool] = True

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> SelfAttention:
        """Return the mixer of one layer.

        Raises:
            ConfigError: if `kv_heads` does not divide the heads.
        """
        kv_heads = count_kv_heads(self.kv_heads, shape)
        scale = shape.output_scale
        return SelfAttention(shape.width, shape.heads, kv_heads, key=key, output_scale=scale)

    def number(self, stacked: SelfAttention, places: Int[Array, "l"]) -> None:
        """Tell stacked layers their places: all are alike."""

    def empty(self, shape: LayerShape, num_examples: int, num_slots: int) -> KeysValues:
        """Return empty keys and values.

        Raises:
            ConfigError: if `kv_heads` does not divide the heads.
        """
        return empty_memory(shape, count_kv_heads(self.kv_heads, shape), num_examples, num_slots)

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return the positions that complete the tiles of the kernel for this platform."""
        split = (*x.shape[:2], shape.heads, shape.head_channels)
        return missing_positions(compiled_platform(), split, x.dtype, has_pairs)

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return those of the projections, and of scores and weighted sums over pairs."""
        return positions * projection_flops(self.kv_heads, shape) + 4.0 * shape.width * pairs

    def step_flops(self, shape: LayerShape, positions: int, slots: int) -> float:
        """Return those where each position reads every slot."""
        return self.flops(shape, positions, positions * slots)

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return those of queries, scores, weighted sums and outputs."""
        return 4.0 * shape.width * (shape.width + slots)


def count_kv_heads(kv_heads: int | None, shape: LayerShape) -> int | None:
    """Return the heads of keys and values of a layer, None where every head has its own.

    Raises:
        ConfigError: if they do not divide the heads.
    """
    if kv_heads is not None and shape.heads % kv_heads:
        raise ConfigError(
            f"backbone.mixer.kv_heads={kv_heads} does not divide heads={shape.heads}, and each "
            "head of keys and values serves equally many heads of queries; set it to a divisor, or "
            "to null"
        )
    return kv_heads


def projection_flops(kv_heads: int | None, shape: LayerShape) -> float:
    """Return the FLOPs per position of the projections to queries, keys, values and outputs."""
    return 4.0 * shape.width * (shape.width + (kv_heads or shape.heads) * shape.head_channels)
