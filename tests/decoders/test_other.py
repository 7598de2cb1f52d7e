"""The other speaker: codes that are predicted in training, heard in sampling, and never seen before
they are said.
"""

import functools
import itertools

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

from genlab.config import ConfigError, GenlabError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.decoders.steps.patterns import AcousticDelayPattern, DelayPattern, FlatPattern
from genlab.decoders.steps.streams import OtherStream, PlanStream
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops
from genlab.tokens import Tokens

KEY = jax.random.key(0)
TEXT = ConditionConfig(content="text", dropout=0.3)
NOTHING = ConditionConfig(content="none", speaker=False, dropout=0.0)
TWO_SIDED = VOCAB.model_copy(update={"is_two_sided": True})
PLAN, OTHER = PlanStream(num_units=10), OtherStream()
CASES = {
    "delay": ARConfig(other=OTHER),
    "acoustic_plan": ARConfig(pattern=AcousticDelayPattern(delay_frames=2), plan=PLAN, other=OTHER),
    "flat": ARConfig(pattern=FlatPattern(), other=OTHER),
    "flat_plan": ARConfig(pattern=FlatPattern(), plan=PLAN, other=OTHER),
    "depth": DEPTH.model_copy(update={"other": OTHER}),
    "moshi": DEPTH.model_copy(update={"plan": PLAN, "other": OTHER, "is_per_level": True}),
}


def sampler_of(config, **values):
    return DepthSampler(**values) if isinstance(config, DepthConfig) else ARSampler(**values)


def conversation(num_examples=3, num_frames=NUM_FRAMES, spec=SPEC, seed=1):
    """A batch with the other side's codes."""
    tokens, cond = toy_batch(num_examples, num_frames, spec, seed)
    shape = (num_examples, num_frames, spec.codebooks)
    return tokens, cond._replace(
        other=jax.random.randint(jax.random.key(seed + 50), shape, 0, spec.entries)
    )


@functools.cache
def build(name, condition=TEXT):
    """A decoder whose heads say something."""
    return randomised(CASES[name].build(Task(SPEC, TWO_SIDED, BACKBONE, condition), key=KEY))


def test_the_pattern_of_two_speakers():
    frames = jnp.arange(2 * 5 * 8).reshape(2, 5, 8)
    for codes in (
        DelayPattern(delay_frames=0),
        DelayPattern(),
        AcousticDelayPattern(delay_frames=2),
        FlatPattern(),
    ):
        pattern = codes.beside_other()
        steps = pattern.build(frames, fill=-1)
        assert steps.shape[1] == pattern.num_steps(5, 8)
        np.testing.assert_array_equal(pattern.revert(steps, 8), frames)
        if not isinstance(codes, FlatPattern):
            np.testing.assert_array_equal(steps[:, :, :4], codes.build(frames[:, :, :4], fill=-1))
            np.testing.assert_array_equal(steps[:, :, 4:], codes.build(frames[:, :, 4:], fill=-1))
    # Moshi's delays: text, one speaker's 8 levels, the other's 8 (2410.00037 section 3.4.4).
    moshi = DepthConfig(acoustic_delay_frames=1, plan=PLAN, other=OTHER).pattern
    assert moshi.lags(17) == [0, 0, *[1] * 7, 0, *[1] * 7]


def own_lags(config):
    if isinstance(config, DepthConfig):
        return [0] + [config.acoustic_delay_frames] * (SPEC.codebooks - 1)
    return (
        [0] * SPEC.codebooks
        if isinstance(config.pattern, FlatPattern)
        else config.pattern.lags(SPEC.codebooks)
    )


@pytest.mark.parametrize("name", CASES)
def test_own_codes_hear_what_was_said_before_them(name):
    """Bits of the own codes of a clip that ends after each frame: those before the other's change
    stay as they were.
    """
    tokens, cond = conversation(1)
    decoder = build(name)
    ends = jnp.arange(1, NUM_FRAMES + 1)
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, NUM_FRAMES, axis=0), (tokens, cond))
    compute = jax.jit(
        lambda tokens, cond: decoder.score(tokens._replace(num_frames=ends), cond).bits
    )
    frame, lags = 4, own_lags(CASES[name])
    before = compute(*repeated)
    for level in range(SPEC.codebooks):
        other = repeated[1].other.at[:, frame, level].add(1) % SPEC.entries
        moved = np.abs(compute(repeated[0], repeated[1]._replace(other=other)) - before) > 1e-6
        # An own code of frame t and lag a is drawn in step t + a, after all of step `frame +
        # lags[level]`.
        first = min(t for t in range(NUM_FRAMES) for a in lags if t + a > frame + lags[level])
        assert not moved[:first].any() and moved[max(first, frame + 1) :].all(), level


