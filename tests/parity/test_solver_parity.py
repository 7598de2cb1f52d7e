"""Solvers, paths and noise levels against diffusers' schedulers: the same noise, the same toy
network, in float32.

diffusers' own default flow-matching grid ends at 1 / num_train_timesteps before it drops to 0, so
the sigmas are passed explicitly, as scheduler_export.py documents. Its Heun scheduler takes no
sigmas and makes the last step an Euler step: there genlab's solvers run on the scheduler's grid.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import diffusers  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from genlab.config import GenlabError  # noqa: E402
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler  # noqa: E402
from genlab.decoders.noise.paths import CosinePath, EDMPath, StraightPath  # noqa: E402
from genlab.decoders.noise.solvers import DDIM, RK4, Ancestral, Denoiser, DPMSolver, Euler, Heun  # noqa: E402
from genlab.decoders.scheduler_export import save_scheduler_config, scheduler_config  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
MIX = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32) / 2
NOISE = np.random.default_rng(2).normal(size=(2, 6, 4)).astype(np.float32)
STRAIGHT = DiffusionConfig()


def jax_network(noisy, level):
    return jnp.tanh(noisy @ MIX) * (1 + level) - 0.5 * noisy


def torch_network(noisy, level):
    return torch.tanh(noisy @ torch.from_numpy(MIX)) * (1 + level) - 0.5 * noisy


def denoiser_of(path, predicts, network=jax_network):
    """The toy network as what a solver asks for, through the same conversions as in the decoder."""

    def predict(noisy, level):
        return network(noisy * path.input_scale(level), path.embedded(level))

    def velocity(noisy, level):
        levels = jnp.full(2, level)
        return path.convert(
            predict(noisy, level), noisy, levels, predicts=predicts, wanted="velocity"
        )

    def clean(noisy, level):
        return path.recover(predicts, predict(noisy, level), noisy, jnp.full(2, level))[0]

    return Denoiser(path, velocity, clean, path.is_defined_at_clean(predicts))


def load(tmp_path, decoder, sampler):
    """The scheduler that diffusers makes of the written config."""
    save_scheduler_config(tmp_path, decoder, sampler)
    name, values = scheduler_config(decoder, sampler)
    scheduler = getattr(diffusers, name).from_pretrained(str(tmp_path))
    assert all(scheduler.config[field] == value for field, value in values.items())
    return scheduler


def torch_points(scheduler, level_of, start=NOISE, **step_arguments):
    """Every point of the scheduler's trajectory; `level_of` gives what the toy network is told."""
    noisy = torch.from_numpy(np.asarray(start))
    points = []
    for number, timestep in enumerate(scheduler.timesteps):
        scaled = (
            scheduler.scale_model_input(noisy, timestep)
            if hasattr(scheduler, "scale_model_input")
            else noisy
        )
        output = torch_network(scaled, level_of(number, timestep))
        noisy = scheduler.step(output, timestep, noisy, **step_arguments).prev_sample
        points.append(noisy.numpy())
    return points


