"""Arms that share a training are paired by seed; several draws per prompt are a third random unit.
Simulated with known variances, 1000 repetitions: a share near 95 % has a standard error of 0.7.
"""

import numpy as np
import pytest

from genlab.evaluate.comparisons import compare_rows
from genlab.evaluate.scores import clip_means, name_units
from genlab.statistics.bootstrap import Estimate, Resampled, bootstrap_mean
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


def sets_of(rng, parts, num_seeds, num_draws, prompts=32):
    """Return the mean of each set of clips with the resamples that a bootstrap of it has: the same
    prompts in every set.
    """
    seed, prompt, interaction, draw = parts
    values = (
        seed * rng.standard_normal((num_seeds, 1, 1))
        + prompt * rng.standard_normal((1, 1, prompts))
        + interaction * rng.standard_normal((num_seeds, 1, prompts))
        + draw * rng.standard_normal((num_seeds, num_draws, prompts))
    )
    picks = rng.multinomial(prompts, np.full(prompts, 1 / prompts), 300) / prompts
    runs = []
    for run in values:
        runs.append([])
        for of_set in run:
            mean, half = of_set.mean(), 1.96 * of_set.std(ddof=1) / prompts**0.5
            runs[-1].append(Resampled(mean, mean - half, mean + half, prompts))
            runs[-1][-1].resamples = picks @ of_set
    return runs


@pytest.mark.parametrize(
    ("parts", "num_seeds", "num_draws"),
    [
        ((0.0, 1.0, 1.0, 1.0), 3, 1),
        ((0.0, 1.0, 0.0, 2.0), 3, 4),
        ((0.3, 1.0, 0.5, 1.0), 3, 2),
        ((1.0, 1.0, 0.5, 1.0), 3, 2),
        ((1.0, 0.3, 0.5, 1.0), 5, 2),
        ((0.0, 1.0, 0.5, 2.0), 1, 4),
    ],
)
def test_prompts_seeds_and_draws_are_random_units_of_a_score_of_sets(parts, num_seeds, num_draws):
    rng = np.random.default_rng(5)
    hits, widths, doubled, alone = 0, [], [], []
    for _ in range(600):
        runs = sets_of(rng, parts, num_seeds, num_draws)
        found = estimate_over_runs(runs)
        hits += found.low <= 0 <= found.high
        widths.append(found.high - found.low)
        # Without resamples the rest would count in both parts; one set knows of prompts alone.
        plain = [[Estimate(*drawn) for drawn in run] for run in runs]
        old = estimate_over_runs(plain)
        doubled.append(old.high - old.low)
        alone.append(runs[0][0])
    # Nominally 0.95, within three standard errors of 600 trials; wider is no fault.
    assert 0.95 - 3 * (0.95 * 0.05 / 600) ** 0.5 <= hits / 600 <= 0.985
    assert np.median(widths) <= 1.001 * np.median(doubled)
    if num_seeds == 1:  # more draws of each prompt say more
        assert np.median(widths) < 0.9 * np.median([one.high - one.low for one in alone])
    if parts[0] >= 1:  # prompts alone would miss what seeds do
        assert np.mean([one.low <= 0 <= one.high for one in alone]) < 0.7


def test_resamples_of_sets_of_the_same_prompts_are_of_the_same_prompts():
    rng = np.random.default_rng(6)
    first = rng.standard_normal(24)
    once, shifted, other = (
        bootstrap_mean(values, seed=3, num_resamples=50)
        for values in (first, first + 1, rng.standard_normal(24))
    )
    np.testing.assert_allclose(shifted.resamples, once.resamples + 1)
    # A mean of sets: its resamples are the means of theirs.
    both = bootstrap_mean((first + 2 * first) / 2, seed=3, num_resamples=50)
    np.testing.assert_allclose(both.resamples, 1.5 * once.resamples)
    assert abs(np.corrcoef(once.resamples, other.resamples)[0, 1]) < 0.9


@pytest.mark.parametrize(
    ("seeds", "draws", "told"),
    [
        (1, 1, "prompts"),
        (3, 1, "prompts and training seeds"),
        (1, 2, "prompts and draws"),
        (3, 2, "prompts, training seeds and draws"),
    ],
)
def test_a_score_names_every_unit_that_its_interval_covers(seeds, draws, told):
    runs, numbers, clusters = (
        tuple(axis.ravel().tolist()) for axis in np.indices((seeds, draws, 4))
    )
    values = clip_means(np.arange(len(runs), dtype=float), clusters)
    values = values._replace(runs=runs, draws=numbers if draws > 1 else ())
    assert values.covers == name_units(seeds, draws) == told
