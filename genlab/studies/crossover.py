"""`genlab crossover`: where the ranking of families flips over finished comparisons, and what sweep
would show it.

In: run directories of finished comparisons that differ in their budget (results.json of each). Out:
text: the scores of every family against FLOPs, epochs or unique seconds, a verdict for every pair
of families, and on request a plan. The verdicts are also left as `crossover.json` in every one of
these directories, whose reports then show them.
"""

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genlab.config import GenlabError
from genlab.config.errors import read_numbers, shorten
from genlab.evaluate.entries import ScoreEntry
from genlab.evaluate.table import known_metric
from genlab.fairness.verdict import (
    Gate,
    check_seeds,
    check_token_types,
    failed,
    find_gates,
    merge_gates,
    replace_gates,
)
from genlab.report import outputs
from genlab.report.additions import read_crossings
from genlab.report.answer import evidence_of, find_difference, model_arms
from genlab.report.console import fold
from genlab.report.inputs import Ledger, Results, Row, read_ledger
from genlab.report.text import (
    format_quantity,
    format_seconds,
    format_value,
    name_title,
    score_title,
)
from genlab.run.files import write_json
from genlab.statistics.bootstrap import holm_correction
from genlab.statistics.crossover import (
    Crossover,
    Curve,
    SweepPlan,
    assume_exponent,
    find_crossover,
    fit_curve,
    plan_sweep,
)
from genlab.statistics.power import LEVEL

AXES = {"flops": "train_flops", "epochs": "epochs", "seconds": "unique_seconds"}
_WORDS = {"flops": "training FLOPs", "epochs": "epochs", "seconds": "unique seconds"}
EXAMPLE_PLAN = "1e12,3e12,1e13"
MAX_BUDGETS = 1000
SAME_BUDGET = 1.02  # arms of one budget agree within a percent: whole steps


class Pilot(NamedTuple):
    """The runs of every family, and the error of each pair's difference that prompts alone cause at
    every x.
    """

    curves: dict[str, Curve]
    shared_errors: dict[tuple[str, str], float]
    notes: list[str]
    unit: str
    direction: str
    gates: dict[tuple[str, str], list[Gate]]
    """Of every pair: what a verdict on it has to pass in every run."""
    bounds: set[str]
    """Families among whose values are upper bounds, or others that are not exact."""


def describe_crossover(arguments: argparse.Namespace) -> str:
    """Return the table, the verdicts and, if `arguments.plan` names budgets, the plan.

    Raises:
        GenlabError: if a directory holds no finished comparison, a score or axis is missing, or
            tokens differ.
    """
    budgets = [] if arguments.plan is None else _parse_budgets(arguments.plan)
    pilot = read_pilot(arguments.runs, arguments.score, arguments.against)
    if len(pilot.curves) < 2:
        raise GenlabError(
            f"{len(pilot.curves)} family with {arguments.score}; two are needed to cross"
        )
    lower_is_better = pilot.direction == "lower"
    title = f"{score_title(arguments.score)} against {_WORDS[arguments.against]}, mean (runs)"
    table = _table(pilot, arguments.against)
    verdicts = []
    plan_texts = []
    # Given exponents replace the fit, so one budget is enough for a plan; no crossing is then
    # claimed.
    exponents = (
        _parse_exponents(arguments.exponents, list(pilot.curves)) if arguments.exponents else {}
    )
    pairs = list(itertools.combinations(pilot.curves, 2))
    crossings = {} if exponents else _find_crossings(pilot, pairs)
    # All pairs are looked at, and the one that crosses is told: Holm's correction runs over them.
    p_holm = dict(zip(crossings, holm_correction([one.p_value for one in crossings.values()])))
    for pair, found in crossings.items():
        told = _verdict(found, *pair, pilot.curves, arguments.against, lower_is_better)
        told = _corrected(told, *pair, found, float(p_holm[pair]), len(pairs))
        verdicts.append(_gated(_refuse_bounds(told, *pair, pilot), *pair, pilot.gates[pair]))
    for a, b in pairs:
        shared = pilot.shared_errors.get((a, b), 0.0)
        if budgets:
            fits = [
                assume_exponent(pilot.curves[name], exponents[name], seed=i)
                if exponents
                else fit_curve(pilot.curves[name], seed=i)
                for i, name in enumerate((a, b))
            ]
            plans = plan_sweep(
                (fits[0], fits[1]), budgets, arguments.seeds, shared_error=shared, num_trials=100
            )
            plan_texts.append(_describe_plans(*plans, arguments.against))
    if not exponents:
        _leave(arguments, pilot, table, verdicts)
    return "\n".join([title, fold(table), *pilot.notes, *verdicts, *plan_texts])


