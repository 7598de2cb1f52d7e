"""The listening test as tables: mean ratings, differences, preferences, each with its interval, and
the verdicts.

In: listening.json as a dict. Out: rows of text (a head first) for the terminal and report.md, and
`Markup`.
"""

from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup

from genlab.report.additions import Listening, Preferences, PreferredPair, RatedPair, Ratings
from genlab.report.tables import join, plain_table, split_head
from genlab.report.text import MISSING, format_interval, interval_of
from genlab.statistics.bootstrap import Ends

_ANCHOR = "low_anchor"  # of listen/key.py, which reads this package
_TITLES: dict[Literal["mushra", "ab"], str] = {"mushra": "rating", "ab": "pairs"}


def listening_section(merged: Listening | None) -> Markup:
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


def page_links(pages: Sequence[str]) -> Markup:
    """Return links to the pages that play all prompts, nothing if there are none."""
    if not pages:
        return Markup("")
    links = join(
        Markup('<li><a href="{}">{}</a></li>').format(
            page, page.rsplit("/", 1)[-1].removesuffix(".html").removeprefix("prompts")
        )
        for page in pages
    )
    return Markup(
        "<details><summary>All prompts, on pages of their own</summary><p>They play the files of "
        'the run directory, so they are heard only from there.</p><ul class="key">{}</ul></details>'
    ).format(links)


def listening_tables(merged: Listening) -> list[tuple[str, list[list[str]]]]:
    """Return each table with its name."""
    found = []
    if (ratings := merged.get("mushra")) is not None:
        found.append(("Ratings", _rating_rows(ratings, merged["reference"])))
        if ratings["pairs"]:
            found.append(("Differences of ratings", _difference_rows(ratings)))
    if (preferences := merged.get("ab")) is not None:
        found.append(("Preferences", _preference_rows(preferences)))
    return found


def counted(merged: Listening) -> list[str]:
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


def verdicts_of(merged: Listening) -> list[str]:
    """Return what each test settles."""
    counts, needed = merged["listeners"]["counted"], merged["listeners"]["needed"]
    found = []
    for test, title in _TITLES.items():
        if (result := merged.get(test)) is not None:
            winner = result["winner"]
            if counts < needed:
                text = f"insufficient listeners: {counts} of at least {needed}; no winner is named"
            elif winner:
                text = f"{winner} is better than every other arm"
            else:
                text = "not settled: no arm is better than every other arm"
            found.append(f"{title}: {text}")
    return found


def _rating_rows(ratings: Ratings, reference: str) -> list[list[str]]:
    notes = {reference: "hidden reference", _ANCHOR: "3.5 kHz low-pass"}
    body = []
    for row in sorted(ratings["rows"], key=lambda row: -(row["mean"] or 0.0)):
        rating: Ends = {"value": row["mean"], "low": row["low"], "high": row["high"]}
        body.append([row["row"], format_interval(rating), notes.get(row["row"], "")])
    return [["row", "rating, 0 to 100", "what it is"], *body]


def _difference_rows(ratings: Ratings) -> list[list[str]]:
    body = [
        [f"{pair['a']} - {pair['b']}", format_interval(interval_of(pair)), *_outcome(pair)]
        for pair in ratings["pairs"]
    ]
    return [["pair", "difference", "p (Holm)", "better"], *body]


def _preference_rows(preferences: Preferences) -> list[list[str]]:
    body = []
    for pair in preferences["pairs"]:
        share: Ends = {"value": pair["share_a"], "low": pair["low"], "high": pair["high"]}
        counts = [str(count) for count in (pair["prefer_a"], pair["prefer_b"], pair["ties"])]
        names = f"{pair['a']} : {pair['b']}"
        body.append([names, *counts, format_interval(share), *_outcome(pair)])
    return [["pair", "first", "second", "ties", "share of first", "p (Holm)", "better"], *body]


def _outcome(pair: RatedPair | PreferredPair) -> list[str]:
    return [f"{pair['p_holm']:.3f}", pair["better"] or MISSING]
