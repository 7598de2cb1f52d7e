"""The parts of a transformer layer: RMSNorm, rotary positions, attention, SwiGLU, and the block that joins them.

In: frames [b t h] and a `Context` that every layer shares. Out: frames [b t h]. Pre-norm with QK-norm; norms and
softmax run in float32 whatever the compute dtype. One block serves every family: it attends to all frames or to
earlier ones only, to text by cross-attention or not, and takes a noise level through adaLN-zero or not.

Papers: RoPE 2104.09864; SwiGLU 2002.05202; QK-norm 2010.04245; adaLN-zero 2212.09748, with one projection shared by
all layers plus a learned offset per layer (adaLN-single, 2310.00426 section 2.3), so that the noise level costs few
parameters.

Extra axis letters here: a attention heads, c channels per head, q queries, s keys.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.machine.sharding import compiled_platform
from genlab.nets.attention import KeysValues, attend, attend_within
from genlab.nets.dilated import DilatedConv
from genlab.nets.linear import Linear

ROPE_BASE = 10_000.0


class Text(NamedTuple):
    """Encoded symbols for a prefix or for cross-attention."""

    features: Float[Array, "b n h"]
    is_valid: Bool[Array, "b n"]


class Rotation(NamedTuple):
    """The cosine and sine of each position's angles."""

    cos: Float[Array, "b t c"]
    sin: Float[Array, "b t c"]


class Context(NamedTuple):
    """What every layer sees beside its input.

    `is_valid` marks the keys that may be attended and `is_allowed` narrows them for each query; `prefix` is the number
    of leading positions that causal attention shows to everyone; `position` is the cache slot of the first query;
    `modulation` holds shift, scale and gate of the attention and of the feed-forward part.
    """

    rotation: Rotation
    is_valid: Bool[Array, "b s"]
    is_causal: bool
    prefix: Int[Array, ""] | int = 0
    position: Int[Array, ""] | int = 0
    modulation: Float[Array, "b 6 h"] | None = None
    is_allowed: Bool[Array, "#b q s"] | None = None


# What a layer keeps of the frames decoded so far: keys and values, or, for a convolution, its inputs.
LayerCache = KeysValues | Float[Array, "b s h"]


class TextMemory(NamedTuple):
    """The text as one layer's cross-attention reads it."""

    memory: KeysValues
    is_valid: Bool[Array, "b n"]


