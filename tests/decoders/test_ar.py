"""What only the autoregressive family promises: causality, an exact likelihood, the delay pattern,
honest refusals.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import (
    BACKBONE,
    FAMILIES,
    NUM_FRAMES,
    SPEC,
    jitted_loss,
    make_random,
    prompt_where,
    randomised,
    toy_batch,
    train,
)
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractDevice, AbstractMesh

from genlab.config import GenlabError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.steps.patterns import AcousticDelayPattern, DelayPattern, FlatPattern
from genlab.decoders.steps.stepwise import draw_seen, run_known
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops
from genlab.tokens import Tokens

PATTERNS = {
    "parallel": DelayPattern(delay_frames=0),
    "delay": DelayPattern(),
    "acoustic": AcousticDelayPattern(delay_frames=2),
    "flat": FlatPattern(),
}
VOCAB = CondVocab(num_speakers=3, num_units=10)
KEY = jax.random.key(0)
TPU = AbstractMesh((), (), abstract_device=AbstractDevice("TPU v5 lite", 1, "tpu"))
NOTHING = ConditionConfig(content="none", speaker=False)
TASK = Task(SPEC, VOCAB, BACKBONE, ConditionConfig())


def build_and_revert(pattern, codes):
    steps = pattern.build(codes, fill=-1)
    return steps, pattern.revert(steps, codes.shape[2])


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 6))
def test_patterns_invert(delay, codebooks, num_frames):
    codes = np.arange(2 * num_frames * codebooks).reshape(2, num_frames, codebooks)
    lagged = DelayPattern(delay_frames=delay), AcousticDelayPattern(delay_frames=delay)
    for pattern in (*lagged, FlatPattern()):
        steps, back = jax.jit(build_and_revert, static_argnums=0)(pattern, codes)
        num_steps = pattern.num_steps(num_frames, codebooks)
        assert steps.shape[1:] == pattern.levels(num_steps, codebooks).shape
        assert (
            steps.shape[1] == num_steps and pattern.num_frames(num_steps, codebooks) == num_frames
        )
        steps = np.asarray(steps)
        assert (steps == -1).sum() == steps.size - codes.size
        np.testing.assert_array_equal(back, codes)
        # Codes are numbered coarse to fine, frame by frame: every step holds the level it says.
        is_code = steps >= 0
        levels = np.broadcast_to(pattern.levels(num_steps, codebooks)[None], steps.shape)
        np.testing.assert_array_equal((steps % codebooks)[is_code], levels[is_code])
        if delay == 0 and pattern in lagged:
            np.testing.assert_array_equal(steps, codes)


def test_the_pattern_of_the_docstring():
    letters = np.array([[ord(letter) for letter in row] for row in ("abcd", "efgh", "ijkl")])
    steps = DelayPattern().build(jnp.asarray(letters.T[None]), fill=ord("."))
    assert ["".join(map(chr, row)) for row in np.asarray(steps[0]).T] == [
        "abcd..",
        ".efgh.",
        "..ijkl",
    ]
    steps = FlatPattern().build(jnp.asarray(letters.T[None]), fill=ord("."))
    assert ["".join(map(chr, row)) for row in np.asarray(steps[0]).T] == ["aeibfjcgkdhl"]


@pytest.mark.parametrize("name", PATTERNS)
def test_probabilities_of_all_clips_sum_to_one(name):
    """Two frames of two binary codebooks: 16 clips."""
    spec = SPEC.model_copy(update={"codebooks": 2, "entries": 2})
    config = ARConfig(pattern=PATTERNS[name])
    decoder = make_random(config, Task(spec, CondVocab(num_speakers=1), BACKBONE, NOTHING))
    codes = jnp.array(list(itertools.product([0, 1], repeat=4))).reshape(16, 2, 2)
    _, cond = toy_batch(16, 2)
    tokens = Tokens(codes, None, jnp.full(16, 2))

    def score(model):
        out = model.score(tokens, cond)
        assert out.validity == "exact"
        return out.bits

    bits = jax.jit(score)(decoder)
    assert np.std(bits) > 0.1
    np.testing.assert_allclose((2.0**-bits).sum(), 1, rtol=1e-5)


def test_the_loss_is_the_likelihood_when_nothing_is_dropped(key):
    tokens, cond = toy_batch()
    config = ARConfig(infill_share=0.0)
    plain = ConditionConfig(dropout=0.0)
    decoder = make_random(config, Task(SPEC, VOCAB, BACKBONE, plain))
    out = jitted_loss(decoder)(tokens, cond, key)
    np.testing.assert_array_equal(out.weight, SPEC.codebooks * tokens.num_frames)
    np.testing.assert_allclose(
        out.per_example * out.weight / jnp.log(2), bits_of(decoder, tokens, cond), rtol=1e-5
    )


def bits_of(decoder, tokens, cond):
    return jax.jit(lambda model: model.score(tokens, cond).bits)(decoder)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_cached_step_is_the_full_pass(name):
    """The greedy codes of the loop are the largest logits of one pass over them."""
    tokens, cond = toy_batch(num_frames=7)
    decoder = make_random(ARConfig(pattern=PATTERNS[name]), TASK)
    sampler = ARSampler(temperature=0.0)
    drawn = decoder.sample(
        cond, num_frames=tokens.num_frames, key=KEY, sampler=sampler
    ).tokens.codes
    assert len(np.unique(drawn)) > 4

    @jax.jit
    def best(codes):
        known = run_known(decoder, tokens._replace(codes=codes), cond, tokens.is_valid, None, None)
        return jnp.argmax(decoder._logits(known.hidden), axis=-1), known

    found, known = best(drawn)
    np.testing.assert_array_equal(found[known.is_target], known.codes[known.is_target])


@pytest.mark.parametrize("name", ["delay", "flat"])
def test_inputs_are_hidden_in_training_alone_and_all_codes_stay_targets(name):
    tokens, cond = toy_batch(num_frames=7)

    def loss_of(input_masking, is_training, seed=0):
        config = ARConfig(pattern=PATTERNS[name], infill_share=0.0, input_masking=input_masking)
        decoder = make_random(config, TASK)
        decoder.train() if is_training else decoder.eval()
        return jitted_loss(decoder)(tokens, cond, jax.random.key(seed))

    plain, hidden, other = loss_of(0.0, True), loss_of(0.8, True), loss_of(0.8, True, seed=1)
    np.testing.assert_array_equal(hidden.weight, plain.weight)
    # An example may draw a share so small that it hides nothing.
    assert (np.abs(hidden.per_example - plain.per_example) > 1e-4).sum() >= 2
    assert (np.abs(hidden.per_example - other.per_example) > 1e-4).sum() >= 2
    np.testing.assert_array_equal(loss_of(0.8, False).per_example, loss_of(0.0, False).per_example)


def test_the_share_of_hidden_inputs_is_uniform_up_to_the_one_asked_for():
    is_seen = draw_seen(KEY, jnp.zeros((2000, 60, 3), jnp.int32), 0.6)
    share = 1 - np.asarray(is_seen).mean(axis=(1, 2))
    assert share.max() < 0.72 and share.min() < 0.02
    # Uniform on [0, 0.6]: deciles at 0.06, 0.12 and so on, blurred by the 180 draws behind each
    # share.
    np.testing.assert_allclose(np.quantile(share, [0.25, 0.5, 0.75]), [0.15, 0.3, 0.45], atol=0.02)


@pytest.mark.parametrize("name", PATTERNS)
def test_every_step_has_a_rotary_position_of_its_own(name):
    """Whatever training and sampling agree on, two steps at one place could not be told apart."""
    pattern, codebooks, num_frames = PATTERNS[name], 3, 5
    numbers = jnp.broadcast_to(jnp.arange(num_frames)[None], (2, num_frames))
    frames = jnp.ones((2, num_frames, 4)) * (1 + numbers[:, :, None])
    features, positions = pattern.per_step(frames, numbers, codebooks)
    num_steps = pattern.num_steps(num_frames, codebooks)
    np.testing.assert_array_equal(positions, np.tile(np.arange(num_steps), (2, 1)))
    rows = np.repeat(1 + np.arange(num_frames), codebooks if name == "flat" else 1)
    of_steps = np.pad(rows, (0, num_steps - len(rows)))  # after the last frame there are none
    np.testing.assert_array_equal(features[0, :, 0], of_steps)
    # Frames visited out of order keep their own places.
    visited = jnp.array([[0, 1, 4, 2, 3]])
    _, positions = pattern.per_step(frames[:1], visited, codebooks)
    places = [3 * n + i for n in (0, 1, 4, 2, 3) for i in range(3)] if name == "flat" else None
    expected = places or [0, 1, 4, 2, 3, *range(num_frames, num_steps)]
    assert positions[0].tolist() == expected


def test_no_holes_are_drawn_in_evaluation(key):
    tokens, cond = toy_batch()
    config = ARConfig(infill_share=1.0, input_masking=0.5)
    decoder = make_random(config, Task(SPEC, VOCAB, BACKBONE, NOTHING))
    keys = [jax.random.fold_in(key, number) for number in range(2)]
    trained = [jitted_loss(decoder)(tokens, cond, one).per_example for one in keys]
    assert (trained[0] != trained[1]).any()
    decoder.eval()
    found = [jitted_loss(decoder)(tokens, cond, one) for one in keys]
    np.testing.assert_array_equal(found[0].per_example, found[1].per_example)
    nats = bits_of(decoder, tokens, cond) * np.log(2) / found[0].weight
    np.testing.assert_allclose(found[0].per_example, nats, rtol=1e-5)


def test_flat_is_parallel_where_there_is_one_codebook():
    tokens, cond = toy_batch(num_frames=7)
    spec, tokens = (
        SPEC.model_copy(update={"codebooks": 1}),
        tokens._replace(codes=tokens.codes[:, :, :1]),
    )
    task = Task(spec, VOCAB, BACKBONE, ConditionConfig())
    bits = [
        bits_of(make_random(ARConfig(pattern=PATTERNS[name]), task), tokens, cond)
        for name in ("flat", "parallel")
    ]
    np.testing.assert_allclose(bits[0], bits[1], rtol=1e-6)


@pytest.mark.parametrize("name", ["acoustic", "flat"])
def test_the_formula_agrees_with_the_walk(name):
    """Of the flat pattern: one head per step; the delay pattern is checked in test_budget.py."""
    tokens, cond = toy_batch(num_frames=7)
    config = ARConfig(pattern=PATTERNS[name])
    make = nnx.eval_shape(
        lambda: config.build(Task(SPEC, VOCAB, BACKBONE, ConditionConfig()), key=KEY)
    )
    graph, params = nnx.split(make)

    def loss(params):
        return nnx.merge(graph, params).loss(tokens, cond, key=KEY).per_example.sum()

    formula = config.train_flops(Task(SPEC, VOCAB, BACKBONE, ConditionConfig(), num_frames=7))
    assert count_flops(jax.value_and_grad(loss), params) / 3 == pytest.approx(formula, rel=0.01)
    sampler = ARSampler()

    def sample(params):
        drawn = nnx.merge(graph, params).sample(
            cond, num_frames=tokens.num_frames, key=KEY, sampler=sampler
        )
        return drawn.tokens.codes

    cost = config.sample_cost(sampler, Task(SPEC, VOCAB, BACKBONE, ConditionConfig(), num_frames=7))
    assert count_flops(sample, params) / 3 == pytest.approx(cost.flops, rel=0.01)


def test_a_flat_step_sees_all_codes_before_it_and_none_after():
    tokens, cond = toy_batch(num_frames=7)
    decoder = make_random(ARConfig(pattern=FlatPattern()), TASK)

    @jax.jit
    def nats(codes):
        return decoder._nats(tokens._replace(codes=codes), cond, tokens.is_valid, None, None)[0][
            0, :, 0
        ]

    changed = tokens.codes.at[0, 3, 2].add(1) % SPEC.entries
    moved = np.abs(nats(tokens.codes) - nats(changed)) > 1e-6
    assert moved.tolist() == [False] * 14 + [True] * 14


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_no_step_sees_its_own_or_later_codes(delay):
    tokens, cond = toy_batch()
    config = ARConfig(pattern=DelayPattern(delay_frames=delay))
    decoder = make_random(config, TASK)

    @jax.jit
    def nats(codes):
        return decoder._nats(tokens._replace(codes=codes), cond, tokens.is_valid, None, None)[0][0]

    frame, level = 4, 2
    changed = tokens.codes.at[0, frame, level].add(1) % SPEC.entries
    moved = np.abs(nats(tokens.codes) - nats(changed)) > 1e-6
    step = frame + level * delay
    # At its own step only its own probability changes; delay 0 predicts the levels of a frame
    # independently.
    assert not moved[:step].any()
    assert moved[step].tolist() == [False, False, True, False]
    assert moved[step + 1 :].any()


def test_the_hole_is_drawn_from_both_sides():
    """With the hole visited last, the codes after it move its probabilities; from left to right
    they cannot.
    """
    tokens, cond = toy_batch()
    decoder = randomised(FAMILIES["ar"].build())
    frame = jnp.arange(NUM_FRAMES)[None, :]
    is_outside = tokens.is_valid & ((frame < 2) | (frame > 4))

    @jax.jit
    def hole_nats(codes, is_known):
        nats, is_target = decoder._nats(tokens._replace(codes=codes), cond, is_known, None, None)
        per_frame = decoder.config.pattern.revert(jnp.where(is_target, nats, 0), SPEC.codebooks)
        order = jnp.argsort(
            jnp.where(tokens.is_valid, jnp.where(is_known, 0, 1), 2), axis=1, stable=True
        )
        return jnp.take_along_axis(per_frame, jnp.argsort(order, axis=1)[:, :, None], axis=1)[
            0, 2:5
        ]

    changed = tokens.codes.at[0, 8].add(1) % SPEC.entries
    for is_known, expected in ((tokens.is_valid, False), (is_outside, True)):
        moved = np.abs(hole_nats(tokens.codes, is_known) - hole_nats(changed, is_known)) > 1e-6
        assert moved.any() == expected


def test_what_was_not_trained_is_refused(key):
    tokens, cond = toy_batch()
    decoder = make_random(ARConfig(infill_share=0.0), TASK)
    hole = prompt_where(tokens, (np.arange(NUM_FRAMES) < 2) | (np.arange(NUM_FRAMES) > 4))
    with pytest.raises(GenlabError, match="infill_share=0 and can only continue"):
        decoder.sample(
            cond, num_frames=tokens.num_frames, key=key, sampler=ARSampler(), prompt=hole
        )
    prefix = prompt_where(tokens, np.arange(NUM_FRAMES) < 2)
    decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=ARSampler(), prompt=prefix)
    with pytest.raises(GenlabError, match="num_units=0"):
        ARConfig().build(
            Task(SPEC, CondVocab(num_speakers=3), BACKBONE, ConditionConfig()), key=key
        )


@pytest.mark.parametrize("route", ["prefix", "cross"])
def test_greedy_samples_are_the_likeliest_codes_without_a_cache(route):
    """The cached loop and the uncached forward pass agree, with text on both routes and a text that
    is padded.
    """
    tokens, cond = toy_batch()
    cond = cond._replace(text=cond.text.at[1, 3:].set(0))
    condition = ConditionConfig(content="text", route=route, dropout=0.0)
    family = FAMILIES["ar"]
    decoder = train(family.build(condition=condition), (tokens, cond), steps=10)[0]
    drawn = decoder.sample(
        cond, num_frames=tokens.num_frames, key=jax.random.key(0), sampler=family.precise
    ).tokens

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


def test_levels_that_tpus_take_one_by_one_have_the_same_loss_and_gradient():
    tokens, cond = toy_batch(num_frames=7)
    decoder = make_random(ARConfig(infill_share=0.0), TASK)
    graph, state = nnx.split(decoder)

    def total(state):
        return nnx.merge(graph, state).loss(tokens, cond, key=KEY).per_example.sum()

    expected = jax.tree.leaves(jax.jit(jax.value_and_grad(total))(state))
    with jax.sharding.use_abstract_mesh(TPU):
        program = jax.make_jaxpr(jax.value_and_grad(total))(state)
    found = jax.jit(jax.core.eval_jaxpr, static_argnums=0)(
        program.jaxpr, program.consts, *jax.tree.leaves(state)
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
