"""Bring your own codec: a class with four methods, and a function codec() that returns it.

This one keeps the loudest part of each 20 ms frame's cosine transform and quantises it with the
lab's residual quantiser. It sounds like 1975; replace the two transforms by your network and
everything else stays. `FILE.py:NAME` and `package.module:NAME` name a function of another name or
in a package.

    genlab check docs/own_codec.py
    genlab codec info --codec docs/own_codec.py
    genlab compare configs/quickstart.py data.codec=docs/own_codec.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from flax import nnx

from genlab.codecs.quantiser import ResidualQuantiser
from genlab.data.corpus import Embedded, build_corpus
from genlab.tokens import Tokens, TokenSpec

HOP, CHANNELS = 320, 80
# As a matrix, not jax.scipy.fft.dct: an FFT on a CPU may differ in the last bit from call to call,
# and with it the fitted codebooks, so that every process would take the codec for another one.
COSINES = scipy.fft.dct(np.eye(HOP), norm="ortho")[:, :CHANNELS].astype(np.float32)


class CosineCodec(nnx.Module):
    """Frames of 20 ms, the first 80 cosine coefficients (up to 2 kHz), 8 codes of 10 bits."""

    def __init__(self):
        self.spec = TokenSpec(
            sample_rate_hz=16_000,
            hop_samples=HOP,
            codebooks=8,
            entries=1024,
            latent_channels=CHANNELS,
        )
        self.quantiser = ResidualQuantiser(8, 1024, CHANNELS, decay=0.9, revival_usage=0.03)

    @property
    def code_vectors(self):
        return self.quantiser.entries[...]

    def encode(self, waves, num_samples=None):
        latents = waves.reshape(waves.shape[0], -1, HOP) @ COSINES
        lengths = jnp.full(waves.shape[:1], waves.shape[1]) if num_samples is None else num_samples
        return Tokens(
            self.quantiser.encode(latents), latents, (-(-lengths // HOP)).astype(jnp.int32)
        )

    def decode_codes(self, codes, num_frames=None):
        return self.decode_latents(self.quantiser.decode(codes), num_frames)

    def decode_latents(self, latents, num_frames=None):
        return (latents @ COSINES.T).reshape(latents.shape[0], -1)


def codec():
    """Return the codec with codebooks fitted to a little speech."""
    mine, manifest = CosineCodec(), build_corpus(Embedded(minutes=1.0))
    waves = [manifest.audio(clip) / 32768.0 for clip in manifest.split("train")]
    speech = jnp.concatenate(
        [jnp.asarray(wave[: len(wave) // HOP * HOP], jnp.float32) for wave in waves]
    )[None]
    for key in jax.random.split(jax.random.key(0), 20):
        tokens = mine.encode(speech)
        mine.quantiser.update(tokens.latents, tokens.codes, jnp.ones(tokens.codes.shape, bool), key)
    return mine
