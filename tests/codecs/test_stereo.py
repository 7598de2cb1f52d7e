"""Two channels through codecs: each by itself through a mono codec, mid and side through the
in-lab codec, and rates and channels adapted without delay or change of level.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from codec_toys import HOP, TINY, make_codec, make_wave
from flax import nnx

from genlab.codecs.frozen import FrozenCodec, load_codec, token_spec
from genlab.codecs.mulaw import MuLawConfig
from genlab.codecs.planes import each_channel, from_planes, to_planes
from genlab.codecs.spectral import SpectralCodecConfig
from genlab.codecs.stereo import EachChannel
from genlab.config import ConfigError, GenlabError
from genlab.data.audio import AudioFormat, fit_channels, hear

STEREO = TINY.model_copy(update={"channels": 2})


@functools.cache
def frozen(channels: int) -> FrozenCodec:
    return FrozenCodec(make_codec(0), "mono", {}, channels=channels)  # type: ignore[arg-type]


def two_sides(frames: int = 12) -> np.ndarray:
    return np.stack([make_wave(1, frames * HOP), make_wave(2, frames * HOP)], axis=1)


def test_a_mono_codec_encodes_both_channels_by_themselves():
    wave = two_sides()
    [(codes, latents)] = frozen(2).encode([wave])
    sides = [frozen(1).encode([np.ascontiguousarray(wave[:, side])])[0] for side in (0, 1)]
    for side, (own_codes, own_latents) in enumerate(sides):
        np.testing.assert_array_equal(codes[:, side::2], own_codes)
        np.testing.assert_allclose(np.split(latents, 2, axis=1)[side], own_latents, atol=1e-5)
    [heard] = frozen(2).decode_codes([codes])
    assert heard.shape == wave.shape
    for side in (0, 1):
        [own] = frozen(1).decode_codes([sides[side][0]])
        np.testing.assert_allclose(heard[:, side], own, atol=1e-5)
    assert frozen(2).fingerprint != frozen(1).fingerprint


def test_code_vectors_of_both_channels_add_up_to_the_latents():
    spec, vectors = frozen(2).spec, frozen(2).code_vectors
    assert vectors.shape == (spec.codebooks, spec.entries, spec.latent_channels)
    assert (spec.codebooks, spec.latent_channels) == (2 * TINY.codebooks, 2 * TINY.latent_channels)
    [(codes, _)] = frozen(2).encode([two_sides()])
    total = vectors[np.arange(len(vectors))[None], codes].sum(axis=1)
    [by_codes] = frozen(2).decode_codes([codes])
    [by_latents] = frozen(2).decode_latents([total])
    np.testing.assert_allclose(by_codes, by_latents, atol=1e-4)


def test_fewer_levels_are_a_coarser_version_of_both_channels():
    [(codes, _)] = frozen(2).encode([two_sides()])
    [pair] = frozen(2).decode_codes([codes[:, :2]])
    [odd] = frozen(2).decode_codes([codes[:, :3]])
    [one] = frozen(2).decode_codes([codes[:, :1]])
    np.testing.assert_allclose(odd[:, 1], pair[:, 1], atol=1e-5)  # the right has one level in both
    assert np.abs(odd[:, 0] - pair[:, 0]).max() > 1e-3
    np.testing.assert_allclose(one[:, 0], one[:, 1], atol=1e-5)


def test_a_codec_with_a_side_code_has_no_two_channels():
    config = TINY.model_copy(update={"side_channels": 2})
    with pytest.raises(GenlabError, match=r"2 side channels, which two channels .* cannot share"):
        EachChannel(config.build(key=jax.random.key(0)))


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_adapters_neither_delay_nor_change_the_level(rate_hz, channels):
    """A codec of 2**15 values a sample is nearly no codec, so what is left is the adapter."""
    codec = MuLawConfig(entries=2**15).build()
    adapted = FrozenCodec(codec, "", {}, rate_hz, channels)
    assert adapted.audio == (rate_hz, channels)
    time_s = np.arange(rate_hz) / rate_hz
    # Between 100 Hz and 6 kHz, which both rates hold; faded, so that the ends do not ring.
    chirp = np.sin(2 * np.pi * (100 * time_s + 2950 * time_s**2)) * np.hanning(rate_hz)
    wave = np.stack([0.5 * chirp, -0.2 * chirp[::-1]], axis=1).astype(np.float32)[:, :channels]
    wave = wave if channels == 2 else wave[:, 0]
    [(codes, latents)] = adapted.encode([wave])
    for heard in (adapted.decode_codes([codes])[0], adapted.decode_latents([latents])[0]):
        assert abs(len(heard) - len(wave)) <= 4
        shared = min(len(heard), len(wave))
        error = heard[:shared] - wave[:shared]
        # A delay of one sample at 44.1 kHz would leave more than a tenth of the power.
        assert np.mean(error**2) < 1e-4 * np.mean(wave**2)


def test_planes_are_what_the_encoder_sees_and_the_decoder_makes():
    wave = jnp.asarray(two_sides()[None])
    left, right = wave[0, :, 0], wave[0, :, 1]
    seen = to_planes(wave, 2)
    for plane, expected in zip(seen, (left, right, (left + right) / 2)):
        np.testing.assert_allclose(plane, expected, atol=1e-7)
    made = jnp.stack([(left + right) / 2, (left - right) / 2])
    np.testing.assert_allclose(from_planes(made, 2), wave, atol=1e-6)
    np.testing.assert_array_equal(each_channel(wave)[1], right)
    mono = wave[..., 0]
    assert to_planes(mono, 1) is mono and from_planes(mono, 1) is mono
    assert each_channel(mono) is mono
    with pytest.raises(ValueError, match=r"expected 'b s 2' of this codec"):
        to_planes(mono, 2)


@functools.cache
def compiled():
    codec = make_codec(0, STEREO)
    graph, state = nnx.split(codec)
    return tuple(
        jax.jit(lambda *args, name=name: getattr(nnx.merge(graph, state), name)(*args))
        for name in ("encode", "decode_codes")
    )


def test_the_in_lab_codec_has_one_stream_of_tokens_for_both_channels():
    encode, decode = compiled()
    waves = np.stack([two_sides(20), 0.5 * two_sides(20)[:, ::-1]])
    lengths = np.array([20 * HOP, 11 * HOP - 100])
    tokens = encode(waves, lengths)
    assert tokens.codes.shape == (2, 20, STEREO.codebooks)
    assert tokens.latents.shape == (2, 20, STEREO.latent_channels)
    heard = np.asarray(decode(tokens.codes, tokens.num_frames))
    assert heard.shape == waves.shape and np.isfinite(heard).all()
    assert not heard[1, 11 * HOP :].any()
    # A clip in a batch encodes as it does alone.
    waves[1, 11 * HOP :] = 0
    tokens = encode(waves, np.array([20 * HOP, 11 * HOP]))
    alone = encode(waves[1:, : 11 * HOP], np.array([11 * HOP]))
    np.testing.assert_allclose(tokens.latents[1, :11], alone.latents[0], atol=1e-4)


def test_the_in_lab_codec_tells_left_from_right_and_phase_from_opposite_phase():
    encode, _ = compiled()
    tone, nothing = make_wave(1, 8 * HOP), np.zeros(8 * HOP, np.float32)
    waves = np.stack([[tone, nothing], [nothing, tone], [tone, tone], [tone, -tone]])
    latents = np.asarray(encode(waves.transpose(0, 2, 1), np.full(4, 8 * HOP)).latents)
    for one in range(4):
        for other in range(one):
            assert np.abs(latents[one] - latents[other]).max() > 1e-2, (one, other)


def test_the_loss_of_the_stereo_codec_hears_both_channels_and_trains_every_layer():
    codec = STEREO.build(key=jax.random.key(0))
    waves, lengths = jnp.asarray(two_sides(8)[None]), jnp.array([8 * HOP])
    graph, *states = nnx.split(codec, nnx.Param, ...)
    params, rest = map(nnx.as_pure, states)

    def loss(params, rest, waves):
        model = nnx.merge(graph, params, rest)
        return model.loss(waves, lengths, key=jax.random.key(1)).mean()

    gradient = jax.jit(jax.value_and_grad(loss))
    value, grads = gradient(params, rest, waves)
    leaves = jax.tree.leaves(grads)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in leaves)
    assert max(float(np.abs(leaf).max()) for leaf in leaves) > 0
    # Silence in either channel is another loss.
    for side in (0, 1):
        other, _ = gradient(params, rest, waves.at[..., side].set(0.0))
        assert abs(float(other) - float(value)) > 1e-3


@pytest.mark.parametrize("field", ["causal", "distillation"])
def test_stereo_that_cannot_be_is_refused(field):
    values = {"causal": True} if field == "causal" else {"distillation": {}}
    with pytest.raises(ConfigError, match="channels=2: a causal codec streams one channel"):
        SpectralCodecConfig.from_dict({"channels": 2, **values})


def test_the_token_space_is_known_without_the_codec():
    mono, stereo = token_spec("in_lab_16khz"), token_spec("in_lab_16khz", 2)
    assert (stereo.codebooks, stereo.frame_hz) == (2 * mono.codebooks, mono.frame_hz)
    assert load_codec("in_lab_16khz", 48_000, 2).spec == stereo
    # A stereo codec has the same tokens for mono, which it hears on both channels.
    assert token_spec("oobleck", 2) == token_spec("oobleck")


def test_a_wave_is_heard_in_another_format():
    wave = two_sides()
    assert hear(wave, AudioFormat(16_000, 2), AudioFormat(16_000, 2)) is wave
    np.testing.assert_allclose(fit_channels(wave, 1), wave.mean(axis=1), atol=1e-7)
    np.testing.assert_array_equal(fit_channels(wave[:, 0], 2), wave[:, [0, 0]])
    assert hear(wave, AudioFormat(48_000, 2), AudioFormat()).shape == (len(wave) // 3,)
