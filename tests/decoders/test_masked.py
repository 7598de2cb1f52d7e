"""What only the masked family promises: what is hidden, what is revealed when, and which codes the
loss reads.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_worlds
from decoder_toys import BACKBONE, FAMILIES, SPEC, VOCAB, toy_batch, train
from flax import nnx
from scipy import stats

from genlab.decoders import masked
from genlab.decoders.masked import Masked, MaskedConfig, MaskedSampler
from genlab.decoders.noise.schedules import CosineHiding, LinearHiding, PowerHiding
from genlab.decoders.noise.unmasking import (
    RevealSampler,
    Spans,
    count_hidden,
    draw_places,
    draw_revealed,
)
from genlab.decoders.steps.logits import cross_entropy
from genlab.decoders.task import Task


@pytest.mark.parametrize("hiding", [CosineHiding(), LinearHiding(), PowerHiding(power=3.0)])
def test_schedules_go_from_all_hidden_to_none(hiding):
    progress = jnp.linspace(0, 1, 11)
    shares = hiding.hidden_share(progress)
    assert shares[0] == 1 and shares[-1] == 0
    assert (jnp.diff(shares) < 0).all()
    np.testing.assert_allclose(hiding.progress_at(shares), progress, atol=1e-3)
    slopes = jax.vmap(jax.grad(hiding.hidden_share))(progress[:-1])
    np.testing.assert_allclose(hiding.hiding_rate(progress[:-1]), -slopes, atol=1e-5)


def test_levels_below_are_given_and_levels_above_hidden():
    codes = jnp.arange(24).reshape(2, 3, 4) % 16
    is_masked = jnp.array([[True, False, True], [False, False, True]])
    hidden = masked._hide(codes, jnp.array([1, 3]), is_masked, 16)
    # Rows are frames, columns are levels.
    np.testing.assert_array_equal(hidden[0] == 16, [[0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]])
    np.testing.assert_array_equal(hidden[1] == 16, [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(
        jnp.where(hidden == 16, 0, hidden), jnp.where(hidden == 16, 0, codes)
    )


def test_the_share_of_hidden_frames_is_exact(key):
    is_valid = jnp.arange(10)[None, :] < jnp.array([10, 6, 1, 4])[:, None]
    is_masked = masked._draw_masked(key, is_valid, jnp.array([0.5, 1.0, 0.0, 0.26]))
    assert is_masked.sum(axis=1).tolist() == [5, 6, 1, 2]
    assert not (is_masked & ~is_valid).any()


def test_spans_are_hidden_whole(key):
    is_valid = jnp.arange(11)[None, :] < jnp.array([11, 7, 2])[:, None]
    is_masked = masked._draw_masked(key, is_valid, jnp.array([0.5, 0.5, 0.1]), Spans(frames=3))
    # 11 frames are 4 spans, of which 2 are hidden; 7 are 3, of which ceil(1.5); 2 are 1.
    spans = np.pad(is_masked, ((0, 0), (0, 1))).reshape(3, 4, 3)
    assert spans.any(axis=2).sum(axis=1).tolist() == [2, 2, 1]
    np.testing.assert_array_equal(
        is_masked, is_valid & np.repeat(spans.any(axis=2), 3, axis=1)[:, :11]
    )


def reveal(key, nats, is_unknown, progress, previous, **options):
    settings = {"hiding": LinearHiding(), "order": "confidence", "order_temperature": 0.0} | options
    num_unknown = settings.get("spans", Spans()).group(is_unknown, False).any(axis=2).sum(axis=1)
    at = (jnp.float32(progress), jnp.float32(previous))
    return draw_revealed(key, jnp.asarray(nats), is_unknown, num_unknown, *at, **settings)


def test_the_surest_span_is_revealed_first(key):
    """A span is as sure as its surest hidden frame: known frames, here the surest of all, do not
    count.
    """
    nats = [[0.1, 3.0, 2.0, 0.9, 1.0, 4.0]]
    is_unknown = jnp.array([[False, True, True, True, True, True]])
    shown = reveal(key, nats, is_unknown, 0.3, 0.0, spans=Spans(frames=2))
    assert shown.tolist() == [[False, False, True, True, False, False]]
    assert reveal(key, nats, is_unknown, 0.3, 0.0).tolist() == [
        [False, False, False, True, True, False]
    ]
    everything = reveal(key, nats, is_unknown, 1.0, 0.5, spans=Spans(frames=4))
    np.testing.assert_array_equal(everything, is_unknown)


def test_ancestral_order_reveals_the_share_of_the_schedule(key):
    """From 3/4 to 1/4 hidden, two of three hidden positions are revealed on average, whatever their
    nats.
    """
    is_unknown = jax.random.bernoulli(jax.random.key(1), 0.7, (50, 200))
    nats = jnp.broadcast_to(jnp.arange(200.0)[None], (50, 200))
    shown = np.asarray(reveal(key, nats, is_unknown, 0.75, 0.25, order="ancestral"))
    assert not (shown & ~is_unknown).any()
    np.testing.assert_allclose(shown.sum() / is_unknown.sum(), 2 / 3, atol=0.02)
    assert shown.sum(axis=1).std() > 1  # and not a fixed number
    np.testing.assert_array_equal(
        reveal(key, nats, is_unknown, 1.0, 0.25, order="ancestral"), is_unknown
    )


class Loaded(Masked):
    """Gives code 5 the logit 3 and all others 0, whatever it sees."""

    def _hidden(self, visible, conditions, is_valid, key=None):
        return jnp.broadcast_to(
            3.0 * (jnp.arange(SPEC.entries) == 5), (*is_valid.shape, SPEC.entries)
        )


@pytest.mark.parametrize(("progress", "is_random"), [(0.1, True), (0.9, False), (1.0, False)])
def test_the_noise_on_confidence_falls_over_the_steps(progress, is_random, key):
    """Of 100 positions 50 stay hidden. Noise of 9 on nats that span 10 leaves hardly an order: by
    chance 25 of the 50 surest are shown, here 35 at most. Noise of 1 leaves most of it.
    """
    rows, hiding = 50, LinearHiding()
    nats = jnp.broadcast_to(jnp.arange(100.0)[None] / 10, (rows, 100))
    num_unknown = jnp.full(rows, 0 if progress == 1 else int(50.5 / (1 - progress)))
    shown = draw_revealed(
        key,
        nats,
        jnp.ones((rows, 100), bool),
        num_unknown,
        jnp.float32(progress),
        jnp.float32(0.0),
        hiding=hiding,
        order="confidence",
        order_temperature=10.0,
    )
    if progress == 1:
        assert shown.all()
        return
    assert (shown.sum(axis=1) == 50).all()
    surest = float(shown[:, :50].sum(axis=1).mean())
    assert surest < 35 if is_random else surest > 43


@pytest.mark.parametrize("previous", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("draws", ["codes", "codes or none"])
def test_annealed_draws_of_a_reveal_sampler_get_colder(previous, draws, key):
    """At `previous` the logits count 1 / (1 - previous) times: the shares of 20,000 draws are known
    to within a point.
    """
    logits = jnp.broadcast_to(jnp.array([1.0, 0.0, -1.0])[None, None, None], (1, 20_000, 1, 3))
    sampler = RevealSampler(is_annealed=True, temperature=2.0, hiding=LinearHiding())
    at = jnp.float32(previous)
    if draws == "codes":
        drawn = sampler.draw(key, logits, at)
    else:
        drawn = sampler.draw_or_hide(key, logits, at + 0.2, at)
        # Of what was hidden at `previous`, so much is at `previous` + 0.2.
        stays = (0.8 - previous) / (1 - previous)
        np.testing.assert_allclose((drawn == 3).mean(), stays, atol=0.02)
        drawn = drawn[drawn < 3]
    shares = np.exp(np.array([1.0, 0.0, -1.0]) / (2 * (1 - previous)))
    found = np.bincount(np.asarray(drawn).ravel(), minlength=3) / drawn.size
    np.testing.assert_allclose(found, shares / shares.sum(), atol=0.015)


def test_only_the_last_step_of_a_level_is_greedy():
    """The likeliest code has a share of 57 %: half of the frames are drawn, half take it for sure.

    The shares of 1,000 frames have a standard error of a point and a half.
    """
    tokens, cond = toy_batch(num_examples=100)
    loaded = Loaded(
        MaskedConfig(), Task(SPEC, VOCAB, BACKBONE, tiny_worlds.NOTHING), key=jax.random.key(0)
    )
    loaded.heads = nnx.Param(jnp.broadcast_to(jnp.eye(SPEC.entries)[None], (4, 16, 16)))
    sampler = MaskedSampler(steps=(2, 1), hiding=LinearHiding(), order="random")
    assert sampler.is_last_greedy and sampler.temperature == 1
    drawn = loaded.sample(
        cond, num_frames=tokens.num_frames, key=jax.random.key(2), sampler=sampler
    ).tokens
    shares = (drawn.codes == 5)[tokens.is_valid].mean(axis=0)
    likeliest = np.exp(3) / (np.exp(3) + 15)
    np.testing.assert_allclose(shares[0], (1 + likeliest) / 2, atol=0.06)
    assert (shares[1:] == 1).all()


def test_annealing_makes_later_draws_colder():
    """The share of code 5 in a level drawn in two steps: half its frames at the full temperature,
    half at half.
    """
    tokens, cond = toy_batch(num_examples=100)
    loaded = Loaded(
        MaskedConfig(), Task(SPEC, VOCAB, BACKBONE, tiny_worlds.NOTHING), key=jax.random.key(0)
    )
    loaded.heads = nnx.Param(jnp.broadcast_to(jnp.eye(SPEC.entries)[None], (4, 16, 16)))
    sampler = MaskedSampler(
        steps=(1, 2),
        hiding=LinearHiding(),
        is_last_greedy=False,
        order="random",
        temperature=2.0,
        is_annealed=True,
    )
    drawn = loaded.sample(
        cond, num_frames=tokens.num_frames, key=jax.random.key(2), sampler=sampler
    ).tokens
    shares = (drawn.codes == 5)[tokens.is_valid].mean(axis=0)
    hot, cold = (np.exp(3 / t) / (np.exp(3 / t) + 15) for t in (2, 1))
    np.testing.assert_allclose(shares[0], hot, atol=0.04)
    np.testing.assert_allclose(shares[1:].mean(), (hot + cold) / 2, atol=0.04)


def test_the_loss_reads_only_the_drawn_level_and_below():
    """Codes above the level that the key draws for an example cannot move its loss."""
    tokens, cond = toy_batch(num_examples=12)
    decoder = train(FAMILIES["masked"].build(), toy_batch(), steps=10)[0]
    loss = jax.jit(
        lambda codes: (
            decoder.loss(tokens._replace(codes=codes), cond, key=jax.random.key(0)).per_example
        )
    )
    before = loss(tokens.codes)
    moves = [
        np.asarray(
            jnp.abs(loss((tokens.codes.at[:, :, level].add(1)) % SPEC.entries) - before) > 1e-6
        )
        for level in range(SPEC.codebooks)
    ]
    # From the coarsest level on, every example's loss moves up to its drawn level and not after it.
    moves = np.stack(moves)
    assert moves[0].all() and (np.diff(moves.astype(int), axis=0) <= 0).all()
    assert len(set(moves.sum(axis=0))) > 1


def test_the_plan_visits_levels_coarse_to_fine():
    level, progress, previous, is_last = masked._plan(
        MaskedSampler(steps=(4, 2, 1)).steps_per_level(4)
    )
    assert level.tolist() == [0, 0, 0, 0, 1, 1, 2, 3]
    assert progress.tolist() == [0.25, 0.5, 0.75, 1, 0.5, 1, 1, 1]
    assert previous.tolist() == [0, 0.25, 0.5, 0.75, 0, 0.5, 0, 0]
    assert is_last.tolist() == [False, False, False, True, False, True, True, True]


@pytest.mark.parametrize("order", ["confidence", "random", "ancestral"])
def test_more_steps_than_frames_still_reveal_everything(order, key):
    tokens, cond = toy_batch()
    decoder = FAMILIES["masked"].build()
    sampler = MaskedSampler(steps=(20, 3), order=order)
    out = decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler)
    assert out.num_network_calls == 20 + 3 * 3
    assert out.tokens.codes.max() < SPEC.entries


def test_a_uniform_model_draws_uniformly(key):
    """A fresh model has equal logits, so every entry must come up about equally often."""
    tokens, cond = toy_batch(num_examples=60)
    sampler = MaskedSampler(steps=(3, 1), is_last_greedy=False)
    out = (
        FAMILIES["masked"]
        .build()
        .sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler)
    )
    counts = np.bincount(
        np.asarray(out.tokens.codes[tokens.is_valid]).ravel(), minlength=SPEC.entries
    )
    assert counts.min() > 0.7 * counts.mean() and counts.max() < 1.3 * counts.mean()


@nnx.jit
def _level_nats(decoder, tokens, cond, level, is_masked):
    """The nats of every frame of a level when some of its frames are hidden."""
    b, t, _ = tokens.codes.shape
    level, is_masked = jnp.broadcast_to(level, (b,)), jnp.broadcast_to(is_masked[None], (b, t))
    conditions = decoder.conditioner(cond, tokens.is_valid)
    visible = masked._hide(tokens.codes, level, is_masked, tiny_worlds.ENTRIES)
    hidden = decoder._hidden(visible, conditions, tokens.is_valid)
    logits = jnp.einsum("bth,hv->btv", hidden, decoder.heads[...][level[0]])
    return cross_entropy(logits, tokens.codes[:, :, level[0]])


def test_the_score_is_the_mean_over_all_orders_and_lies_above_the_likelihood(key):
    decoder = tiny_worlds.build(MaskedConfig())
    tokens, cond = tiny_worlds.clips_as_batch()
    bound = likelihood = 0
    for level in range(tiny_worlds.CODEBOOKS):
        mean_nats, nats = tiny_worlds.any_order_nats(
            lambda hidden, level=level: _level_nats(decoder, tokens, cond, level, hidden),
            tiny_worlds.FRAMES,
        )
        bound, likelihood = bound + mean_nats, likelihood + nats
    np.testing.assert_allclose(np.exp(-likelihood).sum(), 1, rtol=1e-4)
    assert (bound >= likelihood - 1e-5).all() and (bound > likelihood + 1e-3).any()
    score = decoder.score(tokens, cond, key=key, num_draws=1000)
    assert score.validity == "upper bound"
    deviations = (score.bits - bound / np.log(2)) / score.std_error
    assert (score.std_error > 0).all() and np.abs(deviations).max() < 3
    assert np.isinf(decoder.score(tokens, cond, key=key).std_error).all()


class Oracle(Masked):
    """Knows the language: its hidden vectors hold the log probabilities of both levels and its
    heads pick one.
    """

    def _hidden(self, visible, conditions, is_valid, key=None):
        return tiny_worlds.belief_of_visible(visible).reshape(*is_valid.shape, -1)


@pytest.fixture(scope="module")
def oracle():
    task = Task(tiny_worlds.SPEC, VOCAB, BACKBONE, tiny_worlds.NOTHING)
    oracle = Oracle(MaskedConfig(), task, key=jax.random.key(0))
    oracle.heads = nnx.Param(jnp.eye(4).reshape(4, 2, 2).swapaxes(0, 1))
    return oracle


@pytest.mark.parametrize("order", ["confidence", "random"])
def test_one_frame_at_a_time_draws_from_the_language(oracle, order, key):
    _, cond = tiny_worlds.clips_as_batch(np.zeros((20_000, 2, 2), int))
    sampler = MaskedSampler(steps=(2,), hiding=LinearHiding(), is_last_greedy=False, order=order)
    drawn = oracle.sample(
        cond, num_frames=jnp.full(20_000, 2), key=key, sampler=sampler
    ).tokens.codes
    if order == "random":
        np.testing.assert_allclose(tiny_worlds.shares_of(drawn), tiny_worlds.SHARES, atol=0.012)
    else:  # which frame comes first depends on what was drawn for it, which is not the language
        assert np.abs(tiny_worlds.shares_of(drawn) - tiny_worlds.SHARES).max() > 0.02


def test_the_bare_sampler_draws_from_the_joint_and_a_tuned_one_does_not(oracle, key):
    num_draws = 20_000
    _, cond = tiny_worlds.clips_as_batch(np.zeros((num_draws, 2, 2), int))
    task = Task(tiny_worlds.SPEC, VOCAB, BACKBONE, tiny_worlds.NOTHING, num_frames=2)
    bare = MaskedConfig().bare_sampler(task)
    assert bare.steps_per_level(2) == (2, 2)  # as many calls as frames, so nothing is left out

    def p_value(sampler):
        drawn = oracle.sample(
            cond, num_frames=jnp.full(num_draws, 2), key=key, sampler=sampler
        ).tokens.codes
        counts = tiny_worlds.shares_of(drawn) * num_draws
        return stats.chisquare(counts, tiny_worlds.SHARES * num_draws).pvalue

    assert p_value(bare) > 0.01
    # Both frames of a level at once, and a temperature: each alone is another law.
    assert p_value(bare.model_copy(update={"steps": (1,)})) < 1e-6
    assert p_value(bare.model_copy(update={"temperature": 0.8})) < 1e-6


def test_the_loss_that_weighs_as_the_bound_is_the_bound_per_code(key):
    config = MaskedConfig(loss_weighting="bound")
    assert config.loss_unit == "nats_per_code"
    decoder = tiny_worlds.build(config)
    tokens, cond = tiny_worlds.clips_as_batch()
    bound = decoder.score(tokens, cond, key=key, num_draws=4000)
    copies = 4000
    many = tiny_worlds.clips_as_batch(np.repeat(tiny_worlds.CLIPS, copies, axis=0))

    def mean_loss(decoder):
        out = nnx.jit(lambda decoder, batch: decoder.loss(*batch, key=key))(decoder, many)
        losses = np.asarray(out.per_example, np.float64).reshape(-1, copies)
        return out, losses.mean(axis=1), losses.std(axis=1) / np.sqrt(copies)

    out, loss, error = mean_loss(decoder)
    # A clip of 2 frames has 4 codes: the bound is 4 times the loss.
    factor = tiny_worlds.FRAMES * tiny_worlds.CODEBOOKS / np.log(2)
    errors = np.hypot(factor * error, bound.std_error)
    assert (np.abs(factor * loss - bound.bits) < 4 * errors).all()
    assert (np.asarray(out.weight) == tiny_worlds.FRAMES).all()
    # As published, more frames are hidden, which the bound does not forgive.
    _, published, error = mean_loss(tiny_worlds.build(MaskedConfig()))
    errors = np.hypot(factor * error, bound.std_error)
    assert (np.abs(factor * published - bound.bits) > 4 * errors).any()


def test_the_weighting_of_the_bound_hides_single_frames_and_is_no_news_to_old_runs():
    with pytest.raises(ValueError, match=r"loss_weighting='bound': .* got spans\.frames=3"):
        MaskedConfig(loss_weighting="bound", spans=Spans(frames=3))
    assert MaskedConfig().loss_unit == "nats_per_hidden_code"
    assert MaskedConfig().digest() == MaskedConfig(loss_weighting="published").digest()
    assert MaskedConfig().digest() != MaskedConfig(loss_weighting="bound").digest()


def test_the_score_of_a_model_that_knows_the_language_is_its_likelihood(oracle, key):
    tokens, cond = tiny_worlds.clips_as_batch()
    score = oracle.score(tokens, cond, key=key, num_draws=1000)
    assert (np.abs(score.bits + np.log2(tiny_worlds.SHARES)) < 3 * score.std_error + 1e-4).all()
    mean_error = np.sqrt((tiny_worlds.SHARES**2 * score.std_error**2).sum())
    np.testing.assert_allclose(
        (tiny_worlds.SHARES * score.bits).sum(),
        tiny_worlds.ENTROPY_NATS / np.log(2),
        atol=3 * mean_error,
    )


def test_stratified_draws_hit_every_count_equally_often(key):
    counts = jax.vmap(count_hidden, in_axes=(0, None))(
        draw_places(key, 12, 5), jnp.array([1, 2, 3, 6, 12])
    )
    for example, num_positions in enumerate([1, 2, 3, 6, 12]):
        assert np.bincount(counts[:, example])[1:].tolist() == [12 // num_positions] * num_positions
