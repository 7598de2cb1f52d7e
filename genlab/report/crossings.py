"""Where the ranking of families flips, in the report: every run as a point, the fitted curves, and
a verdict per pair.

In: crossover.json as a list of entries, one per score and axis, as `genlab crossover` left them in
the run directories. Out: `Markup`. A curve is drawn over the budgets that were run and no further;
its band is the 95 % interval of the fit.
"""

from collections.abc import Sequence

from markupsafe import Markup

from genlab.report.additions import CrossingEntry, CurveFacts
from genlab.report.plot import (
    HEIGHT,
    WIDTH,
    Point,
    draw_frame,
    draw_labels,
    linear_axis,
    log_axis,
    marker,
)
from genlab.report.tables import ARROWS, join, plain_table
from genlab.report.text import name_title, score_title


def crossings_section(entries: Sequence[CrossingEntry]) -> Markup:
    """Return a figure, the verdicts and a table per entry, or how to make them."""
    if not entries:
        return Markup(
            '<p class="lead">One budget is one point of a curve: <code>genlab crossover RUN_DIR '
            "...</code> over "
            "comparisons at several budgets says where the ranking flips, and adds it here.</p>"
        )
    return join(_entry(entry, number) for number, entry in enumerate(entries))


def _entry(entry: CrossingEntry, number: int) -> Markup:
    verdicts = [*entry["verdicts"], *entry["notes"]]
    head, *rows = entry["table"]
    title = f"{score_title(entry['score'])} against {entry['axis']}"
    return Markup(
        '<h3>{}</h3><p class="lead">{} comparisons. Points are training runs, bands 95 % '
        "intervals of the fits.</p>"
        '<div class="plots">{}</div><ul class="footnotes">{}</ul>{}'
    ).format(
        title,
        entry["num_runs"],
        _figure(entry, title, number),
        join(Markup("<li>{}</li>").format(text) for text in verdicts),
        plain_table(
            title, [entry["axis"][:1].upper() + entry["axis"][1:], *head[1:]], rows, css="crossings"
        ),
    )


def _figure(entry: CrossingEntry, title: str, number: int) -> Markup:
    curves = entry["curves"]
    values = [
        value
        for curve in curves.values()
        for key in ("score", "low", "high")
        for value in curve[key]
    ]
    y_ticks, place_y = linear_axis(values)
    x_ticks, place_x = log_axis([x for curve in curves.values() for x in curve["x"]])
    y_title = f"{score_title(entry['score'])} {ARROWS[entry['direction']]} {entry['unit']}"
    parts = [
        Markup('<title id="crossing{}t">{}</title>').format(number, title),
        draw_frame(
            x_ticks,
            place_x,
            y_ticks,
            place_y,
            entry["axis"][:1].upper() + entry["axis"][1:],
            y_title,
        ),
    ]
    ends = []
    for index, (name, curve) in enumerate(curves.items()):
        # The default binds this turn's curve; a closure would see the last one.
        def path(key: str, curve: CurveFacts = curve) -> list[str]:
            return [f"{place_x(x):.1f} {place_y(y):.1f}" for x, y in zip(curve["grid"], curve[key])]

        # Along the upper edge and back along the lower one, as one closed path.
        band = "L".join([*path("high"), *reversed(path("low"))])
        marks = join(
            marker(index, place_x(x), place_y(y), 3.0) for x, y in zip(curve["x"], curve["score"])
        )
        parts.append(
            Markup(
                '<g class="arm{}"><path class="band" d="M{}z"/><path class="front" d="M{}"/>{}</g>'
            ).format(index % 6, band, "L".join(path("fit")), marks)
        )
        ends.append(Point(name_title(name), index, curve["grid"][-1], {"value": curve["fit"][-1]}))
    parts += draw_labels(ends, [], place_y)
    return Markup(
        '<svg class="plot" viewBox="0 0 {1} {2}" role="img" '
        'aria-labelledby="crossing{0}t">{3}</svg>'
    ).format(number, WIDTH, HEIGHT, join(parts))