def assert_close(found, expected, scale=1.0):
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * scale)
    assert np.abs(np.asarray(expected) - NOISE).max() > 0.01


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 4, 25])
def test_levels_are_diffusers_sigmas(num_steps, shift, tmp_path):
    scheduler = load(tmp_path, STRAIGHT, DiffusionSampler(shift=shift))
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps))
    np.testing.assert_allclose(
        StraightPath().grid(num_steps, shift), scheduler.sigmas.numpy(), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler_visits_the_same_points(shift, tmp_path):
    scheduler = load(tmp_path, STRAIGHT, DiffusionSampler(shift=shift))
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12))
    points = torch_points(scheduler, lambda number, timestep: timestep / 1000)
    levels, denoiser = StraightPath().grid(12, shift), denoiser_of(StraightPath(), "velocity")
    for step in (1, 6, 12):
        assert_close(
            Euler().solve(denoiser, jnp.asarray(NOISE), levels[: step + 1]), points[step - 1]
        )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_heun_visits_the_same_points(shift, tmp_path):
    scheduler = load(tmp_path, STRAIGHT, DiffusionSampler(solver=Heun(), shift=shift))
    scheduler.set_timesteps(6)
    # Inner sigmas are listed twice, once per velocity. Its last step is Euler's, as ours where
    # level 0 is not defined.
    levels = np.append(scheduler.sigmas.numpy()[:-1:2], np.float32(0))
    points = torch_points(scheduler, lambda number, timestep: timestep / 1000)
    assert len(levels) == 7 and len(points) == 11
    denoiser = denoiser_of(StraightPath(), "velocity")._replace(is_defined_at_clean=False)
    assert_close(Heun().solve(denoiser, jnp.asarray(NOISE), levels), points[-1])
    assert len(Heun().call_levels(StraightPath(), levels, False)) == 11


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_dpm_solver_on_the_straight_path(shift, tmp_path):
    scheduler = load(tmp_path, STRAIGHT, DiffusionSampler(solver=DPMSolver(), shift=shift))
    scheduler.set_timesteps(12)
    levels = scheduler.sigmas.numpy().astype(np.float64)
    points = torch_points(scheduler, lambda number, timestep: scheduler.sigmas[number])
    solved = DPMSolver().solve(denoiser_of(StraightPath(), "velocity"), jnp.asarray(NOISE), levels)
    assert_close(solved, points[-1])


@pytest.mark.parametrize("shift", [1.0, 2.0])
@pytest.mark.parametrize("predicts", ["v", "clean"])
def test_ddim_from_pure_noise(predicts, shift, tmp_path):
    decoder = DiffusionConfig(path=CosinePath(), predicts=predicts)
    scheduler = load(tmp_path, decoder, DiffusionSampler(solver=DDIM(), shift=shift))
    scheduler.set_timesteps(20)
    levels = CosinePath().grid(20, shift)
    points = torch_points(scheduler, lambda number, timestep: float(levels[number]))
    solved = DDIM().solve(denoiser_of(CosinePath(), predicts), jnp.asarray(NOISE), levels)
    assert_close(solved, points[-1])


def levels_of(scheduler):
    """The levels on the cosine path of a scheduler's own timesteps, whatever its betas."""
    squares = scheduler.alphas_cumprod.double().numpy()[scheduler.timesteps.numpy()]
    return np.append(2 / np.pi * np.arccos(np.sqrt(squares)), 0.0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("predicts", ["v", "noise"])
def test_ddim_with_any_eta_on_published_betas(predicts, eta, monkeypatch):
    kind = {"v": "v_prediction", "noise": "epsilon"}[predicts]
    options = {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": kind}
    scheduler = diffusers.DDIMScheduler(**options)
    scheduler.set_timesteps(10)
    levels = levels_of(scheduler)
    fresh = np.random.default_rng(3).normal(size=NOISE.shape).astype(np.float32)
    points = torch_points(
        scheduler,
        lambda number, timestep: float(levels[number]),
        eta=eta,
        variance_noise=torch.from_numpy(fresh),
    )
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(fresh))
    solved = Ancestral(eta=eta).solve(
        denoiser_of(CosinePath(), predicts), jnp.asarray(NOISE), levels, key=jax.random.key(0)
    )
    # Predicted noise near pure noise is divided by alpha = 0.006 in either library.
    assert_close(solved, points[-1], scale=10 if predicts == "noise" else 1)


def test_ddpm_is_the_ancestral_solver(tmp_path, monkeypatch):
    decoder, steps = DiffusionConfig(path=CosinePath(), predicts="v"), 10
    scheduler = load(tmp_path, decoder, DiffusionSampler(solver=Ancestral()))
    scheduler.set_timesteps(steps)
    fresh = np.random.default_rng(4).normal(size=NOISE.shape).astype(np.float32)
    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    monkeypatch.setattr(module, lambda *args, **kwargs: torch.from_numpy(fresh))
    levels = CosinePath().grid(steps)
    points = torch_points(scheduler, lambda number, timestep: float(levels[number]))
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(fresh))
    solved = Ancestral().solve(
        denoiser_of(CosinePath(), "v"), jnp.asarray(NOISE), levels, key=jax.random.key(0)
    )
    assert_close(solved, points[-1])


