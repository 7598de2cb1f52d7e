"""Attention over a compressed memory (MLA, DeepSeek-V2, 2405.04434 section 2.1).

In: frames [b t h], normalised, and the shared `Context`. Out: the same, to be added to the stream.
A frame leaves a latent z = RMSNorm(x W_z) of r numbers, from which every head's keys and values are
projected, and one rotated key of e numbers that all heads share:

    q = (x W_q, rotate(x W_qr))    k = (z W_k, rotate(x W_kr))    v = z W_v
    out = softmax(q k / sqrt(c + e)) v

Whole clips make keys and values and run as attention, by its kernels. Decoding never makes them: q
W_k^T meets the latents themselves, and W_v acts on their weighted sum. The cache holds z and the
rotated key: t (r + e) numbers per layer and clip, whatever the heads. There is no norm behind W_k,
which would forbid that.

Extra axis letters here: a attention heads, c channels per head, q queries, s keys, r latents, e
rotated channels.
"""

from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from genlab.config import Config, ConfigError
from genlab.machine.sharding import COLUMNS, ROWS, compiled_platform
from genlab.nets.attention import KeysValues, attend_within, missing_positions
from genlab.nets.context import Context
from genlab.nets.layer import LayerShape
from genlab.nets.linear import Linear
from genlab.nets.mixers.attention import readable, write
from genlab.nets.norm import RMSNorm
from genlab.nets.rotary import Rotation, rotate


