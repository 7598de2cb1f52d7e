"""The variogram of a block: closed forms of Gaussian laws, what it sees that the energy does not,
and what it cannot see.
"""

import math

import numpy as np
import pytest

from genlab.evaluate.blocks import Blocks, score_energy, score_variogram

CLIPS, FRAMES, CHANNELS, DRAWS = 1500, 12, 4, 2
ROOT = 2**0.25 * math.gamma(0.75) / math.pi**0.5  # E |Z|^(1/2) of a standard normal Z
KEEPS = 0.8


def walks(*shape, keeps=KEEPS, seed=0):
    """Channels of unit variance, each x(t) = keeps x(t - 1) + noise."""
    found = np.random.default_rng(seed).standard_normal((*shape, FRAMES, CHANNELS))
    for t in range(1, FRAMES):
        found[..., t, :] = keeps * found[..., t - 1, :] + (1 - keeps**2) ** 0.5 * found[..., t, :]
    return found


def variance(deviation):
    """Of the root of a normal difference with this deviation."""
    return deviation * (math.sqrt(2 / math.pi) - ROOT**2)


def gap(score, draws, others, truth):
    """The mean excess of `others`, in its standard errors, and the excess."""
    excess = score(Blocks(others, truth)) - score(Blocks(draws, truth))
    return excess.mean(), excess.std() / len(excess) ** 0.5


def test_a_law_has_the_score_of_its_closed_form():
    truth = walks(CLIPS)
    true, alone = walks(CLIPS, DRAWS, seed=1), walks(CLIPS, DRAWS, keeps=0.0, seed=2)
    found = score_variogram(Blocks(true, truth))
    # Deviations of the differences one and two frames apart, and of two channels.
    spreads = [(2 * (1 - KEEPS**lag)) ** 0.5 for lag in (1, 2)] + [2**0.5]
    expected = np.mean([variance(spread) for spread in spreads])
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / CLIPS**0.5)
    # Independent values are as often as right one by one, and all wrong together.
    excess, error = gap(score_variogram, true, alone, truth)
    wanted = np.mean([ROOT**2 * (spread**0.5 - 2**0.25) ** 2 for spread in spreads])
    assert excess == pytest.approx(wanted, abs=4 * error) and excess > 20 * error
    # Channels that are one another's copies, in frames that hang together rightly.
    copies = np.repeat(true[..., :1], CHANNELS, axis=-1)
    excess, error = gap(score_variogram, true, copies, truth)
    assert excess == pytest.approx(ROOT**2 * 2**0.5 / 3, abs=4 * error)


def test_the_energy_hardly_sees_dependence_and_the_variogram_does():
    truth, true = walks(CLIPS), walks(CLIPS, DRAWS, seed=1)
    alone = walks(CLIPS, DRAWS, keeps=0.0, seed=2)
    blind, error = gap(score_energy, true, alone, truth)
    assert abs(blind) < 0.02 * score_energy(Blocks(true, truth)).mean()
    seen, sharp = gap(score_variogram, true, alone, truth)
    assert seen > 0.2 * score_variogram(Blocks(true, truth)).mean()
    assert seen / sharp > 5 * abs(blind) / error


def test_no_temperature_beats_the_true_law():
    """With two draws: squares of a mean of two would reward draws without a spread."""
    truth, true = walks(CLIPS), walks(CLIPS, DRAWS, seed=1)
    for temperature in (0.0, 0.5, 0.8, 1.3, 2.0):
        spoiled = temperature * walks(CLIPS, DRAWS, seed=3)
        excess, error = gap(score_variogram, true, spoiled, truth)
        assert excess > 4 * error, temperature
        # Every difference is as much wider.
        wanted = ROOT**2 * (1 - temperature**0.5) ** 2
        wanted *= np.mean([(2 * (1 - KEEPS**lag)) ** 0.5 for lag in (1, 2)] + [2**0.5])
        assert excess == pytest.approx(wanted, abs=4 * error)


def test_more_draws_change_the_noise_and_not_the_mean():
    truth = walks(CLIPS)
    means = [score_variogram(Blocks(walks(CLIPS, r, seed=r), truth)).mean() for r in (2, 3, 8)]
    assert max(means) - min(means) < 0.005
    one = walks(CLIPS, 1, seed=4)
    twice = np.repeat(one, 2, axis=1)
    np.testing.assert_allclose(
        score_variogram(Blocks(one, truth)), score_variogram(Blocks(twice, truth))
    )


def test_it_does_not_see_what_its_definition_says_that_it_does_not():
    truth, draws = walks(8), walks(8, DRAWS, seed=1)
    found = score_variogram(Blocks(draws, truth))
    np.testing.assert_allclose(score_variogram(Blocks(draws + 7, truth)), found)
    np.testing.assert_allclose(score_variogram(Blocks(-draws, truth)), found)
    # A shift of one channel shows between channels, and not in time.
    shifted = draws + np.array([7, 0, 0, 0])
    assert not np.allclose(score_variogram(Blocks(shifted, truth)), found)
    alone = truth[..., :1], draws[..., :1]
    np.testing.assert_allclose(
        score_variogram(Blocks(alone[1] + 7, alone[0])), score_variogram(Blocks(*alone[::-1]))
    )


def test_every_pair_of_channels_counts_once_and_blocks_may_be_short():
    rng = np.random.default_rng(0)
    for channels in (1, 2, 3, 4, 7):
        truth, draws = rng.normal(size=(2, 1, channels)), rng.normal(size=(2, 1, 1, channels))
        errors = [
            abs(truth[:, 0, i] - truth[:, 0, j]) ** 0.5
            - abs(draws[:, 0, 0, i] - draws[:, 0, 0, j]) ** 0.5
            for i in range(channels)
            for j in range(i)
        ]
        expected = np.square(errors).mean(axis=0) if errors else np.zeros(2)
        np.testing.assert_allclose(score_variogram(Blocks(draws, truth)), expected, atol=1e-12)
    gone = truth.copy()
    gone[0] = np.nan
    found = Blocks(draws, gone).scores()
    assert all(np.isnan(values[0]) and np.isfinite(values[1]) for values in found.values())
