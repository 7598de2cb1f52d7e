"""The median best of k trials: against simulation, what its interval is worth, and where it cannot
know.
"""

import numpy as np
import pytest
from scipy import stats

from genlab.statistics.best_of import best_of_k


@pytest.mark.parametrize("number", [7, 15, 31])
@pytest.mark.parametrize(
    "law",
    [stats.uniform(), stats.norm(), stats.expon(), stats.beta(2, 8)],
    ids=["uniform", "normal", "expon", "beta"],
)
def test_the_interval_holds_the_median_of_the_best_as_often_as_it_says(law, number):
    curves = [best_of_k(row) for row in law.rvs((1000, number), random_state=number)]
    for k, entries in enumerate(zip(*curves), start=1):
        truth = law.ppf(1 - 0.5 ** (1 / k))
        low, high = ([entry[end] for entry in entries] for end in ("low", "high"))
        low = [-np.inf if end is None else end for end in low]
        share = np.mean((np.array(low) <= truth) & (truth <= np.array(high)))
        # 0.95 to 0.972 in 20,000 simulations, and what 1,000 of them add
        assert 0.93 <= share <= 0.985, k


def test_the_curve_is_the_median_of_the_best():
    rng = np.random.default_rng(0)
    trials = rng.standard_exponential(4000)
    curve = best_of_k(trials)
    for k in (1, 2, 5, 20):
        best = rng.choice(trials, (20_000, k)).min(axis=1)
        assert curve[k - 1]["k"] == k and curve[k - 1]["value"] == pytest.approx(
            np.median(best), rel=0.04
        )


def test_it_falls_and_ends_where_the_trials_cannot_tell():
    curve = best_of_k(np.random.default_rng(1).random(15))
    values = [entry["value"] for entry in curve]
    assert values == sorted(values, reverse=True) and len(curve) == 10
    assert [entry["k"] for entry in curve if entry["low"] is not None] == [1, 2]
    assert all(entry["high"] > entry["value"] for entry in curve)


def test_one_trial_bounds_nothing():
    assert best_of_k([0.5]) == [{"k": 1, "value": 0.5, "low": None, "high": None}]