class LatentAttention(Config):
    """Attention whose keys and values are projections of a small latent per frame."""

    kind: Literal["mla"] = "mla"
    latent: int = pydantic.Field(default=64, ge=1)
    """Numbers that a frame leaves for all heads' keys and values."""
    rope_channels: int = pydantic.Field(default=16, ge=2)
    """Rotated channels that each head has besides its own, an even divisor of those."""
    part: ClassVar[str] = "attention"
    chooses: ClassVar[bool] = True

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> "CompressedAttention":
        """Return the mixer of one layer.

        Raises:
            ConfigError: if the rotated channels do not divide those of a head.
        """
        if self.rope_channels % 2 or shape.head_channels % self.rope_channels:
            raise ConfigError(
                f"backbone.mixer.rope_channels={self.rope_channels}: expected an even divisor of "
                f"width / heads={shape.head_channels}, so that its angles are some of the "
                f"backbone's; set it to {shape.head_channels} or an even divisor of that"
            )
        return CompressedAttention(self, shape, key=key)

    def number(self, stacked: "CompressedAttention", places: Int[Array, "l"]) -> None:
        """Tell stacked layers their places: all are alike."""

    def empty(self, shape: LayerShape, num_examples: int, num_slots: int) -> "Latents":
        """Return empty slots."""
        slots = (num_examples, num_slots)
        latents = jnp.zeros((*slots, self.latent), shape.dtype)
        return Latents(latents, jnp.zeros((*slots, self.rope_channels), shape.dtype))

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return the positions that complete the tiles of the kernel for this platform."""
        split = (*x.shape[:2], shape.heads, shape.head_channels + self.rope_channels)
        return missing_positions(compiled_platform(), split, x.dtype, has_pairs)

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return those of the projections, and of scores and weighted sums over pairs, whose values
        are as long as the keys.
        """
        rotated = shape.heads * self.rope_channels
        making = 4.0 * self.latent * shape.width
        projections = self._query_flops(shape) + self._memory_flops(shape) + making
        return positions * (projections + 2.0 * shape.width**2) + 4.0 * pairs * (
            shape.width + rotated
        )

    def step_flops(self, shape: LayerShape, positions: int, slots: int) -> float:
        """Return those where every position reads the latents of every slot."""
        return positions * (self._memory_flops(shape) + self.unread_flops(shape, slots))

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return all but those of the latent and the rotated key."""
        absorbed = 4.0 * shape.width * self.latent
        reading = 2.0 * shape.heads * (2 * self.latent + self.rope_channels) * slots
        return self._query_flops(shape) + absorbed + reading + 2.0 * shape.width**2

    def _query_flops(self, shape: LayerShape) -> float:
        return 2.0 * shape.width * (shape.width + shape.heads * self.rope_channels)

    def _memory_flops(self, shape: LayerShape) -> float:
        return 2.0 * shape.width * (self.latent + self.rope_channels)


class Latents(NamedTuple):
    """What attention reads of each frame: its latent, and the rotated key of all heads."""

    latents: Float[Array, "b s r"]
    rotated: Float[Array, "b s e"]


class CompressedAttention(nnx.Module):
    """Multi-head attention whose memory is a latent per frame."""

    def __init__(self, config: LatentAttention, shape: LayerShape, *, key: Key[Array, ""]):
        query_key, memory_key, key_key, value_key, out_key = jax.random.split(key, 5)
        self.heads = shape.heads
        self.latent = config.latent
        width, rotated = shape.width, config.rope_channels
        queries = width + shape.heads * rotated
        self.project_query = Linear(width, queries, key=query_key, split=COLUMNS)
        self.project_latent = Linear(width, config.latent + rotated, key=memory_key)
        self.latent_norm = RMSNorm(config.latent)
        self.project_keys = Linear(config.latent, width, key=key_key, split=COLUMNS)
        self.project_values = Linear(config.latent, width, key=value_key, split=COLUMNS)
        self.project_out = Linear(width, width, key=out_key, scale=shape.output_scale, split=ROWS)

    def __call__(
        self, x: Float[Array, "b q h"], context: Context, cache: Latents | None = None
    ) -> tuple[Float[Array, "b q h"], Latents | None]:
        """Attend within `x`, or, with a cache, write `x` at `context.position` and attend to all
        that is written.
        """
        plain, turned, memory = self._read(x, context.rotation)
        if cache is None:
            mixed = self._attend(plain, turned, memory, context)
        else:
            cache = write(cache, memory, context.position)
            mixed = self._absorb(plain, turned, cache, context)
        # b q a c -> b q (a c)
        return self.project_out(mixed.reshape(x.shape)), cache

    def _read(
        self, x: Float[Array, "b q h"], angles: Rotation
    ) -> tuple[Float[Array, "b q a c"], Float[Array, "b q a e"], Latents]:
        """Return both parts of the queries, and what the frames leave."""
        b, q, h = x.shape
        channels = h // self.heads
        # b q (a (c e)) -> b q a c, b q a e
        queries = self.project_query(x).reshape(b, q, self.heads, -1)
        plain, turned = jnp.split(queries, [channels], axis=-1)
        latents, rotated = jnp.split(self.project_latent(x), [self.latent], axis=-1)
        # Channel i of e turns at base ** (-2 i / e), as channel i c / e of c does.
        every = channels // rotated.shape[-1]
        angles = Rotation(*(part[:, :, ::every] for part in angles))
        rotated = rotate(rotated[:, :, None], angles)[:, :, 0]
        return plain, rotate(turned, angles), Latents(self.latent_norm(latents), rotated)

    def _attend(
        self,
        plain: Float[Array, "b t a c"],
        turned: Float[Array, "b t a e"],
        memory: Latents,
        context: Context,
    ) -> Float[Array, "b t a c"]:
        assert isinstance(context.prefix, int), (
            "only decoding against a cache takes a traced prefix"
        )
        keys = self.project_keys(memory.latents).reshape(plain.shape)
        values = self.project_values(memory.latents).reshape(plain.shape)
        shared = jnp.broadcast_to(memory.rotated[:, :, None], turned.shape)
        # Kernels take values of the length of the keys.
        longer = jnp.pad(values, ((0, 0), (0, 0), (0, 0), (0, turned.shape[-1])))
        mixed = attend_within(
            jnp.concatenate([plain, turned], axis=-1),
            KeysValues(jnp.concatenate([keys, shared], axis=-1), longer),
            context.is_valid,
            is_causal=context.is_causal,
            prefix=context.prefix,
            is_allowed=context.is_allowed,
        )
        return mixed[..., : plain.shape[-1]]

    def _absorb(
        self,
        plain: Float[Array, "b q a c"],
        turned: Float[Array, "b q a e"],
        memory: Latents,
        context: Context,
    ) -> Float[Array, "b q a c"]:
        """Attend to the latents themselves: q (z W_k) = (q W_k^T) z, and sum w (z W_v) = (sum w z)
        W_v.
        """
        # r (a c) -> r a c
        split = (self.latent, self.heads, plain.shape[-1])
        keys, values = (
            project.kernel[...].astype(plain.dtype).reshape(split)
            for project in (self.project_keys, self.project_values)
        )
        wanted = jnp.einsum("bqac,rac->bqar", plain, keys)
        logits = jnp.einsum("bqar,bsr->baqs", wanted, memory.latents)
        logits += jnp.einsum("bqae,bse->baqs", turned, memory.rotated)
        scale = (plain.shape[-1] + turned.shape[-1]) ** -0.5
        may_read = readable(context, plain.shape[1], memory.latents.shape[1])[:, None]
        logits = jnp.where(may_read, logits.astype(jnp.float32) * scale, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(plain.dtype)
        mixed = jnp.einsum("baqs,bsr->bqar", weights, memory.latents)
        return jnp.einsum("bqar,rac->bqac", mixed, values)