class RMSNorm(nnx.Module):
    """Divide by the root mean square of the last axis, in float32, and scale."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,)))

    def __call__(self, x: Float[Array, "*rows h"]) -> Float[Array, "*rows h"]:
        """Return the normalised `x` in its own dtype."""
        wide = x.astype(jnp.float32)
        wide = wide * lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + 1e-6)
        return (wide * self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


def rotation(positions: Int[Array, "b t"], head_channels: int) -> Rotation:
    """Return the rotary angles of `positions`, channel i turning at ROPE_BASE ** (-2 i / head_channels)."""
    rates = ROPE_BASE ** (-jnp.arange(0, head_channels, 2) / head_channels)
    angles = positions[:, :, None] * rates[None, None, :]
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "b t a c"], angles: Rotation) -> Float[Array, "b t a c"]:
    """Turn channel pairs (i, i + c/2) of every head by the angles of its position."""
    cos, sin = (part[:, :, None, :].astype(x.dtype) for part in angles)
    if compiled_platform() == "tpu":
        # Half a head fills half a tile, and would be written to memory on the way; a product with signs is exact.
        turned = jnp.matmul(x, _quarter_turn(x.shape[-1]).astype(x.dtype), precision="highest")
        return x * jnp.concatenate([cos, cos], axis=-1) + turned * jnp.concatenate([sin, sin], axis=-1)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def _quarter_turn(channels: int) -> Float[np.ndarray, "c c"]:
    """Return the matrix that takes channel pairs (first, second) to (-second, first)."""
    half = np.eye(channels // 2, dtype=np.float32)
    return np.block([[np.zeros_like(half), half], [-half, np.zeros_like(half)]])


class SelfAttention(nnx.Module):
    """Multi-head attention with normalised, rotated queries and keys."""

    def __init__(self, width: int, heads: int, *, key: Key[Array, ""], output_scale: float):
        in_key, out_key = jax.random.split(key)
        self.heads = heads
        self.project_in = Linear(width, 3 * width, key=in_key)
        self.query_norm = RMSNorm(width // heads)
        self.key_norm = RMSNorm(width // heads)
        self.project_out = Linear(width, width, key=out_key, scale=output_scale)

    def __call__(
        self, x: Float[Array, "b q h"], context: Context, cache: KeysValues | None = None
    ) -> tuple[Float[Array, "b q h"], KeysValues | None]:
        """Attend within `x`, or, with a cache, write `x` at `context.position` and attend to all that is written."""
        b, q, h = x.shape
        queries, keys, values = (
            part.reshape(b, q, self.heads, h // self.heads) for part in self.project_in.parts(x, 3)
        )
        queries = rotate(self.query_norm(queries), context.rotation)
        memory = KeysValues(rotate(self.key_norm(keys), context.rotation), values)
        if cache is not None:
            cache = _write(cache, memory, context.position)
            last_visible = jnp.maximum(context.position + jnp.arange(q), context.prefix - 1)
            is_before = jnp.arange(cache.keys.shape[1])[None, :] <= last_visible[:, None]
            mixed = attend(queries, cache, context.is_valid[:, None, :] & is_before[None])
        else:
            assert isinstance(context.prefix, int), "only decoding against a cache takes a traced prefix"
            mixed = attend_within(
                queries,
                memory,
                context.is_valid,
                is_causal=context.is_causal,
                prefix=context.prefix,
                is_allowed=context.is_allowed,
            )
        return self.project_out(mixed.reshape(b, q, h)), cache


def _write(cache: KeysValues, new: KeysValues, position: Int[Array, ""] | int) -> KeysValues:
    # The compiler does this in place when the cache is carried by a loop.
    return KeysValues(*(lax.dynamic_update_slice_in_dim(old, fresh, position, 1) for old, fresh in zip(cache, new)))


class CrossAttention(nnx.Module):
    """Multi-head attention from frames to text. The text is projected once, before the frames are run."""

    def __init__(self, width: int, heads: int, *, key: Key[Array, ""], output_scale: float):
        query_key, text_key, out_key = jax.random.split(key, 3)
        self.heads = heads
        self.norm = RMSNorm(width)
        self.project_query = Linear(width, width, key=query_key)
        self.project_text = Linear(width, 2 * width, key=text_key)
        self.query_norm = RMSNorm(width // heads)
        self.key_norm = RMSNorm(width // heads)
        self.project_out = Linear(width, width, key=out_key, scale=output_scale)

    def read(self, text: Text) -> TextMemory:
        """Return the keys and values of the text."""
        b, n, h = text.features.shape
        keys, values = (
            part.reshape(b, n, self.heads, h // self.heads) for part in self.project_text.parts(text.features, 2)
        )
        return TextMemory(KeysValues(self.key_norm(keys), values), text.is_valid)

    def __call__(self, x: Float[Array, "b q h"], text: TextMemory) -> Float[Array, "b q h"]:
        """Normalise `x` and attend from it to the text."""
        b, q, h = x.shape
        queries = self.query_norm(self.project_query(self.norm(x)).reshape(b, q, self.heads, h // self.heads))
        return self.project_out(attend(queries, text.memory, text.is_valid[:, None, :]).reshape(b, q, h))


class SwiGLU(nnx.Module):
    """The gated feed-forward part: (silu(x A) * x B) C."""

    def __init__(self, width: int, inner: int, *, key: Key[Array, ""], output_scale: float):
        in_key, out_key = jax.random.split(key)
        self.project_in = Linear(width, 2 * inner, key=in_key)
        self.project_out = Linear(inner, width, key=out_key, scale=output_scale)

    def __call__(self, x: Float[Array, "b t h"]) -> Float[Array, "b t h"]:
        """Return the transformed frames."""
        gate, value = self.project_in.parts(x, 2)
        return self.project_out(jax.nn.silu(gate) * value)


class Block(nnx.Module):
    """One layer: attention or a dilated convolution, cross-attention, feed-forward, each behind a norm and added."""

    def __init__(
        self,
        width: int,
        heads: int,
        ffn_width: int,
        *,
        key: Key[Array, ""],
        output_scale: float,
        dropout: float = 0.0,
        is_crossing: bool = False,
        is_modulated: bool = False,
        conv_reach: int = 0,
        is_causal: bool = False,
    ):
        attention_key, cross_key, ffn_key = jax.random.split(key, 3)
        self.dropout = dropout
        self.attention_norm = RMSNorm(width)
        scaled = {"key": attention_key, "output_scale": output_scale}
        self.attention = None if conv_reach else SelfAttention(width, heads, **scaled)
        self.conv = DilatedConv(width, conv_reach, is_causal=is_causal, **scaled) if conv_reach else None
        self.ffn_norm = RMSNorm(width)
        self.ffn = SwiGLU(width, ffn_width, key=ffn_key, output_scale=output_scale)
        self.cross = CrossAttention(width, heads, key=cross_key, output_scale=output_scale) if is_crossing else None
        self.modulation = nnx.Param(jnp.zeros((6, width))) if is_modulated else None

    def __call__(
        self,
        x: Float[Array, "b t h"],
        context: Context,
        *,
        text: TextMemory | None = None,
        cache: LayerCache | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t h"], LayerCache | None]:
        """Return the layer's output and the cache with what it read; without `key` nothing is dropped."""
        keys = (None, None) if key is None else jax.random.split(key)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self._modulation(context, x.dtype)
        normed = self.attention_norm(x) * (1 + scale) + shift
        mixed, cache = self._mix(normed, context, cache)
        x = x + gate * dropped_out(mixed, self.dropout, keys[0])
        if self.cross is not None and text is not None:
            x = x + self.cross(x, text)
        transformed = self.ffn(self.ffn_norm(x) * (1 + ffn_scale) + ffn_shift)
        return x + ffn_gate * dropped_out(transformed, self.dropout, keys[1]), cache

    def _mix(self, x: Float[Array, "b t h"], context: Context, cache: Any) -> tuple[Float[Array, "b t h"], Any]:
        if self.attention is not None:
            return self.attention(x, context, cache)
        assert self.conv is not None
        if cache is not None:
            return self.conv.step(x, cache, context.position)
        return self.conv(x, context.is_valid), None

    def _modulation(self, context: Context, dtype) -> list:
        if self.modulation is None or context.modulation is None:
            return [0, 0, 1, 0, 0, 1]
        parts = (context.modulation + self.modulation[...][None]).astype(dtype)
        return [parts[:, i, None, :] for i in range(6)]


