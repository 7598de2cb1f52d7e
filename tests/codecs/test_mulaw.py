"""mu-law: G.711's curve, the round trip, and the codec behind its name."""

import jax.numpy as jnp
import numpy as np
import pytest
from codec_toys import make_wave

from genlab.codecs.frozen import load_codec
from genlab.codecs.mulaw import MuLawConfig
from genlab.config import ConfigError


def test_the_curve_is_that_of_g711_and_codes_are_nearest():
    codec = MuLawConfig().build()
    samples = np.linspace(-1, 1, 4001, dtype=np.float32)
    tokens = codec.encode(jnp.asarray(samples)[None])
    expected = np.sign(samples) * np.log(1 + 255 * np.abs(samples)) / np.log(256)
    np.testing.assert_allclose(tokens.latents[0, :, 0], expected, atol=1e-6)
    distances = np.abs(expected[:, None] - np.asarray(codec.code_vectors)[0, :, 0][None])
    chosen = np.take_along_axis(distances, np.asarray(tokens.codes)[0], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, distances.min(axis=1), atol=1e-6)
    np.testing.assert_allclose(codec.decode_latents(tokens.latents)[0], samples, atol=1e-6)


def test_codes_survive_decoding_and_the_error_is_that_of_eight_bits():
    codec = load_codec("mulaw", 16_000)
    wave = make_wave(0, 5000, level=0.8)
    [(codes, _)] = codec.encode([wave])
    assert codes.shape == (5000, 1) and codec.spec.bitrate_bps == 128_000
    [decoded] = codec.decode_codes([codes])
    noise_db = 10 * np.log10(np.mean((decoded - wave) ** 2) / np.mean(wave**2))
    assert -42 < noise_db < -35  # mu-law keeps about 38 dB
    np.testing.assert_array_equal(codec.encode([decoded])[0][0], codes)


def test_a_rate_makes_another_codec_and_nonsense_is_named():
    assert load_codec("mulaw:8000").spec.sample_rate_hz == 8000
    assert load_codec("mulaw:8000").fingerprint != load_codec("mulaw").fingerprint
    [(codes, _)] = load_codec("mulaw:8000", 16_000).encode([make_wave(1, 4000)])
    assert len(codes) == 2000
    with pytest.raises(ConfigError, match="sample_rate_hz"):
        load_codec("mulaw:fast")
