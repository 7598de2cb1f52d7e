import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from codec_toys import HOP, TINY, make_codec, make_wave
from flax import nnx
from typing_extensions import get_protocol_members

from genlab.codecs.base import Codec, StreamingCodec
from genlab.codecs.discriminator import AdversarialConfig, Discriminator, adversarial_losses
from genlab.codecs.mimi import MimiCodec
from genlab.codecs.quantiser import draw_levels
from genlab.codecs.spectral import SpectralCodec, SpectralCodecConfig
from genlab.config import ConfigError, GenlabError

LOOK_AHEAD = 240  # samples by which centred windows see past a frame
EVERY_LEVEL = TINY.model_copy(update={"share_continuous": 0.3, "share_fewer_levels": 0.4})
WITH_CRITIC = EVERY_LEVEL.model_copy(
    update={"adversarial": AdversarialConfig(start_step=3, width=16)}
)


@functools.cache
def compiled(config, causal=False):
    """Return a fitted tiny codec as pure functions (encode, decode_codes, decode_latents)."""
    codec = make_codec(0, config.model_copy(update={"causal": causal}))
    graph, state = nnx.split(codec)
    return tuple(
        jax.jit(lambda *args, name=name: getattr(nnx.merge(graph, state), name)(*args))
        for name in ("encode", "decode_codes", "decode_latents")
    )


def two_waves(frames):
    return np.stack([make_wave(1, frames * HOP), make_wave(2, frames * HOP)])


def test_shapes_types_and_ranges():
    encode, decode_codes, decode_latents = compiled(TINY)
    tokens = encode(two_waves(20), np.array([20 * HOP, 11 * HOP - 100]))
    assert tokens.codes.shape == (2, 20, 3) and tokens.codes.dtype == jnp.int32
    assert tokens.latents.shape == (2, 20, 8)
    np.testing.assert_array_equal(tokens.num_frames, [20, 11])
    assert int(tokens.codes.min()) >= 0 and int(tokens.codes.max()) < 16
    wave = decode_codes(tokens.codes, tokens.num_frames)
    assert wave.shape == (2, 20 * HOP)
    assert np.isfinite(wave).all()
    assert (np.asarray(wave)[1, 11 * HOP :] == 0).all()
    assert decode_latents(tokens.latents).shape == (2, 20 * HOP)


def test_padding_does_not_move_latents_or_codes():
    encode, *_ = compiled(TINY)
    wave = make_wave(3, 13 * HOP)[None]
    padded = np.pad(wave, ((0, 0), (0, 27 * HOP)))
    short, long = encode(wave), encode(padded, np.array([13 * HOP]))
    np.testing.assert_allclose(long.latents[:, :13], short.latents, atol=1e-5)
    np.testing.assert_array_equal(long.codes[:, :13], short.codes)
    assert (np.asarray(long.latents)[:, 13:] == 0).all()


def test_batch_mates_do_not_matter():
    encode, _, decode_latents = compiled(TINY)
    num_samples = np.array([20 * HOP, 20 * HOP])
    waves = two_waves(20)
    together = encode(waves, num_samples)
    other = encode(np.stack([waves[0], 0.1 * waves[1][::-1]]), np.array([20 * HOP, 5 * HOP]))
    np.testing.assert_allclose(other.latents[0], together.latents[0], atol=1e-5)
    np.testing.assert_allclose(
        decode_latents(other.latents, other.num_frames)[0],
        decode_latents(together.latents, together.num_frames)[0],
        atol=1e-5,
    )


def test_padding_moves_decoded_audio_only_under_the_last_window():
    _, _, decode_latents = compiled(TINY)
    latents = np.random.default_rng(0).standard_normal((1, 13, 8)).astype(np.float32)
    short = decode_latents(latents)
    long = decode_latents(np.pad(latents, ((0, 0), (0, 9), (0, 0))), np.array([13]))
    inner = 13 * HOP - LOOK_AHEAD
    np.testing.assert_allclose(long[:, :inner], short[:, :inner], atol=1e-5)
    assert (np.asarray(long)[:, 13 * HOP :] == 0).all()


def test_a_wave_that_is_no_multiple_of_the_hop_is_refused():
    with pytest.raises(ValueError, match="161 samples are not a multiple of the hop 320"):
        make_codec().encode(jnp.zeros((1, 161)))


def test_quantised_latents_and_codes_decode_to_the_same_wave():
    encode, decode_codes, decode_latents = compiled(TINY)
    tokens = encode(two_waves(12))
    quantised = make_codec().quantiser.decode(tokens.codes)
    np.testing.assert_allclose(decode_latents(quantised), decode_codes(tokens.codes), atol=1e-5)
    fewer = make_codec().quantiser.decode(tokens.codes[..., :1])
    np.testing.assert_allclose(
        decode_latents(fewer), decode_codes(tokens.codes[..., :1]), atol=1e-5
    )


