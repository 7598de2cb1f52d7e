"""The plan: units that are predicted before the codes of their frame, in every family that goes
step by step.
"""

import functools
import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import (
    BACKBONE,
    DEPTH,
    NUM_FRAMES,
    NUM_SYMBOLS,
    SPEC,
    VOCAB,
    jitted_loss,
    prompt_where,
    randomised,
    toy_batch,
    train,
)
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from genlab.config import ConfigError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.decoders.steps.logits import cross_entropy
from genlab.decoders.steps.patterns import (
    AcousticDelayPattern,
    BehindPlan,
    DelayPattern,
    FlatPattern,
)
from genlab.decoders.steps.stepwise import run_known
from genlab.decoders.steps.streams import PlanStream
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops
from genlab.tokens import Tokens

KEY = jax.random.key(0)
TEXT = ConditionConfig(content="text", dropout=0.3)
NOTHING = ConditionConfig(content="none", speaker=False, dropout=0.0)
NOW, AHEAD = PlanStream(num_units=10), PlanStream(num_units=10, lead_frames=2)
CASES = {
    "delay": ARConfig(plan=NOW),
    "acoustic": ARConfig(pattern=AcousticDelayPattern(delay_frames=2), plan=AHEAD),
    "flat": ARConfig(pattern=FlatPattern(), plan=NOW),
    "flat_ahead": ARConfig(pattern=FlatPattern(), plan=AHEAD),
    "depth": DEPTH.model_copy(update={"plan": NOW}),
    "depth_ahead": DEPTH.model_copy(update={"plan": AHEAD}),
}


def sampler_of(config, **values):
    return DepthSampler(**values) if isinstance(config, DepthConfig) else ARSampler(**values)


@functools.cache
def build(name, condition=TEXT):
    """A decoder whose heads say something."""
    return randomised(CASES[name].build(Task(SPEC, VOCAB, BACKBONE, condition), key=KEY))


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2), st.integers(0, 3), st.integers(1, 4), st.integers(1, 6))
def test_patterns_of_plan_and_codes_invert(delay, lead, codebooks, num_frames):
    count = codebooks + 1
    streams = jnp.arange(2 * num_frames * count).reshape(2, num_frames, count)
    delays = [DelayPattern(delay_frames=delay), AcousticDelayPattern(delay_frames=delay)]
    patterns = [pattern.behind_plan(lead) for pattern in (*delays, FlatPattern())]
    for pattern in (*patterns, BehindPlan(codes=delays[1], lag_frames=lead)):
        steps = pattern.build(streams, fill=-1)
        num_steps = pattern.num_steps(num_frames, count)
        assert steps.shape[1:] == pattern.levels(num_steps, count).shape
        assert steps.shape[1] == num_steps and pattern.num_frames(num_steps, count) == num_frames
        assert (steps == -1).sum() == steps.size - streams.size
        np.testing.assert_array_equal(pattern.revert(steps, count), streams)
        is_there = np.asarray(steps) >= 0
        levels = np.broadcast_to(pattern.levels(num_steps, count)[None], steps.shape)
        np.testing.assert_array_equal((np.asarray(steps) % count)[is_there], levels[is_there])


def test_the_patterns_of_the_docstring():
    letters = np.array([[ord(letter) for letter in row] for row in ("mnop", "abcd", "efgh")])
    drawn = {
        DelayPattern().behind_plan(0): ["mnop..", ".abcd.", "..efgh"],
        DelayPattern().behind_plan(1): ["mnop...", "..abcd.", "...efgh"],
        FlatPattern().behind_plan(0): ["maenbfocgpdh"],
        FlatPattern().behind_plan(1): ["m..naeobfpcg.dh"],
    }
    for pattern, rows in drawn.items():
        steps = pattern.build(jnp.asarray(letters.T[None]), fill=ord("."))
        assert ["".join(map(chr, row)) for row in np.asarray(steps[0]).T] == rows


def nats_of(decoder, tokens, cond):
    """Nats of every frame and stream, the plan first: "b t j"."""
    if hasattr(decoder, "plan_head"):
        nats = decoder._nats(tokens, cond, tokens.is_valid, None, None)[0]
    else:
        hidden, codes, is_target = run_known(decoder, tokens, cond, tokens.is_valid, None, None)
        codes = jnp.where(is_target, codes, jnp.asarray(decoder.streams.sizes)[None, None, :])
        logits = decoder.depth(
            hidden.reshape(-1, hidden.shape[2]), codes.reshape(-1, codes.shape[2]), key=None
        )
        safe = jnp.where(is_target, codes, 0)
        others = cross_entropy(logits.reshape(*codes.shape[:2], *logits.shape[1:]), safe[:, :, 1:])
        nats = jnp.concatenate(
            [cross_entropy(decoder.head(hidden), safe[:, :, 0])[:, :, None], others], axis=2
        )
    return decoder.pattern.revert(nats, decoder.streams.count)


