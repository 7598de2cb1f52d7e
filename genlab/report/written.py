"""The report as text: report.md to paste into an issue or a paper's appendix, and scores.csv to
compute with.

In: results.json and ledger.json as dicts. Out: both files in the run directory, written atomically.
The same sentences and numbers as report.html, without what can only be heard or seen.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from genlab.evaluate.entries import ControlEntry
from genlab.fairness.heeding import control_status
from genlab.fairness.verdict import Gate
from genlab.report.additions import CrossingEntry, Listening, Tuning
from genlab.report.answer import find_answer, model_arms
from genlab.report.baselines import missing_baselines
from genlab.report.inputs import Ledger, Shown
from genlab.report.listening import counted, listening_tables, verdicts_of
from genlab.report.spent import describe_gates_cost, time_rows
from genlab.report.tables import ARROWS, column_decimals, plain_value
from genlab.report.text import (
    QUESTION,
    arm_title,
    format_interval,
    format_quantity,
    format_score,
    format_seconds,
    inert_markdown,
    interval_of,
    score_title,
)
from genlab.report.trust import audits_audio, distrust
from genlab.report.tuning import describe_tuning, tuning_rows
from genlab.run.stored import write_atomically

FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also in full width
COLUMNS = ("value", "low", "high", "n", "seeds", "unit", "direction", "validity", "note")


def write_text_reports(run_dir: Path, results: Shown, ledger: Ledger) -> None:
    """Write report.md and scores.csv into `run_dir`."""
    write_atomically(run_dir / "report.md", render_markdown(results, ledger))
    write_atomically(run_dir / "scores.csv", render_csv(results))


def render_markdown(results: Shown, ledger: Ledger) -> str:
    """Return the report: question, answer, ledger, scores, differences, cost, controls, metrics to
    doubt, commands.
    """
    answer = find_answer(results, ledger)
    # Everything from outside passes `inert_markdown`: a question or a name could hold markup.
    parts = [
        f"# {inert_markdown(results.get('question') or QUESTION)}",
        (
            f"**{answer.status.capitalize()}.** "
            f"{inert_markdown(f'{answer.headline} {answer.shows} {answer.cannot}')}"
        ),
        *(("## Gates of the answer", _gates(answer.gates)) if answer.gates else ()),
        f"## Ledger: {inert_markdown(ledger.get('stamp', 'uncontrolled'))}",
        _ledger(results, ledger),
        *_time(results),
        "## Scores\n\nBrackets are 95 % intervals; an arrow points to the better side.",
        render_scores(results),
        missing_baselines(results),
        _differences(results),
        "## Cost",
        _cost(results),
        *_crossings(results.get("crossover") or []),
        *_tuning(results.get("tuning")),
        "## Controls",
        _controls(results),
        "## Metrics to doubt on this corpus",
        _doubts(results),
        *_heard(results.get("listening")),
        "## Method",
        "\n\n".join(inert_markdown(line) for line in results.get("method", [])),
        "## Reproduce",
        _fenced(str(results.get("command") or "")),
        _versions(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _gates(gates: Sequence[Gate]) -> str:
    return _table(("Gate", "State", "Reason"), gates) if gates else ""


def render_answer(results: Shown, ledger: Ledger) -> str:
    """Return the question, the answer and the stamp of the ledger, for the first page of
    TensorBoard.
    """
    answer = find_answer(results, ledger)
    parts = [
        f"### {inert_markdown(results.get('question') or QUESTION)}",
        f"**{inert_markdown(answer.headline)}**",
        inert_markdown(f"{answer.shows} {answer.cannot}"),
        _gates(answer.gates),
        f"Ledger: {inert_markdown(ledger.get('stamp', 'uncontrolled'))}.",
    ]
    return "\n\n".join(part for part in parts if part.strip())


def render_prompts(prompts: Sequence[tuple[str, str]]) -> str:
    """Return a table of the prompts: their names in TensorBoard and in the report, texts and
    speakers.
    """
    rows = [[f"prompt{number:02}", text, speaker] for number, (text, speaker) in enumerate(prompts)]
    return _table(["prompt", "text", "speaker"], rows)


def render_csv(results: Shown) -> str:
    """Return one line per arm and score."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "family", "score", *COLUMNS, "not_trusted"])
    for arm in results["arms"]:
        for name, score in arm.get("scores", {}).items():
            values = [score.get(column) for column in COLUMNS]
            row = [arm["name"], arm.get("family", ""), name, *values, distrust(results, name)]
            writer.writerow([_inert(value) for value in row])
    return out.getvalue()


def _ledger(results: Shown, ledger: Ledger) -> str:
    names = [arm["name"] for arm in model_arms(results)]
    rows = [
        [
            row["item"],
            row.get("status", ""),
            *(plain_value(row.get("values", {}).get(name)) for name in names),
            row.get("note", ""),
        ]
        for row in ledger.get("rows", [])
    ]
    titles = [arm_title(arm) for arm in model_arms(results)]
    return _table(["item", "status", *titles, "note"], rows)


def _time(results: Shown) -> list[str]:
    head, *rows = time_rows(results) or [[]]
    if not rows:
        return []
    return ["### Where the time went", _table(head, rows), f"{describe_gates_cost(results)}."]


