import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from genlab.data.text import encode_text
from genlab.recognisers.augment import SpectrumAugment, mask_patches, warp_formants
from genlab.recognisers.ctc import RecogniserConfig, mel_centres_hz
from genlab.recognisers.transcribe import (
    MARGIN_S,
    FrozenRecogniser,
    collapse,
    find_speech,
    map_speech,
)

QUIET = SpectrumAugment(
    noise_probability=0.0,
    formant_warp=0.0,
    equaliser_db=0.0,
    roughness_db=0.0,
    masked_bands=0,
    masked_spans=0,
)
SMALL = RecogniserConfig(width=32, blocks=2, feature_block=1, num_mels=40)


def _clip(seed, num_samples):
    """A melody of 60 ms tones, so that any two spans of a clip differ."""
    generator = np.random.default_rng(seed)
    tones_hz = np.exp(generator.uniform(np.log(200), np.log(4000), -(-num_samples // 960)))
    phase = np.cumsum(np.repeat(tones_hz, 960)[:num_samples]) / 16_000
    return (0.2 * np.sin(2 * np.pi * phase)).astype(np.float32)


def _batch(lengths, texts, frames=60):
    waves = np.zeros((len(lengths), frames * 320), np.float32)
    symbols = np.zeros((len(lengths), 8), np.int32)
    for seed, (count, text) in enumerate(zip(lengths, texts)):
        waves[seed, :count] = _clip(seed, count)
        symbols[seed, : len(text)] = encode_text(text)
    return (
        waves,
        np.array(lengths, np.int32),
        symbols,
        np.array([len(text) for text in texts], np.int32),
    )


@functools.cache
def _split_model():
    graph, params = nnx.split(jax.jit(lambda key: SMALL.build(key=key))(jax.random.key(3)))
    return graph, nnx.as_pure(params)


@functools.cache
def _compiled(verb):
    graph, params = _split_model()
    return functools.partial(
        jax.jit(lambda p, *args, **keys: getattr(nnx.merge(graph, p), verb)(*args, **keys)), params
    )


def _compiled_loss():
    return lambda key, *args: _compiled("loss")(*args, key=key)


def test_frames_match_the_codec_and_features_are_zero_past_the_end():
    waves, num_samples, *_ = _batch([321, 16_000], ["a", "b"], frames=50)
    np.testing.assert_array_equal(_compiled("num_frames")(num_samples), [2, 50])
    features = np.asarray(_compiled("features")(waves, num_samples))
    assert features.shape == (2, 50, 32) and np.isfinite(features).all()
    assert not features[0, 2:].any() and features[0, :2].any()
    assert _compiled("logits")(waves, num_samples).shape == (2, 50, 29)


def test_waves_need_not_fill_whole_frames():
    waves, num_samples, *_ = _batch([5000, 9001], ["a", "b"], frames=50)
    cut = _compiled("logits")(waves[:, :9001], num_samples)
    whole = _compiled("logits")(waves, num_samples)
    # Batch mates of another padded length: only the valid frames are defined.
    np.testing.assert_allclose(cut[1], whole[1, : cut.shape[1]], atol=1e-4)
    np.testing.assert_allclose(cut[0, :16], whole[0, :16], atol=1e-4)


def test_loss_ignores_batch_mates():
    key = jax.random.key(7)
    waves, num_samples, text, num_symbols = _batch([16_000, 9000], ["one two", "no"])
    alone = _compiled_loss()(key, waves, num_samples, text, num_symbols)
    # Copies: the first call may still be reading the arrays that it was given.
    waves, num_samples, num_symbols = waves.copy(), num_samples.copy(), num_symbols.copy()
    waves[1, :4000], num_samples[1], num_symbols[1] = _clip(9, 4000), 4000, 1
    changed = _compiled_loss()(key, waves, num_samples, text, num_symbols)
    assert float(alone.per_example[0]) == float(changed.per_example[0])
    assert float(alone.per_example[1]) != float(changed.per_example[1])
    np.testing.assert_array_equal(changed.weight, [7, 1])


def test_loss_ignores_padding_even_with_augmentation():
    key = jax.random.key(7)
    args = _batch([9000, 12_000], ["one two", "no"], frames=40)
    longer = _batch([9000, 12_000], ["one two", "no"], frames=60)
    longer[0][:, 12_000:] = 9.9  # rubbish past the end of the clips must not be heard
    short_out, long_out = _compiled_loss()(key, *args), _compiled_loss()(key, *longer)
    np.testing.assert_allclose(short_out.per_example, long_out.per_example, rtol=1e-4)


def test_loudness_and_silence_do_not_matter():
    logits = _compiled("logits")
    waves, num_samples, *_ = _batch([16_000, 9000], ["a", "b"], frames=50)
    np.testing.assert_allclose(
        logits(waves, num_samples), logits(waves * 0.05, num_samples), atol=2e-3
    )
    assert np.isfinite(logits(waves * 0, num_samples)).all()
    assert np.isfinite(logits(waves, num_samples * 0)).all()


def test_only_the_speech_and_its_margins_are_read():
    config, rng = SMALL, np.random.default_rng(0)
    speech = rng.standard_normal(6_000).astype(np.float32)
    margin = round(MARGIN_S * config.sample_rate_hz)
    assert find_speech(np.pad(speech, margin), config) == slice(0, 6_000 + 2 * margin)
    span = find_speech(np.pad(speech, (16_000, 9_000)), config)
    assert (
        span.start % config.hop_samples == 0
        and 0 <= 16_000 - margin - span.start < config.hop_samples
    )
    assert span.stop == 22_000 + margin
    assert find_speech(np.zeros(500, np.float32), config) == slice(0, 500)

    def loud_frames(waves, num_samples):
        is_loud = np.abs(waves).reshape(len(waves), -1, config.hop_samples).max(axis=2) > 0
        return 1 + is_loud

    alone, padded = map_speech(
        loud_frames, [speech, np.pad(speech, (32_000, 17_000))], None, config
    )
    first = 32_000 // config.hop_samples
    np.testing.assert_array_equal(padded[first : first + 18], alone[:18])
    lead = -(-margin // config.hop_samples)
    assert (padded[: first - lead] == 0).all() and (padded[first - lead : first] == 1).all()
    assert len(padded) == -(-55_000 // config.hop_samples) and padded[-1] == 0


def test_overfits_two_clips():
    config = RecogniserConfig(width=64, blocks=2, feature_block=1, num_mels=40, augment=QUIET)
    args = _batch([16_000, 9000], ["one two", "no"])
    graph, params = nnx.split(jax.jit(lambda key: config.build(key=key))(jax.random.key(1)))
    params = nnx.as_pure(params)
    optimizer = optax.adam(4e-3)

    @jax.jit
    def step(params, state, key):
        def mean_loss(params):
            out = nnx.merge(graph, params).loss(*args, key=key)
            return jnp.sum(out.per_example * out.weight) / jnp.sum(out.weight)

        value, gradient = jax.value_and_grad(mean_loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    first = None
    for number in range(300):
        params, state, value = step(params, state, jax.random.key(number))
        first = float(value) if first is None else first
        if number % 20 == 0 and float(value) < 0.02:
            break
    assert float(value) < 0.05 < first
    trained = FrozenRecogniser(nnx.merge(graph, params), "0" * 10, {})
    assert trained.transcribe(args[0], args[1]) == ["one two", "no"]
    # Another order, other batch mates and another padding read the same.
    waves = [args[0][1][:9000], np.zeros(700, np.float32), args[0][0][:16_000]]
    assert trained.transcribe(waves)[::2] == ["no", "one two"]


def test_every_parameter_gets_a_gradient():
    graph, params = _split_model()
    args = _batch([16_000, 9000], ["one two", "no"])
    key = jax.random.key(0)
    gradient = jax.jit(
        jax.grad(lambda p: nnx.merge(graph, p).loss(*args, key=key).per_example.sum())
    )(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.asarray(leaf).any(), path


@pytest.mark.parametrize(
    ("symbols", "text"),
    [
        ("", ""),
        ("__", ""),
        ("hh_e_ll_l_oo", "hello"),
        ("aab", "ab"),
        ("a_a", "aa"),
        ("_ no  _ _ ", "no"),
    ],
)
def test_collapse(symbols, text):
    codes = [
        0 if character == "_" else " abcdefghijklmnopqrstuvwxyz'".index(character) + 1
        for character in symbols
    ]
    assert collapse(np.array(codes, np.int64)) == text


def test_formant_warp_moves_a_peak_and_keeps_it_when_off():
    centres_hz = mel_centres_hz(SMALL)
    assert (np.diff(centres_hz) > 0).all()
    mels = np.zeros((1, 40), np.float32)
    mels[0, 20] = 1.0
    np.testing.assert_allclose(
        warp_formants(mels, centres_hz, QUIET, jax.random.key(0)), mels, atol=1e-4
    )
    loud = SpectrumAugment(formant_warp=0.5)
    keys = jax.random.split(jax.random.key(0), 20)
    peaks = np.argmax(
        jax.vmap(lambda key: warp_formants(mels, centres_hz, loud, key)[0])(keys), axis=1
    )
    assert min(peaks) < 20 < max(peaks)


def test_patches_stay_within_their_limits():
    config = SpectrumAugment(masked_bands=1, max_band_mels=4, masked_spans=1, max_span_columns=6)
    ones = np.ones((50, 40), np.float32)
    keys = jax.random.split(jax.random.key(0), 10)
    for kept in np.asarray(
        jax.vmap(lambda key: mask_patches(ones, jnp.array(30), config, key))(keys)
    ):
        assert (~kept.any(axis=1)).sum() <= 6 and (~kept.any(axis=0)).sum() <= 4
        assert kept[30:].any(axis=1).all()  # spans lie on valid columns
