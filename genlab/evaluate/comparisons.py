"""Paired comparisons: the prompt-swap control within a row, and the differences between rows.

In: transcripts or per-clip values of the same prompts. Out: `Control` (does the audio follow its
own prompt better than another one?) and `Difference` (is one arm better than another?), both over
the same clips, with 95 % intervals over prompts, and over training seeds where there are several
(`crossed`: prompts are paired, seeds are not). A word such as "better" is allowed only where the
interval excludes zero and Holm's correction agrees; "equivalent" only within a margin that was
declared beforehand, where two one-sided tests show it and Holm's correction agrees.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from genlab.config import GenlabError
from genlab.data.text import has_symbols
from genlab.evaluate.content import ContentErrors
from genlab.evaluate.scores import ClipValues, Validity, find_meaning, is_conclusive
from genlab.statistics.bootstrap import (
    Estimate,
    bootstrap_statistic,
    finite_or_none,
    holm_correction,
    paired_p_value,
    ratio_of_sums,
    sum_clusters,
)
from genlab.statistics.crossed import Crossed, crossed_difference, estimate_crossed
from genlab.statistics.power import Plan, make_plan

ControlStatus = Literal["passed", "failed", "not applicable"]
CountErrors = Callable[[Sequence[str], Sequence[str]], ContentErrors]


class Control(NamedTuple):
    """The same audio scored against another prompt: `difference` = swapped - own, `passed` if
    significantly worse.

    A control that could not be made is neither passed nor failed: `reason` says why, in words for a
    person.
    """

    control: str
    score: str
    difference: float
    low: float
    high: float
    passed: bool
    reason: str = ""

    @property
    def status(self) -> ControlStatus:
        """What became of it. Rows of older versions have no reason, but a control without a number
        was not made.
        """
        if self.passed:
            return "passed"
        return "not applicable" if self.reason or not math.isfinite(self.difference) else "failed"

    def to_dict(self, arm: str) -> dict[str, float | int | str | bool | None]:
        """Return the entry of results.json for `arm`."""
        values = {name: finite_or_none(value) for name, value in self._asdict().items()}
        return {"arm": arm, **values, "status": self.status}


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
    plan: Plan | None = None
    """What it takes to see the margin, or else a tenth of the better value; None with one seed."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        values = self._replace(plan=None)._asdict()
        found = {
            name: None if value is None else finite_or_none(value) for name, value in values.items()
        }
        return found | {"plan": self.plan and self.plan.to_dict()}


