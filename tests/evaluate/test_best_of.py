"""The expected best of k trials: against every subset, against simulation, and what its interval is worth."""

import itertools

import numpy as np
import pytest

from genlab.evaluate.best_of import best_of_k


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_the_curve_is_the_mean_over_all_subsets(lower_is_better):
    values = [0.3, 0.9, 0.1, 0.1, 0.7, 0.45, 2.0]
    best = min if lower_is_better else max
    curve = best_of_k(values, lower_is_better=lower_is_better)
    for k in range(1, len(values) + 1):
        expected = np.mean([best(subset) for subset in itertools.combinations(values, k)])
        assert curve.value[k - 1] == pytest.approx(expected, abs=1e-12)
    assert curve.value[-1] == best(values) and curve.value[0] == pytest.approx(np.mean(values))


def test_it_is_unbiased_over_fresh_draws():
    rng = np.random.default_rng(0)
    found = np.mean([best_of_k(rng.random(9)).value for _ in range(2000)], axis=0)
    truth = 1 / (np.arange(1, 10) + 1)  # of the smallest of k uniform numbers
    np.testing.assert_allclose(found, truth, atol=4 * 0.29 / np.sqrt(9 * 2000))


def test_the_interval_holds_what_it_says_and_ends_where_it_means_nothing():
    rng = np.random.default_rng(1)
    curves = [best_of_k(rng.random(15), seed=i) for i in range(300)]
    truth = 1 / (np.arange(1, 16) + 1)
    share = np.mean([(curve.low <= truth) & (truth <= curve.high) for curve in curves], axis=0)
    assert (share[:3] > 0.85).all() and share[6] > 0.74 and (share[7:] == 0).all()
    entries = curves[0].to_dict()
    assert [entry["k"] for entry in entries] == list(range(1, 16))
    assert entries[7]["low"] is None and entries[6]["low"] < entries[6]["value"] < entries[6]["high"]


def test_one_trial_is_its_own_best():
    [entry] = best_of_k([0.5]).to_dict()
    assert entry == {"k": 1, "value": 0.5, "low": None, "high": None}
