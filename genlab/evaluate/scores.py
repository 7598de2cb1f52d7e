"""What a score is: per-clip values that can be paired, and the row of results.json made from them.

In: per-clip totals and weights with the cluster (prompt) and training run each clip belongs to.
Out: `Score`, exactly the fields of results.json (plus `note`). A mean is the case of weight 1; a
corpus error rate has errors as totals and reference words as weights. The interval covers the
choice of prompts, with several training runs also that of the seed, with several draws of each
prompt also these; `covers` says which.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from genlab.evaluate.entries import Direction as Direction
from genlab.evaluate.entries import ScoreEntry
from genlab.statistics.bootstrap import (
    Estimate,
    bootstrap_statistic,
    finite_or_none,
    ratio_of_sums,
    sum_clusters,
)
from genlab.statistics.crossed import cell_sums, estimate_crossed, linearise_ratio

Degradation = Literal[
    "noise",
    "low-pass",
    "coarse",
    "shuffle",
    "reversal",
    "collapse",
    "widening",
    "means",
    "smoothing",
    "independence",
]
Validity = Literal["exact", "upper bound", "biased", "not a likelihood", "metric", "impossible"]
Covers = Literal[
    "prompts",
    "prompts and draws",
    "prompts and training seeds",
    "prompts, training seeds and draws",
]


def name_units(seeds: int, draws: int) -> Covers:
    """Return what an interval covers: what else might have been drawn."""
    if draws > 1:
        return "prompts, training seeds and draws" if seeds > 1 else "prompts and draws"
    return "prompts and training seeds" if seeds > 1 else "prompts"


class Score(NamedTuple):
    """One cell of the table: a value with its 95 % interval over `n` independent units and `seeds`
    training seeds.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int
    unit: str
    direction: Direction
    validity: Validity = "metric"
    note: str = ""
    covers: Covers = "prompts"
    """What else might have been drawn: another choice of it would move the value within the
    interval.
    """

    def to_dict(self) -> ScoreEntry:
        """Return the entry of results.json; a number that is not defined becomes null."""
        return {
            "value": finite_or_none(self.value),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "n": self.n,
            "seeds": self.seeds,
            "unit": self.unit,
            "direction": self.direction,
            "validity": self.validity,
            "note": self.note,
            "covers": self.covers,
        }


class ClipValues(NamedTuple):
    """One metric per clip. `totals / weights` is the clip's value; weight 0 marks a clip on which
    it is not defined.
    """

    totals: Float[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]
    clusters: tuple[object, ...]
    """Clips that hang together (one prompt under several seeds, one group of clips scored as one)
    share a cluster.
    """
    validity: Validity = "metric"
    runs: tuple[int, ...] = ()
    """The training run that made each clip; empty if one run made them all."""
    draws: tuple[int, ...] = ()
    """Which of several draws of its prompt and training run each clip is; empty if each is the only
    one. Their mean is the value of prompt and run.
    """

    @property
    def values(self) -> Float[np.ndarray, "n"]:
        """The clip's own value, NaN where it is not defined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.weights > 0, self.totals / self.weights, math.nan)

    @property
    def num_runs(self) -> int:
        """Training runs behind the clips."""
        return max(1, len(set(self.runs)))

    @property
    def covers(self) -> Covers:
        """What the interval covers."""
        return name_units(self.num_runs, len(set(self.draws)))

    def by_run(self) -> list[float]:
        """Return the weighted mean over the clips of each training run, NaN where undefined."""
        runs = self.runs or (0,) * len(self.clusters)
        totals, weights = cell_sums(
            runs, runs, np.where(self.weights > 0, self.totals, 0.0), self.weights
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.divide(totals.diagonal(), weights.diagonal()).tolist()

    def pseudo_values(self) -> Float[np.ndarray, "s c"]:
        """Return one value per training run and cluster, of those with any defined, whose mean is
        that over clips.
        """
        runs = self.runs or (0,) * len(self.clusters)
        totals, weights = cell_sums(
            runs, self.clusters, np.where(self.weights > 0, self.totals, 0.0), self.weights
        )
        kept = np.ix_(weights.any(axis=1), weights.any(axis=0))
        return linearise_ratio(totals[kept], weights[kept])

    def estimate(self, seed: int = 0) -> Estimate:
        """Return the weighted mean over clips with its interval over clusters, and over training
        runs if several.
        """
        is_defined = self.weights > 0
        kept = [cluster for cluster, keep in zip(self.clusters, is_defined) if keep]
        if not kept:
            return Estimate(math.nan, math.nan, math.nan, 0)
        if self.num_runs > 1:
            return estimate_crossed(self.pseudo_values())
        sums = sum_clusters(kept, self.totals[is_defined], self.weights[is_defined])
        return bootstrap_statistic(ratio_of_sums, *sums, seed=seed)


def clip_means(values: Float[np.ndarray, "n"], clusters: tuple[object, ...]) -> ClipValues:
    """Return `ClipValues` of weight 1, and 0 where a value is NaN."""
    is_defined = np.isfinite(values)
    return ClipValues(np.where(is_defined, values, 0.0), is_defined.astype(np.float64), clusters)


def is_proper(kind: str) -> bool:
    """Return whether a value of this kind may decide anything: "biased" may lie on either side."""
    return kind in ("exact", "upper bound", "metric")


def is_conclusive(better: str, worse: str) -> bool:
    """Return whether a row whose value is the better one of two is thereby better, given what the
    two values are.

    Bits are best when low. An upper bound below an exact value is conclusive, because the truth
    lies lower still; an exact value below an upper bound is not, nor is one bound below another.
    """
    return worse in ("exact", "metric") and (
        better == worse or (better, worse) == ("upper bound", "exact")
    )
