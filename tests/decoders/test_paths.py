"""Noise paths and prediction types: closed forms, conversions, loss weights, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest

from genlab.config import GenlabError
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.noise.paths import CosinePath, EDMPath, StraightPath
from genlab.decoders.noise.schedules import LogitNormalLevels, UniformLevels, level_grid

PATHS = {"straight": StraightPath(), "cosine": CosinePath(), "edm": EDMPath()}
PREDICTIONS = ("velocity", "v", "noise", "clean")
LEVELS = jnp.array([0.1, 0.5, 0.9])


@pytest.fixture(params=list(PATHS))
def path(request):
    return PATHS[request.param]


@pytest.fixture
def ends(key):
    """Clean latents and noise."""
    return tuple(jax.random.normal(key, (2, 3, 5, 4)))


@pytest.mark.parametrize("bounded", [StraightPath(), CosinePath()])
def test_the_path_joins_clean_and_noise(bounded, ends):
    clean, noise = ends
    np.testing.assert_array_equal(bounded.noisy(clean, noise, jnp.zeros(3)), clean)
    np.testing.assert_array_equal(bounded.noisy(clean, noise, jnp.ones(3)), noise)


def test_the_velocity_is_the_slope_in_time(path, ends):
    _, slope = jax.jvp(lambda level: path.noisy(*ends, level), (LEVELS,), (jnp.ones(3),))
    _, time_slope = jax.jvp(path.time, (LEVELS,), (jnp.ones(3),))
    velocity = path.target("velocity", *ends, LEVELS)
    np.testing.assert_allclose(slope / time_slope[:, None, None], velocity, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(path.level_at_time(path.time(LEVELS)), LEVELS, rtol=1e-6)
    np.testing.assert_allclose(
        path.level_at_ratio(path.sigma(LEVELS) / path.alpha(LEVELS)), LEVELS, rtol=1e-6
    )


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_predictions_convert_into_each_other_and_back(path, predicts, ends):
    noisy = path.noisy(*ends, LEVELS)
    predicted = path.target(predicts, *ends, LEVELS)
    for found, expected in zip(path.recover(predicts, predicted, noisy, LEVELS), ends, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    for wanted in PREDICTIONS:
        converted = path.convert(predicted, noisy, LEVELS, predicts=predicts, wanted=wanted)
        np.testing.assert_allclose(converted, path.target(wanted, *ends, LEVELS), atol=5e-5)
        back = path.convert(converted, noisy, LEVELS, predicts=wanted, wanted=predicts)
        np.testing.assert_allclose(back, predicted, atol=5e-5)


def test_the_straight_velocity_is_noise_minus_clean_to_the_bit(ends):
    clean, noise = ends
    np.testing.assert_array_equal(
        StraightPath().target("velocity", clean, noise, LEVELS), noise - clean
    )


def test_v_is_that_of_progressive_distillation_on_the_circle(ends):
    clean, noise = ends
    path, level = CosinePath(), LEVELS[:, None, None]
    expected = path.alpha(level) * noise - path.sigma(level) * clean
    np.testing.assert_allclose(path.target("v", clean, noise, LEVELS), expected, atol=1e-6)
    np.testing.assert_allclose(
        path.target("velocity", clean, noise, LEVELS), np.pi / 2 * expected, atol=1e-5
    )


def test_v_on_the_edm_path_is_its_preconditioned_network_with_the_sign_turned(ends):
    clean, noise = ends
    path = EDMPath()
    sigma = path.sigma(LEVELS)[:, None, None]
    noisy = clean + sigma * noise
    np.testing.assert_allclose(path.noisy(clean, noise, LEVELS), noisy, rtol=1e-5)
    skip, out = 1 / (1 + sigma**2), sigma / jnp.sqrt(1 + sigma**2)
    network = (clean - skip * noisy) / out
    np.testing.assert_allclose(path.target("v", clean, noise, LEVELS), -network, atol=1e-5)
    # What the network reads and what it must say have unit variance at every level: table 1's
    # purpose.
    np.testing.assert_allclose(
        path.input_scale(LEVELS) ** 2 * (1 + sigma[:, 0, 0] ** 2), 1, rtol=1e-5
    )
    np.testing.assert_allclose(path.embedded(LEVELS), np.log(sigma[:, 0, 0]) / 4, rtol=1e-5)


def test_edm_levels_are_log_normal_sigmas(key):
    level = LogitNormalLevels(mean=-1.2, std=1.2).draw(key, 4000)
    log_sigma = np.log(EDMPath().sigma(level))
    np.testing.assert_allclose([log_sigma.mean(), log_sigma.std()], [-1.2, 1.2], atol=0.05)


def test_equal_levels_of_the_straight_and_the_edm_path_have_equal_ratios():
    straight, edm = StraightPath(), EDMPath()
    np.testing.assert_allclose(
        straight.sigma(LEVELS) / straight.alpha(LEVELS), edm.sigma(LEVELS), rtol=1e-6
    )


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("bounded", [StraightPath(), CosinePath(), CosinePath(last_level=0.9)])
def test_the_grid_goes_from_noise_to_clean(bounded, shift):
    levels = bounded.grid(7, shift)
    assert levels[0] == bounded.last_level and levels[-1] == 0 and len(levels) == 8
    assert (np.diff(levels) < 0).all()
    plain, shifted = levels_before(bounded, 1.0), levels_before(bounded, shift)
    ratio = shifted / plain
    np.testing.assert_allclose(ratio, shift, rtol=1e-6)


def levels_before(path, shift):
    """sigma / alpha of the inner levels, before `last_level` squeezes them."""
    levels = path.grid(7, shift)[1:-1] / path.last_level
    return path.sigma(levels) / path.alpha(levels)


def test_the_edm_grid_falls_as_rho_says():
    path = EDMPath(sigma_min=0.01, sigma_max=50.0, rho=7.0)
    sigmas = path.sigma(path.grid(5))
    np.testing.assert_allclose(sigmas[[0, -2, -1]], [50.0, 0.01, 0.0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.diff(sigmas[:-1] ** (1 / 7), n=2), 0, atol=1e-9)
    assert path.grid(1)[0] == path.noisiest_level and len(path.grid(1)) == 2
    with pytest.raises(GenlabError, match=r"sampler\.shift=2"):
        path.grid(5, 2.0)


@pytest.mark.parametrize(
    "levels", [UniformLevels(), LogitNormalLevels(), LogitNormalLevels(mean=1.0)]
)
def test_training_levels_are_noise_levels(levels, key):
    drawn = levels.draw(key, 4000)
    assert 0 < drawn.min() and drawn.max() < 1
    expected = 0.7 if getattr(levels, "mean", 0) else 0.5
    np.testing.assert_allclose(drawn.mean(), expected, atol=0.03)


def test_min_snr_weights_are_those_of_the_paper():
    """Its section 3.4: min(snr, gamma) for clean, over snr for noise, over snr + 1 for v."""
    path, gamma = CosinePath(), 5.0
    snr = (path.alpha(LEVELS) / path.sigma(LEVELS)) ** 2
    clipped = jnp.minimum(snr, gamma)
    expected = {"clean": clipped, "noise": clipped / snr, "v": clipped / (snr + 1)}
    for predicts, weight in expected.items():
        np.testing.assert_allclose(path.min_snr_weight(predicts, LEVELS, gamma), weight, rtol=1e-4)


def test_the_weighted_error_is_the_same_whatever_is_predicted(path, ends, key):
    """A weight belongs to the error of the clean latents: the prediction type must not change the
    weighted loss.
    """
    clean, noise = ends
    noisy, guess = (
        path.noisy(clean, noise, LEVELS),
        clean + 0.3 * jax.random.normal(key, clean.shape),
    )
    losses = []
    for predicts in PREDICTIONS:
        predicted = path.convert(guess, noisy, LEVELS, predicts="clean", wanted=predicts)
        errors = jnp.square(predicted - path.target(predicts, clean, noise, LEVELS)).sum(
            axis=(1, 2)
        )
        losses.append(path.min_snr_weight(predicts, LEVELS, 5.0) * errors)
    np.testing.assert_allclose(losses, jnp.broadcast_to(losses[-1], (4, 3)), rtol=1e-3)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"predicts": "noise"}, "ends in pure noise.*path.last_level=0.999"),
        ({"path": {"kind": "cosine"}, "predicts": "noise"}, "ends in pure noise"),
        ({"path": {"kind": "edm"}}, "velocity of the EDM path is the noise itself"),
        (
            {"path": {"kind": "edm", "sigma_min": 9.0, "sigma_max": 1.0}, "predicts": "v"},
            "sigma_min=9",
        ),
        (
            {"path": {"kind": "edm", "last_level": 0.5}, "predicts": "v"},
            "last_level: no such field",
        ),
    ],
)
def test_meaningless_combinations_are_refused_with_the_reason(values, reason):
    with pytest.raises(GenlabError, match=reason):
        DiffusionConfig.from_dict({"kind": "diffusion", **values})


def test_the_same_combinations_pass_where_they_mean_something():
    DiffusionConfig(path=StraightPath(last_level=0.999), predicts="noise")
    DiffusionConfig(path=EDMPath(), predicts="noise")
    with pytest.raises(pydantic.ValidationError):
        StraightPath(last_level=1.5)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_shift_above_one_stays_longer_near_noise(shift):
    levels = level_grid(7, shift)
    assert levels[0] == 1 and levels[-1] == 0 and len(levels) == 8
    assert (levels[3] > level_grid(7)[3]) == (shift > 1)
