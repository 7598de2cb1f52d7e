"""The delay pattern against transformers' MusicGen.

MusicGen puts one start column before the steps (a pattern of T + K columns for T frames and K
codebooks, where genlab has T + K - 1 steps), stores codebooks before steps, and knows delay 1 only.
It leaves codes unshifted where the pattern has fewer than 2 K - 1 columns, so T is at least K here.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import jax.numpy as jnp  # noqa: E402

from genlab.decoders.steps.patterns import DelayPattern  # noqa: E402

pytestmark = pytest.mark.parity

BATCH, ENTRIES = 2, 32
START = ENTRIES
TO_PREDICT = -1


@pytest.fixture(scope="module", params=[1, 2, 4, 8])
def musicgen(request):
    config = transformers.MusicgenDecoderConfig(
        vocab_size=ENTRIES,
        num_codebooks=request.param,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        ffn_dim=8,
        max_position_embeddings=64,
        pad_token_id=START,
        bos_token_id=START,
    )
    return transformers.MusicgenForCausalLM(config)


def musicgen_pattern(model, known, num_frames):
    """Return MusicGen's columns [b, steps, codebooks] after the start column, `known` being [b,
    frames, codebooks].
    """
    codebooks = model.config.num_codebooks
    started = np.concatenate([np.full((BATCH, 1, codebooks), START), known], axis=1)
    rows = torch.from_numpy(started.transpose(0, 2, 1).reshape(BATCH * codebooks, -1).copy())
    _, columns = model.build_delay_pattern_mask(
        rows, pad_token_id=START, max_length=num_frames + codebooks
    )
    columns = columns.reshape(BATCH, codebooks, -1)
    assert (columns[:, :, 0] == START).all()
    return columns[:, :, 1:].numpy().transpose(0, 2, 1)


@pytest.mark.parametrize("num_frames", [8, 13])
def test_codes_stand_at_the_same_steps(musicgen, num_frames):
    codebooks = musicgen.config.num_codebooks
    codes = np.random.default_rng(num_frames).integers(0, ENTRIES, (BATCH, num_frames, codebooks))
    expected = musicgen_pattern(musicgen, codes, num_frames)
    pattern = DelayPattern()
    assert expected.shape[1] == pattern.num_steps(num_frames, codebooks)
    np.testing.assert_array_equal(pattern.build(jnp.asarray(codes), fill=START), expected)


@pytest.mark.parametrize("num_frames", [8, 13])
def test_the_same_codes_are_predicted(musicgen, num_frames):
    codebooks = musicgen.config.num_codebooks
    nothing = np.zeros((BATCH, 0, codebooks), int)
    expected = musicgen_pattern(musicgen, nothing, num_frames) == TO_PREDICT
    every = jnp.ones((BATCH, num_frames, codebooks), bool)
    np.testing.assert_array_equal(DelayPattern().build(every, fill=False), expected)


def test_a_prompt_stands_at_the_same_steps(musicgen):
    num_frames, num_prompt_frames = 11, 4
    codebooks = musicgen.config.num_codebooks
    codes = np.random.default_rng(5).integers(0, ENTRIES, (BATCH, num_frames, codebooks))
    expected = musicgen_pattern(musicgen, codes[:, :num_prompt_frames], num_frames)
    codes[:, num_prompt_frames:] = TO_PREDICT
    np.testing.assert_array_equal(DelayPattern().build(jnp.asarray(codes), fill=START), expected)


def test_steps_become_the_same_frames(musicgen):
    num_frames = 9
    codebooks = musicgen.config.num_codebooks
    pattern = DelayPattern()
    predicted = np.random.default_rng(6).integers(
        0, ENTRIES, (BATCH, pattern.num_steps(num_frames, codebooks), codebooks)
    )
    # What generate() does: codes outside the pattern become the start code, and what is left is
    # read in order.
    columns = musicgen_pattern(musicgen, np.zeros((BATCH, 0, codebooks), int), num_frames)
    applied = musicgen.apply_delay_pattern_mask(
        torch.from_numpy(predicted.transpose(0, 2, 1).reshape(BATCH * codebooks, -1).copy()),
        torch.from_numpy(columns.transpose(0, 2, 1).reshape(BATCH * codebooks, -1).copy()),
    )
    expected = applied[applied != START].reshape(BATCH, codebooks, -1).numpy().transpose(0, 2, 1)
    np.testing.assert_array_equal(pattern.revert(jnp.asarray(predicted), codebooks), expected)
