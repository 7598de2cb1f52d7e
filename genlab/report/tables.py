"""The tables of the report: ledger, scores with intervals, cost, paired differences, controls.

In: results.json and ledger.json as dicts. Out: `Markup`. Every value enters through
`Markup.format`, which escapes it, so text from a corpus or a config cannot become markup. Wide
tables are in a focusable region that scrolls sideways.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from markupsafe import Markup
from pydantic import JsonValue

from genlab.evaluate.entries import DifferenceEntry
from genlab.fairness.heeding import control_status
from genlab.fairness.verdict import Gate
from genlab.report.answer import Answer, failed_controls, model_arms, primary_score
from genlab.report.baselines import missing_baselines
from genlab.report.inputs import Ledger, Row, Scored
from genlab.report.text import (
    AT_MOST,
    CANNOT,
    CANNOT_CELL,
    MINUS,
    MISSING,
    arm_title,
    find_decimals,
    format_bounds,
    format_interval,
    format_quantity,
    format_seconds,
    format_value,
    interval_of,
    power_cells,
    power_columns,
    score_title,
    typeset,
)
from genlab.report.trust import distrust
from genlab.run.bounds import BASELINE, FLOOR, REAL, is_arm

ARROWS = {"lower": "↓", "higher": "↑"}
STATUS_MEANINGS = {
    "matched": "equal in every arm",
    "bounded": "may differ within the stated limit",
    "free": "differs as part of what is compared",
    "declared": "differs, and the experiment said so beforehand",
}


class Usual(TypedDict, total=False):
    """What most rows of one score have; cells name only what is unlike it."""

    n: int | None
    validity: str
    unit: str
    direction: str
    decimals: int | None
    """Of the whole column."""


def ledger_table(ledger: Ledger, results: Scored) -> Markup:
    """Return one row per item: its status, each arm's value (once if all agree), and a note."""
    names = {arm["name"]: arm_title(arm) for arm in model_arms(results)}
    for row in ledger.get("rows", []):
        names |= {name: name for name in row.get("values", {}) if name not in names}
    head = _row(["Item", "Status", *names.values(), "Note"], "th", 'scope="col"')
    rows = []
    for row in ledger.get("rows", []):
        # One wide cell where all agree: the eye should find what differs.
        values = [plain_value(row.get("values", {}).get(name)) for name in names]
        if len(set(values)) == 1 and len(values) > 1:
            cells = Markup('<td colspan="{}" class="same">{}</td>').format(len(values), values[0])
        else:
            cells = join(
                Markup('<td data-arm="{}">{}</td>').format(title, value)
                for title, value in zip(names.values(), values)
            )
        status = str(row.get("status", "undeclared"))
        kind = status if status in STATUS_MEANINGS else "bad"
        badge = Markup('<span class="badge {}" title="{}">{}</span>').format(
            kind, STATUS_MEANINGS.get(status, "not declared"), status
        )
        rows.append(
            Markup('<tr><th scope="row">{}</th><td>{}</td>{}<td class="note">{}</td></tr>').format(
                row.get("item", ""), badge, cells, row.get("note", "")
            )
        )
    return _table("Ledger", head, rows, css="ledger")


def gate_table(gates: Iterable[Gate]) -> Markup:
    """Return one row per gate of the answer: its state, and the reason; nothing without gates."""
    kinds = {"passed": "good", "failed": "bad"}
    rows = [
        Markup(
            '<tr><th scope="row">{}</th><td><span class="badge {}">{}</span></td>'
            '<td class="note">{}</td></tr>'
        ).format(gate.name, kinds.get(gate.state, "bounded"), gate.state, gate.reason)
        for gate in gates
    ]
    head = _row(["Gate", "State", "Reason"], "th", 'scope="col"')
    return _table("Gates of the answer", head, rows, css="gates") if rows else Markup("")


