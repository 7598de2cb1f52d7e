"""What only the masked family promises: what is hidden, what is revealed when, and which codes the loss reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_worlds
from decoder_toys import BACKBONE, FAMILIES, SPEC, VOCAB, toy_batch, train
from flax import nnx

from genlab.decoders import masked
from genlab.decoders.logits import cross_entropy
from genlab.decoders.masked import Masked, MaskedConfig, MaskedSampler
from genlab.decoders.schedules import CosineHiding, LinearHiding
from genlab.decoders.unmasking import count_hidden, draw_places


@pytest.mark.parametrize("hiding", [CosineHiding(), LinearHiding()])
def test_schedules_go_from_all_hidden_to_none(hiding):
    shares = hiding.hidden_share(jnp.linspace(0, 1, 11))
    assert shares[0] == 1 and shares[-1] == 0
    assert (jnp.diff(shares) < 0).all()


def test_levels_below_are_given_and_levels_above_hidden():
    codes = jnp.arange(24).reshape(2, 3, 4) % 16
    is_masked = jnp.array([[True, False, True], [False, False, True]])
    hidden = masked._hide(codes, jnp.array([1, 3]), is_masked, 16)
    # Rows are frames, columns are levels.
    np.testing.assert_array_equal(hidden[0] == 16, [[0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]])
    np.testing.assert_array_equal(hidden[1] == 16, [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(jnp.where(hidden == 16, 0, hidden), jnp.where(hidden == 16, 0, codes))


def test_the_share_of_hidden_frames_is_exact(key):
    is_valid = jnp.arange(10)[None, :] < jnp.array([10, 6, 1, 4])[:, None]
    is_masked = masked._draw_masked(key, is_valid, jnp.array([0.5, 1.0, 0.0, 0.26]))
    assert is_masked.sum(axis=1).tolist() == [5, 6, 1, 2]
    assert not (is_masked & ~is_valid).any()


def test_the_loss_reads_only_the_drawn_level_and_below():
    """Codes above the level that the key draws for an example cannot move its loss."""
    tokens, cond = toy_batch(num_examples=12)
    decoder = train(FAMILIES["masked"].build(), toy_batch(), steps=10)[0]
    loss = jax.jit(lambda codes: decoder.loss(tokens._replace(codes=codes), cond, key=jax.random.key(0)).per_example)
    before = loss(tokens.codes)
    moves = [
        np.asarray(jnp.abs(loss((tokens.codes.at[:, :, level].add(1)) % SPEC.entries) - before) > 1e-6)
        for level in range(SPEC.codebooks)
    ]
    # From the coarsest level on, every example's loss moves up to its drawn level and not after it.
    moves = np.stack(moves)
    assert moves[0].all() and (np.diff(moves.astype(int), axis=0) <= 0).all()
    assert len(set(moves.sum(axis=0))) > 1


def test_the_plan_visits_levels_coarse_to_fine():
    level, progress, is_last = masked._plan(MaskedSampler(steps=(4, 2, 1)).steps_per_level(4))
    assert level.tolist() == [0, 0, 0, 0, 1, 1, 2, 3]
    assert progress.tolist() == [0.25, 0.5, 0.75, 1, 0.5, 1, 1, 1]
    assert is_last.tolist() == [False, False, False, True, False, True, True, True]


@pytest.mark.parametrize("order", ["confidence", "random"])
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
    out = FAMILIES["masked"].build().sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler)
    counts = np.bincount(np.asarray(out.tokens.codes[tokens.is_valid]).ravel(), minlength=SPEC.entries)
    assert counts.min() > 0.7 * counts.mean() and counts.max() < 1.3 * counts.mean()


@nnx.jit
def _level_nats(decoder, tokens, cond, level, is_masked):
    """The nats of every frame of a level when some of its frames are hidden."""
    b, t, _ = tokens.codes.shape
    level, is_masked = jnp.broadcast_to(level, (b,)), jnp.broadcast_to(is_masked[None], (b, t))
    conditions = decoder.conditioner(cond, tokens.is_valid)
    hidden = decoder._hidden(tokens.codes, level, is_masked, conditions, tokens.is_valid)
    logits = jnp.einsum("bth,hv->btv", hidden, decoder.heads[...][level[0]])
    return cross_entropy(logits, tokens.codes[:, :, level[0]])


def test_the_score_is_the_mean_over_all_orders_and_lies_above_the_likelihood(key):
    decoder = tiny_worlds.build(MaskedConfig())
    tokens, cond = tiny_worlds.clips_as_batch()
    bound = likelihood = 0
    for level in range(tiny_worlds.CODEBOOKS):
        mean_nats, nats = tiny_worlds.any_order_nats(
            lambda hidden, level=level: _level_nats(decoder, tokens, cond, level, hidden), tiny_worlds.FRAMES
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
    """Knows the language: its hidden vectors are the log probabilities and its heads the identity."""

    def _hidden(self, codes, level, is_masked, conditions, is_valid, key=None):
        visible = masked._hide(codes, level, is_masked, tiny_worlds.ENTRIES)
        beliefs = tiny_worlds.belief_of_visible(visible)
        return jnp.take_along_axis(beliefs, level[:, None, None, None], axis=2)[:, :, 0]


def test_the_score_of_a_model_that_knows_the_language_is_its_likelihood(key):
    args = (MaskedConfig(), tiny_worlds.SPEC, VOCAB, BACKBONE, tiny_worlds.NOTHING)
    oracle = Oracle(*args, key=key)
    oracle.heads = nnx.Param(jnp.broadcast_to(jnp.eye(tiny_worlds.ENTRIES)[None], (tiny_worlds.CODEBOOKS, 2, 2)))
    tokens, cond = tiny_worlds.clips_as_batch()
    score = oracle.score(tokens, cond, key=key, num_draws=1000)
    assert (np.abs(score.bits + np.log2(tiny_worlds.SHARES)) < 3 * score.std_error + 1e-4).all()
    mean_error = np.sqrt((tiny_worlds.SHARES**2 * score.std_error**2).sum())
    np.testing.assert_allclose(
        (tiny_worlds.SHARES * score.bits).sum(), tiny_worlds.ENTROPY_NATS / np.log(2), atol=3 * mean_error
    )


def test_stratified_draws_hit_every_count_equally_often(key):
    counts = jax.vmap(count_hidden, in_axes=(0, None))(draw_places(key, 12, 5), jnp.array([1, 2, 3, 6, 12]))
    for example, num_positions in enumerate([1, 2, 3, 6, 12]):
        assert np.bincount(counts[:, example])[1:].tolist() == [12 // num_positions] * num_positions
