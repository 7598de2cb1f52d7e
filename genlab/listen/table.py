"""The result of a listening test as plain text. In: listening.json as a dict. Out: tables and one verdict per test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genlab.data.manifest import write_atomically
from genlab.listen.key import ANCHOR
from genlab.report.console import align
from genlab.report.text import MISSING, format_interval


def write_listening(out: Path, merged: Mapping[str, Any]) -> str:
    """Write the tables to listening.txt, which the report shows, and return them."""
    text = format_listening(merged)
    write_atomically(out / "listening.txt", text)
    return text


def format_listening(merged: Mapping[str, Any]) -> str:
    """Return who was counted, the tables, and what they settle."""
    listeners = merged["listeners"]
    lines = [f"listeners: {listeners['counted']} counted, {len(listeners['excluded'])} excluded"]
    lines += [
        f"  {one['listener']}: excluded, hidden reference below 90 on {one['missed']} of {one['screens']} screens"
        for one in listeners["excluded"]
    ]
    parts = ["\n".join(lines)]
    if "mushra" in merged:
        parts += [_ratings(merged), _verdict("rating", merged, merged["mushra"])]
    if "ab" in merged:
        parts += [_preferences(merged["ab"]), _verdict("pairs", merged, merged["ab"])]
    return "\n\n".join(parts)


def _ratings(merged: Mapping[str, Any]) -> str:
    notes = {merged["reference"]: "hidden reference", ANCHOR: "3.5 kHz low-pass"}
    rows = [
        [row["row"], format_interval({**row, "value": row["mean"]}), notes.get(row["row"], "")]
        for row in sorted(merged["mushra"]["rows"], key=lambda row: -(row["mean"] or 0.0))
    ]
    tables = [align([["", "rating, 0 to 100", ""], *rows])]
    if merged["mushra"]["pairs"]:
        head = ["", "difference", "p (Holm)", "better"]
        differences = [
            [f"{pair['a']} - {pair['b']}", format_interval({**pair, "value": pair["difference"]}), *_outcome(pair)]
            for pair in merged["mushra"]["pairs"]
        ]
        tables.append(align([head, *differences]))
    return "\n\n".join(tables)


def _preferences(summary: Mapping[str, Any]) -> str:
    head = ["", "first", "second", "ties", "share of first", "p (Holm)", "better"]
    rows = [
        [
            f"{pair['a']} : {pair['b']}", str(pair["prefer_a"]), str(pair["prefer_b"]), str(pair["ties"]),
            format_interval({**pair, "value": pair["share_a"]}), *_outcome(pair),
        ]
        for pair in summary["pairs"]
    ]  # fmt: skip
    return align([head, *rows])


def _outcome(pair: Mapping[str, Any]) -> list[str]:
    return [f"{pair['p_holm']:.3f}", pair["better"] or MISSING]


def _verdict(test: str, merged: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    counted, needed = merged["listeners"]["counted"], merged["listeners"]["needed"]
    if counted < needed:
        return f"{test}: insufficient listeners: {counted} of at least {needed}; no winner is named"
    if summary["winner"]:
        return f"{test}: {summary['winner']} is better than every other arm"
    return f"{test}: not settled: no arm is better than every other arm"