def score_table(results: Scored, answer: Answer) -> Markup:
    """Return one row per score and one column per arm; what bounds them, baselines, floors and real
    audio, comes last.
    """
    places = {BASELINE: 1, FLOOR: 2, REAL: 3}
    arms = sorted(results["arms"], key=lambda arm: places.get(arm.get("family", ""), 0))
    names = list(dict.fromkeys(name for arm in arms for name in arm.get("scores", {})))
    heads = [Markup('<th scope="col">Score</th>')]
    for arm in arms:
        failed = dict.fromkeys(
            str(item["control"]) for item in failed_controls(results, arm["name"])
        )
        badges = [
            Markup('<span class="badge bad">failed {}</span>').format(control.replace("_", " "))
            for control in failed
        ]
        heads.append(
            Markup('<th scope="col" class="{}">{}{}</th>').format(
                _column(arm), arm_title(arm), join(badges)
            )
        )
    rows = []
    for name in names:
        usual, doubt = _usual(arms, name), distrust(results, name)
        cells = [_score_cell(arm, name, usual, doubt, results, answer) for arm in arms]
        rows.append(Markup("<tr>{}{}</tr>").format(_score_head(name, usual, doubt), join(cells)))
    head = join(heads)
    # Arms with the same note share one footnote.
    notes: dict[tuple[str, str], list[str]] = {}
    for arm in arms:
        for name, score in arm.get("scores", {}).items():
            if note := score.get("note"):
                notes.setdefault((score_title(name), note), []).append(arm_title(arm))
    items = [
        Markup("<li><b>{}</b>, {}: {}</li>").format(
            title, "every row" if len(titles) == len(arms) else "; ".join(titles), note
        )
        for (title, note), titles in notes.items()
    ]
    if told := missing_baselines(results):
        items.append(Markup("<li><b>Baselines</b>: {}</li>").format(told))
    footnotes = Markup('<ul class="footnotes">{}</ul>').format(join(items)) if items else Markup("")
    return _table("Scores", Markup("<tr>{}</tr>").format(head), rows, css="scores") + footnotes


def cost_table(results: Scored) -> Markup:
    """Return what each trained arm cost to train and to sample."""
    arms = model_arms(results)
    lines: list[tuple[str, list[str]]] = [
        ("Reads", [str(arm.get("reads", MISSING)) for arm in arms]),
        ("Parameters", [format_quantity(arm.get("params")) for arm in arms]),
        ("Training compute", [format_quantity(arm.get("train_flops"), "FLOP") for arm in arms]),
        ("Training time", [format_seconds(arm.get("train_wall_s")) for arm in arms]),
        ("Updates", [format_value(arm.get("steps")) for arm in arms]),
        ("Audio seen in training", [format_seconds(arm.get("seconds_seen")) for arm in arms]),
        ("of which unique", [format_seconds(arm.get("unique_seconds")) for arm in arms]),
        (
            "Sequential network calls per clip",
            [format_value(arm.get("network_calls")) for arm in arms],
        ),
        (
            "Sampling time per second of audio",
            [format_seconds(wall_per_second(arm)) for arm in arms],
        ),
        (
            "Time for one clip alone per second of audio",
            [format_seconds(_sampling(arm, "real_time_factor")) for arm in arms],
        ),
        ("Time to first audio", [format_seconds(_sampling(arm, "first_audio_s")) for arm in arms]),
        ("Sampling compute per second of audio", [_flops_per_second(arm) for arm in arms]),
    ]
    # A line that no arm has is left out; old results lack the newer ones.
    head = _row(["Cost", *(arm_title(arm) for arm in arms)], "th", 'scope="col"')
    rows = [
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            name, join(Markup("<td>{}</td>").format(value) for value in values)
        )
        for name, values in lines
        if set(values) != {MISSING}
    ]
    return _table("Cost", head, rows, css="cost")


def difference_table(results: Scored) -> Markup:
    """Return the paired differences of the primary score, or nothing if there are none."""
    name = primary_score(results)
    titles = {arm["name"]: arm_title(arm) for arm in results["arms"]}
    found = [
        item
        for item in results.get("differences", [])
        if item["score"] == name and item["a"] in titles
    ]
    if not found or name is None:
        return Markup("")
    # Only the deciding score: Holm's correction was made for these pairs.
    rows = [
        Markup(
            '<tr><th scope="row">{} {} {}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>'
        ).format(
            *_pair(item, titles),
            format_interval(interval_of(item)),
            _p_value(item.get("p_holm")),
            "yes" if item.get("better") else "no",
            _equivalence(item),
        )
        for item in found
    ]
    columns = [
        f"{score_title(name)}, same prompts",
        "Difference [95 %]",
        "p, Holm",
        "Excludes zero",
        "Equivalent",
    ]
    head = _row(columns, "th", 'scope="col"')
    return _table("Paired differences", head, rows, css="differences") + _power_table(
        name, found, titles
    )


