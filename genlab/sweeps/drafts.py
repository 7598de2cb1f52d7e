"""What a prediction comes to before gates and Holm's correction: a value, its interval, a p-value.

In: a prediction and the finished runs that it is about. Out: `Draft`, whose verdict is what would
be said if nothing spoke against it; `judge` decides whether anything does.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from genlab.config import GenlabError
from genlab.evaluate.rows import load_row
from genlab.evaluate.scope import describe_scope
from genlab.evaluate.scores import ClipValues, is_proper
from genlab.evaluate.table import find_metric
from genlab.fairness.verdict import (
    DECLARED,
    UNDECLARED,
    Gate,
    GateName,
    check_power,
    check_seeds,
    check_token_types,
    find_gates,
    merge_gates,
    replace_gates,
)
from genlab.report.answer import evidence_of
from genlab.report.inputs import Ledger, Results, Row
from genlab.statistics.crossed import Crossed, contrast_of_trainings
from genlab.statistics.crossover import Curve, find_crossover
from genlab.statistics.power import power_of
from genlab.studies.crossover import AXES, find_shared_error, gates_of_curves, seed_values
from genlab.sweeps.cells import check_cells, describe_interaction, interaction_of
from genlab.sweeps.finding import Finding, Verdict
from genlab.sweeps.page import Contrast, Crossing, Gap, Prediction, Ratio, SweepRun

LEVEL = 0.05
_OF_THE_SCORE: tuple[GateName, ...] = (
    "score trusted",
    "real clips heard",
    "floors beaten",
    "counting beaten",
    "scores agree",
    "enough prompts",
    "one token type",
)


class Loaded(NamedTuple):
    """A finished run: where it is, and what it left."""

    run: SweepRun
    directory: Path
    results: Results
    ledger: Ledger | None


class Draft(NamedTuple):
    """A finding whose verdict holds if it is sure and no gate fails."""

    finding: Finding
    p_value: float | None
    """Of the verdict; None of what chance has no part in."""


def expected(prediction: Prediction) -> str:
    """Return what was predicted, in a word."""
    if isinstance(prediction, Crossing):
        return f"{prediction.after} overtakes"
    if isinstance(prediction, Gap):
        return "shrinks"
    if isinstance(prediction, Ratio):
        return f"{prediction.expect} {prediction.times:g}"
    return prediction.expect + (f" {prediction.margin:g}" if prediction.margin else "")


def draft_contrast(
    prediction: Contrast, labels: Sequence[str], loaded: Mapping[str, Loaded], level: float
) -> Draft:
    """Return the weighted sum with its interval; its power is that of a test at `level`, which all
    that the page decides share.

    Raises:
        GenlabError: if a row lacks the score, or two rows were scored on different prompts.
    """
    places = {row: _place(row, labels, loaded) for row in prediction.terms}
    rows = [_load_values(prediction, row, arm, at.directory) for row, (at, arm) in places.items()]
    entries = {row: _find_arm(at.results, arm, prediction) for row, (at, arm) in places.items()}
    crossed, seeds, prompts = _add_up(prediction, rows, list(entries.values()))
    value, half = float(crossed.value), float(crossed.half_width)
    low, high = value - half, value + half
    verdict, p_value, notes = _read_sum(prediction, rows, crossed)
    if prediction.size is not None:
        inside = low <= prediction.size <= high
        notes.append(
            f"predicted size {prediction.size:g} lies {'inside' if inside else 'outside'} the "
            "interval"
        )
    gates = _gates_of_contrast(prediction, places, entries, crossed, seeds, prompts, level)
    notes += [f"for {scope}" for scope in _scopes([at for at, _ in places.values()])]
    reads = {row: entry.get("reads", "") for row, entry in entries.items()}
    if cells := interaction_of(prediction, reads):
        # Beside every mean over codes and latents, whatever the gates say of it.
        crossed_cells, *_ = _add_up(cells, rows, list(entries.values()))
        notes.append(describe_interaction(crossed_cells))
        gates = replace_gates(gates, check_cells(crossed, crossed_cells))
    finding = Finding(
        prediction.text,
        "contrast",
        prediction.score,
        expected(prediction),
        verdict,
        value,
        low,
        high,
        seeds=seeds,
        note="; ".join(notes),
        gates=tuple(gates),
    )
    return Draft(finding, p_value)


def _read_sum(
    prediction: Contrast, rows: Sequence[ClipValues], crossed: Crossed
) -> tuple[Verdict, float, list[str]]:
    """Return what a sum shows if it is sure, the p-value of that, and what is to be said of it."""
    value, half = float(crossed.value), float(crossed.half_width)
    below, above = _shows(prediction, rows)
    is_shown = {"below": below, "above": above}
    if prediction.margin is not None:
        # A difference within the margin is an equivalence test, so both ends must lie inside.
        is_inside = abs(value) < prediction.margin
        p_value = float(
            crossed.equivalence_p_value(prediction.margin)
            if is_inside
            else 2 * crossed.exceedance(np.abs(crossed.value) - prediction.margin)
        )
        verdict: Verdict = "reproduced" if is_inside else "reversed"
        needs_both = is_inside
    else:
        side = "below" if value < 0 else "above"
        verdict = "reproduced" if side == prediction.expect else "reversed"
        needs_both = False
        # An interval by another quantile than the p-value must agree with it.
        p_value = float(crossed.p_value())
        p_value = p_value if abs(value) > half else max(p_value, LEVEL)
    # An upper bound above an exact value shows nothing: the value itself may lie below.
    if below and above if needs_both else is_shown["below" if value < 0 else "above"]:
        return verdict, p_value, []
    if not all(is_proper(row.validity) for row in rows):
        return "inconclusive", p_value, ["a biased value is among the rows and shows nothing"]
    if prediction.bounds_as_values:
        return in_bounds(verdict), p_value, [_tell_bounds(prediction, rows, value)]
    hidden = f"the sum is significantly {'below' if value < 0 else 'above'} zero, but upper bounds "
    notes = [hidden + "in it could hide the opposite"] if abs(value) > half else []
    return "inconclusive", p_value, notes


def in_bounds(verdict: Verdict) -> Verdict:
    """Return a verdict that holds for bounds, as a word of its own."""
    if verdict == "reproduced":
        return "reproduced in bounds"
    return "reversed in bounds" if verdict == "reversed" else verdict


def _tell_bounds(prediction: Contrast, rows: Sequence[ClipValues], value: float) -> str:
    """Say which rows are bounds, and by how much tighter ones would turn the order."""
    bounds = [
        row
        for (row, weight), values in zip(prediction.terms.items(), rows)
        # Only a bound that is too high on this side could turn it.
        if values.validity == "upper bound" and (prediction.margin or weight * value > 0)
    ]
    return (
        "upper bounds are taken as values, as the source does: "
        f"{' and '.join(bounds)} could lie lower, and by more than {abs(value):.3g} in this sum "
        "the order would turn"
    )


def draft_ratio(prediction: Ratio, labels: Sequence[str], loaded: Mapping[str, Loaded]) -> Draft:
    """Return the ratio: exact for calls and FLOPs, with an interval over the training seeds for
    seconds.
    """
    costs, by_label = [], {}
    length = f"{prediction.length_s:g}"
    for row in prediction.rows(labels):
        at, arm = _place(row, labels, loaded)
        entry = _find_arm(at.results, arm, prediction)
        cost = entry.get("by_length", {}).get(length)
        if cost is None:
            raise GenlabError(
                f"prediction {prediction.text!r}: {row!r} was not timed at {length} s; score it "
                "again"
            )
        costs.append(np.atleast_1d(cost[prediction.cost]).astype(float))
        by_label.setdefault(at.run.label, (at, []))[1].append(entry)
    ratios = costs[0] / costs[1]
    told = f"a clip of {length} s"
    draft = Finding(
        prediction.text,
        "ratio",
        prediction.cost,
        expected(prediction),
        "arithmetic",
        *(float(ratios[0]),) * 3,
        seeds=len(ratios),
    )
    if prediction.cost != "latency_s":
        # It follows from the configs; no run could have come out otherwise.
        holds = (draft.value > prediction.times) == (prediction.expect == "above")
        note = f"{told}, exact: it {'is' if holds else 'is not'} {draft.expected}"
        return Draft(draft._replace(note=note), None)
    # Ratios of times are log-normal rather than normal, hence the geometric mean and an interval on
    # the log scale.
    value = float(stats.gmean(ratios))
    error = float(stats.sem(np.log(ratios))) if len(ratios) > 1 else np.inf
    distance = abs(np.log(value / prediction.times))
    dof = max(1, len(ratios) - 1)
    factor = float(np.exp(error * stats.t.ppf(1 - LEVEL / 2, dof)))
    p_value = float(2 * stats.t.sf(distance / error, dof)) if error else float(distance == 0)
    is_as_predicted = (value > prediction.times) == (prediction.expect == "above")
    finding = draft._replace(
        verdict="reproduced" if is_as_predicted else "reversed",
        value=value,
        low=value / factor,
        high=value * factor,
        note=f"{told}, alone, on the machine that ran it",
        gates=tuple(_gates_of_seconds(by_label, len(ratios))),
    )
    return Draft(finding, p_value)


def draft_crossing(
    prediction: Crossing, labels: Sequence[str], loaded: Mapping[str, Loaded]
) -> Draft:
    """Return where the curves cross and who leads after it.

    Raises:
        GenlabError: if no run has the score of one of the arms.
    """
    runs = [loaded[label] for label in prediction.labels or labels]
    results = [one.results for one in runs]
    names = (prediction.before, prediction.after)
    arms = [[_find_arm(one.results, name, prediction) for name in names] for one in runs]
    before, after = (_curve(prediction, name, results) for name in names)
    shared = find_shared_error(results, "name", prediction.score, *names)
    found = find_crossover(before, after, shared_error=shared)
    # All points of all runs lie in one curve; each run gives one per training seed.
    seeds = len(before.x) // len(runs)
    last = before.x == before.x.max(), after.x == after.x.max()
    gap = float(after.score[last[1]].mean() - before.score[last[0]].mean())
    # Crossing is not enough: the right one must lead after it.
    metric = find_metric(prediction.score, runs[0].run.config.own_metrics)
    overtakes = gap < 0 if metric.direction == "lower" else gap > 0
    leader = prediction.after if overtakes else prediction.before
    notes = [f"for {scope}" for scope in _scopes(runs)]
    notes += [
        f"crossing {found.verdict}; at the largest {prediction.against} of the sweep {leader} leads"
    ]
    if found.verdict == "refused":
        notes.append("the fit excludes where the measured points change places, so it is no fit")
    verdict: Verdict = "reproduced" if overtakes else "reversed"
    kinds = {
        arm["scores"].get(prediction.score, {}).get("validity") for pair in arms for arm in pair
    }
    if not kinds <= {"exact", "metric", "upper bound"}:
        verdict = "inconclusive"
        notes.append("a biased value is among them and shows nothing")
    elif "upper bound" in kinds:
        if prediction.bounds_as_values:
            verdict = in_bounds(verdict)
            notes.append(
                "upper bounds are taken as values, as the source does: tighter ones would move the "
                f"crossing, and by more than {abs(gap):.3g} at the end turn the order there"
            )
        else:
            verdict = "inconclusive"
            notes.append("upper bounds are among the values: where bounds cross, values need not")
    finding = Finding(
        prediction.text,
        "crossing",
        prediction.score,
        expected(prediction),
        verdict if found.verdict == "inside sweep" else "inconclusive",
        found.x,
        found.low,
        found.high,
        seeds=seeds,
        note="; ".join(notes),
        gates=tuple(_gates_of_crossing(prediction, runs, arms, seeds)),
    )
    return Draft(finding, found.p_value)


def _scopes(runs: Iterable[Loaded]) -> list[str]:
    """Return whom the runs hold for, each once; nothing where they hold for everybody."""
    told = dict.fromkeys(describe_scope(run.results.get("units")) for run in runs)
    return [scope for scope in told if scope]


def _place(row: str, labels: Sequence[str], loaded: Mapping[str, Loaded]) -> tuple[Loaded, str]:
    arm, _, label = row.partition(" @ ")
    return loaded[label or labels[0]], arm


def _find_arm(results: Results, arm: str, prediction: Prediction) -> Row:
    found = [entry for entry in results["arms"] if entry["name"] == arm]
    if not found:
        raise GenlabError(
            f"prediction {prediction.text!r}: a finished run has no arm {arm!r}; run it again"
        )
    return found[0]


def _load_values(prediction: Contrast, row: str, arm: str, directory: Path) -> ClipValues:
    scored = load_row(directory / "rows" / f"{arm}.json")
    if scored is None or prediction.score not in scored.per_clip:
        raise GenlabError(
            f"prediction {prediction.text!r}: row {row!r} has no score {prediction.score!r}"
        )
    return scored.per_clip[prediction.score]


def _add_up(
    prediction: Contrast, rows: Sequence[ClipValues], entries: Sequence[Row]
) -> tuple[Crossed, int, int]:
    """Return the sum, the fewest training seeds behind a row, and the prompts."""
    clusters = [list(dict.fromkeys(row.clusters)) for row in rows]
    if any(each != clusters[0] for each in clusters):
        raise GenlabError(
            f"prediction {prediction.text!r}: its rows were scored on different prompts"
        )
    # A prompt on which one row has no value is left out of all of them.
    is_defined = [_defined_clusters(row) for row in rows]
    common = set.intersection(*is_defined)
    grids = [_keep(row, common).pseudo_values() for row in rows]
    # Rows that differ in how they sample alone share their trained models, seed by seed.
    trainings = [entry.get("training", "") for entry in entries]
    crossed = contrast_of_trainings(grids, list(prediction.terms.values()), trainings)
    return crossed, min(len(grid) for grid in grids), grids[0].shape[1]


def _defined_clusters(row: ClipValues) -> set[object]:
    undefined = {cluster for cluster, weight in zip(row.clusters, row.weights) if weight <= 0}
    return set(row.clusters) - undefined


def _keep(row: ClipValues, clusters: set[object]) -> ClipValues:
    weights = np.where([cluster in clusters for cluster in row.clusters], row.weights, 0.0)
    return row._replace(weights=weights)


def _shows(prediction: Contrast, rows: Sequence[ClipValues]) -> tuple[bool, bool]:
    """Return whether a sum below and one above zero would show anything, given which terms are
    upper bounds, and which may lie on either side.
    """
    if not all(is_proper(row.validity) for row in rows):
        return False, False
    exact = [row.validity != "upper bound" for row in rows]
    weights = prediction.terms.values()
    below, above = (
        all(fine or weight * side > 0 for fine, weight in zip(exact, weights)) for side in (1, -1)
    )
    return below, above


def _curve(prediction: Crossing, name: str, results: Sequence[Results]) -> Curve:
    points = [
        (float(arm.get(AXES[prediction.against], 0.0)), value)
        for found in results
        for arm in found["arms"]
        if arm["name"] == name
        for value in seed_values(arm["scores"].get(prediction.score))
    ]
    if not points:
        raise GenlabError(
            f"prediction {prediction.text!r}: no run has {prediction.score} of arm {name!r}"
        )
    return Curve(*(np.array(column) for column in zip(*sorted(points))))


def _gates_of_contrast(
    prediction: Contrast,
    places: Mapping[str, tuple[Loaded, str]],
    entries: Mapping[str, Row],
    crossed: Crossed,
    seeds: int,
    prompts: int,
    level: float,
) -> list[Gate]:
    """Return the gates of every run that the sum is about; those of the sum itself replace what a
    run says of its pairs.
    """
    by_label: dict[str, list[Row]] = {}
    for row, (at, _) in places.items():
        by_label.setdefault(at.run.label, []).append(entries[row])
    loaded = {at.run.label: at for at, _ in places.values()}
    gates = merge_gates(
        {
            label: find_gates(
                evidence_of(
                    at.results, at.ledger, prediction.score, by_label[label], needs_all=True
                )
            )
            for label, at in loaded.items()
        }
    )
    # The margin or the size that was predicted, else a tenth of the smallest row, as in a report.
    scores = [
        entry["scores"].get(prediction.score) or {"value": None} for entry in entries.values()
    ]
    values = [abs(score["value"] or 0.0) for score in scores]
    declared = prediction.margin or abs(prediction.size or 0.0)
    target = declared or min(values) / 10
    kinds: dict[tuple[str, str], float] = {}
    for row, weight in prediction.terms.items():
        kind = entries[row]["family"], entries[row].get("reads", "")
        kinds[kind] = kinds.get(kind, 0.0) + weight
    return replace_gates(
        gates,
        check_seeds(seeds),
        check_power(
            target,
            power_of(target, crossed, level),
            prompts,
            None,
            level=level,
            rule=DECLARED if declared else UNDECLARED,
            scope=" and ".join(_scopes(loaded.values())),
        ),
        check_token_types(kinds, is_about_tokens=prediction.about == "tokens"),
    )


def _gates_of_seconds(by_label: Mapping[str, tuple[Loaded, list[Row]]], seeds: int) -> list[Gate]:
    """Return the gates of a ratio of seconds: it has no score, and a fast arm that follows no
    prompt is no faster.
    """
    gates = merge_gates(
        {
            label: find_gates(evidence_of(at.results, at.ledger, "", arms))
            for label, (at, arms) in by_label.items()
        }
    )
    none = [Gate(name, "not applicable", "a ratio of seconds") for name in _OF_THE_SCORE]
    return replace_gates(gates, check_seeds(seeds), *none)


def _gates_of_crossing(
    prediction: Crossing, runs: Sequence[Loaded], arms: Sequence[Sequence[Row]], seeds: int
) -> list[Gate]:
    compared = {one.run.label: (one.results, one.ledger, pair) for one, pair in zip(runs, arms)}
    return gates_of_curves(compared, prediction.score, seeds)
