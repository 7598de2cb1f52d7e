"""Paired comparisons: the differences between rows.

In: per-clip values of the same prompts. Out: `Difference` (is one arm better than another?) over
the same clips, with 95 % intervals over prompts, and over training seeds where there are several
(`crossed`: prompts are paired, seeds only between arms that share their trainings). A word such as
"better" is allowed only where the interval excludes zero and Holm's correction agrees; "equivalent"
only within a margin that was declared beforehand, where two one-sided tests show it and Holm's
correction agrees.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from genlab.config import GenlabError
from genlab.evaluate.entries import DifferenceEntry, PlanEntry
from genlab.evaluate.metric import Metric
from genlab.evaluate.scores import ClipValues, Validity, is_conclusive
from genlab.evaluate.table import find_metric
from genlab.statistics.bootstrap import (
    Estimate,
    finite_or_none,
    holm_correction,
    paired_p_value,
    sum_clusters,
)
from genlab.statistics.crossed import Crossed, contrast_of_trainings
from genlab.statistics.power import PowerPlan, first_level, make_plan


class Difference(NamedTuple):
    """Arm `a` minus arm `b` on the same prompts; `p_holm` is corrected over all pairs compared on
    this score.
    """

    score: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    better: str
    """The name of the arm that is better, or "" if the data do not show it."""
    margin: float = math.nan
    """The declared margin of equivalence, NaN if there is none."""
    p_equivalent: float = math.nan
    """Of two one-sided tests, corrected like `p_holm`."""
    equivalent: bool = False
    """The difference is shown to be smaller than the margin. It may still be significant: see
    `better`.
    """
    plan: PowerPlan | None = None
    """What it takes to see the margin, or else a tenth of the better value, at the level of Holm's
    first step over the pairs of this score; None with one seed.
    """

    def to_dict(self) -> DifferenceEntry:
        """Return the entry of results.json."""
        return {
            "score": self.score,
            "a": self.a,
            "b": self.b,
            "difference": finite_or_none(self.difference),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "p_value": finite_or_none(self.p_value),
            "p_holm": finite_or_none(self.p_holm),
            "better": self.better,
            "margin": finite_or_none(self.margin),
            "p_equivalent": finite_or_none(self.p_equivalent),
            "equivalent": self.equivalent,
            "plan": _plan_entry(self.plan, self.margin) if self.plan else None,
        }


def _plan_entry(plan: PowerPlan, margin: float) -> PlanEntry:
    return {
        "target": plan.target,
        "prompts": plan.prompts,
        "seeds": plan.seeds,
        "power": plan.power,
        "seeds_needed": plan.seeds_needed,
        "prompts_needed": {str(seeds): needed for seeds, needed in plan.prompts_needed.items()},
        "prompt_error": plan.prompt_error,
        "level": plan.level,
        "declared": math.isfinite(margin),
    }


class _Pair(NamedTuple):
    estimate: Estimate
    p_value: float
    crossed: Crossed | None
    plan: PowerPlan | None


def compare_rows(
    rows: Mapping[str, Mapping[str, ClipValues]],
    margins: Mapping[str, float] = MappingProxyType({}),
    seed: int = 0,
    *,
    metrics: Sequence[Metric] = (),
    trainings: Mapping[str, str] = MappingProxyType({}),
    baselines: Collection[str] = (),
) -> list[Difference]:
    """Compare every pair of rows on every score that both have, prompt by prompt.

    With one training run per row the test flips signs of the prompts' differences; with several it
    is Student's t of `contrast_of_trainings`. Two upper bounds are not compared, and against an
    exact value only the bound can turn out better: the order of the values says nothing else about
    the order of what they bound.

    Args:
        rows: per arm, the per-clip values that `score_clips` returned for the same prompts in the
            same order.
        margins: per score, the difference that does not matter; without one no equivalence is
            claimed.
        seed: of the resampling.
        metrics: rows of the user's own, beside those of the table.
        trainings: per row, what its models were trained by; rows of one training are paired seed by
            seed.
        baselines: rows that every other one is compared with, instead of the others with each
            other. One that was not trained counts as the same in every training run.

    Raises:
        GenlabError: if two rows were scored on different prompts.
    """
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows.values())))
    return [
        found
        for name in names
        for found in _compare_on(
            name,
            rows,
            margins.get(name, math.nan),
            find_metric(name, metrics).direction == "lower",
            seed,
            trainings,
            baselines,
        )
    ]


def _compare_on(
    name: str,
    rows: Mapping[str, Mapping[str, ClipValues]],
    margin: float,
    lower_is_better: bool,
    seed: int,
    trainings: Mapping[str, str],
    baselines: Collection[str],
) -> list[Difference]:
    kinds: dict[str, Validity] = {
        row: values[name].validity for row, values in rows.items() if name in values
    }
    # Pairs that could prove nothing are left out before Holm, whose price they would raise.
    names = [
        (a, b)
        for a, b in _pairs(kinds, baselines)
        if (is_conclusive(kinds[a], kinds[b]) or is_conclusive(kinds[b], kinds[a]))
        and (not baselines or _are_alike(rows[a][name], rows[b][name]))
    ]
    pairs = [
        _subtract(
            name,
            (a, b),
            rows,
            margin,
            lower_is_better,
            seed,
            (trainings.get(a, ""), trainings.get(b, "")),
            first_level(len(names)),
        )
        for a, b in names
    ]
    corrected = holm_correction([pair.p_value for pair in pairs]) if pairs else []
    alike = _equivalence(
        [pair.crossed if kinds[a] == kinds[b] else None for (a, b), pair in zip(names, pairs)],
        margin,
    )
    found = []
    for (a, b), (estimate, p_value, _, plan), p_holm, p_alike in zip(
        names, pairs, corrected, alike
    ):
        better = ""
        if estimate.excludes_zero and p_holm < 0.05:
            # Significant is not yet better: an upper bound that is lower shows it, one that is
            # higher does not.
            first, second = (a, b) if (estimate.value < 0) == lower_is_better else (b, a)
            better = first if is_conclusive(kinds[first], kinds[second]) else ""
        value, low, high, _ = estimate
        difference = Difference(
            name, a, b, value, low, high, p_value, float(p_holm), better, margin
        )
        found.append(
            difference._replace(p_equivalent=p_alike, equivalent=p_alike < 0.05, plan=plan)
        )
    return found


def _pairs(names: Iterable[str], baselines: Collection[str]) -> list[tuple[str, str]]:
    names = list(names)
    if not baselines:
        return list(itertools.combinations(names, 2))
    others = [name for name in names if name not in baselines]
    return [(name, floor) for name in others for floor in names if floor in baselines]


def _as_often(values: ClipValues, other: ClipValues) -> ClipValues:
    """Return values of one run, repeated as often as those of `other`: what was not trained would
    be the same with any seed, and what does not draw in every draw.
    """
    times = len(other.clusters) // max(1, len(values.clusters))
    if values.num_runs > 1 or other.clusters != values.clusters * times:
        return values
    return values._replace(
        totals=np.tile(values.totals, times),
        weights=np.tile(values.weights, times),
        clusters=other.clusters,
        runs=other.runs,
    )


def _are_alike(values: ClipValues, baseline: ClipValues) -> bool:
    """Return whether a baseline's values can be paired with those of an arm: a metric of the user
    may group clips by training run, which a row without training cannot follow.
    """
    return _as_often(baseline, values).clusters == values.clusters


def _equivalence(crossed: Sequence[Crossed | None], margin: float) -> list[float]:
    """Return corrected p-values of equivalence; 1 where there is no spread to judge by, or values
    are only bounds.
    """
    if math.isnan(margin):
        return [math.nan] * len(crossed)
    p_values = [
        1.0 if found is None else float(found.equivalence_p_value(margin)) for found in crossed
    ]
    return holm_correction(p_values).tolist() if p_values else []


def _subtract(
    name: str,
    pair: tuple[str, str],
    rows: Mapping[str, Mapping[str, ClipValues]],
    margin: float,
    lower_is_better: bool,
    seed: int,
    trainings: tuple[str, str],
    level: float,
) -> _Pair:
    a, b = pair
    first = rows[a][name]
    second = _as_often(rows[b][name], first)
    if first.clusters != second.clusters or first.runs != second.runs:
        raise GenlabError(
            f"{name}: rows {a!r} and {b!r} were scored on different prompts; score both on the "
            "same ones"
        )
    # Only prompts that both rows have a value for, with the same weights in both.
    weights = np.where((first.weights > 0) & (second.weights > 0), first.weights, 0.0)
    if not weights.any():
        return _Pair(Estimate(math.nan, math.nan, math.nan, 0), 1.0, None, None)
    grids = [
        row._replace(totals=row.values * weights, weights=weights).pseudo_values()
        for row in (first, second)
    ]
    num_prompts = grids[0].shape[1]
    crossed = contrast_of_trainings(grids, (1.0, -1.0), trainings) if num_prompts > 1 else None
    # One seed: the interval covers prompts alone, and the test flips signs of whole clusters.
    if first.num_runs == 1:
        values = np.where(weights > 0, first.values - second.values, 0.0)
        difference = ClipValues(values * weights, weights, first.clusters)
        totals, sums = sum_clusters(difference.clusters, difference.totals, difference.weights)
        totals = totals[sums > 0]
        p_value = paired_p_value(totals, np.zeros(len(totals)), seed=seed)
        return _Pair(difference.estimate(seed), p_value, crossed, None)
    if crossed is None or min(grids[0].shape) < 2:
        return _Pair(Estimate(math.nan, math.nan, math.nan, num_prompts), 1.0, None, None)
    target = _target(grids, lower_is_better, margin)
    shares_training = bool(trainings[0]) and len(set(trainings)) == 1
    plan = make_plan(target, *grids, shares_training=shares_training, level=level)
    return _Pair(crossed.estimate(num_prompts), float(crossed.p_value()), crossed, plan)


def _target(
    grids: Sequence[Float[np.ndarray, "s c"]], lower_is_better: bool, margin: float
) -> float:
    """Return the difference to plan for: the margin, else a tenth of the better value, else the
    difference seen.
    """
    values = [float(grid.mean()) for grid in grids]
    tenth = abs(min(values) if lower_is_better else max(values)) / 10
    return margin if math.isfinite(margin) else tenth or abs(values[0] - values[1])
