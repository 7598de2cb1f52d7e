"""The notebook page of a sweep, written from its files: question, fixed, varied, predicted, and
what came of it.

In: the page, its runs on disk. Out: report.md and report.html in the sweep's directory,
findings.json, one figure as a file, and TensorBoard's HParams table with one row per run and arm.
The same files leave the same page.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from genlab.fairness.rates import how_chosen
from genlab.report.answer import model_arms
from genlab.report.inputs import Results
from genlab.report.page import write_page
from genlab.report.tables import join, plain_table
from genlab.report.text import (
    MISSING,
    arm_title,
    format_interval,
    format_quantity,
    format_score,
    format_seconds,
    format_value,
    inert_markdown,
    score_title,
)
from genlab.run.cache import only_writer
from genlab.run.files import write_json
from genlab.run.stored import write_atomically
from genlab.statistics.bootstrap import finite_or_none
from genlab.studies.crossover import read_finished
from genlab.sweeps.figures import curves, forest, standalone
from genlab.sweeps.finding import Finding
from genlab.sweeps.isoflop import fit_families
from genlab.sweeps.judge import judge
from genlab.sweeps.page import Ratio, Sweep, SweepRun
from genlab.sweeps.runs import read_state, run_directory
from genlab.watch.tensorboard import RunWriter

MOST_SCORES = 4
SPENT = ("family", "params", "steps", "train_flops", "epochs")
ISOFLOP_SCORE = "bits_per_s"


def write_notebook(
    sweep: Sweep, runs: Sequence[SweepRun], page: Path, out: Path
) -> tuple[str, list[Finding]]:
    """Write everything and return the page as Markdown, with the findings."""
    results = {
        run.label: read_finished(run_directory(out, run))
        for run in runs
        if read_state(run, out).state == "finished"
    }
    findings = judge(sweep, runs, out)
    panels = curves(sweep, runs, results)
    forests = forest(findings)
    drawn = [*panels, *forests]
    shapes = fit_families(runs, results, ISOFLOP_SCORE)
    text = _markdown(sweep, runs, results, findings, page, bool(drawn), shapes)
    # Everything is computed before the first file is written, and by one process.
    with only_writer(out, skip=[run.id for run in runs]):
        if drawn:
            write_atomically(out / "figure.svg", standalone(drawn[0]))
        write_atomically(out / "report.md", text)
        _write_html(sweep, runs, results, findings, panels, forests, page, out)
        write_json(
            out / "findings.json", {"schema": 1, "findings": [f.to_dict() for f in findings]}
        )
        _write_hparams(sweep, runs, results, out)
    return text, findings


def verdict_of(findings: Sequence[Finding]) -> str:
    """Return one verdict for the page: what all predictions agree on, or how they split, without
    what was not asked and without arithmetic, which no run could contradict.
    """
    asked = [finding.verdict for finding in findings if finding.kind != "untested"]
    if not asked:
        return "nothing was predicted"
    verdicts = [verdict for verdict in asked if verdict != "arithmetic"] or asked
    if len(set(verdicts)) == 1:
        return verdicts[0]
    return "split: " + ", ".join(
        f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts)
    )


def _notes(sweep: Sweep) -> list[tuple[str, str]]:
    told = [
        ("Question", sweep.question),
        ("Claim", sweep.claim),
        ("Source", sweep.source),
        ("How faithful", sweep.faithful),
        ("Fixed", sweep.fixed),
        ("Varied", sweep.varied),
        ("Settings of training", how_chosen(sweep.base)),
        ("Looks before the run", " ".join(sweep.looks)),
    ]
    return [(name, text) for name, text in told if text]


def _finding_rows(findings: Sequence[Finding]) -> list[list[str]]:
    rows = [
        ["Predicted, before the run", "Score", "Expected", "Found", "p (Holm)", "Verdict", "Note"]
    ]
    for finding in findings:
        is_exact = finding.low == finding.value == finding.high
        found = format_value(finding.value) if is_exact else format_interval(finding.interval)
        p_value = finite_or_none(finding.p_holm)
        p_text = MISSING if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
        score = score_title(finding.score) if finding.score else MISSING
        expected = finding.expected or MISSING
        rows.append(
            [finding.text, score, expected, found, p_text, finding.verdict, finding.note or MISSING]
        )
    return rows


def _gate_rows(findings: Sequence[Finding]) -> list[list[str]]:
    """Return the state of every gate of every finding that has any, no rows if none has; why one
    failed is in the note of the finding.
    """
    gated = [finding for finding in findings if finding.gates]
    heads = [gate.name for gate in gated[0].gates] if gated else []
    rows = [[finding.text, *(gate.state for gate in finding.gates)] for finding in gated]
    return [["Gates", *heads], *rows] if rows else []


def _run_rows(
    sweep: Sweep, runs: Sequence[SweepRun], results: Mapping[str, Results]
) -> list[list[str]]:
    wanted = [
        prediction.score for prediction in sweep.predictions if not isinstance(prediction, Ratio)
    ]
    arms = [arm for found in results.values() for arm in model_arms(found)]
    # Scores that nobody asked for may mean nothing here, such as the words of arms that are given
    # none.
    names = list(dict.fromkeys(wanted or (name for arm in arms for name in arm["scores"])))[
        :MOST_SCORES
    ]
    rows = [
        [
            "Run",
            "Arm",
            *map(score_title, names),
            "Steps",
            "Train FLOPs",
            "Epochs",
            "Peak rate",
            "Calls",
            "Train time",
        ]
    ]
    for run in runs:
        found = results.get(run.label)
        trained = [] if found is None else model_arms(found)
        # What no arm can beat, real audio and the codec alone, wherever a predicted score is
        # defined for it.
        ceilings = [
            arm
            for arm in ([] if found is None else found["arms"])
            if arm not in trained and set(wanted) & set(arm["scores"])
        ]
        for arm in [*ceilings, *trained]:
            scores = [
                format_score(arm["scores"][name]) if name in arm["scores"] else MISSING
                for name in names
            ]
            cost = [MISSING] * 6
            if arm in trained:
                rate = arm.get("peak_lr")
                spent = [
                    format_value(arm.get("steps")),
                    format_quantity(arm.get("train_flops")),
                    f"{arm.get('epochs', math.nan):.2f}",
                    MISSING if rate is None else f"{rate:g}",
                ]
                calls = str(arm.get("network_calls"))
                cost = [*spent, calls, format_seconds(arm.get("train_wall_s"))]
            rows.append([run.label or "the run", arm_title(arm), *scores, *cost])
    return rows


def _length_rows(results: Mapping[str, Results]) -> list[list[str]]:
    """Return what one clip costs at every length that was measured, no rows if none was."""
    rows = [
        [
            "Length",
            "Run",
            "Arm",
            "Calls",
            "FLOPs",
            "Time alone, per training seed",
            "Times real time",
        ]
    ]
    for label, found in results.items():
        for arm in model_arms(found):
            for length, cost in arm.get("by_length", {}).items():
                seconds = cost["latency_s"]
                told = [
                    f"{length} s",
                    label or "the run",
                    arm_title(arm),
                    f"{cost['network_calls']:,}",
                ]
                rate = format_value(float(length) / float(np.median(seconds)))
                timed = ", ".join(format_seconds(value) for value in seconds)
                rows.append([*told, format_quantity(cost["flops"]), timed, rate])
    # By length first, so that arms can be compared within one; the sort is stable, so runs keep
    # their order.
    return (
        [rows[0], *sorted(rows[1:], key=lambda row: float(row[0].split()[0]))]
        if len(rows) > 1
        else []
    )


def _markdown(
    sweep: Sweep,
    runs: Sequence[SweepRun],
    results: Mapping[str, Results],
    findings: Sequence[Finding],
    page: Path,
    is_drawn: bool,
    shapes: Sequence[str],
) -> str:
    parts = [f"# {sweep.name}: {verdict_of(findings)}"]
    parts += [f"**{name}.** {text}" for name, text in _notes(sweep)]
    parts.append(
        "## Predicted and found\n\nBrackets are 95 % intervals over prompts and training seeds."
    )
    parts.append(_pipes(_finding_rows(findings)))
    if gates := _gate_rows(findings):
        parts.append(_pipes(gates))
    if is_drawn:
        parts.append("![What was found of what was predicted](figure.svg)")
    if shapes:
        parts.append("## Best sizes\n\n" + "\n".join(f"- {line}" for line in shapes))
    if sweep.noticed:
        parts.append("## Noticed afterwards\n\n" + "\n".join(f"- {line}" for line in sweep.noticed))
    parts += ["## Runs", _pipes(_run_rows(sweep, runs, results))]
    if lengths := _length_rows(results):
        parts += ["## Cost by length", _pipes(lengths)]
    parts += ["## Reproduce", _reproduce(results, page)]
    return "\n\n".join(parts) + "\n"


def _reproduce(results: Mapping[str, Results], page: Path) -> str:
    command = (
        f"genlab sweep run {shlex.quote(str(page))} && genlab sweep report {shlex.quote(str(page))}"
    )
    if not results:
        return f"```\n{command}\n```\n\nNothing has been run yet."
    commits = sorted({str(found.get("commit")) for found in results.values()} - {"", "None"})
    wall_s = sum(found.get("wall_s", 0.0) for found in results.values())
    versions = next((found["versions"] for found in results.values() if "versions" in found), {})
    made_by = inert_markdown(", ".join(commits))
    told = inert_markdown(", ".join(f"{name} {version}" for name, version in versions.items()))
    return (
        f"```\n{command}\n```\n\n{len(results)} runs in {format_seconds(wall_s)}; commit "
        f"{made_by}; {told}."
    )


def _pipes(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[inert_markdown(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _write_html(
    sweep: Sweep,
    runs: Sequence[SweepRun],
    results: Mapping[str, Results],
    findings: Sequence[Finding],
    panels: Sequence[Markup],
    forests: Sequence[Markup],
    page: Path,
    out: Path,
) -> None:
    notes = join(
        Markup('<p class="lead"><strong>{}.</strong> {}</p>').format(name, text)
        for name, text in _notes(sweep)
    )
    head, *rows = _finding_rows(findings)
    found = plain_table("Predictions", head, rows, css="predictions")
    if gates := _gate_rows(findings):
        found += plain_table("Gates", gates[0], gates[1:], css="gates")
    drawn, predicted = (
        Markup('<div class="plots">{}</div>').format(join(plots)) if plots else Markup("")
        for plots in (panels, forests)
    )
    title, *entries = _run_rows(sweep, runs, results)
    lengths = _length_rows(results)
    links = join(
        Markup('<li><a href="runs/{}/report.html">{}</a></li>').format(
            run.id, run.label or "the run"
        )
        for run in runs
        if run.label in results
    )
    # Below the findings and never among them: nobody predicted it.
    noticed = [Markup("<li>{}</li>").format(line) for line in sweep.noticed]
    sections = {
        "Question": notes,
        "Predicted and found": predicted + found,
        **({"Noticed afterwards": Markup("<ul>{}</ul>").format(join(noticed))} if noticed else {}),
        "Runs": drawn
        + plain_table("Runs", title, entries, css="runs")
        + Markup("<ul>{}</ul>").format(links),
        **(
            {"Cost by length": plain_table("Cost", lengths[0], lengths[1:], css="runs")}
            if lengths
            else {}
        ),
        "Reproduce": Markup("<pre>{}</pre>").format(
            _reproduce(results, page).replace("```", "").strip()
        ),
    }
    write_page(
        out / "report.html", "genlab sweep", f"{sweep.name}: {verdict_of(findings)}", sections
    )


def _write_hparams(
    sweep: Sweep, runs: Sequence[SweepRun], results: Mapping[str, Results], out: Path
) -> None:
    """One group per sweep, one row per run and arm: what was varied beside what was spent and
    scored.
    """
    for run in runs:
        for arm in model_arms(results[run.label]) if run.label in results else []:
            row_id = f"{run.id}-{arm['name']}"
            with RunWriter(out / "hparams" / row_id, attempt="sweep") as writer:
                point = {
                    path: value if isinstance(value, int | float | str) else str(value)
                    for path, value in run.point.items()
                }
                writer.scores(0, arm["scores"])
                found = dict(arm.items())
                spent = {name: found[name] for name in SPENT if name in found}
                writer.hparams(
                    {"arm": arm["name"], **point, **spent}, run_id=f"{sweep.name}/{row_id}"
                )
