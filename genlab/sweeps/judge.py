"""What became of the predictions of a sweep.

In: a page and its finished runs. Out: one `Finding` per prediction: reproduced, reversed,
inconclusive, or not run; and one per part of the claim that the page leaves out, not tested at this
scale. A page may withdraw a verdict with a reason: what was found stays, the verdict goes.
Contrasts are weighted sums over rows of per-prompt values, with the interval of `crossed_contrast`
over prompts and training seeds; Holm's correction runs over all contrasts of the page. It takes at
least three seeds. A sum of bits that contains upper bounds shows a direction only where the bounds
could not reverse it, unless the prediction says that its source compares bounds as values, and then
the verdict says so too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import JsonValue
from scipy import stats

from genlab.config import GenlabError
from genlab.evaluate.rows import load_row
from genlab.evaluate.scores import ClipValues
from genlab.evaluate.table import find_metric
from genlab.report.inputs import Results, Row
from genlab.report.ledger import SEEDS_FOR_A_STATEMENT
from genlab.statistics.bootstrap import Ends, finite_or_none, holm_correction
from genlab.statistics.crossed import Crossed, crossed_contrast
from genlab.statistics.crossover import Curve, find_crossover
from genlab.studies.crossover import AXES, find_shared_error, read_finished, seed_values
from genlab.sweeps.page import Contrast, Crossing, Ratio, Sweep, SweepRun
from genlab.sweeps.runs import read_state, run_directory

Verdict = Literal[
    "reproduced", "reversed", "inconclusive", "not run", "not tested at this scale", "withdrawn"
]
LEVEL = 0.05


class Finding(NamedTuple):
    """A prediction and what was found: for a contrast the sum, for a crossing its x, with a 95 %
    interval.
    """

    text: str
    kind: str
    score: str
    expected: str
    verdict: Verdict
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p_holm: float = float("nan")
    seeds: int = 0
    note: str = ""

    @property
    def interval(self) -> Ends:
        """What was found with its 95 % interval, None where an end is not finite."""
        value, low, high = (finite_or_none(end) for end in (self.value, self.low, self.high))
        return {"value": value, "low": low, "high": high}

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON types; infinities and NaN become null."""
        values = self._asdict().items()
        return {
            name: finite_or_none(value) if isinstance(value, float) else value
            for name, value in values
        }


class _Sum(NamedTuple):
    crossed: Crossed
    seeds: int
    shows: tuple[bool, bool]
    """Whether a sum below and one above zero would show anything, given which terms are upper
    bounds.
    """


def judge(sweep: Sweep, runs: Sequence[SweepRun], out: Path) -> list[Finding]:
    """Return one finding per prediction, in their order, and one per part of the claim that is not
    tested.

    Raises:
        GenlabError: if a finished run lacks a score, or two rows were scored on different prompts.
    """
    finished = {run.label: run for run in runs if read_state(run, out).state == "finished"}
    labels = [run.label for run in runs]
    sums: dict[int, _Sum] = {}
    for index, prediction in enumerate(sweep.predictions):
        if isinstance(prediction, Contrast) and _needed(prediction, labels) <= set(finished):
            sums[index] = _add_up(prediction, labels, finished, out)
    # Holm over all contrasts of the page: with twenty predictions one would come true by chance.
    p_values = [_p_value(sum_, sweep.predictions[index]) for index, sum_ in sums.items()]
    corrected = dict(zip(sums, holm_correction(p_values).tolist() if p_values else []))
    findings = []
    for index, prediction in enumerate(sweep.predictions):
        expected = _expected(prediction)
        if isinstance(prediction, Contrast) and index in sums:
            findings.append(_weigh(prediction, sums[index], corrected[index]))
        elif isinstance(prediction, Ratio) and _needed(prediction, labels) <= set(finished):
            findings.append(_divide(prediction, labels, finished, out))
        elif isinstance(prediction, Crossing) and _needed(prediction, labels) <= set(finished):
            findings.append(
                _find_crossing(
                    prediction, [finished[label] for label in prediction.labels or labels], out
                )
            )
        else:
            missing = sorted(_needed(prediction, labels) - set(finished))
            note = f"waits for {', '.join(label or 'the run' for label in missing)}"
            findings.append(
                Finding(
                    prediction.text,
                    prediction.kind,
                    prediction.score,
                    expected,
                    "not run",
                    note=note,
                )
            )
    # Withdrawn after judging: the finding stays, only its verdict does not count.
    findings = [_withdraw(finding, sweep.withdrawn) for finding in findings]
    return findings + [
        Finding(text, "untested", "", "", "not tested at this scale") for text in sweep.untested
    ]


