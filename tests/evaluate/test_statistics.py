import math
import tracemalloc

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.statistics.bootstrap import (
    Estimate,
    bootstrap_mean,
    bootstrap_statistic,
    holm_correction,
    paired_difference,
    paired_p_value,
    ratio_of_sums,
    sum_clusters,
)

SIMULATIONS = 250


def coverage(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([estimate.low <= truth <= estimate.high for estimate in estimates]))


def test_interval_of_a_mean_covers_the_truth_in_95_percent():
    rng = np.random.default_rng(1)
    draws = rng.normal(3.0, 2.0, (SIMULATIONS, 40))
    estimates = [
        bootstrap_mean(values, seed=i, num_resamples=1000) for i, values in enumerate(draws)
    ]
    assert 0.92 <= coverage(estimates, 3.0) <= 0.98
    assert np.isclose(estimates[0].value, draws[0].mean())
    assert estimates[0].n == 40


def test_interval_of_a_word_error_rate_covers_the_truth():
    rng = np.random.default_rng(2)
    estimates = []
    for i in range(SIMULATIONS):
        words = rng.integers(3, 8, 40).astype(float)
        # clips differ in difficulty: the cluster is the clip, not the word
        clip_rate = rng.beta(2, 6, 40)
        errors = rng.binomial(words.astype(int), clip_rate).astype(float)
        estimates.append(
            bootstrap_statistic(ratio_of_sums, errors, words, seed=i, num_resamples=1000)
        )
    assert 0.92 <= coverage(estimates, 0.25) <= 0.98


def test_clusters_widen_the_interval_and_keep_its_coverage():
    rng = np.random.default_rng(3)
    clusters = [prompt for prompt in range(40) for _ in range(3)]
    clustered, naive = [], []
    for i in range(SIMULATIONS):
        values = rng.normal(0, 1, 40).repeat(3) + rng.normal(0, 0.3, 120)
        sums, counts = sum_clusters(clusters, values, np.ones(len(values)))
        clustered.append(
            bootstrap_statistic(ratio_of_sums, sums, counts, seed=i, num_resamples=1000)
        )
        naive.append(bootstrap_mean(values, seed=i, num_resamples=500))
    assert clustered[0].n == 40
    assert 0.92 <= coverage(clustered, 0.0) <= 0.98
    assert coverage(naive, 0.0) < 0.85


def test_pairing_finds_a_difference_that_unpaired_noise_hides():
    rng = np.random.default_rng(4)
    prompt_difficulty = rng.normal(0, 5, 30)
    a, b = prompt_difficulty + rng.normal(0.5, 0.5, 30), prompt_difficulty + rng.normal(0, 0.5, 30)
    assert paired_difference(a, b).excludes_zero
    assert paired_p_value(a, b) < 0.01
    independent = bootstrap_statistic(
        lambda x, y: x.mean(-1) - y.mean(-1), a, b, paired=False, interval="percentile"
    )
    assert not independent.excludes_zero
    assert np.isclose(independent.value, paired_difference(a, b).value)


def test_two_samples_of_their_own_sizes_are_drawn_on_their_own():
    """The error of a difference of independent means is sqrt(s1^2 / n1 + s2^2 / n2). Of 9,999
    resamples its estimate is off by 0.7 %, so 4 % tells it from any other rule: that of the first
    sample alone is 70 % too short here, that of pairs needs equal sizes.
    """
    rng = np.random.default_rng(8)
    a, b = rng.normal(0, 1, 50), rng.normal(0, 6, 30)
    errors = [values.std() / len(values) ** 0.5 for values in (a, b)]  # of the bootstrap: ddof 0
    for first, second in ((a, b), (b, a)):
        found = bootstrap_statistic(
            lambda x, y: x.mean(-1) - y.mean(-1),
            first,
            second,
            paired=False,
            interval="spread",
            num_resamples=9999,
        )
        assert found.high - found.low == pytest.approx(2 * 1.96 * math.hypot(*errors), rel=0.04)
        assert found.high - found.value == pytest.approx(found.value - found.low)
    paired = bootstrap_statistic(
        lambda x, y: x.mean(-1) - y.mean(-1), a, a + 1.0, interval="percentile"
    )
    assert (paired.low, paired.high) == pytest.approx((-1.0, -1.0)), "the same clips of both"


@pytest.mark.parametrize(
    ("value", "low", "high", "excludes"),
    [
        (1.0, 0.5, 4.0, True),  # a symmetric interval of that length would hold zero
        (-1.0, -4.0, -0.5, True),
        (1.0, -0.1, 1.5, False),
        (-1.0, -1.5, 0.1, False),
        (1.0, 0.0, 2.0, False),  # an end at zero does not exclude it
        (-1.0, -2.0, 0.0, False),
        (0.0, 0.0, 0.0, False),
        (1.0, math.nan, math.nan, False),
    ],
)
def test_an_interval_excludes_zero_if_it_lies_on_one_side(value, low, high, excludes):
    assert Estimate(value, low, high, 9).excludes_zero == excludes


