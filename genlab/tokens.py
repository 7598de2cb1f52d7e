"""The shared token space: what a codec emits and every decoder reads.

A codec turns a waveform into *latents* (continuous) and *codes* (the residual vector quantisation of those latents), so
both views share the frame axis. Decoders read one view, and `sample` returns the same type.

Axis letters, used in every signature of genlab:
    b batch   s audio samples   t frames   k codebooks   v entries per codebook   d latent channels   h model width
    n text symbols   c side channels
Time is the second axis and channels come last: waves "b s", codes "b t k", latents "b t d", logits "b t k v".
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genlab.config import Config, GenlabError


class TokenSpec(Config):
    """The facts about a token space that decoders, budgets and reports need."""

    sample_rate_hz: int
    hop_samples: int
    codebooks: int
    entries: int
    latent_channels: int
    causal: bool = False
    side_channels: int = 0

    @property
    def frame_hz(self) -> float:
        """Frames per second."""
        return self.sample_rate_hz / self.hop_samples

    @property
    def bitrate_bps(self) -> float:
        """Bits per second of the codes when every entry is equally likely."""
        return self.frame_hz * self.codebooks * (self.entries - 1).bit_length()


class Tokens(NamedTuple):
    """A batch in the token space; a view may be absent. `num_frames` counts the leading valid frames of each.

    `side` is one code per utterance, beside the time stream: absent unless the codec has `side_channels`.
    """

    codes: Int[Array, "b t k"] | None
    latents: Float[Array, "b t d"] | None
    num_frames: Int[Array, "b"]
    side: Float[Array, "b c"] | None = None

    @property
    def is_valid(self) -> Bool[Array, "b t"]:
        """True on frames that hold audio, False on padding."""
        view = self.codes if self.codes is not None else self.latents
        assert view is not None, "make_tokens refuses tokens without a view"
        return jnp.arange(view.shape[1])[None, :] < self.num_frames[:, None]


def make_tokens(
    codes: Int[Array, "b t k"] | None = None,
    latents: Float[Array, "b t d"] | None = None,
    num_frames: Int[Array, "b"] | None = None,
) -> Tokens:
    """Check ranks and shared axes, and return `Tokens`; without `num_frames` every frame is valid.

    Raises:
        ValueError: if both views are missing or they disagree on batch or frames.
    """
    views = [view for view in (codes, latents) if view is not None]
    if not views:
        raise ValueError("Tokens: give codes, latents or both")
    if any(view.ndim != 3 for view in views) or len({view.shape[:2] for view in views}) != 1:
        raise ValueError(f"Tokens: codes and latents must share 'b t', got {[view.shape for view in views]}")
    if num_frames is None:
        num_frames = jnp.full((views[0].shape[0],), views[0].shape[1], jnp.int32)
    return Tokens(codes, latents, num_frames)


def read_codes(tokens: Tokens) -> Int[Array, "b t k"]:
    """Return the codes as int32.

    Raises:
        GenlabError: if the tokens hold latents only.
    """
    if tokens.codes is None:
        raise GenlabError("Tokens.codes: absent, but this decoder reads codes; give it tokens with codes")
    return jnp.asarray(tokens.codes, jnp.int32)


def read_latents(tokens: Tokens) -> Float[Array, "b t d"]:
    """Return the latents as float32.

    Raises:
        GenlabError: if the tokens hold codes only.
    """
    if tokens.latents is None:
        raise GenlabError("Tokens.latents: absent, but this decoder reads latents; give it tokens with latents")
    return jnp.asarray(tokens.latents, jnp.float32)