@pytest.mark.parametrize("name", ["delay", "flat", "depth"])
def test_probabilities_of_all_clips_sum_to_one_and_samples_follow(name):
    """Two frames of two binary codebooks beside a fixed other side: 16 clips."""
    spec = SPEC.model_copy(update={"codebooks": 2, "entries": 2})
    config = CASES[name]
    decoder = randomised(config.build(Task(spec, TWO_SIDED, BACKBONE, NOTHING), key=KEY))
    clips = jnp.array(list(itertools.product([0, 1], repeat=4)))
    tokens = Tokens(clips.reshape(16, 2, 2), None, jnp.full(16, 2))
    heard = jnp.array([[1, 0], [0, 1]])[None]
    cond = toy_batch(16, 2)[1]._replace(other=jnp.broadcast_to(heard, (16, 2, 2)))

    def score(model, cond):
        out = model.score(tokens, cond)
        assert out.validity == "exact"
        return out.bits

    expected = 2.0 ** -np.asarray(jax.jit(score)(decoder, cond), np.float64)
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-5)
    without = 2.0 ** -np.asarray(
        jax.jit(score)(decoder, cond._replace(other=1 - cond.other)), np.float64
    )
    assert np.abs(expected - without).max() > 1e-3
    draws = 8192
    told = toy_batch(draws, 2)[1]._replace(other=jnp.broadcast_to(heard, (draws, 2, 2)))
    drawn = decoder.sample(
        told, num_frames=jnp.full(draws, 2), key=KEY, sampler=sampler_of(config)
    ).tokens.codes
    counts = np.bincount(np.asarray(drawn).reshape(draws, 4) @ np.array([8, 4, 2, 1]), minlength=16)
    assert (
        np.abs(counts - draws * expected) < 4.5 * np.sqrt(draws * expected * (1 - expected))
    ).all()