def test_a_skewed_sample_has_a_skewed_interval():
    """BCa moves both ends to the long side (Efron and Tibshirani 1993, table 14.2): percentiles of
    this sample are nearly symmetric.
    """
    values = np.exp(np.random.default_rng(3).normal(0, 1.2, 25))
    corrected, plain = (
        bootstrap_statistic(lambda x: x.mean(-1), values, interval=kind, num_resamples=9999)
        for kind in ("bca", "percentile")
    )
    assert corrected.low > 1.03 * plain.low and corrected.high > 1.03 * plain.high
    assert plain.low < values.mean() < plain.high


def test_a_p_value_has_two_sides_and_its_own_seed():
    """Of three equal differences all 8 patterns of signs are tried: the two extremes are 2 / 8."""
    assert paired_p_value(np.ones(3), np.zeros(3)) == pytest.approx(0.25)
    assert paired_p_value(np.zeros(3), np.ones(3)) == pytest.approx(0.25)
    assert paired_p_value(np.ones(3), np.ones(3)) == 1.0
    values = np.random.default_rng(2).normal(0.4, 1, 30)
    drawn = [paired_p_value(values, np.zeros(30), seed=seed, num_resamples=99) for seed in range(6)]
    assert len(set(drawn)) > 1, "another seed draws other signs"
    assert paired_difference(np.array([3.0, 5.0]), np.array([1.0, 1.0])).value == 3.0


def test_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(5)
    p_values = [paired_p_value(rng.normal(size=12), rng.normal(size=12), seed=i) for i in range(60)]
    assert 0.35 < np.mean(p_values) < 0.65
    assert np.mean(np.array(p_values) < 0.05) < 0.15


def test_degenerate_inputs():
    nothing = bootstrap_mean(np.array([math.nan]))
    assert nothing.n == 0
    assert math.isnan(nothing.value)
    one = bootstrap_mean(np.array([0.5]))
    assert one.value == 0.5
    assert math.isnan(one.low)
    assert not one.excludes_zero
    assert bootstrap_mean(np.full(9, 0.25)) == Estimate(0.25, 0.25, 0.25, 9)
    assert bootstrap_mean(np.array([1.0, math.nan, 3.0])).n == 2
    # one error in 32 clips: BCa must not fail
    nearly = bootstrap_mean(np.array([0.0] * 31 + [1.0]))
    assert nearly.low <= nearly.value <= nearly.high
    assert nearly.low < nearly.high


def test_same_seed_same_interval():
    values = np.random.default_rng(0).normal(size=20)
    assert bootstrap_mean(values, seed=7) == bootstrap_mean(values, seed=7)
    assert bootstrap_mean(values, seed=7) != bootstrap_mean(values, seed=8)


def test_holm_steps_down():
    assert np.allclose(holm_correction([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert np.allclose(holm_correction([0.5, 0.9]), [1.0, 1.0])
    # Each in its own place; none below one that was smaller; the last one keeps its own.
    assert np.allclose(holm_correction([0.04, 0.001, 0.02]), [0.04, 0.003, 0.04])
    assert np.allclose(holm_correction([0.02, 0.021, 0.022]), [0.06, 0.06, 0.06])
    assert np.allclose(holm_correction([0.03]), [0.03])


def test_sum_clusters_keeps_the_order_of_appearance():
    sums, counts = sum_clusters(["b", "a", "b"], np.array([1.0, 2.0, 3.0]), np.ones(3))
    assert sums.tolist() == [4.0, 2.0]
    assert counts.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("denominators", [[0.0, 0.0]])
def test_a_rate_over_no_words_is_undefined(denominators):
    assert math.isnan(float(ratio_of_sums(np.array([1.0, 0.0]), np.array(denominators))))
    assert float(ratio_of_sums(np.array([1.0, 0.0]), np.array([1.0, 3.0]))) == 0.25


@pytest.mark.parametrize("shape", [(3, 10), (1, 10), ()])
def test_values_of_several_seeds_are_not_so_many_clips(shape):
    values = np.zeros(shape)
    for call in (bootstrap_mean, lambda v: paired_difference(v, v), lambda v: paired_p_value(v, v)):
        with pytest.raises(GenlabError, match=r"expected one value per clip.*crossed_difference"):
            call(values)


def test_a_pair_is_two_values_of_one_clip():
    with pytest.raises(
        GenlabError, match="a and b: 9 and 1 values, expected those of the same clips"
    ):
        paired_difference(np.zeros(9), np.zeros(1))


def test_memory_of_an_interval_does_not_grow_with_the_square_of_the_clips(monkeypatch):
    values = np.random.default_rng(0).exponential(size=5000)
    tracemalloc.start()
    try:
        whole = bootstrap_mean(values)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Leaving out each clip once takes 5000 x 5000 places, and their values: 400 MB.
    assert peak < 300e6, f"{peak / 1e6:.0f} MB"
    monkeypatch.setattr("genlab.statistics.bootstrap.MAX_CELLS", 50_000)
    assert bootstrap_mean(values)[:4] == whole[:4], "nor does an interval depend on the batches"