def _withdraw(finding: Finding, reasons: dict[str, str]) -> Finding:
    """Keep what was found and take its verdict back, if the page gives a reason to."""
    if finding.verdict == "not run" or finding.text not in reasons:
        return finding
    return finding._replace(verdict="withdrawn", note=reasons[finding.text])


def _expected(prediction: Contrast | Crossing | Ratio) -> str:
    if isinstance(prediction, Crossing):
        return f"{prediction.after} overtakes"
    if isinstance(prediction, Ratio):
        return f"{prediction.expect} {prediction.times:g}"
    return prediction.expect


def _needed(prediction: Contrast | Crossing | Ratio, labels: Sequence[str]) -> set[str]:
    return {row.partition(" @ ")[2] or labels[0] for row in prediction.rows(labels)}


def _add_up(
    prediction: Contrast, labels: Sequence[str], finished: dict[str, SweepRun], out: Path
) -> _Sum:
    rows: list[ClipValues] = []
    for row in prediction.terms:
        arm, _, label = row.partition(" @ ")
        scored = load_row(run_directory(out, finished[label or labels[0]]) / "rows" / f"{arm}.json")
        if scored is None or prediction.score not in scored.per_clip:
            raise GenlabError(
                f"prediction {prediction.text!r}: row {row!r} has no score {prediction.score!r}"
            )
        rows.append(scored.per_clip[prediction.score])
    clusters = [list(dict.fromkeys(row.clusters)) for row in rows]
    if any(each != clusters[0] for each in clusters):
        raise GenlabError(
            f"prediction {prediction.text!r}: its rows were scored on different prompts"
        )
    # A prompt on which one row has no value is left out of all of them.
    is_defined = [_defined_clusters(row) for row in rows]
    common = set.intersection(*is_defined)
    grids = [_keep(row, common).pseudo_values() for row in rows]
    weights = list(prediction.terms.values())
    crossed = crossed_contrast(grids, weights)
    exact = [row.validity != "upper bound" or prediction.bounds_as_values for row in rows]
    shows = tuple(
        all(fine or weight * side > 0 for fine, weight in zip(exact, weights)) for side in (1, -1)
    )
    return _Sum(crossed, min(len(grid) for grid in grids), (shows[0], shows[1]))


def _defined_clusters(row: ClipValues) -> set[object]:
    undefined = {cluster for cluster, weight in zip(row.clusters, row.weights) if weight <= 0}
    return set(row.clusters) - undefined


def _keep(row: ClipValues, clusters: set[object]) -> ClipValues:
    weights = np.where([cluster in clusters for cluster in row.clusters], row.weights, 0.0)
    return row._replace(weights=weights)


def _p_value(sum_: _Sum, prediction: Contrast | Crossing | Ratio) -> float:
    margin = prediction.margin if isinstance(prediction, Contrast) else None
    return float(
        sum_.crossed.p_value() if margin is None else sum_.crossed.equivalence_p_value(margin)
    )


def _weigh(prediction: Contrast, sum_: _Sum, p_holm: float) -> Finding:
    value, half = float(sum_.crossed.value), float(sum_.crossed.half_width)
    low, high = value - half, value + half
    is_sure = p_holm < LEVEL
    verdict: Verdict = "inconclusive"
    notes = []
    if prediction.margin is not None:
        outside = low > prediction.margin or high < -prediction.margin
        # A difference within the margin is an equivalence test, so both ends must lie inside.
        verdict = (
            "reproduced"
            if is_sure and all(sum_.shows)
            else "reversed"
            if outside
            else "inconclusive"
        )
    elif is_sure and (low > 0 or high < 0):
        side = "below" if high < 0 else "above"
        # An upper bound above an exact value shows nothing: the value itself may lie below.
        if sum_.shows[side == "above"]:
            verdict = "reproduced" if side == prediction.expect else "reversed"
        else:
            notes.append(
                f"the sum is significantly {side} zero, but upper bounds in it could hide the "
                "opposite"
            )
    # After the verdict, because no margin makes up for too few seeds.
    if sum_.seeds < SEEDS_FOR_A_STATEMENT:
        verdict = "inconclusive"
        notes.append(
            f"insufficient seeds: {sum_.seeds}, and a statement takes {SEEDS_FOR_A_STATEMENT}"
        )
    if prediction.bounds_as_values:
        notes.append("upper bounds are taken as values, as the source does")
    if prediction.size is not None:
        inside = low <= prediction.size <= high
        notes.append(
            f"predicted size {prediction.size:g} lies {'inside' if inside else 'outside'} the "
            "interval"
        )
    expected = prediction.expect + (f" {prediction.margin:g}" if prediction.margin else "")
    return Finding(
        prediction.text,
        "contrast",
        prediction.score,
        expected,
        verdict,
        value,
        low,
        high,
        p_holm,
        sum_.seeds,
        "; ".join(notes),
    )


