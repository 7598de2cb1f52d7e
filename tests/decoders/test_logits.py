"""The loss and the cuts of categorical distributions, against the plain way to write them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlab.decoders.steps.logits import coarse_gumbel, cross_entropy, draw, keep_top_k, keep_top_p


def test_cross_entropy_and_its_gradient(key):
    logits = 3 * jax.random.normal(key, (2, 5, 7))
    labels = jax.random.randint(key, (2, 5), 0, 7)
    weights = jax.random.uniform(key, (2, 5))

    def plain(logits):
        return -(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 7)).sum(-1)

    np.testing.assert_allclose(cross_entropy(logits, labels), plain(logits), rtol=1e-5)
    ours = jax.grad(lambda x: (weights * cross_entropy(x, labels)).sum())(logits)
    np.testing.assert_allclose(
        ours, jax.grad(lambda x: (weights * plain(x)).sum())(logits), atol=1e-6
    )
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


@pytest.mark.parametrize("bits", [4, 8, 12, 16, 20, 24])
def test_coarse_noise_ends_where_the_formula_says(key, monkeypatch, bits):
    """A sample of every cell, first and last included: the random words are replaced by all leading
    bits.
    """
    cells = np.unique(np.linspace(0, 2**bits - 1, 4096).astype(np.uint64))
    words = jnp.asarray((cells << (32 - bits)) | (2 ** (32 - bits) - 1), jnp.uint32)
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: words)
    noise = np.asarray(coarse_gumbel(key, words.shape, bits))
    assert noise.max() == noise[-1] == pytest.approx(-np.log(-np.log1p(-(2.0**-bits))), rel=1e-6)
    assert noise[-1] == pytest.approx(bits * np.log(2), abs=2.0**-bits)
    assert noise.min() == noise[0] == pytest.approx(-np.log((bits + 1) * np.log(2)), rel=1e-6)
    np.testing.assert_allclose(
        noise[1:], -np.log(-np.log(cells[1:] / 2.0**bits)), rtol=1e-4, atol=1e-6
    )


def test_fewer_bits_are_the_leading_bits_of_the_same_noise(key):
    fine, coarse = (
        np.exp(-np.exp(-np.float64(coarse_gumbel(key, (1000,), bits)))) for bits in (24, 6)
    )
    assert (np.maximum(np.floor(fine * 64), 0.5) == np.round(coarse * 64, 3)).all()


@pytest.mark.parametrize("beyond", [-0.02, 0.02])
def test_an_entry_beyond_the_reach_of_the_noise_is_never_drawn(key, beyond):
    """Exactly: of two entries the lesser wins if it has the largest noise and the other the least,
    or never.
    """
    bits, draws = 5, 200_000
    reach = -np.log(-np.log1p(-(2.0**-bits))) + np.log((bits + 1) * np.log(2))
    logits = jnp.tile(jnp.array([[0.0, -(reach + beyond)]]), (draws, 1))
    drawn = int(draw(key, logits, noise_bits=bits).sum())
    if beyond > 0:
        assert drawn == 0 < int(draw(key, logits).sum())
    else:
        expected = draws * 2.0 ** (-2 * bits)
        assert abs(drawn - expected) < 4 * expected**0.5


def test_coarse_draws_follow_their_own_exact_law(key):
    """Against the sum over all cells of the noise; draws in full precision lie far from it."""
    bits, draws = 4, 100_000
    logits = np.array([0.0, -1.03, -2.11, -3.57])
    noise = -np.log(-np.log(np.maximum(np.arange(2**bits), 0.5) / 2**bits))
    cells = np.stack(np.meshgrid(*[logit + noise for logit in logits], indexing="ij"))
    law = np.bincount(cells.argmax(axis=0).ravel(), minlength=4) / cells[0].size
    rows = jnp.tile(jnp.asarray(logits, jnp.float32)[None], (draws, 1))
    found, exact = (
        np.bincount(draw(key, rows, noise_bits=b), minlength=4) / draws for b in (bits, None)
    )
    assert np.abs(found - law).sum() / 2 < 0.005 < 0.01 < np.abs(exact - law).sum() / 2