# samples between the end of a frame and the last one it still changes: window - hop / 2
STREAM_DELAY = 480


def test_a_causal_codec_does_not_look_ahead():
    encode, _, decode_latents = compiled(TINY, causal=True)
    wave = make_wave(5, 24 * HOP)[None]
    changed = wave.copy()
    changed[:, 12 * HOP :] = make_wave(6, 12 * HOP)
    before, after = np.asarray(encode(wave).latents), np.asarray(encode(changed).latents)
    is_same = np.abs(before - after).max(axis=(0, 2)) < 1e-5
    assert is_same[:12].all() and not is_same[12:].any()

    latents = np.random.default_rng(1).standard_normal((1, 24, 8)).astype(np.float32)
    moved = latents.copy()
    moved[:, 12:] += 1
    difference = np.abs(np.asarray(decode_latents(latents)) - np.asarray(decode_latents(moved)))[0]
    assert difference[: 12 * HOP - STREAM_DELAY].max() < 1e-5
    assert difference[12 * HOP - STREAM_DELAY :].max() > 1e-3


@pytest.mark.parametrize("codec", [SpectralCodec, MimiCodec])
def test_codecs_that_stream_keep_the_contract(codec):
    methods = get_protocol_members(StreamingCodec) - get_protocol_members(Codec)
    assert len(methods) == 4 and all(callable(getattr(codec, name)) for name in methods)


@pytest.mark.parametrize("sizes", [(1,) * 6, (2, 3, 1), (6,)])
def test_a_causal_codec_streams_what_it_gives_offline(sizes):
    codec = make_codec(0, TINY.model_copy(update={"causal": True}))
    graph, state = nnx.split(codec)
    encode_chunk, decode_chunk = (
        jax.jit(lambda state, *args, name=name: getattr(nnx.merge(graph, state), name)(*args))
        for name in ("encode_chunk", "decode_chunk")
    )
    waves = two_waves(sum(sizes))
    offline = codec.encode(jnp.asarray(waves))
    whole = np.asarray(codec.decode_codes(offline.codes))
    heard, spoken = codec.start_encoding(2), codec.start_decoding(2)
    latents, codes, out, start = [], [], [], 0
    for size in sizes:
        tokens, heard = encode_chunk(state, waves[:, start * HOP : (start + size) * HOP], heard)
        wave, spoken = decode_chunk(state, tokens.codes, spoken)
        start += size
        for parts, part in ((latents, tokens.latents), (codes, tokens.codes), (out, wave)):
            parts.append(part)
    np.testing.assert_allclose(np.concatenate(latents, 1), offline.latents, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(codes, 1), offline.codes)
    streamed = np.concatenate(out, 1)
    assert (
        np.abs(streamed[:, STREAM_DELAY:] - whole[:, :-STREAM_DELAY]).max()
        < 1e-5 * np.abs(whole).max()
    )


def test_a_codec_that_looks_ahead_refuses_to_stream():
    codec = make_codec()
    for start in (codec.start_encoding, codec.start_decoding):
        with pytest.raises(GenlabError, match="cannot run chunk by chunk"):
            start(1)


def test_a_codec_starts_from_another_and_refuses_another_shape():
    trained, fresh = make_codec(3), make_codec(4, WITH_CRITIC)
    wave = jnp.asarray(two_waves(6))
    fresh.start_from(trained)
    np.testing.assert_array_equal(fresh.encode(wave).codes, trained.encode(wave).codes)
    assert (fresh.quantiser.usage[...] == 1).all(), "used entries must not be revived"
    with pytest.raises(GenlabError, match="another shape"):
        make_codec(4, TINY.model_copy(update={"entries": 32})).start_from(trained)


def test_a_plain_codec_is_not_causal():
    encode, *_ = compiled(TINY)
    wave = make_wave(5, 24 * HOP)[None]
    changed = wave.copy()
    changed[:, 12 * HOP :] = 0
    assert np.abs(np.asarray(encode(wave).latents - encode(changed).latents))[:, :10].max() > 1e-4


@functools.cache
def compiled_gradient(config, step=0):
    """Return params, the rest, and a jitted function of them, key and batch: gradient, (loss, out,
    new rest).
    """
    codec = make_codec(0, config)
    codec.step[...] = jnp.int32(step)
    graph, params, rest = nnx.split(codec, nnx.Param, ...)

    @jax.jit
    def gradient(params, rest, key, waves, num_samples):
        def loss(params):
            model = nnx.merge(graph, params, rest)
            out = model.loss(waves, num_samples, key=key)
            mean = (out.per_example * out.weight).sum() / out.weight.sum()
            return mean, (mean, out, nnx.to_pure_dict(nnx.split(model, nnx.Param, ...)[2]))

        return jax.grad(loss, has_aux=True)(params)

    return nnx.to_pure_dict(params), nnx.to_pure_dict(rest), gradient


