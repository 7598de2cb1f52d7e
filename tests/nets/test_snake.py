"""Snake against its formula, and the polynomial of the CPU programs against sine in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genlab.nets.snake import FLOOR, Snake, SnakeBeta, sine_of_double, sine_squared


@pytest.mark.parametrize("largest", [1.0, 100.0, 20_000.0])
def test_the_polynomials_are_sines(largest):
    angles = np.random.default_rng(0).uniform(-largest, largest, 200_000).astype(np.float32)
    angles[:5] = [0, np.pi / 2, -np.pi / 2, np.pi, 1e-4]
    exact = angles.astype(np.float64)
    np.testing.assert_allclose(jax.jit(sine_squared)(angles), np.sin(exact) ** 2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        jax.jit(sine_of_double)(angles), np.sin(2 * exact), rtol=0, atol=1e-6
    )


def test_small_angles_keep_their_digits():
    angles = np.geomspace(1e-6, 0.1, 1000).astype(np.float32)
    np.testing.assert_allclose(
        sine_squared(jnp.asarray(angles)), np.sin(angles.astype(np.float64)) ** 2, rtol=1e-6
    )


def test_huge_angles_stay_in_range():
    values = np.asarray(sine_squared(jnp.array([1e6, -1e9, 3e38])))
    assert (0 <= values).all() and (values <= 1.0001).all()


def test_slopes_are_those_of_the_formula(key):
    angles = 5 * jax.random.normal(key, (1000,))
    slope, curvature = jax.grad(sine_squared), jax.grad(jax.grad(sine_squared))
    np.testing.assert_allclose(jax.vmap(slope)(angles), np.sin(2 * np.asarray(angles)), atol=2e-6)
    np.testing.assert_allclose(
        jax.vmap(curvature)(angles), 2 * np.cos(2 * np.asarray(angles)), atol=4e-6
    )


def test_only_the_cpu_program_has_no_sine(key):
    layer = Snake(4)
    traced = jax.jit(jax.value_and_grad(lambda layer, x: layer(x).sum())).trace(
        layer, jnp.ones((1, 8, 4))
    )
    programs = {
        name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu", "cuda")
    }
    assert {name: "stablehlo.sine" in text for name, text in programs.items()} == {
        "cpu": False,
        "tpu": True,
        "cuda": True,
    }
    assert {name: "round" in text for name, text in programs.items()} == {
        "cpu": True,
        "tpu": False,
        "cuda": False,
    }


def test_snake_is_its_formula(key):
    layer = Snake(3)
    layer.alpha[...] = jnp.array([0.2, 1.0, 3.0])
    frames, alpha = 4 * jax.random.normal(key, (2, 50, 3)), np.array([0.2, 1.0, 3.0])
    x = np.asarray(frames, np.float64)
    np.testing.assert_allclose(
        layer(frames), x + np.sin(alpha * x) ** 2 / (alpha + FLOOR), atol=1e-5
    )


def test_snake_beta_keeps_logarithms(key):
    layer = SnakeBeta(2)
    layer.alpha[...], layer.beta[...] = jnp.array([-1.0, 1.0]), jnp.array([0.5, -0.5])
    frames = 4 * jax.random.normal(key, (2, 50, 2))
    x = np.asarray(frames, np.float64)
    expected = x + np.sin(np.exp([-1.0, 1.0]) * x) ** 2 / np.exp([0.5, -0.5])
    np.testing.assert_allclose(layer(frames), expected, atol=1e-5)


def test_a_frequency_of_zero_is_the_identity(key):
    layer = Snake(3)
    layer.alpha[...] = jnp.zeros(3)
    frames = jax.random.normal(key, (1, 9, 3))
    np.testing.assert_array_equal(layer(frames), frames)


def test_half_precision_is_computed_in_single(key):
    frames = 20 * jax.random.normal(key, (1, 100, 4), jnp.bfloat16)
    out = Snake(4)(frames)
    assert out.dtype == jnp.bfloat16
    x = np.asarray(frames, np.float32)
    np.testing.assert_allclose(
        np.asarray(out, np.float32), x + np.sin(x) ** 2, rtol=0.01, atol=0.02
    )
