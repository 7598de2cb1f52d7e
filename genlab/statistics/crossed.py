"""Intervals that cover the choice of prompts and of training seeds: two crossed random units.

In: one value per training seed and prompt, `"*r s c"` (s seeds, c prompts; leading axes are
independent repetitions). Out: `Crossed`, a mean or a difference of two arms with its standard
error, degrees of freedom and 95 % half width.

Model: value = mean + seed + prompt + rest, all random. The variance of the mean adds what seeds and
what prompts contribute and takes off the rest, which both contain: V_seed + V_prompt - V_rest
(two-way cluster-robust, Cameron, Gelbach & Miller 2011; the pigeonhole of Owen & Eckles 2012, arXiv
1106.2125), here with mean squares, so that it is unbiased for 3 seeds. What seeds add beyond the
rest is cut off at zero. A bootstrap of 3 seeds has far too short intervals: it draws from 10
resamples, and each misses a third of the variance.

What is paired: prompts, which every arm answers. Seeds are not, even if numbered alike: number i
fixes the order of the data in every arm, but also an initialisation, and the weights of two
families have nothing in common. If the shared order moved two arms alike, the interval would be too
wide, never too narrow; in return there are twice the degrees of freedom, which with 3 seeds is the
difference between a quantile of 4.3 and one of 2.8. Arms that share one training, because they
differ in how they sample alone, are the exception: seed by seed they are the same model, so what a
seed does to one it does to the other, and `contrast_of_trainings` takes them apart per seed.

Several draws per prompt and seed are a third random unit, inside the other two: every prompt of
every seed draws on its own. Their mean is the value of the cell, and the rest then holds the
interaction of seeds and prompts and a share of the draws: the interval covers all three
(`draw_components` says how much each makes of it).

Coverage over 10,000 draws, 3 seeds x 32 prompts and 5 x 64, deviation of seeds 0 to 2 times that of
prompts (tests/evaluate/test_crossed.py repeats it with 1,000). Paired difference: 95.4-97.1 %. Mean
and ratio of sums: 94.8-97 %, but 98.5 % where neither seeds nor prompts matter beside the rest
(deviation below a fifth of it), because 3 seeds cannot show that they do not. All this is for
effects that are roughly normal: where seeds spread a rate that lies near 0, skewed, 3 seeds gave 93
%; and the interval is symmetric, so that of a rate may reach below 0, where `make_score` cuts it
off.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float

from genlab.statistics.bootstrap import CONFIDENCE, Estimate

_LEVEL = 0.5 + CONFIDENCE / 2


class Crossed(NamedTuple):
    """A value over crossed seeds and prompts; `half_width` is that of its 95 % interval."""

    value: Float[np.ndarray, "*r"]
    std_error: Float[np.ndarray, "*r"]
    dof: Float[np.ndarray, "*r"]
    half_width: Float[np.ndarray, "*r"]

    def estimate(self, num_prompts: int) -> Estimate:
        """Return the single value (no repetitions) with its interval."""
        value, half_width = float(self.value), float(self.half_width)
        return Estimate(value, value - half_width, value + half_width, num_prompts)

    def p_value(self) -> Float[np.ndarray, "*r"]:
        """Return the two-sided p-value of no difference from zero, by Student's t."""
        return 2 * self.exceedance(np.abs(self.value))

    def equivalence_p_value(self, margin: float) -> Float[np.ndarray, "*r"]:
        """Return the larger p-value of two one-sided tests, of lying above -margin and below margin
        (Schuirmann 1987).

        Below 0.05 it says what a 90 % interval within the margin says.
        """
        return self.exceedance(margin - np.abs(self.value))

    def exceedance(self, distance: Float[np.ndarray, "*r"]) -> Float[np.ndarray, "*r"]:
        """Return the probability that chance alone reaches `distance` on one side; 1/2 at 0, also
        without spread.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(distance == 0, 0.0, distance / self.std_error)
        return scipy.stats.t.sf(ratio, self.dof)


class MeanSquares(NamedTuple):
    """What seeds, prompts and the rest would each make the variance of the mean, were they alone
    (ANOVA).
    """

    seed: Float[np.ndarray, "*r"]
    prompt: Float[np.ndarray, "*r"]
    rest: Float[np.ndarray, "*r"]


def mean_squares(values: Float[np.ndarray, "*r s c"]) -> MeanSquares:
    """Return the three mean squares of a crossed layout, each over the number of values."""
    num_seeds, num_prompts = values.shape[-2:]
    of_seed, of_prompt = values.mean(axis=-1), values.mean(axis=-2)
    mean = of_seed.mean(axis=-1)
    rest = values - of_seed[..., :, None] - of_prompt[..., None, :] + mean[..., None, None]
    rest_dof = (num_seeds - 1) * (num_prompts - 1)
    return MeanSquares(
        of_seed.var(axis=-1, ddof=1) / num_seeds,
        of_prompt.var(axis=-1, ddof=1) / num_prompts,
        (rest**2).sum(axis=(-2, -1)) / rest_dof / (num_seeds * num_prompts),
    )


def crossed_mean(values: Float[np.ndarray, "*r s c"]) -> Crossed:
    """Return the mean over seeds and prompts of one arm.

    With one arm the seeds have so few degrees of freedom that Satterthwaite's quantile is too small
    whenever they happen to lie close together. The wider of two is taken: his, counting the seeds
    even where they were cut off, and the mean of both sources' own quantiles weighted by their
    variances (Cochran & Cox 1957, section 4.14).
    """
    num_seeds, num_prompts = values.shape[-2:]
    squares = mean_squares(values)
    seed_dof, prompt_dof = num_seeds - 1, num_prompts - 1
    added = np.maximum(squares.seed - squares.rest, 0.0)
    variance = squares.prompt + added
    spread = (
        squares.seed**2 + squares.rest**2 / prompt_dof
    ) / seed_dof + squares.prompt**2 / prompt_dof
    # Never below the fewest of a single source: there the cut-off part would make the quantile
    # explode.
    dof = np.maximum(_ratio(variance**2, spread), min(seed_dof, prompt_dof))
    quantiles = [float(scipy.stats.t.ppf(_LEVEL, each)) for each in (seed_dof, prompt_dof)]
    weighted = _ratio(added * quantiles[0] + squares.prompt * quantiles[1], variance)
    quantile = np.maximum(scipy.stats.t.ppf(_LEVEL, dof), weighted)
    std_error = np.sqrt(variance)
    return Crossed(values.mean(axis=(-2, -1)), std_error, dof, quantile * std_error)


def estimate_crossed(values: Float[np.ndarray, "s c"]) -> Estimate:
    """Return `crossed_mean` as an estimate; with one seed or one prompt left there is a value and
    no interval.
    """
    if min(values.shape) < 2:
        return Estimate(float(values.mean()), math.nan, math.nan, values.shape[-1])
    return crossed_mean(values).estimate(values.shape[-1])


def estimate_over_runs(runs: Sequence[Sequence[Estimate]]) -> Estimate:
    """Return the mean over training runs of a score of whole sets of clips, which has no value per
    prompt to cross: prompts, seeds and draws are its random units all the same.

    The sets answer the same prompts, and their resamples are of the same prompts (`Resampled`), so
    the variance of the mean of all sets over resamples is what prompts make of it, with what
    remains of the rest and of the draws. What runs differ by beyond that comes on top. Without
    resamples nothing is known of the rest, and all of it counts in both parts.

    Eq. V = V_prompt(mean of all) + max(0, var(runs) - rest) / S over S runs of K draws each, where
    rest = (V_prompt(one run) - V_prompt(mean of all)) S / (S - 1), with the quantile of
    `crossed_mean`.

    Args:
        runs: per training run one estimate per draw of the whole set, as many in every run.
    """
    if len(runs) == len(runs[0]) == 1:
        return runs[0][0]
    values = np.array([[drawn.value for drawn in run] for run in runs])
    num_runs, _ = values.shape
    normal = scipy.stats.norm.ppf(_LEVEL)
    student = scipy.stats.t.ppf(_LEVEL, num_runs - 1) if num_runs > 1 else normal
    # Each set has an interval of its own kind, whose width is kept: resamples say what part of it
    # remains in a mean.
    of_set = np.mean(
        [((drawn.high - drawn.low) / (2 * normal)) ** 2 for run in runs for drawn in run]
    )
    one_run, all_runs = _shares_of_prompts(runs)
    of_prompts = of_set * all_runs
    of_runs = added = 0.0
    if num_runs > 1:
        rest = of_set * (one_run - all_runs) * num_runs / (num_runs - 1)
        of_runs = values.mean(axis=1).var(ddof=1) / num_runs
        added = max(0.0, of_runs - rest / num_runs)
    total = of_prompts + added
    half_width = 0.0
    if total > 0:
        # As in `crossed_mean`; an interval over prompts alone has a normal quantile, too.
        dof = max((num_runs - 1) * (total / of_runs) ** 2, num_runs - 1) if of_runs else math.inf
        weighted = (of_prompts * normal + added * student) / total
        half_width = float(max(scipy.stats.t.ppf(_LEVEL, dof), weighted) * np.sqrt(total))
    value = float(values.mean())
    return Estimate(value, value - half_width, value + half_width, runs[0][0].n)


def _shares_of_prompts(runs: Sequence[Sequence[Estimate]]) -> tuple[float, float]:
    """Return what part of the variance of a set over prompts remains in the mean over the draws of
    a run, and over all sets.
    """
    kept = [[getattr(drawn, "resamples", None) for drawn in run] for run in runs]
    shapes = {None if found is None else found.shape for run in kept for found in run}
    if None in shapes or len(shapes) != 1:
        return 1.0, 1.0
    resamples = np.array(kept)
    of_set = resamples.var(axis=-1).mean()
    if of_set == 0:
        return 1.0, 1.0
    one_run = resamples.mean(axis=1).var(axis=-1).mean()
    return float(one_run / of_set), float(resamples.mean(axis=(0, 1)).var() / of_set)


def crossed_difference(a: Float[np.ndarray, "*r s c"], b: Float[np.ndarray, "*r u c"]) -> Crossed:
    """Return mean(a) - mean(b) of two arms with the same prompts (axis c, two or more) and seeds of
    their own.
    """
    return crossed_contrast((a, b), (1.0, -1.0))


def crossed_contrast(
    rows: Sequence[Float[np.ndarray, "*r s c"]], weights: Sequence[float]
) -> Crossed:
    """Return a weighted sum of the means of rows with the same prompts (axis c, two or more) and
    seeds of their own.

    Eq. V = V_prompt(sum w a) + max(0, sum over rows of w^2 (V_seed - V_rest)), with Satterthwaite's
    degrees of freedom.
    """
    by_prompt = sum(weight * row.mean(axis=-2) for weight, row in zip(weights, rows, strict=True))
    by_prompt = np.asarray(by_prompt)
    num_prompts = by_prompt.shape[-1]
    prompt = by_prompt.var(axis=-1, ddof=1) / num_prompts
    # A row with one seed has nothing to add: the sum is then of these trained models.
    squares = [
        (MeanSquares(*(weight**2 * part for part in mean_squares(row))), row.shape[-2] - 1)
        for weight, row in zip(weights, rows)
        if row.shape[-2] > 1
    ]
    std_error, dof = combine_squares(prompt, num_prompts - 1, squares)
    return Crossed(
        by_prompt.mean(axis=-1), std_error, dof, scipy.stats.t.ppf(_LEVEL, dof) * std_error
    )


def contrast_of_trainings(
    rows: Sequence[Float[np.ndarray, "*r s c"]],
    weights: Sequence[float],
    trainings: Sequence[str],
) -> Crossed:
    """Return the weighted sum of `crossed_contrast`, in which rows of one training are taken seed
    by seed.

    Args:
        rows: the same prompts in the same order.
        weights: one per row.
        trainings: one per row; rows of the same text (not "", which is not known) come from the
            same models in the same order of seeds.
    """
    groups: dict[object, np.ndarray] = {}
    for number, (row, weight, training) in enumerate(zip(rows, weights, trainings, strict=True)):
        key = (training, row.shape) if training else number
        groups[key] = groups.get(key, 0.0) + weight * row
    sums = list(groups.values())
    # A lone sum over one seed has no spread of seeds to estimate: it is of these trained models.
    if len(sums) > 1 or sums[0].shape[-2] < 2:
        return crossed_contrast(sums, (1.0,) * len(sums))
    found = crossed_mean(sums[0])
    # The interval is the wider of two; p-values are to say what it says.
    quantile = scipy.stats.t.ppf(_LEVEL, found.dof)
    return found._replace(std_error=found.half_width / quantile)


class DrawComponents(NamedTuple):
    """Variances of one value: of the seed, of the prompt, of both together, and of the draw."""

    seed: float
    prompt: float
    interaction: float
    draw: float


def draw_components(values: Float[np.ndarray, "s c k"]) -> DrawComponents:
    """Return the variance components of one arm with k draws of every prompt and seed, negative
    ones as 0; the expected mean squares of a crossed layout with replicates (Searle, Casella &
    McCulloch 1992, section 4.7).
    """
    num_seeds, num_prompts, num_draws = values.shape
    squares = mean_squares(values.mean(axis=-1))
    seed = float(squares.seed - squares.rest) * num_seeds
    prompt = float(squares.prompt - squares.rest) * num_prompts
    draw = float(values.var(axis=-1, ddof=1).mean())
    interaction = float(squares.rest) * num_seeds * num_prompts - draw / num_draws
    return DrawComponents(*(max(part, 0.0) for part in (seed, prompt, interaction, draw)))


def combine_squares(
    prompt: Float[np.ndarray, "*r"], prompt_dof: int, arms: Sequence[tuple[MeanSquares, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return standard error and degrees of freedom of a difference.

    Args:
        prompt: variance of the difference from prompts, which holds the rest as well.
        prompt_dof: its degrees of freedom.
        arms: the mean squares of each arm and the degrees of freedom of its seeds.
    """
    added, spread = np.zeros_like(prompt), np.zeros_like(prompt)
    for squares, seed_dof in arms:
        added = added + squares.seed - squares.rest
        spread = spread + (squares.seed**2 + squares.rest**2 / prompt_dof) / seed_dof
    variance = prompt + np.maximum(added, 0.0)
    dof = _ratio(variance**2, np.where(added > 0, spread, 0.0) + prompt**2 / prompt_dof)
    fewest = min([prompt_dof, *(seed_dof for _, seed_dof in arms)])
    return np.sqrt(variance), np.maximum(dof, fewest)


