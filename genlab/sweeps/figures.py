"""The figures of a sweep: what was predicted with its interval, and each score against what was
varied.

In: findings, and the entries of results.json by run. Out: SVG as `Markup`, for the page of the
sweep and, with its own style sheet, as a file that a README can show.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from genlab.evaluate.table import known_metric
from genlab.report.answer import model_arms
from genlab.report.inputs import Results
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
from genlab.report.text import arm_title, format_value, score_title
from genlab.run.bounds import BASELINES
from genlab.sweeps.finding import Finding
from genlab.sweeps.page import Sweep, SweepRun, name_of

_LEFT, _RIGHT, _ROW = 24, 436, 46
# Colours of the report's first six arms; a file has no style sheet of the page around it.
_STYLE = (
    "svg{font:13px "
    "system-ui,sans-serif;background:#fff}text{fill:#555}.axis{fill:#1a1a1a}path{fill:none;stroke:#777}.grid{stroke:#ddd}.level{stroke-dasharray:4}.label{font-weight:600;fill:var(--arm)}.front,.bar{stroke:var(--arm);stroke-width:1.75}.marker{fill:var(--arm);stroke:var(--arm)}.arm0{--arm:#1f5fbf}.arm1{--arm:#b3450f}.arm2{--arm:#2a7a3b}.arm3{--arm:#7a3fa0}.arm4{--arm:#8a6a00}.arm5{--arm:#a02050}"
)


def forest(findings: Sequence[Finding]) -> list[Markup]:
    """Return one figure per score: every contrast as an interval against zero."""
    figures = []
    for score in dict.fromkeys(finding.score for finding in findings):
        group = [
            finding
            for finding in findings
            if finding.score == score
            and finding.kind in ("contrast", "gap")
            and math.isfinite(finding.value)
        ]
        if group:
            figures.append(_forest_of(score, group))
    return figures


def _forest_of(score: str, findings: Sequence[Finding]) -> Markup:
    low, high = min(0.0, *(f.low for f in findings)), max(0.0, *(f.high for f in findings))
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return _LEFT + (value - low) / span * (_RIGHT - _LEFT)

    bottom = _ROW * len(findings) + 8
    parts = [
        Markup('<title id="forest-{0}">{0}: predicted sums with 95 % intervals</title>').format(
            score_title(score)
        ),
        Markup('<path class="grid" d="M{0:.1f} 4V{1}"/>').format(place(0.0), bottom),
    ]
    colours = {"reproduced": 0, "reversed": 1, "inconclusive": 5}
    colours |= {"reproduced in bounds": 4, "reversed in bounds": 4}
    for row, finding in enumerate(findings):
        y = row * _ROW + 34
        bar = Markup(
            '<path class="bar" d="M{0:.1f} {2}H{1:.1f}M{0:.1f} {3}v8M{1:.1f} {3}v8"/>'
        ).format(place(finding.low), place(finding.high), y, y - 4)
        parts.append(
            Markup('<text class="axis" x="2" y="{}">{}: {}</text><g class="arm{}">{}{}</g>').format(
                y - 18,
                finding.verdict,
                finding.text[:64],
                colours.get(finding.verdict, 5),
                bar,
                marker(0, place(finding.value), y),
            )
        )
    metric = known_metric(score)
    for value, anchor in ((low, "start"), (0.0, "middle"), (high, "end")):
        # Zero always has its label, and an end where zero leaves it room.
        if value == 0.0 if anchor == "middle" else abs(place(value) - place(0.0)) > 60:
            parts.append(
                Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                    place(value),
                    bottom + 14,
                    anchor,
                    format_value(value, low, high) if value else "0",
                )
            )
    parts.append(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            WIDTH / 2,
            bottom + 32,
            score_title(score) + (f", {metric.unit}" if metric else ""),
        )
    )
    return Markup(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-labelledby="forest-{}">{}</svg>'
    ).format(WIDTH, bottom + 38, score_title(score), join(parts))


def curves(sweep: Sweep, runs: Sequence[SweepRun], results: Mapping[str, Results]) -> list[Markup]:
    """Return a panel per predicted score and setting of the other fields: the score against the
    number varied most.
    """
    # A field without a name goes with another one, and is no setting of its own.
    axes = [path for path in _fields(runs) if name_of(sweep, path) and _is_axis(path, runs)]
    if not axes:
        return []
    # The number with the most values makes the longest curve; every combination of the rest has a
    # panel of its own.
    axis = max(axes, key=lambda path: len({run.point[path] for run in runs}))
    panels = []
    for score in dict.fromkeys(prediction.score for prediction in sweep.predictions):
        for rest in dict.fromkeys(_rest(sweep, run, axis) for run in runs):
            chosen = [
                run for run in runs if _rest(sweep, run, axis) == rest and run.label in results
            ]
            points = [
                Point(arm_title(arm), index, float(run.point[axis]), arm["scores"][score])
                for run in chosen
                for index, arm in enumerate(model_arms(results[run.label]))
                if (arm["scores"].get(score) or {}).get("value") is not None
            ]
            if len({point.cost for point in points}) > 1:
                title = sweep.names.get(axis, axis) + (f" ({rest})" if rest else "")
                bounds = _baselines(chosen, axis, score, results)
                panels.append(_panel(score, title, points, bounds, len(panels)))
    return panels


def _baselines(
    runs: Sequence[SweepRun], axis: str, score: str, results: Mapping[str, Results]
) -> list[Point]:
    """Return the points of the lines that the arms must beat."""
    return [
        Point(arm_title(row), BASELINES.index(row["name"]), float(run.point[axis]), found)
        for run in runs
        for row in results[run.label]["arms"]
        if row["name"] in BASELINES
        and (found := row["scores"].get(score)) is not None
        and found["value"] is not None
    ]


def standalone(figure: Markup) -> str:
    """Return a panel as an SVG file."""
    opened, _, rest = str(figure).partition(">")
    return (
        f'{opened} xmlns="http://www.w3.org/2000/svg" '
        f'width="{WIDTH}"><style>{_STYLE}</style>{rest}\n'
    )


def _panel(
    score: str, x_title: str, points: Sequence[Point], bounds: Sequence[Point], number: int
) -> Markup:
    y_ticks, place_y = linear_axis(
        [value for point in points for value in extremes(point.score)]
        + [bound.value for bound in bounds]
    )
    x_ticks, place_x = log_axis([point.cost for point in points])
    stated = points[0].score  # of a metric of the user results.json alone tells
    arrow = ARROWS.get(stated.get("direction", ""), "")
    y_title = f"{score_title(score)} {arrow} {stated.get('unit', '')}"
    parts = [
        Markup('<title id="curve{}t">{} against {}</title>').format(
            number, score_title(score), x_title
        ),
        draw_frame(x_ticks, place_x, y_ticks, place_y, x_title, y_title),
    ]
    ends = []
    for index in dict.fromkeys(point.number for point in points):
        # Runs come in the page's order; a line needs that of x.
        curve = sorted(
            (point for point in points if point.number == index), key=lambda point: point.cost
        )
        parts.append(_curve(curve, place_x, place_y))
        ends.append(curve[-1])
    levels = []
    for index in dict.fromkeys(bound.number for bound in bounds):
        line = sorted(
            (bound for bound in bounds if bound.number == index), key=lambda bound: bound.cost
        )
        # A dashed line without markers: it bounds the arms and is none.
        path = "L".join(f"{place_x(bound.cost):.1f} {place_y(bound.value):.1f}" for bound in line)
        parts.append(Markup('<path class="level" d="M{}"/>').format(path))
        levels.append((line[-1].title, line[-1].value))
    parts += draw_labels(ends, levels, place_y)
    return Markup(
        '<svg class="plot" viewBox="0 0 {1} {2}" role="img" aria-labelledby="curve{0}t">{3}</svg>'
    ).format(number, WIDTH, HEIGHT, join(parts))


def _curve(
    points: Sequence[Point], place_x: Callable[[float], float], place_y: Callable[[float], float]
) -> Markup:
    line = "L".join(f"{place_x(point.cost):.1f} {place_y(point.value):.1f}" for point in points)
    marks = []
    for point in points:
        x, (low, high) = place_x(point.cost), (place_y(value) for value in extremes(point.score))
        marks.append(
            Markup('<path class="bar" d="M{0:.1f} {1:.1f}V{2:.1f}"/>').format(x, low, high)
        )
        marks.append(marker(point.number, x, place_y(point.value), 4.0))
    return Markup('<g class="arm{}"><path class="front" d="M{}"/>{}</g>').format(
        points[0].number % 6, line, join(marks)
    )


def _fields(runs: Sequence[SweepRun]) -> list[str]:
    return list(dict.fromkeys(path for run in runs for path in run.point))


def _is_axis(path: str, runs: Sequence[SweepRun]) -> bool:
    values = [run.point.get(path) for run in runs]
    is_number = all(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        for value in values
    )
    return is_number and len(set(values)) > 1


def _rest(sweep: Sweep, run: SweepRun, axis: str) -> str:
    short = {path: name_of(sweep, path) for path in run.point}
    return ", ".join(
        f"{short[path]}={value}"
        for path, value in run.point.items()
        if path != axis and short[path]
    )
