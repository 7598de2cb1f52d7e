"""Intervals, paired differences and multiplicity: every number genlab prints comes with what it is
worth.

In: per-clip values, or arrays whose first axis is the clip (the cluster that is resampled). Out:
`Estimate`, a value with a 95 % interval from scipy.stats.bootstrap (Efron & Tibshirani 1993; BCa
intervals, ch. 14.3) under a fixed seed.

Degenerate cases, on purpose:
- no finite value: value, low and high are NaN, n is 0;
- one clip: the value is kept, low and high are NaN, because one clip says nothing about spread
  (NaN becomes null in JSON);
- all clips equal: low = high = value. The interval then understates the doubt: 0 errors in 30 clips
  is not proof of none.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, NotRequired

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float, Shaped
from typing_extensions import ReadOnly, TypedDict

from genlab.config import GenlabError

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
MAX_CELLS = 2**23  # numbers of a batch of resamples

Interval = Literal["bca", "percentile", "spread"]


class Ends(TypedDict):
    """A value and the ends of its interval, of a score or of a difference."""

    value: ReadOnly[float | None]
    low: ReadOnly[NotRequired[float | None]]
    high: ReadOnly[NotRequired[float | None]]


class Estimate(NamedTuple):
    """A value with its 95 % interval; `n` is the number of independent units behind it."""

    value: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


class Resampled(Estimate):
    """An estimate that keeps the values of its resamples. The same seed draws the same clips of
    every set of as many: resample i of two sets of the same prompts is of the same prompts.
    """

    resamples: Float[np.ndarray, "r"]


def bootstrap_mean(
    values: Shaped[np.ndarray, "..."], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Estimate:
    """Return the mean with its interval; NaN values (metric undefined on that clip) are left out of
    value and n.

    Raises:
        GenlabError: unless there is one value per clip.
    """
    values = _per_clip(values, "values")
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan, 0)
    return bootstrap_statistic(_mean, values, seed=seed, num_resamples=num_resamples)


def bootstrap_statistic(
    statistic: Callable[..., Float[np.ndarray, "*r"]],
    *arrays: Shaped[np.ndarray, "_"],
    paired: bool = True,
    interval: Interval = "bca",
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    num_units: int | None = None,
    cells: int | None = None,
) -> Estimate:
    """Return a statistic of whole sets of clips with its interval.

    Args:
        statistic: takes each array with shape `"*r n"` and reduces its last axis: one call serves
            all resamples. To resample things that are not one number per clip, pass `np.arange(n)`
            and index inside the statistic.
        arrays: one entry per clip (or per cluster of clips that hang together).
        paired: resample the same clips from all arrays; False draws each array on its own (two
            independent samples).
        interval: "bca"; "percentile"; or "spread" = value +- 1.96 bootstrap standard errors, for
            statistics whose resampling distribution is shifted (the Frechet distance), so that
            percentiles would miss the value itself.
        seed: of the resampling.
        num_resamples: more make the limits smoother, not tighter.
        num_units: the `n` of the estimate; that of the shortest array if absent.
        cells: numbers that a resample takes, if it is not one per clip.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    value = float(statistic(*arrays))
    num_clips = min(len(array) for array in arrays)
    num_units = num_clips if num_units is None else num_units
    if num_clips < 2 or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan, num_units)
    samples = (
        (np.arange(num_clips),) if paired else tuple(np.arange(len(array)) for array in arrays)
    )

    def resampled(*indices: Shaped[np.ndarray, "..."], axis: int = -1) -> Float[np.ndarray, "*r"]:
        picks = indices * len(arrays) if paired else indices
        return statistic(*(array[index] for array, index in zip(arrays, picks)))

    result = scipy.stats.bootstrap(
        samples,
        resampled,
        n_resamples=num_resamples,
        batch=_batch(cells or num_clips, num_resamples),
        confidence_level=CONFIDENCE,
        vectorized=True,
        axis=-1,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = (float(limit) for limit in result.confidence_interval)
    draws = result.bootstrap_distribution
    if np.ptp(draws) <= 1e-12 * max(1.0, abs(value)):
        low = high = value
    elif interval == "spread":
        error = float(result.standard_error) * scipy.stats.norm.ppf(0.5 + CONFIDENCE / 2)
        low, high = float(value - error), float(value + error)
    elif interval == "bca":
        with np.errstate(all="ignore"):
            corrected = scipy.stats.bootstrap(
                samples,
                resampled,
                n_resamples=0,
                # Each clip left out once: all at a time would be clips x clips numbers.
                batch=_batch(cells or num_clips, num_clips),
                confidence_level=CONFIDENCE,
                vectorized=True,
                axis=-1,
                method="BCa",
                bootstrap_result=result,
            ).confidence_interval
        # The acceleration is undefined when leaving out any one clip changes nothing; percentiles
        # are right then.
        if math.isfinite(corrected.low) and math.isfinite(corrected.high):
            low, high = float(corrected.low), float(corrected.high)
    found = Resampled(value, low, high, num_units)
    found.resamples = draws
    return found


def ratio_of_sums(
    numerators: Float[np.ndarray, "*r n"], denominators: Float[np.ndarray, "*r n"]
) -> np.ndarray:
    """Return sum / sum over the last axis (a corpus error rate); NaN where the denominators sum to
    zero.
    """
    total = denominators.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, numerators.sum(axis=-1) / total, math.nan)