BATCH = (two_waves(16), np.array([16 * HOP, 9 * HOP]))


def largest(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_the_loss_is_finite_and_moves_codebooks_and_step():
    params, rest, gradient = compiled_gradient(TINY)
    grads, (loss, out, new) = gradient(params, rest, jax.random.key(0), *BATCH)
    assert np.isfinite(loss) and out.per_example.shape == (2,)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, out, new)))
    assert int(new["step"]) == int(rest["step"]) + 1
    assert largest(jax.tree.map(jnp.subtract, new["quantiser"], rest["quantiser"])) > 1e-4
    # The codebooks are no parameters: the optimiser never sees them.
    assert "quantiser" not in params
    assert all(value.shape == (2,) for value in out.metrics.values())


def test_silence_and_an_empty_clip_give_finite_gradients():
    params, rest, gradient = compiled_gradient(TINY)
    silence = (np.zeros((2, 16 * HOP), np.float32), np.array([16 * HOP, 0]))
    assert all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves(gradient(params, rest, jax.random.key(0), *silence))
    )


def test_one_batch_is_overfitted():
    params, rest, gradient = compiled_gradient(TINY)
    optimiser = optax.adam(4e-3)
    state = optimiser.init(params)
    step = jax.jit(optimiser.update)
    distances = []
    for number in range(80):
        grads, (_, out, rest) = gradient(params, rest, jax.random.key(number), *BATCH)
        changes, state = step(grads, state)
        params = optax.apply_updates(params, changes)
        distances.append(float(out.metrics["mel_distance"].mean()))
    assert distances[-1] < 0.5 * distances[0], distances[::10]


def test_levels_are_drawn_in_the_stated_shares():
    shares = EVERY_LEVEL.share_continuous, EVERY_LEVEL.share_fewer_levels
    levels = np.asarray(draw_levels(jax.random.key(0), 6000, 3, *shares))
    assert set(levels) == {0, 1, 2, 3}
    assert np.mean(levels == 0) == pytest.approx(0.3, abs=0.03)
    assert np.mean((levels == 1) | (levels == 2)) == pytest.approx(0.4, abs=0.03)
    assert (np.asarray(draw_levels(jax.random.key(0), 200, 3, 0.0, 0.0)) == 3).all()


def test_before_its_start_step_the_discriminator_gets_no_gradient():
    params, rest, gradient = compiled_gradient(WITH_CRITIC, step=2)
    grads, (_, out, _) = gradient(params, rest, jax.random.key(0), *BATCH)
    assert largest(grads["discriminator"]) == 0
    assert largest(grads["decoder"]) > 0
    assert float(jnp.abs(out.metrics["critic_hinge"]).max()) == 0


def test_from_its_start_step_on_both_sides_get_gradient():
    params, rest, gradient = compiled_gradient(WITH_CRITIC, step=3)
    grads, (_, out, _) = gradient(params, rest, jax.random.key(0), *BATCH)
    assert largest(grads["discriminator"]) > 0
    assert largest(grads["decoder"]) > 0
    assert float(out.metrics["critic_hinge"].min()) > 0
    assert float(out.metrics["feature_matching"].min()) > 0


def test_generator_and_critic_do_not_leak_into_each_other():
    critic = Discriminator(8, nnx.Rngs(0))
    graph, state = nnx.split(critic)
    real, fake = (
        jnp.asarray(wave) for wave in (make_wave(1, 4096)[None], make_wave(2, 4096)[None])
    )

    def losses(state, fake):
        return [part.sum() for part in adversarial_losses(nnx.merge(graph, state), real, fake)]

    jacobian = jax.jit(jax.jacrev(losses, argnums=(0, 1)))(state, fake)
    (generator, generator_wave), (matching, matching_wave), (hinge, hinge_wave) = jacobian
    assert largest(generator) == 0 and largest(matching) == 0 and largest(hinge) > 0
    assert largest(generator_wave) > 0 and largest(matching_wave) > 0 and largest(hinge_wave) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("window_samples=600", "window_samples=600 must be a multiple of the STFT hop 160"),
        ("hop_samples=321", "hop_samples=321 must be a multiple of 2"),
        ("share_continuous=0.9", "their sum exceeds 1"),
        ("entries=40000", "entries: "),
        ("encoder.widht=8", "encoder.widht: no such field; did you mean 'encoder.width'?"),
    ],
)
def test_impossible_shapes_are_refused_before_anything_is_built(override, message):
    config = SpectralCodecConfig()
    with pytest.raises(ConfigError) as error:
        config.override([override])
    assert message in str(error.value) and "\n" not in str(error.value)