@pytest.mark.parametrize("name", CASES)
def test_what_the_plan_sees_and_who_sees_the_plan(name):
    tokens, cond = toy_batch()
    decoder, config = build(name), CASES[name]
    compute = jax.jit(lambda tokens, cond: nats_of(decoder, tokens, cond)[0])
    before, lead = compute(tokens, cond), config.plan.lead_frames
    lags = (
        config.pattern.lags(SPEC.codebooks)
        if hasattr(config.pattern, "lags")
        else [0] * SPEC.codebooks
    )
    if isinstance(config, DepthConfig):
        lags = [0] + [config.acoustic_delay_frames] * (SPEC.codebooks - 1)
    frame = 5
    content = cond.content.at[0, frame].set(1 + cond.content[0, frame] % VOCAB.num_units)
    moved = np.abs(compute(tokens, cond._replace(content=content)) - before) > 1e-6
    # The plan: its own unit and those after it. Codes: from `lead` frames before on, and what lags
    # from earlier on.
    assert not moved[:frame, 0].any() and moved[frame, 0] and moved[frame + 1 :, 0].any()
    for level, lag in enumerate(lags):
        first = max(frame - lead - lag, 0)
        assert not moved[:first, 1 + level].any() and moved[first, 1 + level]
    frame, level = 3, 1
    changed = tokens.codes.at[0, frame, level].add(1) % SPEC.entries
    moved = np.abs(compute(tokens._replace(codes=changed), cond) - before) > 1e-6
    # Codes that are drawn with a unit of the plan do not move it; in a flat row they come after it,
    # in a delayed step beside it, and they may wait a step for the plan.
    waits = 0 if name.startswith(("flat", "depth")) else 1
    last = frame + lead + waits + lags[level]
    assert not moved[: last + 1, 0].any() and moved[last + 1, 0]


@pytest.mark.parametrize("name", ["delay", "acoustic", "flat_ahead", "depth", "depth_ahead"])
def test_probabilities_of_all_plans_and_clips_sum_to_one(name):
    """Two frames of two binary codebooks with a plan of one unit or none: 64 joint outcomes, and 16
    clips drawn.
    """
    spec, vocab = (
        SPEC.model_copy(update={"codebooks": 2, "entries": 2}),
        CondVocab(num_speakers=1, num_units=1),
    )
    plan = CASES[name].plan.model_copy(update={"num_units": 1})
    config = CASES[name].model_copy(update={"plan": plan})
    decoder = randomised(config.build(Task(spec, vocab, BACKBONE, NOTHING), key=KEY))
    outcomes = jnp.array(list(itertools.product([0, 1], repeat=6)))
    tokens = Tokens(outcomes[:, :4].reshape(64, 2, 2), None, jnp.full(64, 2))
    cond = toy_batch(64, 2)[1]._replace(content=outcomes[:, 4:])

    def score(model):
        out = model.score(tokens, cond)
        assert out.validity == "upper bound"
        return out.bits

    joint = 2.0 ** -jax.jit(score)(decoder).reshape(16, 4)
    assert np.std(joint) > 1e-3
    np.testing.assert_allclose(joint.sum(), 1, rtol=1e-5)
    # Samples follow the sum over plans: 16 frequencies, each within 4.5 deviations.
    draws = 8192
    told = toy_batch(draws, 2)[1]
    drawn = decoder.sample(
        told, num_frames=jnp.full(draws, 2), key=KEY, sampler=sampler_of(config)
    ).tokens.codes
    counts = np.bincount(np.asarray(drawn).reshape(draws, 4) @ np.array([8, 4, 2, 1]), minlength=16)
    expected = np.asarray(joint.sum(axis=1), np.float64)
    assert (
        np.abs(counts - draws * expected) < 4.5 * np.sqrt(draws * expected * (1 - expected))
    ).all()