def _find_crossings(
    pilot: Pilot, pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Crossover]:
    return {
        (a, b): find_crossover(
            pilot.curves[a], pilot.curves[b], shared_error=pilot.shared_errors.get((a, b), 0.0)
        )
        for a, b in pairs
    }


def _corrected(told: str, a: str, b: str, found: Crossover, p_holm: float, pairs: int) -> str:
    """Return what was found of a pair with its p-value after Holm's correction over all pairs; as
    no crossing, if that is not below 5 %.
    """
    if found.verdict in ("none", "refused"):
        return told
    p_text = f"p = {p_holm:.3f} after Holm's correction over {pairs} pair{'s' * (pairs != 1)}"
    if p_holm < LEVEL:
        return f"{told}; {p_text}"
    names = f"{name_title(a)} and {name_title(b)}"
    return f"{names}: none: no crossing is established, {p_text}"


def _refuse_bounds(told: str, a: str, b: str, pilot: Pilot) -> str:
    """Return what was found of a pair; refused, if one's values are bounds: on one side of every
    crossing the lower curve is then an order that a tighter bound could turn.
    """
    bounds = [name_title(name) for name in (a, b) if name in pilot.bounds]
    names = f"{name_title(a)} and {name_title(b)}"
    found = told.removeprefix(f"{names}: ")
    if not bounds or found.startswith(("none:", "refused:")):
        return told
    return (
        f"{names}: refused: the values of {' and '.join(bounds)} are bounds, and a tighter one "
        "could turn the order on one side of a crossing; the curves alone: " + found
    )


def _leave(
    arguments: argparse.Namespace, pilot: Pilot, table: list[list[str]], verdicts: list[str]
) -> None:
    """Write crossover.json into every run directory; an entry of the same score and axis is
    replaced.
    """
    curves = {}
    for name, curve in pilot.curves.items():
        grid = np.geomspace(curve.x.min(), curve.x.max(), 41)
        fit = fit_curve(curve)
        rows = {"x": curve.x, "score": curve.score, "grid": grid, "fit": fit.predict(grid)}
        rows |= dict(zip(("low", "high"), fit.bound(grid)))
        curves[name] = {key: values.tolist() for key, values in rows.items()}
    entry = {"score": arguments.score, "unit": pilot.unit, "direction": pilot.direction}
    entry |= {"axis": _WORDS[arguments.against], "num_runs": len(arguments.runs), "curves": curves}
    entry |= {"table": table, "verdicts": verdicts, "notes": pilot.notes}
    for run_dir in arguments.runs:
        others = [
            old
            for old in read_crossings(run_dir) or []
            if (old["score"], old["axis"]) != (entry["score"], entry["axis"])
        ]
        write_json(run_dir / "crossover.json", [*others, entry])


def read_pilot(run_dirs: Sequence[Path], score: str, against: str) -> Pilot:
    """Return the runs of every family over several finished comparisons."""
    loaded = {Path(run_dir): read_finished(Path(run_dir)) for run_dir in run_dirs}
    codecs = {str(results.get("codec", {}).get("fingerprint")) for results in loaded.values()}
    if len(codecs) > 1:
        raise GenlabError(
            f"the runs have {len(codecs)} different codecs; scores of other tokens are another axis"
        )
    entries = [(results, arm) for results in loaded.values() for arm in model_arms(results)]
    families = [[arm["family"] for arm in model_arms(results)] for results in loaded.values()]
    # Where a run holds several arms of one family, their names tell them apart.
    field = "family" if all(len(names) == len(set(names)) for names in families) else "name"
    points: dict[str, list[tuple[float, float]]] = {}
    for _, arm in entries:
        values = seed_values(arm["scores"].get(score))
        if not values:
            continue
        x = arm.get(AXES[against])
        if not x:
            raise GenlabError(
                f"arm {arm['name']!r} has no {AXES[against]} in results.json; score it again"
            )
        points.setdefault(arm[field], []).extend((float(x), value) for value in values)
    if not points:
        raise GenlabError(
            f"--score {score}: no arm has it; choose one of {', '.join(_score_names(entries))}"
        )
    curves = {
        name: Curve(*(np.array(column) for column in zip(*sorted(runs))))
        for name, runs in points.items()
    }
    errors = {
        (a, b): find_shared_error(list(loaded.values()), field, score, a, b)
        for a, b in itertools.combinations(curves, 2)
    }
    # Of a metric of the user only results.json tells what it means.
    stated = next(arm["scores"][score] for _, arm in entries if arm["scores"].get(score))
    metric = known_metric(score)
    return Pilot(
        curves,
        errors,
        _notes(entries, loaded, score, against, field),
        unit=metric.unit if metric else stated.get("unit", ""),
        direction=metric.direction if metric else stated.get("direction", "lower"),
        gates={
            (a, b): _gates_of_pair(loaded, field, score, (a, b))
            for a, b in itertools.combinations(curves, 2)
        },
        bounds={
            str(arm[field])
            for _, arm in entries
            if arm["scores"].get(score, {}).get("validity", "metric") not in ("exact", "metric")
        },
    )