def sum_clusters(
    clusters: Sequence[object], *arrays: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "c"], ...]:
    """Return each array summed within clusters (clips of one prompt hang together), in order of
    first appearance.
    """
    order = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    index = np.array([order[cluster] for cluster in clusters], np.intp)
    return tuple(np.bincount(index, np.asarray(array, np.float64), len(order)) for array in arrays)


def paired_difference(
    a: Shaped[np.ndarray, "..."], b: Shaped[np.ndarray, "..."], *, seed: int = 0
) -> Estimate:
    """Return the mean of a - b over the same clips; clips where either is NaN are left out.

    Raises:
        GenlabError: unless both have one value per clip, of the same clips.
    """
    return bootstrap_mean(_differences(a, b), seed=seed)


def paired_p_value(
    a: Shaped[np.ndarray, "..."],
    b: Shaped[np.ndarray, "..."],
    *,
    seed: int = 0,
    num_resamples: int = 9999,
) -> float:
    """Return the two-sided p-value of no difference, by random sign flips of the paired
    differences.

    Raises:
        GenlabError: unless both have one value per clip, of the same clips.
    """
    difference = _differences(a, b)
    difference = difference[np.isfinite(difference)]
    if len(difference) < 2 or not difference.any():
        return 1.0
    result = scipy.stats.permutation_test(
        (difference,),
        _mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=num_resamples,
        batch=_batch(len(difference), num_resamples),
        axis=-1,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _batch(cells: int, num_resamples: int) -> int | None:
    """Return how many resamples are computed at once, None if all: memory stays below 64 MB an
    array, and the draws of one set of clips are the same ones.
    """
    return None if cells * num_resamples <= MAX_CELLS else max(1, MAX_CELLS // cells)


def holm_correction(p_values: Sequence[float]) -> Float[np.ndarray, "m"]:
    """Return p-values adjusted for asking several questions at once (Holm 1979, step-down)."""
    raw = np.asarray(p_values, np.float64)
    order = np.argsort(raw)
    steps = raw[order] * (len(raw) - np.arange(len(raw)))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _differences(
    a: Shaped[np.ndarray, "..."], b: Shaped[np.ndarray, "..."]
) -> Float[np.ndarray, "n"]:
    first, second = _per_clip(a, "a"), _per_clip(b, "b")
    if first.shape != second.shape:
        raise GenlabError(
            f"a and b: {len(first)} and {len(second)} values, expected those of the same clips"
        )
    return first - second


def _per_clip(values: Shaped[np.ndarray, "..."], name: str) -> Float[np.ndarray, "n"]:
    """Return one float64 per clip. Values of several seeds are not so many independent clips."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise GenlabError(
            f"{name}: shape {array.shape}, expected one value per clip; for values of shape "
            "(seeds, prompts) use crossed_difference or crossed_mean of "
            "genlab.statistics.crossed, which know that prompts repeat"
        )
    return array


def _mean(values: Float[np.ndarray, "*r n"], axis: int = -1) -> np.ndarray:
    return np.asarray(values.mean(axis=axis))


def finite_or_none(value: float) -> float | None:
    """Return `value`, or None for NaN and infinities, which JSON cannot say."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