@pytest.mark.parametrize("name", ["delay", "flat", "depth_ahead"])
def test_the_loss_adds_the_weighted_plan(name, key):
    batch, config = toy_batch(), CASES[name].model_copy(update={"infill_share": 0.0})
    if isinstance(config, DepthConfig):
        config = config.model_copy(update={"trained_share": 1.0})
    condition = TEXT.model_copy(update={"dropout": 0.0})
    outs = []
    for weight in (0.0, 1.0, 2.5):
        plan = config.plan.model_copy(update={"weight": weight})
        decoder = config.model_copy(update={"plan": plan}).build(
            Task(SPEC, VOCAB, BACKBONE, condition), key=KEY
        )
        outs.append(jitted_loss(randomised(decoder))(*batch, key))
    of_codes = (
        sum(outs[0].metrics[f"nats_level_{level}"] for level in range(SPEC.codebooks))
        / SPEC.codebooks
    )
    for weight, out in zip((0.0, 1.0, 2.5), outs, strict=True):
        expected = of_codes + weight * out.metrics["nats_plan"] / SPEC.codebooks
        np.testing.assert_allclose(out.per_example, expected, rtol=1e-5)
        np.testing.assert_array_equal(out.weight, SPEC.codebooks * batch[0].num_frames)
    # A score is that of codes and plan alike, whatever the weight.
    bits = jax.jit(lambda model: model.score(*batch).bits)(randomised(decoder))
    np.testing.assert_allclose(outs[1].per_example * outs[1].weight / jnp.log(2), bits, rtol=1e-5)


def test_a_trained_share_keeps_the_loss_in_expectation():
    """Of a plan that leads a delay, the depth transformer has more steps than frames, some of them
    half full.
    """
    batch, config = (
        toy_batch(),
        CASES["depth_ahead"].model_copy(update={"infill_share": 0.0, "trained_share": 0.5}),
    )
    condition = TEXT.model_copy(update={"dropout": 0.0})
    decoder = randomised(config.build(Task(SPEC, VOCAB, BACKBONE, condition), key=KEY))
    compute = jitted_loss(decoder)
    draws = jnp.stack([compute(*batch, key).per_example for key in jax.random.split(KEY, 400)])
    decoder.eval()
    whole = jitted_loss(decoder)(*batch, KEY).per_example
    assert (np.abs(draws.mean(axis=0) - whole) < 4.5 * draws.std(axis=0) / 20).all()


@pytest.mark.parametrize("name", ["delay", "flat_ahead", "depth"])
def test_padding_moves_nothing(name, key):
    tokens, cond = toy_batch()
    compute = jitted_loss(build(name))
    spoiled = cond._replace(content=jnp.where(tokens.is_valid, cond.content, 3))
    before, after = compute(tokens, cond, key), compute(tokens, spoiled, key)
    np.testing.assert_array_equal(before.per_example, after.per_example)
    changed = cond._replace(
        content=cond.content.at[0, 3].set(1 + cond.content[0, 3] % VOCAB.num_units)
    )
    after = compute(tokens, changed, key)
    assert after.per_example[0] != before.per_example[0]
    np.testing.assert_allclose(after.per_example[1:], before.per_example[1:], rtol=1e-5)


@pytest.mark.parametrize("name", ["delay", "flat_ahead", "depth"])
def test_streaming_draws_what_sampling_draws(name, caplog):
    tokens, cond = toy_batch()
    decoder, sampler = build(name), sampler_of(CASES[name], guidance=1.5)
    arguments = {"num_frames": tokens.num_frames, "sampler": sampler}
    out = decoder.sample(cond, key=KEY, **arguments)
    chunks = list(decoder.stream(cond, key=KEY, chunk_frames=5, **arguments))
    np.testing.assert_array_equal(jnp.concatenate(chunks, axis=1), out.tokens.codes)
    sizes = {"num_frames": NUM_FRAMES, "num_symbols": NUM_SYMBOLS}
    assert (
        CASES[name].sample_cost(sampler, Task(SPEC, VOCAB, BACKBONE, TEXT, **sizes)).network_calls
        == out.num_network_calls
    )
    # One program, which never looks at the units of the clip.
    other = cond._replace(content=jnp.zeros_like(cond.content))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        again = decoder.sample(other, key=KEY, **arguments)
    assert [
        record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()
    ] == []
    np.testing.assert_array_equal(again.tokens.codes, out.tokens.codes)


@pytest.mark.parametrize("name", ["delay", "flat_ahead", "depth"])
def test_a_prompt_survives(name):
    tokens, cond = toy_batch()
    frame = np.arange(NUM_FRAMES)
    for is_known in (frame < 4, (frame < 2) | (frame > 4)):
        prompt = prompt_where(tokens, is_known)
        drawn = build(name).sample(
            cond,
            num_frames=tokens.num_frames,
            key=KEY,
            sampler=sampler_of(CASES[name]),
            prompt=prompt,
        )
        is_kept = prompt.is_known & tokens.is_valid
        np.testing.assert_array_equal(drawn.tokens.codes[is_kept], tokens.codes[is_kept])
        assert drawn.tokens.codes.max() < SPEC.entries


