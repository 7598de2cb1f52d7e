"""The transformer inside Mimi: causal, with a sliding window, over a whole clip or chunk by chunk.

In: frames "b t h" at 25 Hz and, when streaming, what the chunk before left. Out: frames "b t h".
Pre-norm layers with LayerNorm, exact GELU, rotary positions, no biases in products, and a learnt
scale per channel on every update (Moshi report, 2410.00037, section 3.3.2; LayerScale 2103.17239).

Where we differ: rotary angles are counted in integers that wrap as angles do, so a stream may run
for months, and a long clip is cut into blocks of one window that see themselves and the block
before, so memory does not grow with the square of the length.

Extra axis letters here: a attention heads, c channels per head, n blocks, w window, q queries, s
keys.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32

from genlab.config import Config
from genlab.machine.sharding import WHOLE
from genlab.nets.linear import Linear
from genlab.nets.param import NORM_RULES, vector
from genlab.nets.rotary import ROPE_BASE, Rotation, rotate

FIRST_LAYER_SCALE = 0.01


class WindowTransformerConfig(Config):
    """Shape of a transformer whose frames see only a window before them."""

    layers: int = pydantic.Field(default=8, ge=1, le=256)
    """Transformer layers, each attention over the window and an MLP."""
    heads: int = pydantic.Field(default=8, ge=1)
    """Attention heads."""
    inner_width: int = pydantic.Field(default=2048, ge=1)
    """Inner width of the MLP."""
    window_frames: int = pydantic.Field(default=250, ge=1)
    """Frames that each frame sees: itself and `window_frames` - 1 before it."""
    norm_epsilon: float = pydantic.Field(default=1e-5, gt=0)
    """Added to the variance in layer norms."""


class Memory(NamedTuple):
    """Rotated keys, and values, of frames in their order."""

    keys: Float[Array, "b a s c"]
    values: Float[Array, "b a s c"]


class Seen(NamedTuple):
    """What the transformer carries on: how many frames there were, and each layer's last
    `window_frames` memories.
    """

    num_frames: UInt32[Array, ""]
    memories: tuple[Memory, ...]


def turn(x: Float[Array, "b t a c"], places: UInt32[Array, "t"]) -> Float[Array, "b t a c"]:
    """Return `x` rotated by the angles of its places.

    Angles are counted in 2 ** -32 of a turn. So they are as exact after months of a stream as at
    its start, where a product of floats would lose the digits by which neighbours differ.
    """
    channels = x.shape[-1]
    turns_per_place = ROPE_BASE ** (-np.arange(0, channels, 2) / channels) / (2 * np.pi)
    rates = jnp.asarray(np.round(turns_per_place * 2.0**32).astype(np.uint32))
    angles = (places[:, None] * rates[None]).astype(jnp.float32) * (2 * np.pi / 2.0**32)
    return rotate(x, Rotation(jnp.cos(angles)[None], jnp.sin(angles)[None]))


class WindowAttention(nnx.Module):
    """Multi-head attention to the own frame and the `window - 1` frames before it."""

    def __init__(self, width: int, heads: int, window: int, rngs: nnx.Rngs):
        self.heads = heads
        self.window = window
        self.q_proj = Linear(width, width, key=rngs.params(), split=WHOLE)
        self.k_proj = Linear(width, width, key=rngs.params(), split=WHOLE)
        self.v_proj = Linear(width, width, key=rngs.params(), split=WHOLE)
        self.o_proj = Linear(width, width, key=rngs.params(), split=WHOLE)

    def __call__(
        self, x: Float[Array, "b t h"], past: Memory | None, num_past: UInt32[Array, ""]
    ) -> tuple[Float[Array, "b t h"], Memory]:
        """Return the mixed frames and the memory to carry on; only the newest `num_past` of the
        past are real.
        """
        batch, length, width = x.shape
        places = num_past + jnp.arange(length, dtype=jnp.uint32)
        # b t (a c) -> b t a c
        queries, keys, values = (
            layer(x).reshape(batch, length, self.heads, -1)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        # b t a c -> b a t c
        queries = turn(queries, places).swapaxes(1, 2)
        own = Memory(turn(keys, places).swapaxes(1, 2), values.swapaxes(1, 2))
        mixed = attend_window(queries, own, past, num_past, self.window)
        # b a t c -> b t (a c)
        mixed = mixed.swapaxes(1, 2).reshape(batch, length, width)
        return self.o_proj(mixed), own if past is None else newest(past, own)


def newest(past: Memory, own: Memory) -> Memory:
    """Return as many of the last memories as the past has."""
    window, length = past.keys.shape[2], own.keys.shape[2]
    if length >= window:
        return Memory(*[part[:, :, length - window :] for part in own])
    return Memory(
        *[jnp.concatenate([old[:, :, length:], new], axis=2) for old, new in zip(past, own)]
    )


def attend_window(
    queries: Float[Array, "b a t c"],
    own: Memory,
    past: Memory | None,
    num_past: UInt32[Array, ""],
    window: int,
) -> Float[Array, "b a t c"]:
    """Attend from each frame to itself and the `window - 1` frames before it, of which the past has
    the first.

    Frames are cut into blocks of at most one window: a block sees itself and the block before it,
    and no other.
    """
    length = queries.shape[2]
    num_absent = window - jnp.minimum(num_past, window).astype(jnp.int32)
    if length <= window:
        # [b a s c] -> [b a 1 s c]
        before = None if past is None else Memory(*[part[:, :, None] for part in past])
        block = Memory(*[part[:, :, None] for part in own])
        return attend_block(queries[:, :, None], block, before, num_absent)[:, :, 0]

    def cut(part: Float[Array, "b a s c"]) -> Float[Array, "b a n w c"]:
        whole = jnp.pad(part, ((0, 0), (0, 0), (0, -part.shape[2] % window), (0, 0)))
        return whole.reshape(*part.shape[:2], -1, window, part.shape[-1])

    if past is None:
        past = Memory(*[jnp.zeros_like(part[:, :, :window]) for part in own])
    own = Memory(*map(cut, own))
    before = Memory(
        *[jnp.concatenate([cut(old), new[:, :, :-1]], axis=2) for old, new in zip(past, own)]
    )
    # Blocks of a window each; n counts blocks: b a n w c
    mixed = attend_block(cut(queries), own, before, num_absent)
    return mixed.reshape(*mixed.shape[:2], -1, mixed.shape[-1])[:, :, :length]


def attend_block(
    queries: Float[Array, "b a n q c"],
    own: Memory,
    before: Memory | None,
    num_absent: Int[Array, ""],
) -> Float[Array, "b a n q c"]:
    """Attend causally within blocks, and to what is less than a window away in the block before
    each.

    The first `num_absent` frames before the first block do not exist.
    """
    num_blocks, num_queries, channels = queries.shape[2:]
    row = jnp.arange(num_queries)[:, None]
    # [n q s]
    is_seen = jnp.broadcast_to(row.T <= row, (num_blocks, num_queries, num_queries))
    memories = [own]
    if before is not None:
        column = jnp.arange(before.keys.shape[3])[None]
        exists = (jnp.arange(num_blocks) > 0)[:, None] | (column >= num_absent)
        is_seen = jnp.concatenate([(column > row)[None] & exists[:, None], is_seen], axis=-1)
        memories = [before, own]
    scores = [jnp.einsum("banqc,bansc->banqs", queries, memory.keys) for memory in memories]
    scores = jnp.concatenate(scores, axis=-1) * channels**-0.5
    shares = jax.nn.softmax(jnp.where(is_seen[None, None], scores, -jnp.inf), axis=-1)
    # The own block's come last.
    parts = [shares[..., :-num_queries], shares[..., -num_queries:]][-len(memories) :]
    mixed = [
        jnp.einsum("banqs,bansc->banqc", part, memory.values)
        for part, memory in zip(parts, memories)
    ]
    return functools.reduce(jnp.add, mixed)


class FeedForward(nnx.Module):
    """Two products with a GELU between."""

    def __init__(self, width: int, inner: int, rngs: nnx.Rngs):
        self.fc1 = Linear(width, inner, key=rngs.params(), split=WHOLE)
        self.fc2 = Linear(inner, width, key=rngs.params(), split=WHOLE)

    def __call__(self, x: Float[Array, "b t h"]) -> Float[Array, "b t h"]:
        """Return the transformed frames."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class WindowLayer(nnx.Module):
    """Attention and feed-forward part, each behind a norm, scaled and added; attributes are named
    as published.
    """

    def __init__(self, config: WindowTransformerConfig, width: int, rngs: nnx.Rngs):
        def norm() -> nnx.LayerNorm:
            options: dict[str, Any] = {"epsilon": config.norm_epsilon, "use_fast_variance": False}
            return nnx.LayerNorm(width, rngs=rngs, **options, **NORM_RULES)

        self.input_layernorm = norm()
        self.self_attn = WindowAttention(width, config.heads, config.window_frames, rngs)
        self.self_attn_layer_scale = vector(jnp.full((width,), FIRST_LAYER_SCALE))
        self.post_attention_layernorm = norm()
        self.mlp = FeedForward(width, config.inner_width, rngs)
        self.mlp_layer_scale = vector(jnp.full((width,), FIRST_LAYER_SCALE))

    def __call__(
        self, x: Float[Array, "b t h"], past: Memory | None, num_past: UInt32[Array, ""]
    ) -> tuple[Float[Array, "b t h"], Memory]:
        """Return the layer's output and the memory to carry on."""
        mixed, memory = self.self_attn(self.input_layernorm(x), past, num_past)
        x = x + self.self_attn_layer_scale[...][None, None] * mixed
        return x + self.mlp_layer_scale[...][None, None] * self.mlp(
            self.post_attention_layernorm(x)
        ), memory


