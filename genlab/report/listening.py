"""The listening test as tables: mean ratings, differences, preferences, each with its interval, and
the verdicts.

In: listening.json as a dict. Out: rows of text (a head first) for the terminal and report.md, and
`Markup`.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from genlab.report.tables import join, plain_table, split_head
from genlab.report.text import MISSING, format_interval

_ANCHOR = "low_anchor"  # of listen/key.py, which reads this package
_TITLES = {"mushra": "rating", "ab": "pairs"}


def listening_section(merged: Mapping[str, Any]) -> Markup:
    """Return the tables and what they settle, or how to ask listeners."""
    if not merged:
        return Markup(
            '<p class="lead">No listeners were asked: <code>genlab listen RUN_DIR</code> writes a '
            "blind test.</p>"
        )
    tables = join(
        plain_table(title, *split_head(rows), css="heard")
        for title, rows in listening_tables(merged)
    )
    verdicts = join(Markup("<li>{}</li>").format(text) for text in verdicts_of(merged))
    return Markup(
        '<h3>Blind listening</h3><p class="lead">{} Brackets are 95 % intervals over listeners '
        "and prompts at once; p "
        'has Holm\'s correction over the pairs.</p>{}<ul class="footnotes">{}</ul>'
    ).format(" ".join(counted(merged)), tables, verdicts)


def listening_tables(merged: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Return each table with its name."""
    found = []
    if "mushra" in merged:
        found.append(("Ratings", _rating_rows(merged)))
        if merged["mushra"]["pairs"]:
            found.append(("Differences of ratings", _difference_rows(merged)))
    if "ab" in merged:
        found.append(("Preferences", _preference_rows(merged)))
    return found


def counted(merged: Mapping[str, Any]) -> list[str]:
    """Return who counts and who does not."""
    listeners = merged["listeners"]
    return [
        f"Listeners: {listeners['counted']} counted, {len(listeners['excluded'])} excluded.",
        *(
            (
                f"{one['listener']}: excluded, hidden reference below 90 on {one['missed']} of "
                f"{one['screens']} screens."
            )
            for one in listeners["excluded"]
        ),
    ]


def verdicts_of(merged: Mapping[str, Any]) -> list[str]:
    """Return what each test settles."""
    counts, needed = merged["listeners"]["counted"], merged["listeners"]["needed"]
    found = []
    for test, title in _TITLES.items():
        if test in merged:
            winner = merged[test]["winner"]
            if counts < needed:
                text = f"insufficient listeners: {counts} of at least {needed}; no winner is named"
            elif winner:
                text = f"{winner} is better than every other arm"
            else:
                text = "not settled: no arm is better than every other arm"
            found.append(f"{title}: {text}")
    return found


def _rating_rows(merged: Mapping[str, Any]) -> list[list[str]]:
    notes = {merged["reference"]: "hidden reference", _ANCHOR: "3.5 kHz low-pass"}
    rows = sorted(merged["mushra"]["rows"], key=lambda row: -(row["mean"] or 0.0))
    body = [
        [row["row"], format_interval({**row, "value": row["mean"]}), notes.get(row["row"], "")]
        for row in rows
    ]
    return [["row", "rating, 0 to 100", "what it is"], *body]


def _difference_rows(merged: Mapping[str, Any]) -> list[list[str]]:
    body = [
        [
            f"{pair['a']} - {pair['b']}",
            format_interval({**pair, "value": pair["difference"]}),
            *_outcome(pair),
        ]
        for pair in merged["mushra"]["pairs"]
    ]
    return [["pair", "difference", "p (Holm)", "better"], *body]


def _preference_rows(merged: Mapping[str, Any]) -> list[list[str]]:
    body = [
        [
            f"{pair['a']} : {pair['b']}",
            str(pair["prefer_a"]),
            str(pair["prefer_b"]),
            str(pair["ties"]),
            format_interval({**pair, "value": pair["share_a"]}),
            *_outcome(pair),
        ]
        for pair in merged["ab"]["pairs"]
    ]
    return [["pair", "first", "second", "ties", "share of first", "p (Holm)", "better"], *body]


def _outcome(pair: Mapping[str, Any]) -> list[str]:
    return [f"{pair['p_holm']:.3f}", pair["better"] or MISSING]
