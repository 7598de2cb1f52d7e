"""Quality against cost over many sampler settings: one panel per cost, one front per arm, and the
table behind them.

In: the `pareto` of results.json. Out: `Markup`. A front joins the settings of an arm that no
cheaper setting of the same arm significantly beats, with the band of their intervals; beaten
settings are drawn small and faint.
"""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from genlab.evaluate.domains import SPEECH
from genlab.report.additions import FrontEntry
from genlab.report.answer import model_arms
from genlab.report.inputs import Shown
from genlab.report.plot import (
    HEIGHT,
    WIDTH,
    Point,
    draw_frame,
    draw_labels,
    extremes,
    linear_axis,
    log_axis,
    marker,
)
from genlab.report.tables import ARROWS, join
from genlab.report.text import arm_title, format_interval, score_title

COSTS = {
    "network_calls": "Sequential network calls per clip",
    "flops_per_s": "Sampling FLOPs per second of audio",
    "latency_s": "Seconds for one clip alone",
    "throughput_s": "Seconds per second of audio, all at once",
}


def fronts_section(results: Shown) -> Markup:
    """Return the panels and the table, or how to make them."""
    entries = results.get("pareto") or []
    if not entries:
        return Markup(
            '<p class="lead">Each arm is shown at its own setting only: <code>genlab compare '
            "CONFIG --pareto</code> "
            "samples every arm at equally many settings and draws the fronts.</p>"
        )
    # Fronts of earlier versions were by the deciding score and do not name it.
    name = entries[0].get("by") or str(results.get("primary_score", SPEECH.searched[0]))
    panels = [_panel(entries, results, name, cost, title) for cost, title in COSTS.items()]
    per_arm = len(entries) // max(1, len({entry["arm"] for entry in entries}))
    return Markup(
        '<p class="lead">{} settings per arm, on validation prompts. A line joins the settings '
        "that no cheaper setting "
        "of the same arm significantly beats (95 %, Holm over all pairs of the arm); its band is "
        "their interval.</p>"
        '<div class="plots">{}</div>{}'
    ).format(per_arm, join(panels), _table(entries, results, name))


def _panel(
    entries: Sequence[FrontEntry],
    results: Shown,
    name: str,
    cost: str,
    title: str,
) -> Markup:
    titles = {str(arm["name"]): arm_title(arm) for arm in model_arms(results)}
    order = list(dict.fromkeys([*titles, *(str(entry["arm"]) for entry in entries)]))
    fronts: dict[str, list[Point]] = {}
    beaten: list[Point] = []
    for entry in sorted(entries, key=lambda entry: entry["costs"][cost]):
        arm = str(entry["arm"])
        if entry["score"]["value"] is None:
            continue
        point = Point(
            titles.get(arm, arm), order.index(arm), float(entry["costs"][cost]), entry["score"]
        )
        # An arm whose settings are all beaten still has its place, and so its colour.
        fronts.setdefault(arm, [])
        (beaten if entry["dominated_by"][cost] else fronts[arm]).append(point)
    points = [point for front in fronts.values() for point in front]
    if not points:
        return Markup("")
    y_ticks, place_y = linear_axis(
        [value for point in points + beaten for value in extremes(point.score)]
    )
    x_ticks, place_x = log_axis([point.cost for point in points + beaten])
    facts = entries[0]["score"]
    arrow = ARROWS.get(facts.get("direction", "lower"), "")
    y_title = f"{score_title(name)} {arrow} {facts.get('unit', '')}"
    parts = [
        Markup('<title id="front-{0}t">{1} against {2}</title>').format(
            cost, score_title(name), title.lower()
        ),
        draw_frame(x_ticks, place_x, y_ticks, place_y, title, y_title),
    ]
    for front in fronts.values():
        parts += _front(front, place_x, place_y)
    for point in beaten:
        parts.append(
            Markup('<g class="arm{} beaten">{}</g>').format(
                point.number % 6,
                marker(point.number, place_x(point.cost), place_y(point.value), 3.0),
            )
        )
    # One label per arm, at its best point: labels at all points would hide the points.
    best = [min(front, key=lambda point: point.value) for front in fronts.values() if front]
    parts += draw_labels(best, [], place_y)
    return Markup(
        '<svg class="plot" viewBox="0 0 {1} {2}" role="img" aria-labelledby="front-{0}t">{3}</svg>'
    ).format(cost, WIDTH, HEIGHT, join(parts))


def _front(
    front: Sequence[Point], place_x: Callable[[float], float], place_y: Callable[[float], float]
) -> list[Markup]:
    if not front:
        return []
    low, high = zip(*(extremes(point.score) for point in front))
    xs = [place_x(point.cost) for point in front]
    line = "L".join(f"{x:.1f} {place_y(point.value):.1f}" for x, point in zip(xs, front))
    upper = [f"{x:.1f} {place_y(value):.1f}" for x, value in zip(xs, high)]
    lower = [f"{x:.1f} {place_y(value):.1f}" for x, value in zip(xs, low)]
    band = "L".join([*upper, *reversed(lower)])
    marks = join(marker(point.number, x, place_y(point.value), 4.0) for x, point in zip(xs, front))
    group = Markup(
        '<g class="arm{}"><path class="band" d="M{}z"/><path class="front" d="M{}"/>{}</g>'
    )
    return [group.format(front[0].number % 6, band, line, marks)]


def _table(entries: Sequence[FrontEntry], results: Shown, name: str) -> Markup:
    titles = {arm["name"]: arm_title(arm) for arm in model_arms(results)}
    head = ["Arm", "Setting", f"{score_title(name)}, validation", *COSTS.values(), "Beaten on"]
    rows = []
    for entry in entries:
        beaten = [COSTS[cost] for cost, by in entry["dominated_by"].items() if by]
        cells = [entry["setting"], format_interval(entry["score"])]
        cells += [f"{entry['costs'][cost]:.3g}" for cost in COSTS]
        # Beaten on every cost means useless; on some, a matter of what you pay for.
        cells.append("every cost" if len(beaten) == len(COSTS) else "; ".join(beaten) or "none")
        row = join(Markup("<td>{}</td>").format(cell) for cell in cells)
        rows.append(
            Markup('<tr><th scope="row">{}</th>{}</tr>').format(
                titles.get(entry["arm"], entry["arm"]), row
            )
        )
    return Markup(
        "<details><summary>Every setting</summary>"
        '<div class="scroll" role="region" aria-label="Settings" tabindex="0"><table '
        'class="fronts">'
        "<caption "
        'class="hidden">Settings</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></details>'
    ).format(join(Markup('<th scope="col">{}</th>').format(text) for text in head), join(rows))