class WindowTransformer(nnx.Module):
    """A stack of layers that can stop after any frame and resume later.

    Layers are not stacked and scanned: a scan copies each layer's weights out of the stack, which
    for one frame at a time costs as much as the layer.
    """

    def __init__(self, config: WindowTransformerConfig, width: int, rngs: nnx.Rngs):
        self.layers = nnx.List([WindowLayer(config, width, rngs) for _ in range(config.layers)])
        self.memory_shape = (config.heads, config.window_frames, width // config.heads)

    def start(self, batch: int) -> Seen:
        """Return what to carry into the first chunk."""

        # Each its own buffer, so that a caller can donate the carry.
        def empty() -> Float[Array, "b a w c"]:
            return jnp.zeros((batch, *self.memory_shape))

        return Seen(jnp.zeros((), jnp.uint32), tuple(Memory(empty(), empty()) for _ in self.layers))

    def __call__(
        self, x: Float[Array, "b t h"], seen: Seen | None
    ) -> tuple[Float[Array, "b t h"], Seen]:
        """Return the output frames and what to carry on; without `seen` the frames are a whole
        clip.
        """
        num_past = jnp.zeros((), jnp.uint32) if seen is None else seen.num_frames
        memories = []
        for number, layer in enumerate(self.layers):
            x, memory = layer(x, None if seen is None else seen.memories[number], num_past)
            memories.append(memory)
        return x, Seen(num_past + x.shape[1], tuple(memories))
