"""Simulated families whose curves cross at a known place: coverage, verdicts, and plans that keep
their promise.
"""

import math

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.statistics.crossover import (
    Curve,
    Fit,
    assume_exponent,
    find_crossover,
    find_probability,
    find_swaps,
    fit_curve,
    plan_sweep,
)

BUDGETS = np.geomspace(1e12, 1e14, 5)
REPETITIONS = 150


def line(slope, offset=0.3, crossing=1e13):
    return lambda x: offset - slope * np.log10(x / crossing)


def power(floor, exponent, total=0.3, crossing=1e13):
    return lambda x: floor + (total - floor) * (x / crossing) ** -exponent


CROSSING_LINES = line(0.05), line(0.15)
CROSSING_POWERS = power(0.1, 0.15), power(0.05, 0.4)


def simulate(curves, num_seeds, noise, budgets=BUDGETS, repetitions=REPETITIONS):
    rng = np.random.default_rng(0)
    x = np.repeat(budgets, num_seeds)
    found = []
    for i in range(repetitions):
        drawn = [Curve(x, curve(x) + noise * rng.standard_normal(len(x))) for curve in curves]
        found.append(find_crossover(*drawn, seed=i, num_draws=150))
    return found


def share(found, verdict):
    return np.mean([item.verdict == verdict for item in found])


def coverage(found, truth):
    return np.mean([item.low <= truth <= item.high for item in found if item.verdict != "none"])


@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_lines_that_cross_inside(num_seeds):
    found = simulate(CROSSING_LINES, num_seeds, 0.01)
    assert share(found, "inside sweep") > 0.97
    assert coverage(found, 1e13) >= 0.93
    assert np.isclose(np.exp(np.mean([np.log(item.x) for item in found])), 1e13, rtol=0.1)


@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_power_laws_that_cross_inside(num_seeds):
    # 93-96 % in the long run.
    found = simulate(CROSSING_POWERS, num_seeds, 0.01)
    assert share(found, "inside sweep") > 0.97
    assert coverage(found, 1e13) >= 0.90
    assert np.mean(["power law" in item.forms for item in found]) > 0.5


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_crossing_outside_is_extrapolated_never_inside(num_seeds):
    found = simulate((line(0.05, crossing=1e15), line(0.15, crossing=1e15)), num_seeds, 0.01)
    assert share(found, "inside sweep") == 0
    assert share(found, "extrapolated") > 0.9
    assert coverage(found, 1e15) >= 0.90


@pytest.mark.parametrize("gap", [0.0, 0.04])
def test_parallel_curves_do_not_cross(gap):
    found = simulate((line(0.1), line(0.1, 0.3 + gap)), 3, 0.02, repetitions=2 * REPETITIONS)
    assert share(found, "none") > 0.92
    assert share(found, "inside sweep") < 0.03
    assert all(math.isnan(item.x) for item in found if item.verdict == "none")


def test_straight_lines_are_seen_as_lines_and_three_budgets_allow_nothing_else():
    found = simulate(CROSSING_LINES, 3, 0.02, repetitions=100)
    assert np.mean([form == "line in log x" for item in found for form in item.forms]) > 0.8
    x = np.repeat(BUDGETS[:3], 3)
    assert fit_curve(Curve(x, power(0.1, 0.9)(x))).form == "line in log x"


def test_a_power_law_without_noise_is_found_again():
    fit = fit_curve(Curve(BUDGETS, power(0.1, 0.5)(BUDGETS)))
    assert fit.form == "power law" and fit.noise < 3e-3
    far = np.array([1e15])
    assert np.isclose(fit.predict(far)[0], power(0.1, 0.5)(far)[0], atol=0.005)


def test_a_crossing_is_refused_where_the_points_change_places_elsewhere():
    rng = np.random.default_rng(2)
    x = np.repeat(BUDGETS[:3], 12)
    # The points change places between the first two budgets; the line through them, which bends,
    # crosses after the second.
    gaps = np.repeat([10.0, -1.0, -2.0], 12)
    flat = Curve(x, 0.05 * rng.standard_normal(36))
    found = find_crossover(Curve(x, gaps + 0.05 * rng.standard_normal(36)), flat, num_draws=150)
    assert found.verdict == "refused" and math.isnan(found.x) and math.isnan(found.low)
    assert find_swaps(Curve(x, gaps), flat, 0.0) == [(BUDGETS[0], BUDGETS[1])]
    # Where the middle point is too noisy to have an order, the place is wider and nothing excludes
    # it.
    unsure = gaps + np.where(x == x[12], 20.0, 0.05) * rng.standard_normal(36)
    assert find_swaps(Curve(x, unsure), flat, 0.0) in (None, [(BUDGETS[0], BUDGETS[2])])
    assert find_swaps(Curve(x[:12], gaps[:12]), flat, 0.0) is None


def test_the_p_value_of_a_crossing_says_what_its_interval_says():
    found = simulate(CROSSING_LINES, 3, 0.02, repetitions=20)
    assert all(item.p_value < 0.05 for item in found if item.verdict == "inside sweep")
    apart = simulate((line(0.05, crossing=1e15), line(0.15, crossing=1e15)), 3, 0.02, repetitions=5)
    assert all(item.verdict != "inside sweep" for item in apart)
    none = simulate((line(0.1), line(0.1)), 3, 0.02, repetitions=20)
    assert np.mean([item.p_value < 0.05 for item in none]) <= 0.15


