"""Where the time of a comparison went, as a table and a sentence.

In: `time` of results.json, which versions without it lack. Out: rows of text for the terminal and
report.md, `Markup` for the page.
"""

from markupsafe import Markup

from genlab.report.inputs import Scored
from genlab.report.tables import plain_table, split_head
from genlab.run.clock import StageTime


def time_rows(results: Scored) -> list[list[str]]:
    """Return a row per stage, the head first: its seconds, how many of them an earlier command
    took, and its share of the whole; nothing without stages.
    """
    time = results.get("time")
    if time is None:
        return []
    rows = [
        [
            stage["stage"],
            _seconds(stage),
            f"{stage['before_s']:.1f}" if stage["before_s"] else "",
            f"{stage['seconds'] / max(time['whole_s'], 1e-9):.1%}",
        ]
        for stage in time["stages"]
    ]
    head = ["stage", "seconds", "of these before", "share"]
    # Most runs are made by one command.
    keep = [0, 1, 2, 3] if any(row[2] for row in rows) else [0, 1, 3]
    return [[row[column] for column in keep] for row in [head, *rows]]


def describe_gates_cost(results: Scored) -> str:
    """Return how many of the seconds the gates cost, nothing without stages."""
    time = results.get("time")
    if time is None:
        return ""
    at_least = "at least " if any(stage["unmeasured"] for stage in time["stages"]) else ""
    share = time["gates_s"] / max(time["whole_s"], 1e-9)
    return (
        f"what the gates cost: {at_least}{time['gates_s']:.0f} s of {time['whole_s']:.0f} s "
        f"({share:.0%}), for baselines, energies at the bare law, controls and audit, with what "
        "was compiled for them"
    )


def time_table(results: Scored) -> Markup:
    """Return the table and the sentence for the page, nothing without stages."""
    rows = time_rows(results)
    if not rows:
        return Markup("")
    return Markup("<h3>Where the time went</h3>{}<p>{}.</p>").format(
        plain_table("Time", *split_head(rows), css="time"),
        describe_gates_cost(results).capitalize(),
    )


def _seconds(stage: StageTime) -> str:
    measured = f"{stage['seconds']:.1f}"
    if not stage["unmeasured"]:
        return measured
    # Of work that was done before, nothing was measured: 0 s would be wrong.
    return "before" if stage["seconds"] < 0.05 else f"{measured} + before"