@pytest.mark.parametrize("num_steps", [6, 20])
@pytest.mark.parametrize("predicts", ["v", "noise", "clean"])
def test_dpm_solver_on_published_betas(predicts, num_steps):
    kind = {"v": "v_prediction", "noise": "epsilon", "clean": "sample"}[predicts]
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type=kind, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(num_steps)
    levels = levels_of(scheduler)
    points = torch_points(scheduler, lambda number, timestep: float(levels[number]))
    solved = DPMSolver().solve(denoiser_of(CosinePath(), predicts), jnp.asarray(NOISE), levels)
    assert_close(solved, points[-1], scale=10 if predicts == "noise" else 1)


def test_dpm_solver_from_the_written_config(tmp_path):
    decoder = DiffusionConfig(path=CosinePath(), predicts="v")
    scheduler = load(tmp_path, decoder, DiffusionSampler(solver=DPMSolver()))
    scheduler.set_timesteps(20)
    levels = CosinePath().grid(20)
    np.testing.assert_allclose(levels_of(scheduler)[1:], levels[1:], atol=TOLERANCE)
    # diffusers cannot start at alpha = 0.
    levels[0] = 2 / np.pi * np.arccos(2.0**-12)
    points = torch_points(scheduler, lambda number, timestep: float(levels[number]))
    assert_close(
        DPMSolver().solve(denoiser_of(CosinePath(), "v"), jnp.asarray(NOISE), levels), points[-1]
    )


@pytest.mark.parametrize("solver", [Euler(), DDIM(), DPMSolver()], ids=lambda solver: solver.kind)
def test_edm_schedulers(solver, tmp_path):
    decoder = DiffusionConfig(path=EDMPath(sigma_max=40.0), predicts="v")
    path = decoder.path
    scheduler = load(tmp_path, decoder, DiffusionSampler(solver=solver))
    scheduler.set_timesteps(12)
    levels = path.grid(12)
    np.testing.assert_allclose(path.sigma(levels), scheduler.sigmas.numpy(), rtol=TOLERANCE)
    start = NOISE * np.float32(40)
    points = torch_points(scheduler, lambda number, timestep: timestep, start=start)
    assert_close(
        solver.solve(denoiser_of(path, "v"), jnp.asarray(start), levels), points[-1], scale=4
    )


def test_edm_heun_is_diffusers_heun_in_sigma():
    """Its Heun has no preconditioning: the toy network predicts noise, and what it reads is scaled
    by c_in.
    """
    scheduler = diffusers.HeunDiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(8)
    sigmas = scheduler.sigmas.double().numpy()
    sigmas = np.append(sigmas[:-1:2], 0.0)
    path = EDMPath()
    start = NOISE * np.float32(sigmas[0])
    told = scheduler.sigmas.numpy()[:-1]
    points = torch_points(
        scheduler, lambda number, timestep: float(np.log(told[number]) / 4), start=start
    )
    solved = Heun().solve(denoiser_of(path, "noise"), jnp.asarray(start), sigmas / (1 + sigmas))
    assert_close(solved, points[-1], scale=4)


def test_what_diffusers_does_not_have_is_refused():
    for decoder, solver in (
        (STRAIGHT, RK4()),
        (STRAIGHT, Ancestral()),
        (DiffusionConfig(path=CosinePath(), predicts="v"), Ancestral(eta=0.5)),
        (DiffusionConfig(path=CosinePath()), DDIM()),
        (DiffusionConfig(path=EDMPath(), predicts="noise"), Euler()),
    ):
        with pytest.raises(GenlabError, match="diffusers has no scheduler"):
            scheduler_config(decoder, DiffusionSampler(solver=solver))
