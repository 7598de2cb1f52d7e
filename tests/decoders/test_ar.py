"""What only the autoregressive family promises: causality, an exact likelihood, the delay pattern, honest refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import BACKBONE, FAMILIES, NUM_FRAMES, SPEC, prompt_where, toy_batch, train
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from genlab.config import GenlabError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.patterns import DelayPattern
from genlab.tokens import Tokens

NOTHING = ConditionConfig(content="none", speaker=False)


def randomised(decoder, seed=3):
    """The decoder with heads that say something."""
    graph, params = nnx.split(decoder)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(tree, noisy))


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 6))
def test_the_pattern_inverts(delay, codebooks, num_frames):
    codes = jnp.arange(2 * num_frames * codebooks).reshape(2, num_frames, codebooks)
    pattern = DelayPattern(delay_frames=delay)
    steps = pattern.build(codes, fill=-1)
    assert steps.shape[1] == pattern.num_steps(num_frames, codebooks)
    assert (steps == -1).sum() == steps.size - codes.size
    np.testing.assert_array_equal(pattern.revert(steps), codes)
    if delay == 0:
        np.testing.assert_array_equal(steps, codes)


def test_the_pattern_of_the_docstring():
    letters = np.array([[ord(letter) for letter in row] for row in ("abcd", "efgh", "ijkl")])
    steps = DelayPattern().build(jnp.asarray(letters.T[None]), fill=ord("."))
    assert ["".join(map(chr, row)) for row in np.asarray(steps[0]).T] == ["abcd..", ".efgh.", "..ijkl"]


def test_probabilities_of_all_clips_sum_to_one():
    """Two frames of two binary codebooks: 16 clips."""
    spec = SPEC.model_copy(update={"codebooks": 2, "entries": 2})
    decoder = randomised(ARConfig().build(spec, CondVocab(num_speakers=1), BACKBONE, NOTHING, key=jax.random.key(0)))
    codes = jnp.array(list(itertools.product([0, 1], repeat=4))).reshape(16, 2, 2)
    _, cond = toy_batch(16, 2)
    score = decoder.score(Tokens(codes, None, jnp.full(16, 2)), cond)
    assert score.validity == "exact"
    assert np.std(score.bits) > 0.1
    np.testing.assert_allclose((2.0**-score.bits).sum(), 1, rtol=1e-5)


def test_the_loss_is_the_likelihood_when_nothing_is_dropped(key):
    tokens, cond = toy_batch()
    config = ARConfig(infill_share=0.0)
    plain = ConditionConfig(dropout=0.0)
    decoder = randomised(config.build(SPEC, CondVocab(num_speakers=3, num_units=10), BACKBONE, plain, key=key))
    out = decoder.loss(tokens, cond, key=key)
    np.testing.assert_array_equal(out.weight, SPEC.codebooks * tokens.num_frames)
    np.testing.assert_allclose(out.per_example * out.weight / jnp.log(2), decoder.score(tokens, cond).bits, rtol=1e-5)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_no_step_sees_its_own_or_later_codes(delay):
    tokens, cond = toy_batch()
    config = ARConfig(pattern=DelayPattern(delay_frames=delay))
    vocab = CondVocab(num_speakers=3, num_units=10)
    decoder = randomised(config.build(SPEC, vocab, BACKBONE, ConditionConfig(), key=jax.random.key(0)))

    @jax.jit
    def nats(codes):
        return decoder._nats(tokens._replace(codes=codes), cond, tokens.is_valid, None, None)[0][0]

    frame, level = 4, 2
    changed = tokens.codes.at[0, frame, level].add(1) % SPEC.entries
    moved = np.abs(nats(tokens.codes) - nats(changed)) > 1e-6
    step = frame + level * delay
    # At its own step only its own probability changes; delay 0 predicts the levels of a frame independently.
    assert not moved[:step].any()
    assert moved[step].tolist() == [False, False, True, False]
    assert moved[step + 1 :].any()


def test_the_hole_is_drawn_from_both_sides():
    """With the hole visited last, the codes after it move its probabilities; from left to right they cannot."""
    tokens, cond = toy_batch()
    decoder = randomised(FAMILIES["ar"].build())
    frame = jnp.arange(NUM_FRAMES)[None, :]
    is_outside = tokens.is_valid & ((frame < 2) | (frame > 4))

    def hole_nats(codes, is_known):
        nats, is_target = decoder._nats(tokens._replace(codes=codes), cond, is_known, None, None)
        per_frame = decoder.config.pattern.revert(jnp.where(is_target, nats, 0))
        order = jnp.argsort(jnp.where(tokens.is_valid, jnp.where(is_known, 0, 1), 2), axis=1, stable=True)
        return jnp.take_along_axis(per_frame, jnp.argsort(order, axis=1)[:, :, None], axis=1)[0, 2:5]

    changed = tokens.codes.at[0, 8].add(1) % SPEC.entries
    for is_known, expected in ((tokens.is_valid, False), (is_outside, True)):
        moved = np.abs(hole_nats(tokens.codes, is_known) - hole_nats(changed, is_known)) > 1e-6
        assert moved.any() == expected


def test_what_was_not_trained_is_refused(key):
    tokens, cond = toy_batch()
    decoder = ARConfig(infill_share=0.0).build(
        SPEC, CondVocab(num_speakers=3, num_units=10), BACKBONE, ConditionConfig(), key=key
    )
    hole = prompt_where(tokens, (np.arange(NUM_FRAMES) < 2) | (np.arange(NUM_FRAMES) > 4))
    with pytest.raises(GenlabError, match="infill_share=0 and can only continue"):
        decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=ARSampler(), prompt=hole)
    prefix = prompt_where(tokens, np.arange(NUM_FRAMES) < 2)
    decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=ARSampler(), prompt=prefix)
    with pytest.raises(GenlabError, match="num_units=0"):
        ARConfig().build(SPEC, CondVocab(num_speakers=3), BACKBONE, ConditionConfig(), key=key)


@pytest.mark.parametrize("route", ["prefix", "cross"])
def test_greedy_samples_are_the_likeliest_codes_without_a_cache(route):
    """The cached loop and the uncached forward pass agree, with text on both routes and a text that is padded."""
    tokens, cond = toy_batch()
    cond = cond._replace(text=cond.text.at[1, 3:].set(0))
    condition = ConditionConfig(content="text", route=route, dropout=0.0)
    family = FAMILIES["ar"]
    decoder = train(family.build(condition=condition), (tokens, cond), steps=10)[0]
    drawn = decoder.sample(cond, num_frames=tokens.num_frames, key=jax.random.key(0), sampler=family.precise).tokens

    @jax.jit
    def best_nats(codes):
        return decoder._nats(tokens._replace(codes=codes), cond, tokens.is_valid, None, None)[0]

    best = best_nats(drawn.codes)
    # Each greedy code is at least as likely as any other in its place, given the same past.
    for offset in (1, 5, 11):
        for frame, level in ((0, 0), (3, 1), (6, 3)):
            other = drawn.codes.at[:, frame, level].add(offset) % SPEC.entries
            step = frame + level
            assert (best_nats(other)[:, step, level] >= best[:, step, level] - 1e-4).all()
