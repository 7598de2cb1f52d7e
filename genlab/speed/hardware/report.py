"""hardware.md: the record as tables, one per step, under its question.

Nothing is computed here that the record does not hold. What was not measured has no cell: it is
listed with its reason.
"""

from collections.abc import Sequence
from typing import Final

from pydantic import JsonValue

from genlab.config.errors import one_line
from genlab.speed.hardware.record import Content, Entry, StepRecord, failed
from genlab.speed.hardware.size import FULL

REPORT: Final = "hardware.md"
TITLE: Final = "# What this machine answered"
LONGEST_CELL = 80
DIGITS = 4


def format_report(content: Content) -> str:
    """Return the record as Markdown."""
    rehearsal = (
        "\n\n**A rehearsal at toy size on a CPU: these numbers say nothing about any hardware.**"
        if content["size"] != FULL.name
        else ""
    )
    parts = [_format_step(name, kept) for name, kept in content["steps"].items()]
    return "\n\n".join([TITLE + rehearsal, *parts]) + "\n"


def _format_step(name: str, kept: StepRecord) -> str:
    lines = [f"## {name}", "", kept["question"], ""]
    measured = {
        case: entry for case, entry in kept["cases"].items() if entry["state"] == "measured"
    }
    # Rows with the same fields share a table.
    for fields in dict.fromkeys(tuple(_shown(entry)) for entry in measured.values()):
        rows = {case: entry for case, entry in measured.items() if tuple(_shown(entry)) == fields}
        lines += [*_format_table(fields, rows), ""]
    for case, entry in measured.items():
        if failed(entry):
            lines.append(f"- **{case} is outside its tolerance.**")
    for case, entry in kept["cases"].items():
        if entry["state"] != "measured":
            lines.append(f"- {case}: {entry['state']}, {one_line(entry['text'])}")
    if kept["missing"]:
        lines.append(f"- not begun: {', '.join(kept['missing'])}")
    return "\n".join(lines).rstrip()


def _shown(entry: Entry) -> list[str]:
    """Return the fields that get a column; long ones are read in the record."""
    return [name for name, value in entry["row"].items() if not isinstance(value, list | dict)]


def _format_table(fields: Sequence[str], rows: dict[str, Entry]) -> list[str]:
    heads = ["case", *(field.replace("_", " ") for field in fields)]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * len(fields)]
    for case, entry in rows.items():
        cells = [case, *(_cell(entry["row"][field]) for field in fields)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(value: JsonValue) -> str:
    """Return a value short enough for a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    if isinstance(value, int):
        return f"{value:,}"
    return one_line(str(value), LONGEST_CELL).replace("|", "/")