def render_scores(results: Shown) -> str:
    """Return a table, a row per score and a column per arm; arrows point to the better side."""
    arms = results["arms"]
    rows = []
    doubts = any((results.get("audit") or {}).values())
    for name in dict.fromkeys(name for arm in reversed(arms) for name in arm.get("scores", {})):
        found = next(arm["scores"][name] for arm in reversed(arms) if name in arm.get("scores", {}))
        arrow = ARROWS.get(found.get("direction", ""), "")
        title = f"{score_title(name)} {arrow} ({found.get('unit', '')})"
        decimals = column_decimals(arms, name)
        cells = [format_score(arm.get("scores", {}).get(name), decimals) for arm in arms]
        rows.append([title, *cells, *([distrust(results, name)] if doubts else [])])
    return _table(["score", *map(arm_title, arms), *(["not trusted here"] if doubts else [])], rows)


def _differences(results: Shown) -> str:
    rows = [
        [
            score_title(item["score"]),
            f"{item['a']} - {item['b']}",
            format_interval(interval_of(item)),
            "" if (p_value := item.get("p_holm")) is None else f"{p_value:.3f}",
            item.get("better", ""),
        ]
        for item in results.get("differences", [])
    ]
    return (
        _table(["score", "pair, same prompts", "difference", "p (Holm)", "better"], rows)
        if rows
        else ""
    )


def _cost(results: Shown) -> str:
    rows = [
        [
            arm_title(arm),
            format_quantity(arm.get("params")),
            format_quantity(arm.get("train_flops")),
            arm.get("steps"),
            format_seconds(arm.get("train_wall_s")),
            arm.get("network_calls"),
            format_seconds(arm.get("sampling", {}).get("real_time_factor")),
            format_seconds(arm.get("sampling", {}).get("first_audio_s")),
        ]
        for arm in model_arms(results)
    ]
    # Fewer rows than the page: those that a decision needs.
    head = [
        "arm",
        "parameters",
        "training FLOPs",
        "updates",
        "training time",
        "network calls per clip",
    ]
    return _table(
        [*head, "time for one clip alone per second of audio", "time to first audio"], rows
    )


def _controls(results: Shown) -> str:
    rows = [
        [
            item["arm"],
            str(item["control"]).replace("_", " "),
            score_title(item["score"]),
            format_interval(interval_of(item)),
            _control_result(item),
        ]
        for item in results.get("controls", [])
    ]
    return (
        _table(["arm", "control", "score", "control - own", "result"], rows)
        if rows
        else "None was run."
    )


def _control_result(item: ControlEntry) -> str:
    status = control_status(item)
    if status in ("not applicable", "not judged"):
        return ": ".join(filter(None, (status, str(item.get("reason") or ""))))
    return "FAILED" if status == "failed" else status


def _tuning(tuning: Tuning | None) -> list[str]:
    if not tuning:
        return []
    head, *rows = tuning_rows(tuning)
    return ["## Tuning", inert_markdown(describe_tuning(tuning)), _table(head, rows)]


def _crossings(entries: Sequence[CrossingEntry]) -> list[str]:
    parts = ["## Where the ranking flips"] if entries else []
    for entry in entries:
        head, *rows = entry["table"]
        title = f"{score_title(entry['score'])} against {entry['axis']}, mean (runs)"
        parts += [
            inert_markdown(title),
            _table(head, rows),
            *(inert_markdown(text) for text in (*entry["verdicts"], *entry["notes"])),
        ]
    return parts


def _heard(merged: Listening | None) -> list[str]:
    if not merged:
        return []
    tables = [_table(head, rows) for _, (head, *rows) in listening_tables(merged)]
    return [
        "## Blind listening",
        inert_markdown(" ".join(counted(merged))),
        *tables,
        *map(inert_markdown, verdicts_of(merged)),
    ]


def _doubts(results: Shown) -> str:
    audit = results.get("audit") or {}
    missing = "Metrics of audio: not audited; `genlab evaluate CONFIG --audit` does it.\n\n"
    missing = "" if audits_audio(results) else missing
    if not audit:
        return missing.strip()
    doubted = [
        f"- {inert_markdown(f'{score_title(name)}: ' + ', '.join(found['failed']))}"
        for name, found in audit.items()
        if found["failed"]
    ]
    return missing + (
        "\n".join(doubted)
        or "None: every audited metric ranks the degradations that it exists to notice."
    )


def _versions(results: Shown) -> str:
    facts = {"commit": results.get("commit"), **results.get("versions", {})}
    facts["wall time"] = format_seconds(results.get("wall_s"))
    facts["peak memory"] = format_quantity(results.get("peak_rss_bytes"), "B")
    return inert_markdown("; ".join(f"{name} {value}" for name, value in facts.items() if value))


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(inert_markdown(cell) for cell in line) + " |" for line in lines
    )


def _fenced(text: str) -> str:
    """Return a block of code that nothing in `text` can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _inert(value: object) -> object:
    """Return a cell that a spreadsheet shows instead of computing: text that begins like a formula
    gets a quote.
    """
    is_formula = isinstance(value, str) and value.lstrip().startswith(FORMULA_STARTS)
    return f"'{value}" if is_formula else value
