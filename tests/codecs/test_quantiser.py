import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from genlab.codecs.quantiser import ResidualQuantiser, nearest_entry


def make_data(frames=400, channels=4):
    """Return frames around a few centres, with a finer structure inside each."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((6, channels)) * 3
    fine = rng.standard_normal((5, channels)) * 0.5
    vectors = coarse[rng.integers(6, size=frames)] + fine[rng.integers(5, size=frames)]
    return jnp.asarray(vectors + 0.05 * rng.standard_normal((frames, channels)), jnp.float32)[None]


def fit(quantiser, vectors, steps):
    graph, state = nnx.split(quantiser)
    is_used = jnp.ones((*vectors.shape[:2], quantiser.entries.shape[0]), bool)

    def step(state, key):
        moving = nnx.merge(graph, state)
        moving.update(vectors, moving.encode(vectors), is_used, key)
        return nnx.to_pure_dict(nnx.state(moving)), None

    keys = jax.random.split(jax.random.key(0), steps)
    return nnx.merge(
        graph, jax.jit(lambda state: jax.lax.scan(step, state, keys)[0])(nnx.to_pure_dict(state))
    )


def update_once(quantiser, vectors, is_used):
    """Return the quantiser after one compiled update with its own codes."""
    graph, state = nnx.split(quantiser)

    @jax.jit
    def step(state):
        moving = nnx.merge(graph, state)
        moving.update(vectors, moving.encode(vectors), is_used, jax.random.key(0))
        return nnx.to_pure_dict(nnx.state(moving))

    return nnx.merge(graph, step(nnx.to_pure_dict(state)))


@pytest.fixture(scope="module")
def fitted():
    return fit(ResidualQuantiser(3, 8, 4, decay=0.9, revival_usage=0.03), make_data(), steps=300)


def test_the_residual_shrinks_with_every_level(fitted):
    vectors = make_data()
    sums = fitted.partial_sums(fitted.encode(vectors))
    energies = np.asarray(((vectors[None] - sums) ** 2).mean(axis=(1, 2, 3)))
    start = float((vectors**2).mean())
    assert energies[0] < 0.2 * start
    assert (np.diff(energies) < 0).all(), energies
    assert energies[-1] < 0.02 * start


def test_fewer_levels_decode_to_the_partial_sums(fitted):
    codes = fitted.encode(make_data())
    sums = fitted.partial_sums(codes)
    for levels in (1, 2, 3):
        np.testing.assert_allclose(fitted.decode(codes[..., :levels]), sums[levels - 1], rtol=1e-6)


def test_encoding_is_level_by_level_nearest(fitted):
    vectors = make_data()
    codes = np.asarray(fitted.encode(vectors))
    residual = np.asarray(vectors[0], np.float64)
    for level in range(3):
        entries = np.asarray(fitted.entries[level], np.float64)
        distance = ((residual[:, None] - entries[None]) ** 2).sum(axis=-1)
        chosen = distance[np.arange(len(distance)), codes[0, :, level]]
        np.testing.assert_allclose(chosen, distance.min(axis=1), atol=1e-4)
        residual -= entries[codes[0, :, level]]


def test_codes_of_entry_sums_are_found_again(fitted):
    codes = jnp.zeros((1, 8, 3), jnp.int32).at[0, :, 0].set(jnp.arange(8))
    again = fitted.encode(fitted.partial_sums(codes)[0])
    np.testing.assert_array_equal(again[..., 0], codes[..., 0])


def test_an_untouched_codebook_is_initialised_by_revival():
    vectors = make_data(60)
    quantiser = fit(ResidualQuantiser(2, 8, 4, decay=0.9, revival_usage=0.03), vectors, steps=1)
    entries, data = np.asarray(quantiser.entries[0]), np.asarray(vectors[0])
    # Among equal entries the first one takes everything and becomes the mean; the others become
    # vectors of the batch.
    np.testing.assert_allclose(entries[0], data.mean(axis=0), atol=1e-5)
    distance = np.abs(entries[1:, None] - data[None]).max(axis=-1)
    np.testing.assert_allclose(distance.min(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(quantiser.usage[:, 1:], 0.06, rtol=1e-6)


def test_only_dead_entries_are_revived():
    vectors = jnp.asarray(np.random.default_rng(3).standard_normal((1, 50, 2)), jnp.float32)
    quantiser = ResidualQuantiser(1, 3, 2, decay=0.99, revival_usage=0.03)
    # Entry 2 is so far away that nothing chooses it, and its usage has run out.
    quantiser.entries[...] = jnp.array([[[1.0, 0.0], [-1.0, 0.0], [900.0, 900.0]]])
    quantiser.usage[...] = jnp.array([[20.0, 20.0, 0.01]])
    quantiser = update_once(quantiser, vectors, jnp.ones((1, 50, 1), bool))
    entries = np.asarray(quantiser.entries[0])
    assert np.abs(entries[2]).max() < 10
    assert np.abs(entries[:2] - np.array([[1.0, 0.0], [-1.0, 0.0]])).max() < 0.1
    assert float(quantiser.usage[0, 2]) == pytest.approx(0.06)


def test_an_update_is_a_step_towards_the_mean_of_the_assigned_vectors():
    vectors = jnp.array([[[2.0, 0.0], [4.0, 0.0], [3.0, 3.0], [-5.0, 1.0]]])
    quantiser = ResidualQuantiser(1, 2, 2, decay=0.9, revival_usage=0.0)
    quantiser.entries[...] = jnp.array([[[1.0, 0.0], [-1.0, 0.0]]])
    quantiser.usage[...] = jnp.array([[2.0, 2.0]])
    quantiser = fit(quantiser, vectors, steps=1)
    # Eq. usage' = 0.9 * 2 + 0.1 * 3; entry' = entry + 0.1 * (sum of three - 3 * entry) / usage'.
    usage = 0.9 * 2 + 0.1 * 3
    np.testing.assert_allclose(quantiser.usage[0, 0], usage, rtol=1e-6)
    moved = np.array([1.0, 0.0]) + 0.1 * np.array([6.0, 3.0]) / usage
    np.testing.assert_allclose(quantiser.entries[0, 0], moved, rtol=1e-5)
    quantiser = fit(quantiser, vectors, steps=120)
    np.testing.assert_allclose(quantiser.entries[0], [[3.0, 1.0], [-5.0, 1.0]], atol=1e-3)


def test_frames_that_are_not_used_move_nothing():
    vectors = make_data(30)
    quantiser = ResidualQuantiser(2, 4, 4, decay=0.9, revival_usage=0.0)
    quantiser.entries[...] = jax.random.normal(jax.random.key(1), (2, 4, 4))
    quantiser.usage[...] = jnp.ones((2, 4))
    before = np.asarray(quantiser.entries[...])
    # level 1 was dropped in every example
    is_used = jnp.zeros((1, 30, 2), bool).at[:, :, 0].set(True)
    quantiser = update_once(quantiser, vectors, is_used)
    assert np.abs(np.asarray(quantiser.entries[0]) - before[0]).max() > 0
    np.testing.assert_array_equal(quantiser.entries[1], before[1])


finite = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=20, deadline=None)
@given(
    vectors=arrays(np.float32, (2, 5, 3), elements=finite),
    entries=arrays(np.float32, (7, 3), elements=finite),
)
def test_codes_are_integers_in_range(vectors, entries):
    codes = nearest_entry(jnp.asarray(vectors), jnp.asarray(entries))
    assert codes.dtype == jnp.int32 and codes.shape == (2, 5)
    assert int(codes.min()) >= 0 and int(codes.max()) < 7


@settings(max_examples=20, deadline=None)
@given(entries=arrays(np.float32, (6, 3), elements=st.floats(-8, 8, width=16), unique=True))
def test_an_entry_is_nearest_to_itself(entries):
    codes = np.asarray(nearest_entry(jnp.asarray(entries), jnp.asarray(entries)))
    distance = ((entries[codes] - entries) ** 2).sum(axis=-1)
    np.testing.assert_allclose(distance, 0, atol=1e-3)


def test_ties_go_to_the_lower_index():
    entries = jnp.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(
        nearest_entry(jnp.array([[2.0, 0.0], [0.0, 5.0]]), entries), [0, 0]
    )
