"""Arms that share a training are paired by seed; several draws per prompt are a third random unit.
Simulated with known variances, 1000 repetitions: a share near 95 % has a standard error of 0.7.
"""

import numpy as np
import pytest

from genlab.evaluate.comparisons import compare_rows
from genlab.evaluate.scores import clip_means
from genlab.statistics.bootstrap import Estimate
from genlab.statistics.crossed import (
    contrast_of_trainings,
    crossed_contrast,
    crossed_mean,
    draw_components,
    estimate_over_runs,
)

REPETITIONS = 1000


def draw_samplers(seed_sd, inter_sd, own_seed_sd, noise, difference=0.0, num_seeds=3, prompts=24):
    """Return two arms of the same trained models, sampled in two ways."""
    rng = np.random.default_rng(0)
    shape = (REPETITIONS, num_seeds, prompts)
    model = seed_sd * rng.standard_normal((REPETITIONS, num_seeds, 1))
    model = model + 0.2 * rng.standard_normal((REPETITIONS, 1, prompts))
    model = model + inter_sd * rng.standard_normal(shape)
    # What a seed does to one way of sampling and not to the other.
    own = own_seed_sd * rng.standard_normal((2, REPETITIONS, num_seeds, 1))
    drawn = noise * rng.standard_normal((2, *shape)) + own
    return model + drawn[0], model + drawn[1] + difference


def covered(found, truth):
    return float(np.mean(np.abs(found.value - truth) <= found.half_width))


@pytest.mark.parametrize(
    ("seed_sd", "inter_sd", "own_seed_sd", "noise"),
    [(0.05, 0.1, 0.0, 0.2), (0.1, 0.1, 0.0, 0.2), (0.1, 0.2, 0.0, 0.1), (0.1, 0.1, 0.05, 0.1)],
)
@pytest.mark.parametrize(("num_seeds", "prompts"), [(3, 24), (5, 64)])
def test_arms_of_one_training_are_paired_by_seed(
    seed_sd, inter_sd, own_seed_sd, noise, num_seeds, prompts
):
    a, b = draw_samplers(seed_sd, inter_sd, own_seed_sd, noise, 0.1, num_seeds, prompts)
    apart = crossed_contrast((a, b), (1.0, -1.0))
    paired = contrast_of_trainings((a, b), (1.0, -1.0), ("t", "t"))
    # 93 to 99 %: where samplers differ by noise alone, 3 seeds cannot show that seeds do nothing.
    assert 0.93 <= covered(paired, -0.1) <= 0.995
    assert np.allclose(paired.value, apart.value)
    if not own_seed_sd:
        assert np.median(apart.half_width) > 1.3 * np.median(paired.half_width)
    # p-values say what the interval says
    assert np.array_equal(paired.p_value() < 0.05, np.abs(paired.value) > paired.half_width)


def test_a_training_that_is_not_known_pairs_nothing():
    a, b = draw_samplers(0.1, 0.1, 0.0, 0.2)
    apart = crossed_contrast((a, b), (1.0, -1.0))
    for trainings in (("", ""), ("s", "t")):
        found = contrast_of_trainings((a, b), (1.0, -1.0), trainings)
        assert np.array_equal(found.half_width, apart.half_width)


def test_an_interaction_of_two_trainings_takes_each_apart_by_itself():
    a, b = draw_samplers(0.3, 0.1, 0.0, 0.2)
    rng = np.random.default_rng(1)
    shift = 0.3 * rng.standard_normal((REPETITIONS, 3, 1))
    c, d = a + shift, b + shift + 0.1 * rng.standard_normal(b.shape)
    weights = (1.0, -1.0, -1.0, 1.0)
    found = contrast_of_trainings((a, b, c, d), weights, ("s", "s", "t", "t"))
    apart = crossed_contrast((a, b, c, d), weights)
    assert 0.93 <= covered(found, 0.0) <= 0.985
    assert np.median(apart.half_width) > 2 * np.median(found.half_width)


