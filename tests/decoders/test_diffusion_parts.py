"""Paths, noise-level grids and solvers, against closed forms."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genlab.decoders.paths import StraightPath
from genlab.decoders.schedules import LogitNormalLevels, UniformLevels, level_grid
from genlab.decoders.solvers import Euler, Heun, save_scheduler_config, scheduler_config


def test_the_path_joins_clean_and_noise(key):
    clean, noise = jax.random.normal(key, (2, 3, 5, 4))
    path = StraightPath()
    np.testing.assert_allclose(path.noisy(clean, noise, jnp.zeros(3)), clean)
    np.testing.assert_allclose(path.noisy(clean, noise, jnp.ones(3)), noise)
    level = jnp.array([0.1, 0.5, 0.9])
    noisy, velocity = path.noisy(clean, noise, level), path.velocity(clean, noise)
    np.testing.assert_allclose(path.clean(noisy, velocity, level), clean, atol=1e-5)
    np.testing.assert_allclose(path.noise(noisy, velocity, level), noise, atol=1e-5)
    _, slope = jax.jvp(lambda level: path.noisy(clean, noise, level), (level,), (jnp.ones(3),))
    np.testing.assert_allclose(slope, velocity, atol=1e-5)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_the_grid_goes_from_noise_to_clean(shift):
    levels = level_grid(7, shift)
    assert levels[0] == 1 and levels[-1] == 0 and len(levels) == 8
    assert (np.diff(levels) < 0).all()
    assert (levels[3] > level_grid(7)[3]) == (shift > 1)


@pytest.mark.parametrize("levels", [UniformLevels(), LogitNormalLevels(), LogitNormalLevels(mean=1.0)])
def test_training_levels_are_noise_levels(levels, key):
    drawn = levels.draw(key, 4000)
    assert 0 < drawn.min() and drawn.max() < 1
    expected = 0.7 if getattr(levels, "mean", 0) else 0.5
    np.testing.assert_allclose(drawn.mean(), expected, atol=0.03)


@pytest.mark.parametrize("solver", [Euler(), Heun()])
def test_straight_trajectories_are_solved_exactly(solver, key):
    """All data in one point: the field is linear in the noisy latents and its trajectories are straight lines."""
    clean, noise = jax.random.normal(key, (2, 2, 5, 4))

    def velocity(noisy, level):
        return (noisy - clean) / jnp.maximum(level, 1e-6)

    # Heun evaluates the field at level 0 too, where it is 0 / 0 for this data: stop one step before.
    levels = jnp.asarray(level_grid(6, 2.0))[: -1 if solver.calls_per_step == 2 else None]
    expected = StraightPath().noisy(clean, noise, jnp.full(2, levels[-1]))
    np.testing.assert_allclose(solver.solve(velocity, noise, levels), expected, atol=1e-5)


def test_heun_is_exact_where_velocity_is_linear_in_the_level(key):
    noise = jax.random.normal(key, (2, 5, 4))
    levels = jnp.asarray(level_grid(3))
    # The integral of 2 + 6 level from 1 to 0 is -5.
    solved = Heun().solve(lambda noisy, level: jnp.full_like(noisy, 2 + 6 * level), noise, levels)
    np.testing.assert_allclose(solved, noise - 5, rtol=1e-5, atol=1e-5)


def test_heun_converges_one_order_faster(key):
    noise = jax.random.normal(key, (1, 3, 2))
    exact = noise * np.exp(-1.0)

    def error(solver, steps):
        solved = solver.solve(lambda noisy, level: noisy, noise, jnp.asarray(level_grid(steps)))
        return float(jnp.abs(solved - exact).max())

    assert 1.7 < error(Euler(), 8) / error(Euler(), 16) < 2.3
    assert 3.4 < error(Heun(), 8) / error(Heun(), 16) < 4.6


def test_diffusers_reads_the_scheduler_config(tmp_path):
    from diffusers.configuration_utils import ConfigMixin

    path = save_scheduler_config(tmp_path, shift=3.0)
    written = json.loads(path.read_text())
    assert written["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    assert scheduler_config(shift=3.0).items() <= written.items()
    reader = type("Reader", (ConfigMixin,), {"config_name": "scheduler_config.json"})
    assert reader.load_config(str(tmp_path))["shift"] == 3.0