def test_what_all_budgets_share_widens_the_interval():
    rng = np.random.default_rng(1)
    x = np.repeat(BUDGETS, 3)
    curves = [Curve(x, curve(x) + 0.01 * rng.standard_normal(len(x))) for curve in CROSSING_LINES]
    alone, shared = find_crossover(*curves), find_crossover(*curves, shared_error=0.02)
    assert alone.low > shared.low and alone.high < shared.high
    hidden = find_crossover(*curves, shared_error=0.2)
    assert hidden.verdict == "extrapolated" and (hidden.low == 0 or math.isinf(hidden.high))


def test_too_few_runs_are_refused():
    with pytest.raises(GenlabError, match="3 runs or more"):
        fit_curve(Curve(BUDGETS[:2], np.ones(2)))
    with pytest.raises(GenlabError, match="common range"):
        find_crossover(Curve(BUDGETS[:3], np.arange(3.0)), Curve(100 * BUDGETS[2:], np.arange(3.0)))
    with pytest.raises(GenlabError, match="3 budgets or more"):
        plan_sweep(assumed(1.0), [1.0, 2.0], 3)


def assumed(noise):
    """Return the crossing lines, taken as known, with this much noise."""
    lines = [np.array([0.3, -slope / math.log(10), 0.0]) for slope in (0.05, 0.15)]
    return tuple(Fit(line, 1e13, noise, 1, line[None]) for line in lines)


def test_the_promised_probability_is_what_simulation_gives():
    fits = assumed(0.035)
    promised = find_probability(fits, BUDGETS.tolist(), 1, num_trials=200)
    measured = share(simulate(CROSSING_LINES, 1, 0.035, repetitions=200), "inside sweep")
    assert 0.2 < promised < 0.8 and abs(promised - measured) < 0.12
    assert find_probability(assumed(0.005), BUDGETS.tolist(), 3, num_trials=50) == 1.0
    assert find_probability(assumed(0.005), (BUDGETS / 1000).tolist(), 3, num_trials=50) == 0.0


def test_the_smallest_sweep_is_the_cheapest_that_reaches_80_percent():
    planned, cheapest = plan_sweep(assumed(0.02), BUDGETS.tolist(), 3, num_trials=40)
    assert planned.probability > 0.9 and cheapest and cheapest.probability >= 0.8
    assert cheapest.cost < planned.cost and set(cheapest.budgets) <= set(planned.budgets)
    assert cheapest.budgets[0] < 1e13 < cheapest.budgets[-1]
    assert plan_sweep(assumed(0.02), (BUDGETS[:3] / 100).tolist(), 3, num_trials=20)[1] is None


def test_a_pilot_that_knows_little_promises_little():
    rng = np.random.default_rng(2)
    x = np.repeat(BUDGETS[:3], 2)
    fits = tuple(
        fit_curve(Curve(x, curve(x) + 0.05 * rng.standard_normal(len(x))), seed=1)
        for curve in CROSSING_LINES
    )
    known = tuple(fit._replace(draws=fit.coefficients[None]) for fit in assumed(0.005))
    assert find_probability(fits, BUDGETS.tolist(), 3, num_trials=60) < find_probability(
        known, BUDGETS.tolist(), 3, num_trials=60
    )


def test_one_budget_and_assumed_exponents_are_enough_to_plan():
    runs = np.array([0.30, 0.31, 0.29])
    fit = assume_exponent(Curve(np.full(3, 1e12), runs), 0.2)
    assert np.isclose(fit.noise, 0.01) and fit.dof == 2
    assert np.allclose(fit.predict(np.array([1e12, 1e13])), [0.3, 0.3 * 10**-0.2])
    assert np.allclose(fit.draws[:, 0].std(), 0.01 / 3**0.5, rtol=0.1)
    # meets at 1e12 (4 / 3)^(1 / 0.15)
    other = assume_exponent(Curve(np.full(3, 1e12), runs + 0.1), 0.35, seed=1)
    assert find_probability((fit, other), [1e12, 3e12, 1e13, 3e13, 1e14], 3, num_trials=40) > 0.8
    assert find_probability((fit, other), [1e12, 1.5e12, 2e12], 3, num_trials=40) < 0.2
    with pytest.raises(GenlabError, match="2 runs or more"):
        assume_exponent(Curve(np.ones(1), np.ones(1)), 0.2)


def test_runs_at_two_budgets_count_by_what_they_say_of_the_level():
    """Least squares by hand: shapes of 10^0.5 and 10^-0.5 about 1e13, so the level is 11.226 / 10.1
    and the noise that of one degree of freedom.
    """
    fit = assume_exponent(Curve(np.array([1e12, 1e14]), np.array([3.5, 0.5])), 0.5)
    assert fit.predict(np.array([1e13])) == pytest.approx(1.11150, abs=1e-5)
    assert fit.noise == pytest.approx(0.14925, abs=1e-5) and fit.dof == 1
    # The spread of 400 draws is known to 1 / 800^0.5, which is 3.5 %; three of its deviations.
    assert fit.draws[:, 0].std() == pytest.approx(0.14925 / 10.1**0.5, rel=0.11)
