"""Heads of continuous frames against closed forms: densities, scores, and targets in two
dimensions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from genlab.decoders.latent_ar import LatentARSampler
from genlab.decoders.noise.heads import EnergyScore, FlowMatching, GaussianMixture, energy_score

WIDTH = 16
HEADS = {
    "gmm": GaussianMixture(components=8),
    "flow": FlowMatching(width=48, layers=2, draws=4),
    "energy": EnergyScore(width=48, layers=2, noise_channels=8, samples=4),
}
SAMPLER = LatentARSampler(steps=32)
MEAN, COVARIANCE = np.array([1.0, -0.5]), np.array([[1.0, 0.5], [0.5, 0.6]])


def gaussian(key, count):
    root = jnp.asarray(np.linalg.cholesky(COVARIANCE), jnp.float32)
    return jax.random.normal(key, (count, 2)) @ root.T + jnp.asarray(MEAN, jnp.float32)[None]


def two_modes(key, count):
    side_key, noise_key = jax.random.split(key)
    side = jnp.where(jax.random.bernoulli(side_key, 0.3, (count, 1)), 1.5, -1.5)
    return side * jnp.array([[1.0, -1.0]]) + 0.2 * jax.random.normal(noise_key, (count, 2))


def fit(config, target, steps=600, rows=256):
    """The head after training on fresh draws of `target` behind one constant hidden vector, in one
    compiled loop.
    """
    graph, params = nnx.split(config.build(WIDTH, 2, key=jax.random.key(0)))
    hidden = jnp.ones((1, rows, WIDTH))
    adam = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    def step(carry, key):
        params, state = carry
        target_key, loss_key = jax.random.split(key)
        latents = target(target_key, rows)[None]
        gradient = jax.grad(
            lambda p: nnx.merge(graph, p).loss(hidden, latents, key=loss_key).mean()
        )(params)
        updates, state = adam.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(
        (params, adam.init(params))
    )
    return nnx.merge(graph, params)


def draws(head, count=8000, **sampler):
    draw = jax.jit(functools.partial(type(head).draw, sampler=SAMPLER.model_copy(update=sampler)))
    return np.asarray(draw(head, jax.random.key(2), jnp.ones((count, WIDTH))))


@pytest.mark.parametrize("name", HEADS)
def test_a_correlated_gaussian_is_recovered(name):
    drawn = draws(fit(HEADS[name], gaussian))
    np.testing.assert_allclose(drawn.mean(axis=0), MEAN, atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), COVARIANCE, atol=0.12)


@pytest.mark.parametrize("name", HEADS)
def test_two_modes_stay_two(name):
    drawn = draws(fit(HEADS[name], two_modes))
    place = drawn @ np.array([0.5, -0.5]) / 1.5  # -1 and 1 at the modes
    assert np.mean(np.abs(np.abs(place) - 1) < 0.4) > 0.95
    assert np.mean(place > 0) == pytest.approx(0.3, abs=0.05)


def test_the_mixture_density_integrates_to_one(key):
    head = GaussianMixture(components=3, min_std=0.1).build(WIDTH, 2, key=key)
    line = np.linspace(-12, 12, 301)
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1).reshape(1, -1, 2), jnp.float32)
    hidden = jnp.broadcast_to(3 * jax.random.normal(key, (1, 1, WIDTH)), (1, grid.shape[1], WIDTH))
    density = np.exp(jax.jit(type(head).log_density)(head, hidden, grid))
    assert density.max() > 10 * density.mean()
    assert density.sum() * (line[1] - line[0]) ** 2 == pytest.approx(1, abs=1e-3)


def test_the_mixture_density_is_the_closed_form(key):
    """Weights of zero make all components one Gaussian of mean 0 and deviation 1 + min_std."""
    head = GaussianMixture(components=4, min_std=0.5).build(WIDTH, 2, key=key)
    head.project.kernel[...] = jnp.zeros_like(head.project.kernel[...])
    hidden, latents = jax.random.normal(key, (1, 5, WIDTH)), jax.random.normal(key, (1, 5, 2))
    expected = -0.5 * np.square(latents / 1.5).sum(axis=-1) - np.log(2 * np.pi * 1.5**2)
    np.testing.assert_allclose(head.log_density(hidden, latents), expected, rtol=1e-5)
    np.testing.assert_allclose(head.loss(hidden, latents, key=key), -expected, rtol=1e-5)
    assert np.std(draws(head, temperature=0.5)) == pytest.approx(0.75, rel=0.03)
    assert (draws(head, count=5, temperature=0.0) == 0).all()


def test_the_deviation_has_a_floor(key):
    head = GaussianMixture(components=1, min_std=0.2).build(WIDTH, 2, key=key)
    head.project.kernel[...] = -1e3 * jnp.ones_like(head.project.kernel[...])
    hidden = jnp.ones((1, 1, WIDTH))
    _, mean, std = head._components(hidden)
    np.testing.assert_allclose(std, 0.2)
    np.testing.assert_allclose(
        head.log_density(hidden, mean[:, :, 0]), -np.log(2 * np.pi * 0.2**2), rtol=1e-5
    )


@pytest.mark.parametrize("truth", [0.0, 0.7, -2.0])
def test_the_energy_score_of_a_normal_is_its_closed_form(truth, key):
    """In one dimension it is the CRPS: y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi)."""
    samples = jax.random.normal(key, (1, 200_000, 2, 1))
    scores = energy_score(samples, jnp.full((1, 200_000, 1), truth))
    phi, big_phi = (
        np.exp(-(truth**2) / 2) / np.sqrt(2 * np.pi),
        float(jax.scipy.stats.norm.cdf(truth)),
    )
    expected = truth * (2 * big_phi - 1) + 2 * phi - 1 / np.sqrt(np.pi)
    assert scores.mean() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_the_energy_score_is_least_at_the_truth(beta, key):
    truth_key, sample_key = jax.random.split(key)
    truth = jax.random.normal(truth_key, (1, 100_000, 2))
    normal = jax.random.normal(sample_key, (1, 100_000, 3, 2))

    def score(shift, scale):
        return float(energy_score(shift + scale * normal, truth, beta).mean())

    best = score(0.0, 1.0)
    for shift, scale in ((0.4, 1.0), (-0.4, 1.0), (0.0, 1.4), (0.0, 0.6), (0.0, 0.0)):
        assert score(shift, scale) > best


def test_the_gradient_is_finite_where_samples_agree():
    truth = jnp.zeros((1, 1, 2))
    gradient = jax.grad(lambda samples: energy_score(samples, truth, 0.5).sum())(
        jnp.zeros((1, 1, 3, 2))
    )
    assert np.isfinite(gradient).all()