def row(values):
    runs, clusters = (tuple(axis.ravel().tolist()) for axis in np.indices(values.shape))
    return {"dnsmos_ovrl": clip_means(values.ravel(), clusters)._replace(runs=runs)}


def test_rows_of_one_training_are_compared_more_sharply():
    a, b = (arm[0] for arm in draw_samplers(0.5, 0.1, 0.0, 0.05, 0.2))
    rows = {"slow": row(a), "fast": row(b)}
    (apart,) = compare_rows(rows)
    (paired,) = compare_rows(rows, trainings={"slow": "t", "fast": "t"})
    assert paired.difference == pytest.approx(apart.difference)
    assert (apart.better, paired.better) == ("", "fast")
    assert paired.plan.power > 0.8 > apart.plan.power


@pytest.mark.parametrize("num_draws", [1, 2, 4])
@pytest.mark.parametrize(
    "parts", [(0.5, 1.0, 0.5, 1.0), (0.0, 0.3, 0.0, 1.0), (1.0, 1.0, 0.2, 2.0)]
)
def test_the_interval_covers_prompts_seeds_and_draws(parts, num_draws):
    seed, prompt, interaction, draw = parts
    rng = np.random.default_rng(2)
    shape = (REPETITIONS, 3, 24, num_draws)
    values = (
        seed * rng.standard_normal((REPETITIONS, 3, 1, 1))
        + prompt * rng.standard_normal((REPETITIONS, 1, 24, 1))
        + interaction * rng.standard_normal((REPETITIONS, 3, 24, 1))
        + draw * rng.standard_normal(shape)
    )
    found = crossed_mean(values.mean(axis=-1))
    assert 0.93 <= covered(found, 0.0) <= (0.985 if seed else 0.995)
    # One row of clips: the draws of a prompt share its cluster, and the interval is the same.
    runs, clusters, _ = (tuple(axis.ravel().tolist()) for axis in np.indices(shape[1:]))
    clips = clip_means(values[0].ravel(), clusters)._replace(runs=runs).estimate()
    assert clips.value == pytest.approx(found.value[0])
    assert clips.high - clips.value == pytest.approx(found.half_width[0])


def test_what_seeds_prompts_and_draws_make_of_the_variance():
    rng = np.random.default_rng(3)
    found = np.zeros(4)
    for _ in range(200):
        values = (
            0.5 * rng.standard_normal((6, 1, 1))
            + 1.0 * rng.standard_normal((1, 40, 1))
            + 0.7 * rng.standard_normal((6, 40, 1))
            + 2.0 * rng.standard_normal((6, 40, 3))
        )
        found += np.array(draw_components(values)) / 200
    np.testing.assert_allclose(found, [0.25, 1.0, 0.49, 4.0], rtol=0.1)


@pytest.mark.parametrize(("num_seeds", "num_draws"), [(1, 4), (3, 2), (3, 4)])
def test_a_score_of_sets_is_covered_over_seeds_and_draws(num_seeds, num_draws):
    """Each set says its mean and the interval over its prompts, which holds its draws."""
    rng = np.random.default_rng(4)
    hits, narrower = 0, 0
    for _ in range(REPETITIONS):
        prompts = rng.standard_normal((1, 1, 32))
        values = prompts + 1.5 * rng.standard_normal((num_seeds, num_draws, 32))
        if num_seeds > 1:
            values = values + rng.standard_normal((num_seeds, 1, 1))
        means, halves = values.mean(axis=2), 1.96 * values.std(axis=2, ddof=1) / 32**0.5
        runs = [[Estimate(m, m - h, m + h, 32) for m, h in zip(*run)] for run in zip(means, halves)]
        found = estimate_over_runs(runs)
        hits += found.low <= 0 <= found.high
        narrower += found.high - found.low < 2 * halves.mean()
    # Three seeds of the same prompts: what is left of the draws is counted in both parts.
    assert 0.925 <= hits / REPETITIONS <= 0.985
    assert num_seeds > 1 or narrower / REPETITIONS > 0.95
