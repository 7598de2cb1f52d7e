"""What only discrete diffusion promises: bounds that hold and are tight, in either noise and at any
schedule.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_worlds
from decoder_toys import (
    BACKBONE,
    NUM_EXAMPLES,
    NUM_FRAMES,
    SEMANTIC,
    SPEC,
    VOCAB,
    prompt_where,
    toy_batch,
)
from flax import nnx

from genlab.config import GenlabError
from genlab.decoders.discrete import Discrete, DiscreteConfig, DiscreteSampler
from genlab.decoders.noise.corruption import AbsorbingNoise, UniformNoise
from genlab.decoders.noise.schedules import CosineHiding, LinearHiding, PowerHiding
from genlab.decoders.steps.logits import cross_entropy
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops

NUM_CODES = tiny_worlds.FRAMES * tiny_worlds.CODEBOOKS


class Oracle(Discrete):
    """Knows the language."""

    def _logits(self, noisy, share, conditions, is_valid, is_known, key=None):
        if self.config.noise.kind == "absorbing":
            return tiny_worlds.belief_of_visible(noisy)
        return tiny_worlds.belief_of_noisy(noisy, share)


@functools.cache
def make_oracle(noise):
    task = Task(tiny_worlds.SPEC, VOCAB, BACKBONE, tiny_worlds.NOTHING)
    return Oracle(DiscreteConfig(noise=noise), task, key=jax.random.key(0))


@pytest.mark.parametrize("noise", [AbsorbingNoise(), UniformNoise()], ids=["absorbing", "uniform"])
def test_the_score_of_a_model_that_knows_the_language_is_its_likelihood(noise, key):
    tokens, cond = tiny_worlds.clips_as_batch()
    score = make_oracle(noise).score(tokens, cond, key=key, num_draws=20_000)
    assert score.validity == "upper bound"
    assert (np.abs(score.bits + np.log2(tiny_worlds.SHARES)) < 3.5 * score.std_error + 1e-4).all()
    assert score.std_error.mean() < 0.1


@nnx.jit
def _nats(decoder, tokens, cond, is_hidden):
    noisy = jnp.where(is_hidden.reshape(1, 2, 2), tiny_worlds.ENTRIES, tokens.codes)
    conditions = decoder.conditioner(cond, tokens.is_valid)
    is_known = jnp.zeros_like(tokens.is_valid)
    logits = decoder._logits(noisy, jnp.ones(len(noisy)), conditions, tokens.is_valid, is_known)
    return cross_entropy(logits, tokens.codes).reshape(-1, NUM_CODES)


def test_the_absorbing_score_is_the_mean_over_all_orders_and_lies_above_the_likelihood(key):
    decoder = tiny_worlds.build(DiscreteConfig())
    tokens, cond = tiny_worlds.clips_as_batch()
    bound, nats = tiny_worlds.any_order_nats(
        lambda hidden: _nats(decoder, tokens, cond, hidden), NUM_CODES
    )
    np.testing.assert_allclose(np.exp(-nats).sum(), 1, rtol=1e-4)
    assert (bound >= nats - 1e-5).all() and (bound > nats + 1e-3).any()
    score = decoder.score(tokens, cond, key=key, num_draws=2000)
    assert (np.abs(score.bits - bound / np.log(2)) < 3.5 * score.std_error).all()


@pytest.mark.parametrize(
    ("noise", "schedules"),
    [
        (AbsorbingNoise(), (LinearHiding(), CosineHiding())),
        (UniformNoise(), (PowerHiding(power=2.0), PowerHiding(power=3.0))),
    ],
    ids=["absorbing", "uniform"],
)
def test_no_schedule_moves_the_mean_of_the_loss(noise, schedules):
    """The training loss draws levels by its schedule, and its mean is the score under every one of
    them.
    """
    tokens, cond = tiny_worlds.clips_as_batch()
    score = tiny_worlds.build(DiscreteConfig(noise=noise)).score(
        tokens, cond, key=jax.random.key(2), num_draws=3000
    )
    for hiding in schedules:
        decoder = tiny_worlds.build(DiscreteConfig(noise=noise, hiding=hiding))

        @jax.jit
        def losses(keys, decoder=decoder):
            return jax.lax.map(lambda key: decoder.loss(tokens, cond, key=key).per_example, keys)

        drawn = (
            np.asarray(losses(jax.random.split(jax.random.key(1), 3000))) * NUM_CODES / np.log(2)
        )
        error = np.sqrt(score.std_error**2 + drawn.var(axis=0) / len(drawn))
        assert (np.abs(drawn.mean(axis=0) - score.bits) < 3.5 * error).all()
        # The mean over clips, in which the draws of a batch are spread evenly, is far sharper.
        error = np.hypot(
            np.sqrt((score.std_error**2).sum()) / 16, drawn.mean(axis=1).std() / len(drawn) ** 0.5
        )
        assert abs(drawn.mean() - score.bits.mean()) < 3.5 * error < 0.05 * drawn.mean()


@pytest.mark.parametrize("noise", [AbsorbingNoise(), UniformNoise()], ids=["absorbing", "uniform"])
def test_a_model_that_knows_nothing_pays_for_every_bit(noise, key):
    tokens, cond = toy_batch()
    fresh = DiscreteConfig(noise=noise).build(Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=key)
    score = fresh.score(tokens, cond, key=key, num_draws=100)
    expected = np.log2(SPEC.entries) * SPEC.codebooks * tokens.num_frames
    assert (np.abs(score.bits - expected) < 3.5 * score.std_error + 1e-2).all()


def shares_drawn(noise, sampler, key, num_clips=20_000):
    _, cond = tiny_worlds.clips_as_batch(np.zeros((num_clips, 2, 2), int))
    return tiny_worlds.shares_of(
        make_oracle(noise)
        .sample(cond, num_frames=jnp.full(num_clips, 2), key=key, sampler=sampler)
        .tokens.codes
    )


@pytest.mark.parametrize("noise", [AbsorbingNoise(), UniformNoise()], ids=["absorbing", "uniform"])
def test_many_ancestral_steps_draw_from_the_language(noise, key):
    error = {
        steps: np.abs(
            shares_drawn(noise, DiscreteSampler(steps=steps), key) - tiny_worlds.SHARES
        ).sum()
        for steps in (1, 64)
    }
    assert error[64] < 0.06 < 0.3 < error[1]


def test_many_joint_steps_draw_from_the_language(key):
    shares = shares_drawn(
        AbsorbingNoise(), DiscreteSampler(steps=64, order="joint", hiding=LinearHiding()), key
    )
    assert np.abs(shares - tiny_worlds.SHARES).sum() < 0.06


@functools.partial(jax.jit, static_argnums=0)
def reveal_all(sampler, logits, key):
    """Codes [n], and the step in which each was revealed, of n hidden codes that are believed to
    have these logits.
    """
    is_free = jnp.ones(logits.shape[:-1], bool)
    progress = jnp.arange(sampler.steps + 1) / sampler.steps

    def step(codes, inputs):
        codes = sampler.reveal(inputs[2], codes, is_free, logits, inputs[0], inputs[1])
        return codes, (codes == logits.shape[-1])[0, :, 0]

    hidden = jnp.full(is_free.shape, logits.shape[-1])
    codes, was_hidden = jax.lax.scan(
        step, hidden, (progress[1:], progress[:-1], jax.random.split(key, sampler.steps))
    )
    return codes[0, :, 0], was_hidden.sum(axis=0)


@pytest.mark.parametrize("order", ["joint", "ancestral"])
@pytest.mark.parametrize("bits", [None, 24])
def test_code_and_step_have_the_law_of_the_schedule(order, bits, key):
    """A fixed belief in place of the network: whatever the step, whose law is the schedule's, the
    code has its own.
    """
    shares, num_codes = np.array([0.5, 0.3, 0.15, 0.05]), 100_000
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(shares, jnp.float32)), (1, num_codes, 1, 4))
    sampler = DiscreteSampler(steps=4, order=order, noise_bits=bits)
    codes, steps = reveal_all(sampler, logits, key)
    law = -np.diff(np.cos(np.pi / 2 * np.arange(5) / 4))[:, None] * shares
    found = np.bincount(4 * steps + codes, minlength=16).reshape(4, 4) / num_codes
    assert np.abs(found - law).sum() / 2 < 0.008  # about 0.004 by chance


def test_fewer_bits_lower_the_entropy_of_joint_draws(key):
    """24 bits are exact as far as draws can tell; the fewer, the less of the tail is drawn, more so
    in more steps.
    """
    num_codes = 20_000
    shares = np.exp(-0.35 * np.arange(32.0))
    shares /= shares.sum()
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(shares, jnp.float32)), (1, num_codes, 1, 32))

    def entropy(bits, order="joint", steps=32):
        sampler = DiscreteSampler(steps=steps, order=order, noise_bits=bits, hiding=LinearHiding())
        codes, hidden = reveal_all(sampler, logits, key)
        assert hidden.max() < steps  # every code is revealed in the end
        found = np.bincount(codes, minlength=32) / num_codes
        return -(found * np.log2(np.where(found > 0, found, 1))).sum()

    exact = -(shares * np.log2(shares)).sum()
    error = np.sqrt((shares * (np.log2(shares) + exact) ** 2).sum() / num_codes)
    by_bits = [entropy(bits) for bits in (24, 16, 12, 8)]
    assert abs(by_bits[0] - exact) < 4 * error < 0.05
    assert (np.diff(by_bits) < 0).all() and by_bits[-1] < exact - 0.4
    # What the truncation does needs the joint draw: the same noise for the codes alone cuts far
    # less of the tail.
    assert exact - entropy(12, "ancestral") < 0.5 * (exact - by_bits[2])
    assert by_bits[2] < entropy(12, steps=4) - error


def test_draws_in_low_precision_need_draws(key):
    with pytest.raises(ValueError, match=r"temperature=0: .* no draw"):
        DiscreteSampler(temperature=0.0, noise_bits=8)
    with pytest.raises(ValueError, match="noise_bits"):
        DiscreteSampler(noise_bits=25)
    sampler = DiscreteSampler(noise_bits=8)
    with pytest.raises(
        GenlabError, match=r"sampler\.noise_bits=8: .* use sampler\.noise_bits=null"
    ):
        DiscreteConfig(noise=UniformNoise()).sample_cost(
            sampler, Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES)
        )


def test_one_code_at_a_time_in_random_order_draws_from_the_language(key):
    sampler = DiscreteSampler(steps=4, hiding=LinearHiding(), order="random")
    np.testing.assert_allclose(
        shares_drawn(AbsorbingNoise(), sampler, key), tiny_worlds.SHARES, atol=0.012
    )


def test_uniform_noise_is_removed_as_bayes_says(key):
    """Codes of level 0.4 given those of level 0.8 and clean ones, against noising twice and
    looking.
    """
    noise, entries, shape = UniformNoise(), 3, (1, 200_000, 1)
    keys = jax.random.split(key, 3)
    clean = jnp.zeros(shape, int)
    is_valid = jnp.ones(shape[:2], bool)

    def corrupt(key, codes, share):
        return noise.corrupt(
            key, codes, is_valid, jnp.array([share]), LinearHiding(), entries
        ).codes

    middle = corrupt(keys[0], clean, 0.4)
    noisy = corrupt(keys[1], middle, 1 - 0.2 / 0.6)
    again = noise.less_noisy(keys[2], noisy, clean, jnp.float32(0.8), jnp.float32(0.4), entries)

    def table(codes):
        return np.bincount(np.asarray(3 * noisy + codes).ravel(), minlength=9) / noisy.size

    np.testing.assert_allclose(table(again), table(middle), atol=0.005)


@pytest.mark.parametrize("order", ["ancestral", "confidence", "random", "joint"])
def test_more_steps_than_codes_still_reveal_everything(order, key):
    tokens, cond = toy_batch()
    decoder = DiscreteConfig().build(Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=key)
    sampler = DiscreteSampler(steps=60, order=order)
    out = decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler)
    assert out.num_network_calls == 60 and out.tokens.codes.max() < SPEC.entries


def test_uniform_noise_keeps_a_prompt_and_counts_guidance_twice(key):
    tokens, cond = toy_batch()
    decoder = DiscreteConfig(noise=UniformNoise()).build(
        Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=key
    )
    prompt = prompt_where(tokens, np.arange(NUM_FRAMES) % 3 == 1)
    sampler = DiscreteSampler(steps=3, guidance=2.0, is_annealed=True)
    out = decoder.sample(
        cond, num_frames=tokens.num_frames, key=key, sampler=sampler, prompt=prompt
    )
    is_kept = prompt.is_known & tokens.is_valid
    np.testing.assert_array_equal(out.tokens.codes[is_kept], tokens.codes[is_kept])
    assert (
        out.num_network_calls == 6
        and 0 <= out.tokens.codes.min() <= out.tokens.codes.max() < SPEC.entries
    )


class Recorder(Discrete):
    """Knows nothing, and writes down the noise level that it is told."""

    def _logits(self, noisy, share, conditions, is_valid, is_known, key=None):
        jax.debug.callback(lambda share: told.append(float(share)), share[0], ordered=True)
        return jnp.zeros((*noisy.shape, self.spec.entries))


told: list[float] = []


@pytest.mark.parametrize("hiding", [LinearHiding(), CosineHiding()], ids=lambda one: one.kind)
def test_the_network_is_told_the_noise_that_its_codes_have(hiding, key):
    tokens, cond = toy_batch()
    task = Task(SPEC, VOCAB, BACKBONE, SEMANTIC)
    decoder = Recorder(DiscreteConfig(noise=UniformNoise()), task, key=key)
    told.clear()
    sampler = DiscreteSampler(steps=4, hiding=hiding)
    out = decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler)
    jax.block_until_ready(out.tokens.codes)
    jax.effects_barrier()
    # All of it before the first step, and what the steps before have left.
    expected = [float(hiding.hidden_share(jnp.float32(step / 4))) for step in range(4)]
    assert expected[0] == 1.0
    np.testing.assert_allclose(told, expected, atol=1e-6)


def test_uniform_noise_has_no_codes_to_reveal(key):
    tokens, cond = toy_batch()
    config, sampler = DiscreteConfig(noise=UniformNoise()), DiscreteSampler(order="confidence")
    with pytest.raises(GenlabError, match=r"sampler\.order='confidence': .* no code is hidden"):
        config.sample_cost(sampler, Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES))
    with pytest.raises(GenlabError, match=r"use sampler\.order='ancestral'"):
        config.build(Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=key).sample(
            cond, num_frames=tokens.num_frames, key=key, sampler=sampler
        )


@pytest.mark.parametrize("noise", [AbsorbingNoise(), UniformNoise()], ids=["absorbing", "uniform"])
def test_the_flop_formula_agrees_with_the_walk(noise, key):
    config = DiscreteConfig(noise=noise)
    graph, params = nnx.split(config.build(Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=key))
    batch = toy_batch()

    def mean_loss(params):
        return nnx.merge(graph, params).loss(*batch, key=key).per_example.mean()

    walked = count_flops(jax.value_and_grad(mean_loss), params) / NUM_EXAMPLES
    formula = config.train_flops(Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES))
    assert walked == pytest.approx(formula, rel=0.01)
