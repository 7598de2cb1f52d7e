"""Solvers against closed forms, and what guidance and sampling cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import BACKBONE, FAMILIES, NUM_FRAMES, SEMANTIC, SPEC, VOCAB, toy_batch, train

from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.noise.paths import CosinePath, EDMPath, StraightPath
from genlab.decoders.noise.schedules import LogitNormalLevels, level_grid
from genlab.decoders.noise.solvers import DDIM, RK4, Ancestral, Denoiser, DPMSolver, Euler, Heun
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops

SOLVERS = [Euler(), Heun(), RK4(), DDIM(), DPMSolver(), Ancestral()]
PATHS = [StraightPath(), CosinePath(), EDMPath()]


def denoiser_of(path, clean, is_defined_at_clean=False):
    """A denoiser from an exact estimate of the clean latents."""

    def velocity(noisy, level):
        levels = jnp.broadcast_to(level, (noisy.shape[0],))
        return path.convert(clean(noisy, level), noisy, levels, predicts="clean", wanted="velocity")

    return Denoiser(path, velocity, clean, is_defined_at_clean)


def gaussian(path, variance):
    """The denoiser of normal data of this variance, and the factor by which a trajectory carries
    noise to data.
    """

    def clean(noisy, level):
        alpha, sigma = path.alpha(level), path.sigma(level)
        return alpha * variance * noisy / (alpha**2 * variance + sigma**2)

    first = path.noisiest_level
    return denoiser_of(path, clean), np.sqrt(
        variance / (path.alpha(first) ** 2 * variance + path.sigma(first) ** 2)
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.kind)
def test_data_in_one_point_is_reached_in_one_step(solver, path, key):
    clean, noise = jax.random.normal(key, (2, 2, 5, 4))
    denoiser = denoiser_of(path, lambda noisy, level: clean)
    for steps in (1, 2, 5):
        # Trajectories are straight in time on two of the paths; on the circle Euler's are not.
        if path.kind == "cosine" and isinstance(solver, Euler | Heun | RK4):
            continue
        start = path.noisy(clean, noise, jnp.full(2, path.noisiest_level))
        # The EDM path starts at 80 times noise: 1e-4 of that is float32.
        atol = 5e-4 if path.kind == "edm" else 1e-4
        np.testing.assert_allclose(
            solver.solve(denoiser, start, path.grid(steps), key=key), clean, atol=atol
        )


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
def test_solvers_converge_at_their_order(path, key):
    """Gaussian data: trajectories are known. Twice the steps, 2^order times less error."""
    denoiser, factor = gaussian(path, variance=0.25)
    start = path.noisy(
        jnp.zeros((1, 3, 2)), jax.random.normal(key, (1, 3, 2)), jnp.full(1, path.noisiest_level)
    )
    rate = {}
    for solver in SOLVERS[:5]:
        counts = (10, 20) if isinstance(solver, RK4) else (20, 40)
        errors = [
            np.abs(solver.solve(denoiser, start, path.grid(n)) - factor * start).max()
            for n in counts
        ]
        rate[solver.kind] = np.log2(errors[0] / errors[1])
        assert errors[1] < {"euler": 0.1, "ddim": 0.1}.get(solver.kind, 0.02)
    assert 0.8 < rate["euler"] < 1.4 and 0.8 < rate["ddim"] < 1.4, rate
    assert rate["heun"] > 1.5, rate


def test_heun_and_rk4_have_their_order_on_a_smooth_field(key):
    noise = jax.random.normal(key, (1, 3, 2))
    denoiser = Denoiser(StraightPath(), lambda noisy, level: noisy, lambda noisy, level: noisy)

    def error(solver, steps):
        return float(
            jnp.abs(solver.solve(denoiser, noise, level_grid(steps)) - noise * np.exp(-1.0)).max()
        )

    assert 1.7 < error(Euler(), 8) / error(Euler(), 16) < 2.3
    assert 3.4 < error(Heun(), 8) / error(Heun(), 16) < 4.6
    assert 13 < error(RK4(), 2) / error(RK4(), 4) < 22


def test_heun_is_exact_where_velocity_is_linear_in_the_level(key):
    noise = jax.random.normal(key, (2, 5, 4))
    # The integral of 2 + 6 level from 1 to 0 is -5; of 4 level^3 it is -1.
    linear = Denoiser(
        StraightPath(), lambda noisy, level: jnp.full_like(noisy, 2 + 6 * level), None
    )
    cubic = Denoiser(StraightPath(), lambda noisy, level: jnp.full_like(noisy, 4 * level**3), None)
    np.testing.assert_allclose(
        Heun().solve(linear, noise, level_grid(3)), noise - 5, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        RK4().solve(cubic, noise, level_grid(2)), noise - 1, rtol=1e-5, atol=1e-5
    )


def test_ddim_is_euler_where_the_path_is_straight_in_time(key):
    """On the EDM path both step along sigma; on the straight path both keep the line's clean and
    noise ends.
    """
    for path in (StraightPath(), EDMPath()):
        denoiser, _ = gaussian(path, variance=0.5)
        start = path.noisy(
            jnp.zeros((1, 3, 2)),
            jax.random.normal(key, (1, 3, 2)),
            jnp.full(1, path.noisiest_level),
        )
        solved = [solver.solve(denoiser, start, path.grid(6)) for solver in (Euler(), DDIM())]
        np.testing.assert_allclose(*solved, rtol=2e-5, atol=2e-5)


def test_ancestral_without_fresh_noise_is_ddim_and_with_it_has_the_variance_of_the_data(key):
    for path in PATHS:
        denoiser, _ = gaussian(path, variance=0.25)
        noise = jax.random.normal(key, (64, 20, 16))
        start = path.noisy(jnp.zeros_like(noise), noise, jnp.full(64, path.noisiest_level))
        quiet = Ancestral(eta=0.0).solve(denoiser, start, path.grid(8), key=key)
        np.testing.assert_allclose(quiet, DDIM().solve(denoiser, start, path.grid(8)), atol=1e-5)
        drawn = Ancestral().solve(denoiser, start, path.grid(100), key=jax.random.key(3))
        # Each step draws around what is thought clean as if that were certain, so some variance is
        # lost.
        assert 0.87 * 0.25 < drawn.var() < 1.02 * 0.25
        assert np.abs(np.corrcoef(drawn.reshape(-1), noise.reshape(-1))[0, 1]) < 0.2
    with pytest.raises(ValueError, match="needs a key"):
        Ancestral().solve(denoiser, start, PATHS[0].grid(2))


@pytest.mark.parametrize("eta", [1.0, 0.5])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
def test_one_ancestral_step_has_the_posterior_of_ddpm(path, eta, key):
    """Given clean latents c and noisy ones z, the step to a lower level has, with q = (sigma' /
    alpha') (alpha / sigma), the variance eta^2 sigma'^2 (1 - q^2) (2006.11239 eq. 7). The deviation
    of 20,480 draws is known to half a percent; 1 - q would be 20 % off.
    """
    first, last = path.level_at_ratio(2.0), path.level_at_ratio(0.8)
    alpha, sigma = (
        [float(part(level)) for level in (first, last)] for part in (path.alpha, path.sigma)
    )
    shape = (64, 20, 16)
    noisy, clean = jnp.full(shape, 1.3), 0.4
    denoiser = denoiser_of(path, lambda noisy, level: jnp.full_like(noisy, clean))
    drawn = Ancestral(eta=eta).solve(denoiser, noisy, np.array([first, last]), key=key)
    fresh = eta * sigma[1] * np.sqrt(1 - (0.8 / 2.0) ** 2)
    kept = np.sqrt(sigma[1] ** 2 - fresh**2)
    assert float(drawn.std()) == pytest.approx(fresh, rel=0.02)
    mean = alpha[1] * clean + kept * (1.3 - alpha[0] * clean) / sigma[0]
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * fresh / 20_480**0.5)


@pytest.mark.parametrize(
    "path", [StraightPath(last_level=0.9), CosinePath(last_level=0.9), EDMPath()]
)
def test_training_draws_no_level_past_the_end_of_the_path(path, key):
    tokens, cond = toy_batch(num_examples=300)
    config = DiffusionConfig(path=path, predicts="v", levels=LogitNormalLevels(mean=3.0, std=3.0))
    decoder = config.build(Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=key)
    levels = decoder.loss(tokens, cond, key=key).metrics["noise_level"]
    # A level in two would lie past 0.9, one in three past 0.988, where EDM's path ends.
    assert float(levels.max()) == pytest.approx(path.noisiest_level)
    assert 50 < int((levels == levels.max()).sum()) < 250


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.kind)
def test_call_levels_are_the_levels_that_are_asked_for(solver, path):
    """Run outside of a compiled loop, every solver asks for exactly the levels that its cost is
    counted from.
    """
    for is_defined in (True, False):
        if path.kind == "edm" and is_defined:
            continue
        asked = []

        def estimate(noisy, level, asked=asked):
            asked.append(float(level))
            return jnp.zeros_like(noisy)

        levels = path.grid(3)
        with jax.disable_jit():
            denoiser = Denoiser(path, estimate, estimate, is_defined)
            solver.solve(denoiser, jnp.ones((1, 1, 1)), levels, key=jax.random.key(0))
        expected = solver.call_levels(path, levels, is_defined)
        np.testing.assert_allclose(asked, expected, rtol=1e-5)
        assert len(expected) == 3 * solver.calls_per_step - (
            0 if is_defined else solver.calls_per_step - 1
        )


@pytest.fixture(scope="module")
def fitted():
    return train(FAMILIES["diffusion"].build(), toy_batch(), steps=10)[0]


def draw(decoder, key, **fields):
    tokens, cond = toy_batch()
    sampler = DiffusionSampler(steps=4, **fields)
    out = decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler)
    cost = decoder.config.sample_cost(
        sampler, Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES)
    )
    assert out.num_network_calls == cost.network_calls
    return np.asarray(out.tokens.latents), cost


def test_guidance_in_an_interval_costs_and_does_what_it_says(fitted, key):
    plain, plain_cost = draw(fitted, key)
    guided, guided_cost = draw(fitted, key, guidance=3.0)
    # The levels are 1, 3/4, 1/2, 1/4: two of them are inside.
    inside, inside_cost = draw(fitted, key, guidance=3.0, guidance_interval=(0.4, 0.8))
    outside, outside_cost = draw(fitted, key, guidance=3.0, guidance_interval=(0.8, 0.9))
    assert [c.network_calls for c in (plain_cost, inside_cost, guided_cost, outside_cost)] == [
        4,
        6,
        8,
        4,
    ]
    assert plain_cost.flops < inside_cost.flops < guided_cost.flops and outside_cost == plain_cost
    np.testing.assert_array_equal(outside, plain)
    assert np.abs(inside - plain).max() > 1e-3 and np.abs(inside - guided).max() > 1e-3


def test_rescaled_guidance_has_the_spread_of_the_conditional_prediction(fitted, key):
    """One Euler step: the noise less the prediction, whose spread rescaling restores."""
    tokens, cond = toy_batch()
    is_valid = np.asarray(tokens.is_valid)

    def prediction(**fields):
        sampler = DiffusionSampler(steps=1, **fields)
        out = fitted.sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler)
        noise = jax.random.normal(key, out.tokens.latents.shape)
        return [np.asarray(noise - out.tokens.latents)[i][is_valid[i]].std() for i in range(3)]

    plain, guided = prediction(), prediction(guidance=8.0)
    assert np.abs(np.subtract(guided, plain)).max() > 1e-3
    np.testing.assert_allclose(prediction(guidance=8.0, guidance_rescale=1.0), plain, rtol=1e-4)
    halfway = prediction(guidance=8.0, guidance_rescale=0.5)
    np.testing.assert_allclose(halfway, np.add(plain, guided) / 2, rtol=1e-4)


@pytest.mark.parametrize("solver", [RK4(), DPMSolver()], ids=lambda solver: solver.kind)
def test_sampling_flops_are_those_of_the_compiled_program(solver):
    config = DiffusionConfig(path=CosinePath(), predicts="v")
    decoder = config.build(Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=jax.random.key(0))
    _, cond = toy_batch(num_examples=1)
    sampler = DiffusionSampler(steps=3, solver=solver, guidance=2.0)
    num_frames = jnp.array([NUM_FRAMES])

    def run(key):
        return decoder.sample(cond, num_frames=num_frames, key=key, sampler=sampler).tokens.latents

    counted = count_flops(run, jax.random.key(0))
    claimed = config.sample_cost(
        sampler, Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES)
    ).flops
    np.testing.assert_allclose(claimed, counted, rtol=0.01)
