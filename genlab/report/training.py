"""Training curves as inline SVG: one panel per loss, a line per training seed, in the colour of its
arm.

In: per arm, the curves of its seeds by tag. Out: `Markup`. Losses of different families are
different quantities: arms share a panel only if their losses have one name, and so one unit.
"""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from genlab.report.answer import model_arms
from genlab.report.inputs import Row, Scored
from genlab.report.plot import HEIGHT, WIDTH, Point, draw_frame, draw_labels, linear_axis, marker
from genlab.report.tables import join
from genlab.report.text import arm_title

Curves = Mapping[str, Sequence[Mapping[str, Sequence[tuple[int, float]]]]]
"""By arm, for each training seed: (step, value) by tag."""


def training_plots(results: Scored, curves: Curves) -> Markup:
    """Return one panel per loss; nothing if no curve was kept."""
    arms = [(index, arm) for index, arm in enumerate(model_arms(results)) if arm["name"] in curves]
    tags = dict.fromkeys(tag for _, arm in arms for seed in curves[arm["name"]] for tag in seed)
    panels = [_panel(tag, number, arms, curves) for number, tag in enumerate(tags)]
    panels = [panel for panel in panels if panel]
    if not panels:
        return Markup("")
    return Markup(
        '<p class="lead">One line per training seed. Losses of different families are different '
        "quantities: compare "
        'their shapes, not their heights.</p><div class="plots">{}</div>'
    ).format(join(panels))


def _panel(tag: str, number: int, arms: Sequence[tuple[int, Row]], curves: Curves) -> Markup:
    found = []
    for index, arm in arms:
        for seed in curves[arm["name"]]:
            line = [(step, value) for step, value in seed.get(tag, ()) if math.isfinite(value)]
            if len(line) > 1:
                found.append((index, arm, line))
    if not found:
        return Markup("")
    y_ticks, place_y = linear_axis([value for _, _, line in found for _, value in line])
    x_ticks, place_x = linear_axis(
        [0, *(step for _, _, line in found for step, _ in line)], is_horizontal=True
    )
    paths = [
        Markup('<g class="arm{}"><path class="curve" d="M{}"/></g>').format(
            index % 6, "L".join(f"{place_x(step):.1f} {place_y(value):.1f}" for step, value in line)
        )
        for index, _, line in found
    ]
    # One name per arm, at the end of its first seed.
    ends = {
        index: Point(arm_title(arm), index, line[-1][0], {"value": line[-1][1]})
        for index, arm, line in reversed(found)
    }
    dots = [
        Markup('<g class="arm{}">{}</g>').format(
            end.number % 6, marker(end.number, place_x(end.cost), place_y(end.value))
        )
        for end in ends.values()
    ]
    title = describe_loss(tag, str(found[0][1].get("family", "")))
    parts = [
        Markup('<title id="curve{0}t">{1} by training step</title>').format(number, title),
        draw_frame(x_ticks, place_x, y_ticks, place_y, "Training step", title, x_scale=""),
        *paths,
        *dots,
        *draw_labels(list(ends.values()), [], place_y),
    ]
    return Markup(
        '<svg class="plot" viewBox="0 0 {1} {2}" role="img" aria-labelledby="curve{0}t">{3}</svg>'
    ).format(number, WIDTH, HEIGHT, join(parts))


def describe_loss(tag: str, family: str) -> str:
    """Return the words of a family's loss: "train/loss_ar_nats_per_code" is "Training loss, nats
    per code".
    """
    group, _, name = tag.partition("/")
    unit = name.removeprefix("loss_").removeprefix(f"{family}_").replace("_", " ")
    return f"{'Validation' if group == 'valid' else 'Training'} loss{', ' if unit else ''}{unit}"
