"""mu-law samples as tokens: the token space of WaveNet (1609.03499 section 2.2), one code per
sample.

In: waves "b s". Out: codes "b s 1" of 256 entries and latents "b s 1", the companded sample between
-1 and 1 (ITU-T G.711, mu = 255), of which the code is the nearest of 256 evenly spaced values.
Nothing is learned, and there is nothing between decoder and sound.
"""

from typing import Literal

import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from genlab.config import Config
from genlab.tokens import Tokens, TokenSpec


class MuLawConfig(Config):
    """Mu-law companding: one code per sample."""

    kind: Literal["mulaw"] = "mulaw"
    sample_rate_hz: int = pydantic.Field(default=16_000, ge=1)
    """Sample rate of waves, in Hz."""
    entries: int = pydantic.Field(default=256, ge=2, le=2**15)
    """Values that a sample may take; mu is one less."""

    def build(self, *, key: Key[Array, ""] | None = None) -> "MuLaw":
        """Return the codec; there is nothing to draw."""
        return MuLaw(self)


class MuLaw(nnx.Module):
    """Companding and rounding."""

    def __init__(self, config: MuLawConfig):
        self.mu = config.entries - 1
        self.spec = TokenSpec(
            sample_rate_hz=config.sample_rate_hz,
            hop_samples=1,
            codebooks=1,
            entries=config.entries,
            latent_channels=1,
            causal=True,
        )

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """The companded value of every code."""
        return jnp.linspace(-1.0, 1.0, self.mu + 1)[None, :, None]

    def encode(
        self, waves: Float[Array, "b s"], num_samples: Int[Array, "b"] | None = None
    ) -> Tokens:
        """Return codes and companded samples; padding is silence."""
        if num_samples is None:
            num_samples = jnp.full((waves.shape[0],), waves.shape[1])
        is_valid = jnp.arange(waves.shape[1])[None] < num_samples[:, None]
        clipped = jnp.where(is_valid, jnp.clip(waves, -1.0, 1.0), 0.0)
        companded = jnp.sign(clipped) * jnp.log1p(self.mu * jnp.abs(clipped)) / jnp.log1p(self.mu)
        codes = jnp.round((companded + 1.0) / 2.0 * self.mu).astype(jnp.int32)
        return Tokens(codes[:, :, None], companded[:, :, None], num_samples.astype(jnp.int32))

    def decode_codes(
        self, codes: Int[Array, "b t k"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return the samples that the codes stand for."""
        return self.decode_latents(codes / self.mu * 2.0 - 1.0, num_frames)

    def decode_latents(
        self, latents: Float[Array, "b t d"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s"]:
        """Return the expanded samples; those past `num_frames` are silent."""
        companded = jnp.clip(latents[:, :, 0], -1.0, 1.0)
        waves = jnp.sign(companded) * jnp.expm1(jnp.abs(companded) * jnp.log1p(self.mu)) / self.mu
        if num_frames is None:
            return waves
        return jnp.where(jnp.arange(waves.shape[1])[None] < num_frames[:, None], waves, 0.0)