def dropped_out(x: Float[Array, "b t h"], share: float, key: Key[Array, ""] | None) -> Float[Array, "b t h"]:
    """Set a `share` of the elements to zero and scale up the rest; without a key return `x`."""
    if key is None or share == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x / (1 - share), 0).astype(x.dtype)


class ConvBlock(nnx.Module):
    """A short-range layer for conditions: depthwise convolution over 7 positions, then SwiGLU (2201.03545)."""

    KERNEL = 7

    def __init__(self, width: int, inner: int, *, key: Key[Array, ""], output_scale: float):
        conv_key, ffn_key = jax.random.split(key)
        self.kernel = nnx.Param(self.KERNEL**-0.5 * jax.random.normal(conv_key, (self.KERNEL, width)))
        self.norm = RMSNorm(width)
        self.ffn = SwiGLU(width, inner, key=ffn_key, output_scale=output_scale)

    def __call__(self, x: Float[Array, "b t h"], is_valid: Bool[Array, "b t"]) -> Float[Array, "b t h"]:
        """Mix each position with its three neighbours on both sides; padding contributes nothing and stays zero."""
        reach = self.KERNEL // 2
        x = jnp.where(is_valid[:, :, None], x, 0)
        padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
        # A sum of shifted slices: XLA:CPU runs grouped convolutions as a naive loop.
        kernel = self.kernel[...].astype(x.dtype)
        shifted = [padded[:, i : i + x.shape[1]] * kernel[i][None, None, :] for i in range(self.KERNEL)]
        mixed = functools.reduce(jnp.add, shifted)
        return jnp.where(is_valid[:, :, None], x + self.ffn(self.norm(mixed)), 0)
