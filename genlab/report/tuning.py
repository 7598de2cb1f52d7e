"""How the arms were tuned: the median best of k trials of every arm, what was chosen, and every
trial.

In: tuning.json as a dict. Out: `Markup` for the report and the page of its own that `genlab tune`
writes, and rows of text for the terminal and report.md.
"""

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from genlab.report.additions import Setting, TunedArm, Tuning
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
from genlab.report.tables import ARROWS, join, plain_table, split_head
from genlab.report.text import (
    MISSING,
    format_interval,
    format_quantity,
    name_title,
    score_title,
)

_SETTINGS: dict[Setting, str] = {
    "peak_lr": "peak LR",
    "warmup_fraction": "warm-up",
    "weight_decay": "weight decay",
    "ema_decay": "EMA",
    "dropout": "dropout",
}


def tuning_section(tuning: Tuning | None) -> Markup:
    """Return figure and tables, or how to make them."""
    if not tuning:
        return Markup(
            '<p class="lead">Training settings were not tuned per arm: <code>genlab tune '
            "CONFIG</code> gives every arm "
            "equally many trials on equal FLOPs, and <code>genlab compare CONFIG --tuned</code> "
            "uses what they "
            "found.</p>"
        )
    # All trials, the bad ones too: what was tried is part of the result.
    trials = [
        [
            title,
            entry["number"],
            _describe(entry["setting"], entry.get("shape")),
            format_interval(entry),
            entry["note"] or "none",
        ]
        for title, arm in _titled(tuning)
        for entry in arm["trials"]
    ]
    head = ["Arm", "Trial", "Setting", f"{score_title(tuning['by'])}, validation", "Note"]
    return Markup(
        '<p class="lead">{}</p>{}{}<details><summary>Every trial</summary>{}</details>'
    ).format(
        describe_tuning(tuning),
        _figure(tuning),
        plain_table("Tuning", *split_head(tuning_rows(tuning)), css="tuning"),
        plain_table("Trials", head, trials, css="trials"),
    )


def describe_tuning(tuning: Tuning) -> str:
    """Return how the arms were tuned, in words."""
    space = "; ".join(
        f"{_SETTINGS[name]} {low:g} to {high:g}" for name, (low, high) in tuning["space"].items()
    )
    draws = {
        "random": "drawn at random, the same in every arm",
        "tpe": "chosen by TPE from the trials before",
    }
    grid = tuning.get("shape_grid")
    shapes = (
        "" if grid is None else f" Shapes (layers x width) are those of the grid {grid}, in turn."
    )
    # TPE has no best-of-k curve: its trials are not independent draws.
    curve = (
        " The curve is the median best of k trials with a 95 % interval. Where the band is open "
        "below, so few trials cannot tell how much better the space may be. The value of the "
        "chosen trial is the best of many and flatters it."
        if any(arm["best_of"] for arm in tuning["arms"].values())
        else ""
    )
    return (
        f"{tuning['trials']} trials per arm on {tuning['fraction']:.0%} of its training budget "
        f"each: its own setting, and others {draws[tuning['sampler']]}. Space: {space}. Chosen by "
        f"{score_title(tuning['by'])} on {tuning['num_prompts']} validation prompts.{shapes}{curve}"
    )


def tuning_rows(tuning: Tuning) -> list[list[str]]:
    """Return a head and one row per arm: trials, FLOPs, own and chosen value, chosen setting."""
    rows = [["arm", "trials", "tuning FLOPs", "own setting", "chosen", "setting chosen"]]
    for title, arm in _titled(tuning):
        chosen = arm["trials"][arm["best"]]
        what = (
            f"{'own' if arm['best'] == 0 else 'trial ' + str(arm['best'])}: "
            f"{_describe(arm['setting'], arm.get('shape'))}"
        )
        flops = format_quantity(arm["train_flops"], "FLOP")
        own = format_interval(arm["trials"][0])
        rows.append([title, str(arm["num_trials"]), flops, own, format_interval(chosen), what])
    return rows


def _titled(tuning: Tuning) -> list[tuple[str, TunedArm]]:
    return [(name_title(name), arm) for name, arm in tuning["arms"].items()]


def _describe(
    setting: Mapping[Setting, float | None], shape: Mapping[str, int] | None = None
) -> str:
    told = {name: setting.get(field) for field, name in _SETTINGS.items()}
    first = "" if shape is None else f"{shape['layers']} x {shape['width']}, "
    return first + ", ".join(
        f"{name} {MISSING if value is None else f'{value:.3g}'}" for name, value in told.items()
    )


def _figure(tuning: Tuning) -> Markup:
    curves = [
        [Point(title, index, float(entry["k"]), entry) for entry in arm["best_of"]]
        for index, (title, arm) in enumerate(_titled(tuning))
    ]
    points = [point for curve in curves for point in curve]
    if not points:
        return Markup("")
    y_ticks, place_y = linear_axis([value for point in points for value in extremes(point.score)])
    x_ticks, place_x = log_axis([point.cost for point in points])
    name = score_title(tuning["by"])
    parts = [
        Markup('<title id="best-of-t">{} of the best of k trials, median</title>').format(name),
        draw_frame(
            x_ticks,
            place_x,
            y_ticks,
            place_y,
            "Trials",
            f"{name} {ARROWS[tuning['direction']]} {tuning['unit']}",
        ),
    ]
    for curve in curves:
        # Where too few trials leave no interval, the line runs on without a band.
        banded = [(point, high) for point in curve if (high := point.score.get("high")) is not None]
        # Along the upper edge and back along the lower one, as one closed path.
        upper = [f"{place_x(point.cost):.1f} {place_y(high):.1f}" for point, high in banded]
        lower = [
            f"{place_x(point.cost):.1f} {_lower_end(point, place_y, y_ticks):.1f}"
            for point, _ in reversed(banded)
        ]
        line = [f"{place_x(point.cost):.1f} {place_y(point.value):.1f}" for point in curve]
        last = curve[-1]
        parts.append(
            Markup('<g class="arm{}">{}<path class="front" d="M{}"/>{}</g>').format(
                last.number % 6,
                Markup('<path class="band" d="M{}z"/>').format("L".join([*upper, *lower]))
                if banded
                else "",
                "L".join(line),
                marker(last.number, place_x(last.cost), place_y(last.value), 4.0),
            )
        )
    parts += draw_labels([curve[-1] for curve in curves], [], place_y)
    return Markup(
        '<div class="plots"><svg class="plot" viewBox="0 0 {} {}" role="img" '
        'aria-labelledby="best-of-t">{}</svg></div>'
    ).format(WIDTH, HEIGHT, join(parts))


def _lower_end(point: Point, place_y: Callable[[float], float], ticks: Sequence[float]) -> float:
    """Return where the band ends below: an open interval reaches the edge of the figure."""
    low = point.score.get("low")
    return place_y(ticks[0] if low is None else low)
