"""The solvers and their noise levels against diffusers' flow-matching schedulers, in float32.

diffusers' own default grid ends at 1 / num_train_timesteps before it drops to 0, so the sigmas are passed explicitly,
as `scheduler_config` documents. Its Heun scheduler takes no sigmas and makes the last step an Euler step: there
genlab's solvers run on the scheduler's grid.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import jax.numpy as jnp  # noqa: E402
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler  # noqa: E402

from genlab.decoders.schedules import level_grid  # noqa: E402
from genlab.decoders.solvers import Euler, Heun, save_scheduler_config, scheduler_config  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
MIX = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32) / 2
NOISE = np.random.default_rng(2).normal(size=(2, 6, 4)).astype(np.float32)


def jax_velocity(noisy, level):
    return jnp.tanh(noisy @ MIX) * (1 + level) - 0.5 * noisy


def torch_velocity(noisy, level):
    return torch.tanh(noisy @ torch.from_numpy(MIX)) * (1 + level) - 0.5 * noisy


def diffusers_trajectory(scheduler, velocity=torch_velocity):
    noisy = torch.from_numpy(NOISE)
    for timestep in scheduler.timesteps:
        level = timestep / scheduler.config.num_train_timesteps
        noisy = scheduler.step(velocity(noisy, level), timestep, noisy).prev_sample
        yield noisy.numpy()


def euler_scheduler(num_steps, **config):
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps))
    return scheduler


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 4, 25])
def test_levels_are_diffusers_sigmas(num_steps, shift):
    scheduler = euler_scheduler(num_steps, **scheduler_config(shift=shift))
    np.testing.assert_allclose(level_grid(num_steps, shift), scheduler.sigmas.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_diffusers_loads_the_written_config(tmp_path, shift):
    save_scheduler_config(tmp_path, shift=shift)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(str(tmp_path))
    assert scheduler.config.shift == shift
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8))
    np.testing.assert_allclose(level_grid(8, shift), scheduler.sigmas.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_visits_the_same_points(shift):
    num_steps = 12
    scheduler = euler_scheduler(num_steps, **scheduler_config(shift=shift))
    levels = jnp.asarray(level_grid(num_steps, shift))
    points = list(diffusers_trajectory(scheduler))
    assert len(points) == num_steps
    assert np.abs(points[-1] - NOISE).max() > 0.1
    for step, expected in enumerate(points, start=1):
        solved = Euler().solve(jax_velocity, jnp.asarray(NOISE), levels[: step + 1])
        np.testing.assert_allclose(solved, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_heun_visits_the_same_points(shift):
    num_steps = 6
    scheduler = FlowMatchHeunDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    # Inner sigmas are listed twice, once per velocity.
    levels = jnp.asarray(np.append(scheduler.sigmas.numpy()[:-1:2], np.float32(0)))
    assert levels.shape == (num_steps + 1,)
    points = list(diffusers_trajectory(scheduler))
    assert len(points) == 2 * num_steps - 1
    solved = Heun().solve(jax_velocity, jnp.asarray(NOISE), levels[:-1])
    np.testing.assert_allclose(solved, points[-2], rtol=TOLERANCE, atol=TOLERANCE)
    solved = Euler().solve(jax_velocity, solved, levels[-2:])
    np.testing.assert_allclose(solved, points[-1], rtol=TOLERANCE, atol=TOLERANCE)
