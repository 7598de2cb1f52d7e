"""What only the masked family promises: what is hidden, what is revealed when, and which codes the loss reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import FAMILIES, SPEC, toy_batch, train

from genlab.decoders import masked
from genlab.decoders.masked import MaskedSampler
from genlab.decoders.schedules import CosineHiding, LinearHiding


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
