"""The layer of a backbone, which joins a mixer and a feed-forward part, and the short-range layer
of conditions.

In: frames [b t h] and a `Context` that every layer shares. Out: frames [b t h]. Pre-norm with
QK-norm; norms and softmax run in float32 for every compute dtype. One block serves every family: it
attends to all frames or to earlier ones only, to text by cross-attention or not, and takes a noise
level through adaLN-zero or not.

Papers: QK-norm 2010.04245; adaLN-zero 2212.09748, with one projection shared by all layers plus a
learned offset per layer (adaLN-single, 2310.00426 section 2.3), so that the noise level costs few
parameters.

Extra axis letters here: a attention heads, c channels per head, q queries, s keys.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from genlab.machine.sharding import COLUMNS, ROWS, WHOLE
from genlab.nets.attention import KeysValues, attend
from genlab.nets.context import Context, LayerCache, Text, TextMemory
from genlab.nets.feedforward import SwiGLU
from genlab.nets.layer import FeedForward, LayerShape, Mixer
from genlab.nets.linear import Linear
from genlab.nets.norm import RMSNorm
from genlab.nets.param import as_delta, matrix, vector


class CrossAttention(nnx.Module):
    """Multi-head attention from frames to text. The text is projected once, before the frames are
    run.
    """

    def __init__(self, width: int, heads: int, *, key: Key[Array, ""], output_scale: float):
        query_key, text_key, out_key = jax.random.split(key, 3)
        self.heads = heads
        self.norm = RMSNorm(width)
        self.project_query = Linear(width, width, key=query_key, split=COLUMNS)
        self.project_text = Linear(width, 2 * width, key=text_key, split=COLUMNS)
        self.query_norm = RMSNorm(width // heads)
        self.key_norm = RMSNorm(width // heads)
        self.project_out = Linear(width, width, key=out_key, scale=output_scale, split=ROWS)

    def read(self, text: Text) -> TextMemory:
        """Return the keys and values of the text."""
        b, n, h = text.features.shape
        # b n (a c) -> b n a c
        keys, values = (
            part.reshape(b, n, self.heads, h // self.heads)
            for part in self.project_text.parts(text.features, 2)
        )
        return TextMemory(KeysValues(self.key_norm(keys), values), text.is_valid)

    def __call__(self, x: Float[Array, "b q h"], text: TextMemory) -> Float[Array, "b q h"]:
        """Normalise `x` and attend from it to the text."""
        b, q, h = x.shape
        queries = self.query_norm(
            self.project_query(self.norm(x)).reshape(b, q, self.heads, h // self.heads)
        )
        return self.project_out(
            attend(queries, text.memory, text.is_valid[:, None, :]).reshape(b, q, h)
        )


class Block(nnx.Module):
    """One layer: a mixer, cross-attention, feed-forward, each behind a norm and added."""

    def __init__(
        self,
        shape: LayerShape,
        mixer: Mixer,
        ffn: FeedForward,
        *,
        key: Key[Array, ""],
        dropout: float = 0.0,
        is_crossing: bool = False,
        is_modulated: bool = False,
    ):
        attention_key, cross_key, ffn_key = jax.random.split(key, 3)
        self.dropout = dropout
        self.attention_norm = RMSNorm(shape.width)
        # Parameters are saved under the name of what mixes: `attention`, `conv`.
        self.part = mixer.part
        setattr(self, mixer.part, mixer.build(shape, key=attention_key))
        self.ffn_norm = RMSNorm(shape.width)
        self.ffn = ffn.build(shape, key=ffn_key)
        crossing = {"key": cross_key, "output_scale": shape.output_scale}
        self.cross = CrossAttention(shape.width, shape.heads, **crossing) if is_crossing else None
        self.modulation = as_delta(vector(jnp.zeros((6, shape.width)))) if is_modulated else None

    @property
    def mixer(self) -> Any:
        """What mixes the frames of this layer."""
        return getattr(self, self.part)

    def __call__(
        self,
        x: Float[Array, "b t h"],
        context: Context,
        *,
        text: TextMemory | None = None,
        cache: LayerCache | None = None,
        key: Key[Array, ""] | None = None,
        is_learning: bool = False,
    ) -> tuple[Float[Array, "b t h"], LayerCache | None]:
        """Return the layer's output and the cache with what it read; without `key` nothing is
        dropped. With `is_learning` a feed-forward part may change what it keeps beside parameters.
        """
        keys = (None, None) if key is None else jax.random.split(key)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self._modulation(context, x.dtype)
        normed = self.attention_norm(x) * (1 + scale) + shift
        mixed, cache = self.mixer(normed, context, cache)
        x = x + gate * dropped_out(mixed, self.dropout, keys[0])
        if self.cross is not None and text is not None:
            x = x + self.cross(x, text)
        learn = getattr(self.ffn, "learn", None) if is_learning else None
        transformed = (learn or self.ffn)(self.ffn_norm(x) * (1 + ffn_scale) + ffn_shift)
        return x + ffn_gate * dropped_out(transformed, self.dropout, keys[1]), cache

    def _modulation(self, context: Context, dtype: str | jnp.dtype) -> list:
        if self.modulation is None or context.modulation is None:
            return [0, 0, 1, 0, 0, 1]
        parts = (context.modulation + self.modulation[...][None]).astype(dtype)
        return [parts[:, i, None, :] for i in range(6)]


def dropped_out(
    x: Float[Array, "b t h"], share: float, key: Key[Array, ""] | None
) -> Float[Array, "b t h"]:
    """Set a `share` of the elements to zero and scale up the rest; without a key return `x`."""
    if key is None or share == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x / (1 - share), 0).astype(
        x.dtype
    )


class ConvBlock(nnx.Module):
    """A short-range layer for conditions: depthwise convolution over 7 positions, then SwiGLU
    (2201.03545).
    """

    KERNEL = 7

    def __init__(self, width: int, inner: int, *, key: Key[Array, ""], output_scale: float):
        conv_key, ffn_key = jax.random.split(key)
        kernel = self.KERNEL**-0.5 * jax.random.normal(conv_key, (self.KERNEL, width))
        self.kernel = matrix(kernel, WHOLE)
        self.norm = RMSNorm(width)
        self.ffn = SwiGLU(width, inner, key=ffn_key, output_scale=output_scale)

    def __call__(
        self, x: Float[Array, "b t h"], is_valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t h"]:
        """Mix each position with its three neighbours on both sides; padding contributes nothing
        and stays zero.
        """
        reach = self.KERNEL // 2
        x = jnp.where(is_valid[:, :, None], x, 0)
        padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
        # A sum of shifted slices: XLA:CPU runs grouped convolutions as a naive loop.
        kernel = self.kernel[...].astype(x.dtype)
        shifted = [
            padded[:, i : i + x.shape[1]] * kernel[i][None, None, :] for i in range(self.KERNEL)
        ]
        mixed = functools.reduce(jnp.add, shifted)
        return jnp.where(is_valid[:, :, None], x + self.ffn(self.norm(mixed)), 0)