def derange_texts(texts: Sequence[str], seed: int = 0) -> Int[np.ndarray, "n"]:
    """Return a permutation that gives every prompt the text of another prompt, different from its
    own.

    Raises:
        GenlabError: if one text fills more than half of the prompts, so that no such permutation
            exists.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(texts))
    rank = dict(zip(names, rng.permutation(len(names))))
    # Equal texts are adjacent in this order; turning it by the largest group moves each out of its
    # own group.
    shuffled: list[int] = rng.permutation(len(texts)).tolist()
    order = sorted(shuffled, key=lambda i: rank[texts[i]])
    largest = max((list(texts).count(name) for name in names), default=0)
    if not texts or 2 * largest > len(texts):
        raise GenlabError(
            f"prompts: {largest} of {len(texts)} have the same text; the prompt-swap control "
            "needs prompts "
            "where no text occurs in more than half"
        )
    other = np.empty(len(texts), np.intp)
    other[order] = np.roll(order, -largest)
    return other


def prompt_swap(
    score_name: str,
    hypotheses: Sequence[str],
    texts: Sequence[str],
    clusters: Sequence[object],
    count_errors: CountErrors,
    seed: int = 0,
    runs: tuple[int, ...] = (),
) -> Control:
    """Score transcripts against another prompt's text, paired with their own text.

    Prompts that allow no swap (no texts, one prompt, one text in the majority) make the control not
    applicable. Prompts without text are left out of it.
    """
    has_text = [has_symbols(text) for text in texts]
    if not any(has_text):
        return not_applicable("prompt_swap", score_name, "the prompts have no text")
    if not all(has_text):
        kept = [i for i, keep in enumerate(has_text) if keep]
        hypotheses = [hypotheses[i] for i in kept]
        texts = [texts[i] for i in kept]
        clusters = [clusters[i] for i in kept]
        runs = tuple(runs[i] for i in kept) if runs else runs
    try:
        other = derange_texts(list(texts), seed)
    except GenlabError as error:
        return not_applicable("prompt_swap", score_name, str(error).removeprefix("prompts: "))
    own = count_errors(hypotheses, texts)
    swapped = count_errors(hypotheses, [texts[int(i)] for i in other])
    if len(set(runs)) > 1:
        grids = [
            ClipValues(*errors, tuple(clusters), runs=runs).pseudo_values()
            for errors in (swapped, own)
        ]
        return _make_control("prompt_swap", score_name, estimate_crossed(grids[0] - grids[1]))

    def difference(*sums: Float[np.ndarray, "*r c"]) -> np.ndarray:
        return np.asarray(ratio_of_sums(sums[0], sums[1]) - ratio_of_sums(sums[2], sums[3]))

    estimate = bootstrap_statistic(difference, *sum_clusters(clusters, *swapped, *own), seed=seed)
    return _make_control("prompt_swap", score_name, estimate)


def speaker_swap(own: ClipValues, others: Float[np.ndarray, "n"], seed: int = 0) -> Control:
    """Score the voice against all the other speakers instead of the prompted one, paired per group
    of clips.

    `others` is NaN for clips without such a comparison, which are left out.
    """
    is_known = np.isfinite(others) & (own.weights > 0)
    if not is_known.any():
        reason = "there is no other speaker to compare with"
        return not_applicable("speaker_swap", "speaker_similarity", reason)
    totals = np.where(is_known, others, 0.0) - np.where(is_known, own.totals, 0.0)
    difference = own._replace(totals=totals, weights=np.where(is_known, own.weights, 0.0))
    return _make_control("speaker_swap", "speaker_similarity", difference.estimate(seed))


def not_applicable(control: str, score_name: str, reason: str) -> Control:
    """Return a control that could not be made, with the reason."""
    return Control(control, score_name, math.nan, math.nan, math.nan, False, reason)


class _Pair(NamedTuple):
    estimate: Estimate
    p_value: float
    crossed: Crossed | None
    plan: Plan | None


def compare_rows(
    rows: Mapping[str, Mapping[str, ClipValues]],
    margins: Mapping[str, float] = MappingProxyType({}),
    seed: int = 0,
) -> list[Difference]:
    """Compare every pair of rows on every score that both have, prompt by prompt.

    With one training run per row the test flips signs of the prompts' differences; with several it
    is Student's t of `crossed_difference`. Two upper bounds are not compared, and against an exact
    value only the bound can turn out better: the order of the values says nothing else about the
    order of what they bound.

    Args:
        rows: per arm, the per-clip values that `score_clips` returned for the same prompts in the
            same order.
        margins: per score, the difference that does not matter; without one no equivalence is
            claimed.
        seed: of the resampling.

    Raises:
        GenlabError: if two rows were scored on different prompts.
    """
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows.values())))
    return [
        found
        for name in names
        for found in _compare_on(name, rows, margins.get(name, math.nan), seed)
    ]


def _compare_on(
    name: str, rows: Mapping[str, Mapping[str, ClipValues]], margin: float, seed: int
) -> list[Difference]:
    kinds: dict[str, Validity] = {
        row: values[name].validity for row, values in rows.items() if name in values
    }
    names = [
        (a, b)
        for a, b in itertools.combinations(kinds, 2)
        if is_conclusive(kinds[a], kinds[b]) or is_conclusive(kinds[b], kinds[a])
    ]
    pairs = [_subtract(name, a, b, rows, margin, seed) for a, b in names]
    corrected = holm_correction([pair.p_value for pair in pairs]) if pairs else []
    alike = _equivalence(
        [pair.crossed if kinds[a] == kinds[b] else None for (a, b), pair in zip(names, pairs)],
        margin,
    )
    lower_is_better = find_meaning(name).direction == "lower"
    found = []
    for (a, b), (estimate, p_value, _, plan), p_holm, p_alike in zip(
        names, pairs, corrected, alike
    ):
        better = ""
        if estimate.excludes_zero and p_holm < 0.05:
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
    a: str,
    b: str,
    rows: Mapping[str, Mapping[str, ClipValues]],
    margin: float,
    seed: int,
) -> _Pair:
    first, second = rows[a][name], rows[b][name]
    if first.clusters != second.clusters or first.runs != second.runs:
        raise GenlabError(
            f"{name}: rows {a!r} and {b!r} were scored on different prompts; score both on the "
            "same ones"
        )
    weights = np.where((first.weights > 0) & (second.weights > 0), first.weights, 0.0)
    if not weights.any():
        return _Pair(Estimate(math.nan, math.nan, math.nan, 0), 1.0, None, None)
    grids = [
        row._replace(totals=row.values * weights, weights=weights).pseudo_values()
        for row in (first, second)
    ]
    num_prompts = grids[0].shape[1]
    crossed = crossed_difference(*grids) if num_prompts > 1 else None
    if first.num_runs == 1:
        values = np.where(weights > 0, first.values - second.values, 0.0)
        difference = ClipValues(values * weights, weights, first.clusters)
        totals, sums = sum_clusters(difference.clusters, difference.totals, difference.weights)
        totals = totals[sums > 0]
        p_value = paired_p_value(totals, np.zeros(len(totals)), seed=seed)
        return _Pair(difference.estimate(seed), p_value, crossed, None)
    if crossed is None or min(grids[0].shape) < 2:
        return _Pair(Estimate(math.nan, math.nan, math.nan, num_prompts), 1.0, None, None)
    target = _target(grids, find_meaning(name).direction == "lower", margin)
    return _Pair(
        crossed.estimate(num_prompts), float(crossed.p_value()), crossed, make_plan(target, *grids)
    )


def _target(
    grids: Sequence[Float[np.ndarray, "s c"]], lower_is_better: bool, margin: float
) -> float:
    """Return the difference to plan for: the margin, else a tenth of the better value, else the
    difference seen.
    """
    values = [float(grid.mean()) for grid in grids]
    tenth = abs(min(values) if lower_is_better else max(values)) / 10
    return margin if math.isfinite(margin) else tenth or abs(values[0] - values[1])


def _make_control(control: str, score_name: str, estimate: Estimate) -> Control:
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        # One unit has a value but no interval, and without an interval nothing is shown either way.
        reason = f"an interval needs at least 2 units that differ, there are {estimate.n}"
        return Control(
            control, score_name, estimate.value, estimate.low, estimate.high, False, reason
        )
    is_worse = (
        estimate.low > 0 if find_meaning(score_name).direction == "lower" else estimate.high < 0
    )
    return Control(control, score_name, estimate.value, estimate.low, estimate.high, bool(is_worse))