def _pair(item: DifferenceEntry, titles: Mapping[str, str]) -> tuple[str, str, str]:
    return titles[item["a"]], MINUS, titles.get(item["b"], item["b"])


def _equivalence(item: DifferenceEntry) -> str:
    margin = item.get("margin")
    if margin is None:
        return "no margin declared"
    return f"{'yes' if item.get('equivalent') else 'not shown'}, within {margin:g}"


def _power_table(name: str, found: Sequence[DifferenceEntry], titles: Mapping[str, str]) -> Markup:
    """Return what it takes to see a difference, for the pairs whose variances are known."""
    planned = [(item, plan) for item in found if (plan := item.get("plan"))]
    if not planned:
        return Markup("")
    rows = [
        Markup('<tr><th scope="row">{} {} {}</th>{}</tr>').format(
            *_pair(item, titles),
            join(Markup("<td>{}</td>").format(cell) for cell in power_cells(plan)),
        )
        for item, plan in planned
    ]
    head = [f"{score_title(name)}, power", *power_columns(planned[0][1])]
    note = Markup(
        '<p class="lead">Needed for 80 % power in a two-sided test whose level all pairs share '
        "(5 % over their number, Holm's first step), from the variances seen here: a guide.</p>"
    )
    return _table("Power", _row(head, "th", 'scope="col"'), rows, css="power") + note


def control_table(results: Scored) -> Markup:
    """Return the controls, each passed, failed, not judged or not applicable."""
    titles = {arm["name"]: arm_title(arm) for arm in results["arms"]}
    rows = []
    for item in results.get("controls", []):
        status = control_status(item)
        # Not applicable is neither good nor bad, and looks like neither.
        css = {"passed": "good", "failed": "bad", "not judged": "bad"}.get(status, "bounded")
        rows.append(
            Markup(
                '<tr><th scope="row">{}</th><td>{}</td><td>{}</td><td>{}</td>'
                '<td><span class="badge {}">{}</span> {}</td></tr>'
            ).format(
                titles.get(item["arm"], item["arm"]),
                str(item["control"]).replace("_", " "),
                score_title(item["score"]),
                format_interval(interval_of(item)),
                css,
                status,
                str(item.get("reason") or ""),
            )
        )
    head = _row(
        ["Arm", "Control", "Score", f"Control {MINUS} own [95 %]", "Result"], "th", 'scope="col"'
    )
    return _table("Controls", head, rows, css="controls")


def wall_per_second(arm: Row) -> float | None:
    """Return the seconds it takes to sample one second of audio."""
    wall_s, audio_s = _sampling(arm, "wall_s"), _sampling(arm, "audio_s")
    return wall_s / audio_s if wall_s and audio_s else None


def plain_table(
    label: str, head: Sequence[str], rows: Iterable[Sequence[object]], css: str
) -> Markup:
    """Return a table in a region that scrolls sideways; the first cell of a row is its head."""
    body = (
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            first, join(Markup("<td>{}</td>").format(cell) for cell in cells)
        )
        for first, *cells in rows
    )
    return _table(label, _row(head, "th", 'scope="col"'), body, css)