def _divide(
    prediction: Ratio, labels: Sequence[str], finished: dict[str, SweepRun], out: Path
) -> Finding:
    """Return the ratio: exact for calls and FLOPs, with an interval over the training seeds for
    seconds.
    """
    costs = []
    for row in prediction.rows(labels):
        arm, _, label = row.partition(" @ ")
        results = read_finished(run_directory(out, finished[label or labels[0]]))
        entry = _find_arm(results, arm, prediction.text)
        length = f"{prediction.length_s:g}"
        cost = entry.get("by_length", {}).get(length)
        if cost is None:
            raise GenlabError(
                f"prediction {prediction.text!r}: {row!r} was not timed at {length} s; score it "
                "again"
            )
        costs.append(np.atleast_1d(cost[prediction.cost]).astype(float))
    ratios, is_exact = costs[0] / costs[1], prediction.cost != "latency_s"
    # Ratios of times are log-normal rather than normal, hence the geometric mean and an interval on
    # the log scale.
    value = float(ratios[0] if is_exact else stats.gmean(ratios))
    half = (
        stats.sem(np.log(ratios)) * stats.t.ppf(1 - LEVEL / 2, len(ratios) - 1)
        if len(ratios) > 1
        else 0.0
    )
    low, high = value * float(np.exp(-half)), value * float(np.exp(half))
    verdict: Verdict = "inconclusive"
    # Calls and FLOPs have no spread, so one run decides.
    if (is_exact or len(ratios) >= SEEDS_FOR_A_STATEMENT) and (
        low > prediction.times or high < prediction.times
    ):
        verdict = (
            "reproduced"
            if (low > prediction.times) == (prediction.expect == "above")
            else "reversed"
        )
    note = f"a clip of {prediction.length_s:g} s, " + (
        "exact" if is_exact else "alone, on the machine that ran it"
    )
    return Finding(
        prediction.text,
        "ratio",
        prediction.cost,
        _expected(prediction),
        verdict,
        value,
        low,
        high,
        seeds=len(ratios),
        note=note,
    )


def _find_arm(results: Results, arm: str, prediction: str) -> Row:
    found = [entry for entry in results["arms"] if entry["name"] == arm]
    if not found:
        raise GenlabError(
            f"prediction {prediction!r}: a finished run has no arm {arm!r}; run it again"
        )
    return found[0]


def _scored(arm: Row, prediction: Crossing) -> list[float]:
    return seed_values(arm["scores"].get(prediction.score))


def _find_crossing(prediction: Crossing, runs: Sequence[SweepRun], out: Path) -> Finding:
    loaded = [read_finished(run_directory(out, run)) for run in runs]
    curves = {}
    for name in (prediction.before, prediction.after):
        points = [
            (float(arm.get(AXES[prediction.against], 0.0)), value)
            for results in loaded
            for arm in results["arms"]
            if arm["name"] == name
            for value in _scored(arm, prediction)
        ]
        if not points:
            raise GenlabError(
                f"prediction {prediction.text!r}: no run has {prediction.score} of arm {name!r}"
            )
        curves[name] = Curve(*(np.array(column) for column in zip(*sorted(points))))
    shared = find_shared_error(
        loaded, "name", prediction.score, prediction.before, prediction.after
    )
    before, after = curves[prediction.before], curves[prediction.after]
    found = find_crossover(before, after, shared_error=shared)
    # All points of all runs lie in one curve; each run gives one per training seed.
    seeds = len(before.x) // len(runs)
    last = before.x == before.x.max(), after.x == after.x.max()
    gap = float(after.score[last[1]].mean() - before.score[last[0]].mean())
    # Crossing is not enough: the right one must lead after it.
    metric = find_metric(prediction.score, runs[0].config.own_metrics)
    overtakes = gap < 0 if metric.direction == "lower" else gap > 0
    is_sure = found.verdict == "inside sweep" and seeds >= SEEDS_FOR_A_STATEMENT
    verdict: Verdict = ("reproduced" if overtakes else "reversed") if is_sure else "inconclusive"
    leader = prediction.after if overtakes else prediction.before
    note = (
        f"crossing {found.verdict}; at the largest {prediction.against} of the sweep {leader} leads"
    )
    return Finding(
        prediction.text,
        "crossing",
        prediction.score,
        f"{prediction.after} overtakes",
        verdict,
        found.x,
        found.low,
        found.high,
        seeds=seeds,
        note=note,
    )