def gates_of_curves(
    compared: Mapping[str, tuple[Results, Ledger | None, Sequence[Row]]], score: str, seeds: int
) -> list[Gate]:
    """Return the gates of two arms in every run of two curves: `compared` names each run and has
    its two arms; `seeds` is the fewest of an arm.
    """
    gates = merge_gates(
        {
            label: find_gates(evidence_of(results, ledger, score, arms, needs_all=True))
            for label, (results, ledger, arms) in compared.items()
        }
    )
    *_, (_, _, arms) = compared.values()
    # One arm for and one against; two of one kind cancel.
    kinds: dict[tuple[str, str], float] = {}
    for arm, weight in zip(arms, (1.0, -1.0)):
        kind = arm["family"], arm.get("reads", "")
        kinds[kind] = kinds.get(kind, 0.0) + weight
    return replace_gates(
        gates,
        check_seeds(seeds),
        Gate("enough prompts", "not applicable", "the interval of the crossing holds prompts too"),
        check_token_types(kinds),
    )


def _gates_of_pair(
    loaded: Mapping[Path, Results], field: str, score: str, pair: tuple[str, str]
) -> list[Gate]:
    """Return the gates of two families over the runs that have both."""
    compared, seeds = {}, []
    for run_dir, results in loaded.items():
        by_name = {str(arm[field]): arm for arm in model_arms(results)}
        if set(pair) <= set(by_name):
            arms = [by_name[name] for name in pair]
            seeds += [len(seed_values(arm["scores"].get(score))) for arm in arms]
            compared[run_dir.name] = results, read_ledger(run_dir), arms
    return gates_of_curves(compared, score, min(seeds)) if compared else []


def read_finished(run_dir: Path) -> Results:
    """Return results.json of a finished comparison.

    Raises:
        GenlabError: if there is none, or it is damaged.
    """
    return outputs.read_results(run_dir)


def seed_values(score: ScoreEntry | None) -> list[float]:
    """Return the score of every training run behind it; none if it has no value."""
    if score is None or score["value"] is None:
        return []
    return [value for value in score.get("by_seed") or [] if value is not None] or [score["value"]]


def _score_names(entries: Sequence[tuple[Results, Row]]) -> list[str]:
    return list(dict.fromkeys(name for _, arm in entries for name in arm["scores"]))


def find_shared_error(loaded: Sequence[Results], field: str, score: str, a: str, b: str) -> float:
    """Return the error of the difference that prompts cause, averaged over runs; 0 if no pair was
    compared.
    """
    found = []
    for results in loaded:
        names = {arm[field]: arm["name"] for arm in model_arms(results)}
        pair = (
            find_difference(results, score, names[a], names[b])
            if a in names and b in names
            else None
        )
        if pair is None:
            continue
        low, high = pair.get("low"), pair.get("high")
        if plan := pair.get("plan"):
            found.append(plan["prompt_error"])
        # of one seed: all the doubt there is comes from prompts
        elif low is not None and high is not None:
            found.append((high - low) / 2 / 1.96)
    return math.sqrt(sum(error**2 for error in found) / len(found)) if found else 0.0


def _notes(
    entries: Sequence[tuple[Results, Row]],
    loaded: Mapping[Path, Results],
    score: str,
    against: str,
    field: str,
) -> list[str]:
    notes = []
    kinds = {
        str(arm[field]): str(arm["scores"][score].get("validity"))
        for _, arm in entries
        if score in arm["scores"]
    }
    if len(set(kinds.values())) > 1 or "upper bound" in kinds.values():
        told = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        notes.append(f"beware: {told}; where bounds cross says little about where the families do")
    # Runs at growing FLOPs often grow in epochs too; which of them the crossing is due to is then
    # unknown.
    also = [
        words
        for axis, words in _WORDS.items()
        if axis != against and len({f"{arm.get(AXES[axis]) or 0:.1e}" for _, arm in entries}) > 1
    ]
    if also:
        notes.append(f"beware: {' and '.join(also)} differ too between these arms and runs")
    for run_dir in loaded:
        if (read_ledger(run_dir) or {}).get("stamp") != "controlled":
            notes.append(f"beware: {run_dir} is uncontrolled")
    return notes