def split_head(rows: Sequence[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Return the first row, with capitals, and the others."""
    return [title[:1].upper() + title[1:] for title in rows[0]], list(rows[1:])


def join(parts: Iterable[str]) -> Markup:
    """Join parts; plain strings among them are escaped."""
    return Markup("").join(parts)


def _score_head(name: str, usual: Usual, doubt: str) -> Markup:
    direction = str(usual.get("direction", ""))
    arrow = ARROWS.get(direction, "")
    facts = [str(usual.get("unit", ""))]
    if usual.get("validity") not in (None, "metric"):
        facts.append(str(usual.get("validity")))
    facts.append(f"n = {usual.get('n', MISSING)}")
    if doubt:
        facts.append(f"not trusted here: {doubt}")
    return Markup(
        '<th scope="row"{}>{}\N{NO-BREAK SPACE}<span class="arrow" aria-hidden="true">{}</span>'
        '<span class="hidden">, {} is better</span><span class="facts">{}</span></th>'
    ).format(
        Markup(' class="doubted"') if doubt else "",
        score_title(name),
        arrow,
        direction,
        join(Markup("<span>{}</span>").format(fact) for fact in facts if fact),
    )


def _score_cell(
    arm: Row,
    name: str,
    usual: Usual,
    doubt: str,
    results: Scored,
    answer: Answer,
) -> Markup:
    score = arm.get("scores", {}).get(name)
    if score and score.get("validity") == CANNOT:
        return Markup('<td class="missing {}" data-arm="{}">{}</td>').format(
            _column(arm), arm_title(arm), CANNOT_CELL
        )
    if not score or score.get("value") is None:
        return Markup(
            '<td class="missing {}"><span aria-hidden="true">{}</span><span '
            'class="hidden">none</span></td>'
        ).format(_column(arm), MISSING)
    value = score["value"]
    low = score.get("low")
    high = score.get("high")
    # The row's head says what is usual; a cell says only where it departs from that.
    unlike = [
        text
        for text, is_usual in (
            (f"n = {score.get('n')}", score.get("n") in (None, usual.get("n"))),
            (score.get("validity", ""), score.get("validity") in (None, usual.get("validity"))),
            (score.get("unit", ""), score.get("unit") in (None, usual.get("unit"))),
        )
        if not is_usual
    ]
    is_best = (
        bool(answer.winner) and answer.winner == arm["name"] and name == primary_score(results)
    )
    return Markup(
        '<td class="{}" data-arm="{}"><b>{}{}</b><span class="interval">{}</span>{}</td>'
    ).format(
        "best" if is_best else "doubted" if doubt else _column(arm),
        arm_title(arm),
        AT_MOST if score.get("validity") == "upper bound" else "",
        format_value(value, low, high, usual.get("decimals")),
        format_bounds(value, low, high, usual.get("decimals")),
        join(Markup('<span class="unlike">{}</span>').format(text) for text in unlike),
    )


def _column(arm: Row) -> str:
    return "model" if is_arm(arm) else "bound"


def _usual(arms: Sequence[Row], name: str) -> Usual:
    """Return, per field, the value most rows have (cells name only what is unlike it), and the
    column's decimals.
    """
    scores = [arm["scores"][name] for arm in arms if name in arm.get("scores", {})]
    usual: Usual = {"decimals": column_decimals(arms, name)}
    if counts := [count for score in scores if (count := score.get("n")) is not None]:
        usual["n"] = max(counts, key=counts.count)
    if validities := [text for score in scores if (text := score.get("validity")) is not None]:
        usual["validity"] = max(validities, key=validities.count)
    if units := [text for score in scores if (text := score.get("unit")) is not None]:
        usual["unit"] = max(units, key=units.count)
    if directions := [text for score in scores if (text := score.get("direction")) is not None]:
        usual["direction"] = max(directions, key=directions.count)
    return usual


def column_decimals(arms: Sequence[Row], name: str) -> int | None:
    """Return the decimals of a whole column, those that the intervals of the trained arms support;
    None if empty.
    """
    scored = [arm for arm in arms if name in arm.get("scores", {})]
    rows = [arm for arm in scored if is_arm(arm)] or scored
    decimals = [
        find_decimals(value, score.get("low"), score.get("high"))
        for score in (row["scores"][name] for row in rows)
        if (value := score["value"]) is not None
    ]
    return max(decimals, default=None)


def _table(label: str, head: Markup, rows: Iterable[Markup], css: str) -> Markup:
    return Markup(
        '<div class="scroll" role="region" aria-label="{0}" tabindex="0"><table '
        'class="{1}"><caption class="hidden">{0}'
        "</caption><thead>{2}</thead><tbody>{3}</tbody></table></div>"
    ).format(label, css, head, join(rows))


def _row(cells: Iterable[str], tag: str, attributes: str) -> Markup:
    # `tag` and `attributes` are literals of this file.
    opening = Markup(f"<{tag} {attributes}>")
    closing = Markup(f"</{tag}>")
    return Markup("<tr>{}</tr>").format(
        join(Markup("{}{}{}").format(opening, cell, closing) for cell in cells)
    )


def plain_value(value: JsonValue) -> str:
    """Return a value of the ledger for people: few digits, units of a thousand."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return format_value(value)
    if isinstance(value, float):
        return format_quantity(value) if abs(value) >= 1e4 else typeset(f"{value:.4g}")
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _sampling(arm: Row, field: str) -> float | None:
    return (arm.get("sampling") or {}).get(field)


def _flops_per_second(arm: Row) -> str:
    flops, audio_s = _sampling(arm, "flops"), _sampling(arm, "audio_s")
    return format_quantity(flops / audio_s, "FLOP") if flops and audio_s else MISSING


def _p_value(value: float | None) -> str:
    return MISSING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
