"""Codes given latents: a distribution over codes, and the posterior that prices them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from genlab.decoders.noise.code_given_latent import (
    chosen_vectors,
    code_log_probability,
    draw_latents,
    level_variances,
    posterior_std,
)

SIZES = jnp.array([1.0, 0.5, 0.2])
VECTORS = SIZES[:, None, None] * jax.random.normal(jax.random.key(0), (3, 4, 6))


def test_the_codes_of_a_latent_have_probability_one(key):
    latents = jnp.broadcast_to(jax.random.normal(key, (1, 1, 6)), (64, 1, 6))
    codes = jnp.array(list(itertools.product(range(4), repeat=3))).reshape(64, 1, 3)
    nats = code_log_probability(
        codes, latents, VECTORS, level_variances(VECTORS, posterior_std(VECTORS))
    )
    assert np.std(nats) > 0.1
    np.testing.assert_allclose(jnp.exp(nats).sum(), 1, rtol=1e-5)


def test_the_logits_are_scaled_squared_distances(key):
    """One level, written out."""
    latent, codes = jax.random.normal(key, (1, 1, 6)), jnp.array([[[2]]])
    distances = jnp.square(latent[0, 0][None] - VECTORS[0]).sum(axis=1)
    expected = jax.nn.log_softmax(-distances / (2 * 0.7))[2]
    nats = code_log_probability(codes, latent, VECTORS[:1], jnp.array([0.7]))
    np.testing.assert_allclose(nats[0, 0], expected, rtol=1e-5)


def test_a_latent_without_noise_says_its_codes(key):
    codes = jax.random.randint(key, (5, 7, 3), 0, 4)
    quantised = chosen_vectors(codes, VECTORS).sum(axis=2)
    # Each level is asked behind the true codes of those before it, so only later levels can mislead
    # it.
    nats = code_log_probability(codes, quantised, VECTORS, jnp.array([0.1, 0.05, 1e-3]))
    assert jnp.exp(nats).mean() > 0.8


def test_the_variances_are_those_of_the_residuals(key):
    codes = jax.random.randint(key, (50, 200, 3), 0, 4)
    std = posterior_std(VECTORS)
    np.testing.assert_allclose(std, jnp.sqrt(jnp.square(VECTORS[2]).mean()), rtol=1e-4)
    latents, log_density = draw_latents(key, codes, VECTORS, std)
    chosen = chosen_vectors(codes, VECTORS)
    left = latents[:, :, None] - jnp.cumsum(chosen, axis=2)
    # Entries have means of their own, and those of different levels may agree; hence roughly.
    np.testing.assert_allclose(
        jnp.square(left).mean(axis=(0, 1, 3)), level_variances(VECTORS, std), rtol=0.3
    )
    expected = -0.5 * jnp.square(left[:, :, 2] / std).sum(axis=-1) - 6 * jnp.log(
        std * jnp.sqrt(2 * jnp.pi)
    )
    np.testing.assert_allclose(log_density, expected, rtol=1e-3, atol=1e-3)
