"""The loss and the cuts of categorical distributions, against the plain way to write them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlab.decoders.logits import cross_entropy, draw, keep_top_k, keep_top_p


def test_cross_entropy_and_its_gradient(key):
    logits = 3 * jax.random.normal(key, (2, 5, 7))
    labels = jax.random.randint(key, (2, 5), 0, 7)
    weights = jax.random.uniform(key, (2, 5))

    def plain(logits):
        return -(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 7)).sum(-1)

    np.testing.assert_allclose(cross_entropy(logits, labels), plain(logits), rtol=1e-5)
    ours = jax.grad(lambda x: (weights * cross_entropy(x, labels)).sum())(logits)
    np.testing.assert_allclose(ours, jax.grad(lambda x: (weights * plain(x)).sum())(logits), atol=1e-6)
    assert cross_entropy(logits.astype(jnp.bfloat16), labels).dtype == jnp.float32


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_top_k_keeps_what_sorting_keeps(seed, k):
    logits = jax.random.normal(jax.random.key(seed), (3, 40)) * 10
    kept = keep_top_k(logits, k)
    values, indices = jax.lax.top_k(logits, k)
    for row in range(3):
        assert set(np.flatnonzero(np.isfinite(kept[row]))) == set(np.asarray(indices[row]).tolist())
    np.testing.assert_array_equal(jnp.sort(kept, axis=-1)[:, ::-1][:, :k], values)


def test_ties_with_the_last_are_kept():
    kept = keep_top_k(jnp.array([[1.0, 2.0, 2.0, 0.0]]), 1)
    np.testing.assert_array_equal(jnp.isfinite(kept), [[False, True, True, False]])
    np.testing.assert_array_equal(jnp.isfinite(keep_top_k(jnp.zeros((1, 4)), 2)), [[True] * 4])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.05, 0.99))
def test_top_p_keeps_the_smallest_sufficient_set(seed, p):
    logits = jax.random.normal(jax.random.key(seed), (40,)) * 3
    shares = np.sort(np.asarray(jax.nn.softmax(logits), np.float64))[::-1]
    enough = int(np.searchsorted(np.cumsum(shares), p) + 1)
    kept = np.isfinite(keep_top_p(logits[None], p)[0])
    if abs(np.cumsum(shares)[:enough] - p).min() > 1e-5:
        assert kept.sum() == enough
        assert np.asarray(jax.nn.softmax(logits))[kept].min() >= shares[enough - 1] - 1e-7


@pytest.mark.parametrize("cut", [{}, {"top_k": 3}, {"top_p": 0.75}, {"temperature": 0.5}])
def test_draws_follow_the_cut_distribution(key, cut):
    probabilities = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    expected = {
        "": probabilities,
        "top_k": probabilities * [1, 1, 1, 0, 0],
        "top_p": probabilities * [1, 1, 1, 0, 0],
        "temperature": probabilities**2,
    }["".join(cut)]
    logits = jnp.tile(jnp.log(jnp.asarray(probabilities))[None, :], (20_000, 1))
    counts = np.bincount(draw(key, logits, **cut), minlength=5) / 20_000
    np.testing.assert_allclose(counts, expected / expected.sum(), atol=0.015)


def test_temperature_zero_takes_the_largest(key):
    logits = jax.random.normal(key, (6, 9))
    np.testing.assert_array_equal(draw(key, logits, temperature=0.0), logits.argmax(-1))