def _table(pilot: Pilot, against: str) -> list[list[str]]:
    rows = [["", *(name_title(name) for name in pilot.curves)]]
    budgets: list[float] = []
    for x in sorted(float(x) for curve in pilot.curves.values() for x in curve.x):
        if not budgets or x > SAME_BUDGET * budgets[-1]:
            budgets.append(x)
    for budget, following in zip(budgets, [*budgets[1:], math.inf]):
        cells = []
        for curve in pilot.curves.values():
            scores = curve.score[(curve.x >= budget) & (curve.x < following)]
            cells.append(
                f"{format_value(float(scores.mean()))} ({len(scores)})" if len(scores) else ""
            )
        rows.append([_show(budget, against), *cells])
    return rows


def _verdict(
    found: Crossover,
    a: str,
    b: str,
    curves: Mapping[str, Curve],
    against: str,
    lower_is_better: bool,
) -> str:
    names = [name_title(name) for name in (a, b)]
    sweep = f"{_show(found.sweep[0], against)} to {_show(found.sweep[1], against)}"
    forms = f"{names[0]}: {found.forms[0]}, {names[1]}: {found.forms[1]}"
    if found.verdict == "none":
        return f"{' and '.join(names)}: none: no crossing is established from {sweep} ({forms})"
    if found.verdict == "refused":
        return (
            f"{' and '.join(names)}: refused: the curves ({forms}) cross where the measured points "
            f"from {sweep} do not change places; run more budgets"
        )
    ends = [
        "0" if found.low == 0 else _show(found.low, against),
        "any" if math.isinf(found.high) else "",
    ]
    interval = f"[{ends[0]}, {ends[1] or _show(found.high, against)}]"
    fits = [fit_curve(curves[name], seed=i) for i, name in enumerate((a, b))]
    # Which arm is ahead is read off the curves on the left of the crossing, half way in x.
    below = [float(fit.predict(np.array([found.x / 2]))[0]) for fit in fits]
    first = 0 if (below[0] < below[1]) == lower_is_better else 1
    place = (
        ""
        if found.verdict == "inside sweep"
        else "; do not read it as measured: run nearer to it on both sides"
    )
    return (
        f"{' and '.join(names)}: {found.verdict}: {names[first]} is ahead below "
        f"{_show(found.x, against)} {interval}, {names[1 - first]} above; swept {sweep} "
        f"({forms}){place}"
    )


def _gated(told: str, a: str, b: str, gates: Sequence[Gate]) -> str:
    """Return what was found of a pair with the state of its gates; if one failed, as what the
    curves alone say.
    """
    names = f"{name_title(a)} and {name_title(b)}"
    lost = failed(gates)
    if not gates:
        return f"{told} (no verdict: no run has both)"
    states = "; ".join(f"{gate.name} {gate.state}" for gate in gates)
    if not lost:
        return f"{told}. Gates: {states}"
    reasons = "; ".join(f"{gate.name}: {gate.reason}" for gate in lost)
    found = told.removeprefix(f"{names}: ")
    return (
        f"{names}: no verdict, because gates failed ({reasons}); the curves alone: {found}. "
        f"Gates: {states}"
    )


def _describe_plans(planned: SweepPlan, cheapest: SweepPlan | None, against: str) -> str:
    text = (
        f"plan: {_sweep(planned.budgets, planned.seeds, against)} would show the crossing inside "
        f"with probability {planned.probability:.0%}; "
    )
    if cheapest is None:
        return text + (
            "no part of it reaches 80 %, not even with 10 seeds: choose budgets on both sides "
            "of the crossing"
        )
    return (
        text
        + f"the smallest that reaches 80 % is {_sweep(cheapest.budgets, cheapest.seeds, against)}"
    )


def _sweep(budgets: Sequence[float], seeds: int, against: str) -> str:
    return f"{', '.join(_show(budget, against) for budget in budgets)} with {seeds} seeds"


def _show(x: float, against: str) -> str:
    if against == "flops":
        return format_quantity(x, "FLOP")
    return format_seconds(x) if against == "seconds" else f"{format_value(x)} epochs"


def _parse_budgets(text: str) -> list[float]:
    budgets = read_numbers("--plan", text, EXAMPLE_PLAN) if text.count(",") >= 2 else []
    if not 3 <= len(budgets) <= MAX_BUDGETS:
        raise GenlabError(
            f"--plan {shorten(text)}: expected 3 or more budgets, at most {MAX_BUDGETS}, for "
            f"example {EXAMPLE_PLAN}"
        )
    return budgets


def _parse_exponents(text: str, families: Sequence[str]) -> dict[str, float]:
    try:
        found = {
            name: float(value) for name, value in (part.split("=") for part in text.split(","))
        }
    except ValueError:
        found = {}
    if set(found) != set(families) or not all(0 <= value < math.inf for value in found.values()):
        expected = ",".join(f"{name}=0.1" for name in families)
        raise GenlabError(
            f"--exponents {text}: expected one of zero or more for every family, for example "
            f"{expected}"
        )
    return found