@pytest.mark.parametrize("name", ["acoustic_plan", "flat_plan", "moshi"])
def test_the_loss_adds_the_weighted_streams(name, key):
    batch, outs = conversation(), []
    condition = TEXT.model_copy(update={"dropout": 0.0})
    for weight in (0.0, 2.5):
        changes = {"other": OtherStream(weight=weight), "infill_share": 0.0}
        changes |= {"trained_share": 1.0} if isinstance(CASES[name], DepthConfig) else {}
        config = CASES[name].model_copy(update=changes)
        decoder = randomised(config.build(Task(SPEC, TWO_SIDED, BACKBONE, condition), key=KEY))
        outs.append(jitted_loss(decoder)(*batch, key))
    found = outs[0].metrics
    own = sum(found[f"nats_level_{level}"] for level in range(SPEC.codebooks)) + found["nats_plan"]
    np.testing.assert_allclose(outs[0].per_example, own / SPEC.codebooks, rtol=1e-5)
    np.testing.assert_allclose(
        outs[1].per_example, own / SPEC.codebooks + 2.5 * found["nats_other"], rtol=1e-5
    )
    np.testing.assert_array_equal(outs[1].weight, SPEC.codebooks * batch[0].num_frames)
    # The score is that of what is drawn: the other speaker's own surprise is none of it.
    bits = jax.jit(lambda model: model.score(*batch).bits)(decoder)
    np.testing.assert_allclose(own * batch[0].num_frames / jnp.log(2), bits, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_sampling_answers_frame_by_frame(name):
    tokens, cond = conversation()
    decoder, sampler = build(name), sampler_of(CASES[name], guidance=1.5)
    arguments = {"num_frames": tokens.num_frames, "sampler": sampler}
    out = decoder.sample(cond, key=KEY, **arguments)
    chunks = list(decoder.stream(cond, key=KEY, chunk_frames=5, **arguments))
    np.testing.assert_array_equal(jnp.concatenate(chunks, axis=1), out.tokens.codes)
    assert out.tokens.codes.shape == tokens.codes.shape and out.tokens.codes.max() < SPEC.entries
    # What is said from frame 6 on cannot change what was answered up to then.
    later = cond._replace(other=cond.other.at[:, 6:].set(0))
    again = decoder.sample(later, key=KEY, **arguments).tokens.codes
    is_before = np.arange(NUM_FRAMES)[:, None] + np.array(own_lags(CASES[name]))[None] <= 6
    np.testing.assert_array_equal(again[:, is_before], out.tokens.codes[:, is_before])
    assert (again[0, 7:] != out.tokens.codes[0, 7:]).any()
    prompt = prompt_where(tokens, np.arange(NUM_FRAMES) < 4)
    kept = decoder.sample(cond, key=KEY, prompt=prompt, **arguments).tokens.codes
    np.testing.assert_array_equal(kept[:, :4], tokens.codes[:, :4])


@pytest.mark.parametrize(
    ("name", "codebooks"), [*((name, SPEC.codebooks) for name in CASES), ("depth", 1)]
)
def test_the_formula_agrees_with_the_walk(name, codebooks):
    spec = SPEC.model_copy(update={"codebooks": codebooks})
    tokens, cond = conversation(num_frames=7, spec=spec)
    vectors = jnp.ones((codebooks, SPEC.entries, SPEC.latent_channels))
    config, sampler = CASES[name], sampler_of(CASES[name])
    abstract = nnx.eval_shape(
        lambda: config.build(Task(spec, TWO_SIDED, BACKBONE, TEXT, code_vectors=vectors), key=KEY)
    )
    graph, params = nnx.split(abstract)

    def loss(params):
        return nnx.merge(graph, params).loss(tokens, cond, key=KEY).per_example.sum()

    def sample(params):
        out = nnx.merge(graph, params).sample(
            cond, num_frames=tokens.num_frames, key=KEY, sampler=sampler
        )
        calls.append(out.num_network_calls)
        return out.tokens.codes

    sizes, calls = {"num_frames": 7, "num_symbols": NUM_SYMBOLS}, []
    formula = config.train_flops(Task(spec, VOCAB, BACKBONE, TEXT, **sizes))
    assert count_flops(jax.value_and_grad(loss), params) / 3 == pytest.approx(formula, rel=1e-6)
    cost = config.sample_cost(sampler, Task(spec, VOCAB, BACKBONE, TEXT, **sizes))
    assert count_flops(sample, params) / 3 == pytest.approx(cost.flops, rel=1e-6)
    assert set(calls) == {cost.network_calls}


@pytest.mark.parametrize("name", ["delay"])
def test_an_echo_is_learned_by_hearing(name):
    """Own codes repeat what the other speaker said a frame before, which is random: only hearing it
    helps.
    """

    def batch_of(seed, num_examples):
        # Enough clips that learning them by heart is no way out.
        tokens, cond = conversation(num_examples, seed=seed)
        heard = cond.other % 4
        said = jnp.pad(heard, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        return tokens._replace(codes=said), cond._replace(
            content=jnp.where(tokens.is_valid, 1, 0), other=heard
        )

    update = {"infill_share": 0.0, "other": OtherStream(weight=0.0)}
    update |= (
        {"trained_share": 1.0, "acoustic_delay_frames": 0}
        if isinstance(CASES[name], DepthConfig)
        else {}
    )
    config = CASES[name].model_copy(update=update)
    fresh = config.build(Task(SPEC, TWO_SIDED, BACKBONE, NOTHING), key=KEY)
    fitted = train(fresh, batch_of(1, 192), steps=120, learning_rate=1e-2)[0]
    fitted.eval()
    found = jitted_loss(fitted)(*batch_of(3, 16), KEY)
    assert found.per_example.mean() < 0.25 < 0.2 * np.log(4)
    tokens, cond = batch_of(3, 16)
    drawn = fitted.sample(
        cond, num_frames=tokens.num_frames, key=KEY, sampler=sampler_of(config)
    ).tokens.codes
    assert (drawn == tokens.codes)[tokens.is_valid].mean() > 0.9


def test_what_the_data_cannot_give_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"decoder.other: the clips of the data set have one side only; use data.corp",
    ):
        CASES["delay"].build(Task(SPEC, VOCAB, BACKBONE, TEXT), key=KEY)
    tokens, cond = toy_batch()
    with pytest.raises(GenlabError, match=r"Cond\.other: absent"):
        build("depth").loss(tokens, cond, key=KEY)