@pytest.mark.parametrize(
    ("name", "codebooks"), [*((name, SPEC.codebooks) for name in CASES), ("depth", 1)]
)
def test_the_formula_agrees_with_the_walk(name, codebooks):
    spec = SPEC.model_copy(update={"codebooks": codebooks})
    tokens, cond = toy_batch(num_frames=7, spec=spec)
    vectors = jnp.ones((codebooks, SPEC.entries, SPEC.latent_channels))
    task = Task(spec, VOCAB, BACKBONE, TEXT, code_vectors=vectors)
    abstract = nnx.eval_shape(lambda: CASES[name].build(task, key=KEY))
    graph, params = nnx.split(abstract)

    def loss(params):
        return nnx.merge(graph, params).loss(tokens, cond, key=KEY).per_example.sum()

    sizes = {"num_frames": 7, "num_symbols": NUM_SYMBOLS}
    formula = CASES[name].train_flops(Task(spec, VOCAB, BACKBONE, TEXT, **sizes))
    assert count_flops(jax.value_and_grad(loss), params) / 3 == pytest.approx(formula, rel=1e-6)
    sampler = sampler_of(CASES[name])

    def sample(params):
        drawn = nnx.merge(graph, params).sample(
            cond, num_frames=tokens.num_frames, key=KEY, sampler=sampler
        )
        return drawn.tokens.codes

    cost = CASES[name].sample_cost(sampler, Task(spec, VOCAB, BACKBONE, TEXT, **sizes))
    assert count_flops(sample, params) / 3 == pytest.approx(cost.flops, rel=1e-6)


@pytest.mark.parametrize("name", ["delay", "depth"])
def test_codes_that_follow_from_units_are_learned_through_the_plan(name):
    """Units are drawn at random from 4 of 10: the plan learns which, and the codes given the unit
    are then certain.
    """

    def batch_of(seed):
        tokens, cond = toy_batch(num_examples=32, seed=seed)
        units = jnp.where(tokens.is_valid, 1 + cond.content % 4, 0)
        codes = units[:, :, None] * jnp.array([1, 2, 3, 3])[None, None, :]
        return tokens._replace(codes=codes), cond._replace(content=units)

    fresh = CASES[name].build(Task(SPEC, VOCAB, BACKBONE, NOTHING), key=KEY)
    start = jitted_loss(fresh)(*batch_of(3), KEY).metrics
    np.testing.assert_allclose(start["nats_plan"], np.log(11), rtol=1e-5)
    fitted = train(fresh, batch_of(1), steps=120, learning_rate=1e-2)[0]
    fitted.eval()
    assert jitted_loss(fitted)(*batch_of(1), KEY).metrics["nats_plan"].mean() < 1.5
    # Units of other clips are as random as ever; the codes that go with them are known.
    tokens, cond = batch_of(3)
    found = jitted_loss(fitted)(tokens, cond, KEY).metrics
    assert all(found[f"nats_level_{level}"].mean() < 0.1 for level in range(SPEC.codebooks))
    drawn = fitted.sample(
        cond, num_frames=tokens.num_frames, key=KEY, sampler=sampler_of(CASES[name])
    ).tokens.codes
    is_whole = (drawn == drawn[:, :, :1] * jnp.array([1, 2, 3, 3])[None, None, :]).all(axis=2)
    assert (
        is_whole[tokens.is_valid].mean() > 0.9
        and len(np.unique(drawn[:, :, 0][tokens.is_valid])) == 4
    )


def test_what_cannot_be_planned_is_refused():
    for config in (CASES["delay"], CASES["depth"]):
        with pytest.raises(ConfigError, match="content='semantic' already gives the units"):
            config.build(Task(SPEC, VOCAB, BACKBONE, ConditionConfig()), key=KEY)
        with pytest.raises(
            ConfigError, match="num_units=10: the data set has 0 semantic units; encode it"
        ):
            config.build(Task(SPEC, CondVocab(num_speakers=3), BACKBONE, TEXT), key=KEY)
        with pytest.raises(ConfigError, match="has 11 semantic units; set it to 11"):
            config.build(
                Task(SPEC, CondVocab(num_speakers=3, num_units=11), BACKBONE, TEXT), key=KEY
            )
