"""Stereo through a codec of one channel: each channel is encoded by itself.

In: a mono codec. Out: a codec of waves "b s 2" whose frames hold the codes of both channels, level
by level: left 1, right 1, left 2, right 2 and so on, so that fewer levels are still a coarser
version of both (Copet et al. 2023, 2306.05284, section 2.2, whose stereo model interleaves two
EnCodec streams). Latents are those of the left channel, then those of the right one.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from genlab.codecs.base import Codec
from genlab.config import GenlabError
from genlab.tokens import Tokens, TokenSpec


class EachChannel(nnx.Module):
    """A mono codec, applied to the left and to the right channel.

    It does not stream, even if the codec does.
    """

    channels = 2

    def __init__(self, codec: Codec):
        self.codec = codec
        self.spec = stereo_spec(codec.spec)

    @property
    def code_vectors(self) -> Float[Array, "k v d"]:
        """What every entry adds to the latents: those of a channel leave the other one alone."""
        own = self.codec.code_vectors
        nothing = jnp.zeros_like(own)
        left = jnp.concatenate([own, nothing], axis=-1)
        right = jnp.concatenate([nothing, own], axis=-1)
        return _interleave(left, right, axis=0)

    def encode(
        self, waves: Float[Array, "b s c"], num_samples: Int[Array, "b"] | None = None
    ) -> Tokens:
        """Return codes and latents of both channels."""
        # b s 2 -> (2 b) s: one call encodes both.
        both = jnp.concatenate([waves[..., 0], waves[..., 1]])
        counts = None if num_samples is None else jnp.concatenate([num_samples, num_samples])
        codes, latents, num_frames, _ = self.codec.encode(both, counts)
        batch = waves.shape[0]
        return Tokens(
            None if codes is None else _interleave(codes[:batch], codes[batch:], axis=-1),
            None if latents is None else jnp.concatenate([latents[:batch], latents[batch:]], -1),
            num_frames[:batch],
        )

    def decode_codes(
        self, codes: Int[Array, "b t k"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s c"]:
        """Return waves; an odd number of levels gives the left channel one more, and a single level
        is heard on both.
        """
        left, right = codes[..., 0::2], codes[..., 1::2]
        if not right.shape[-1]:
            right = left
        if left.shape == right.shape:
            both = jnp.concatenate([left, right])
            return _split(self.codec.decode_codes(both, _twice(num_frames)))
        sides = [self.codec.decode_codes(side, num_frames) for side in (left, right)]
        return jnp.stack(sides, axis=-1)

    def decode_latents(
        self, latents: Float[Array, "b t d"], num_frames: Int[Array, "b"] | None = None
    ) -> Float[Array, "b s c"]:
        """Return waves."""
        both = jnp.concatenate(jnp.split(latents, 2, axis=-1))
        return _split(self.codec.decode_latents(both, _twice(num_frames)))


def stereo_spec(spec: TokenSpec) -> TokenSpec:
    """Return the token space of a mono codec that encodes two channels.

    Raises:
        GenlabError: if the codec keeps part of the audio outside the time stream.
    """
    if spec.side_channels:
        raise GenlabError(
            f"codec: it has {spec.side_channels} side channels, which two channels of audio cannot "
            "share; use another codec, or mono: data.corpus.channels=1, --channels 1"
        )
    doubled = {"codebooks": 2 * spec.codebooks, "latent_channels": 2 * spec.latent_channels}
    return spec.model_copy(update={**doubled, "causal": False})


def _interleave(left: Array, right: Array, axis: int) -> Array:
    # The pair goes right behind the axis: ... k 2 ... -> ... (k 2) ...
    place = axis + 1 if axis >= 0 else left.ndim + axis + 1
    shape = list(left.shape)
    shape[axis] *= 2
    return jnp.stack([left, right], axis=place).reshape(shape)


def _twice(num_frames: Int[Array, "b"] | None) -> Int[Array, "b2"] | None:
    return None if num_frames is None else jnp.concatenate([num_frames, num_frames])


def _split(waves: Float[Array, "b2 s"]) -> Float[Array, "b s c"]:
    return jnp.stack(jnp.split(waves, 2), axis=-1)