def linearise_ratio(
    totals: Float[np.ndarray, "*r s c"], weights: Float[np.ndarray, "*r s c"]
) -> np.ndarray:
    """Return values whose mean is sum(totals) / sum(weights) and that vary as the ratio does, to
    first order.

    A corpus error rate is no mean of clips; its influence function is, so every formula above holds
    for it. A cell of weight 0 (the score is not defined there) takes the value of the ratio and
    moves nothing.
    """
    axes = (-2, -1)
    ratio = totals.sum(axis=axes, keepdims=True) / weights.sum(axis=axes, keepdims=True)
    return ratio + (totals - ratio * weights) / weights.mean(axis=axes, keepdims=True)


def cell_sums(
    runs: Sequence[int], clusters: Sequence[object], *arrays: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "s c"], ...]:
    """Return each array summed within (training run, cluster), in order of first appearance."""
    row_of = {run: number for number, run in enumerate(dict.fromkeys(runs))}
    column_of = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    cells = [
        row_of[run] * len(column_of) + column_of[cluster]
        for run, cluster in zip(runs, clusters, strict=True)
    ]
    shape = len(row_of), len(column_of)
    return tuple(np.bincount(cells, array, shape[0] * shape[1]).reshape(shape) for array in arrays)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, and 1 where there is no spread at all."""
    return np.divide(numerator, denominator, out=np.ones_like(denominator), where=denominator > 0)
