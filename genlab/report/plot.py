"""Quality against cost as inline SVG: one panel per cost, every arm a point with its interval.

In: results.json. Out: `Markup` of two panels that share the y axis: sampling time per second of
audio, and sequential network calls. Real audio and the codec floors have no sampling cost and are
drawn as level lines: no arm can pass them by much. Text is SVG text, coloured by the page's style
sheet, so it follows the light and dark schemes.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from genlab.evaluate.entries import ScoreEntry
from genlab.evaluate.table import known_metric
from genlab.report.answer import model_arms, primary_score
from genlab.report.inputs import Row, Scored
from genlab.report.tables import ARROWS, join, wall_per_second
from genlab.report.text import arm_title, format_interval, score_title, typeset
from genlab.run.bounds import is_arm
from genlab.statistics.bootstrap import Ends

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 302, 28, 252
_LINE_HEIGHT = 16.0


class Point(NamedTuple):
    """One value against one cost; `number` chooses the colour and the marker of its arm."""

    title: str
    number: int
    cost: float
    score: Ends

    @property
    def value(self) -> float:
        """Where it lies, NaN if it has no value."""
        return value_of(self.score)


def value_of(score: Ends | None) -> float:
    """Return the value of a score, NaN if it is not defined or there is no score."""
    value = None if score is None else score["value"]
    return math.nan if value is None else value


def cost_plots(results: Scored) -> Markup:
    """Return the panels that have at least one point."""
    name = primary_score(results)
    if name is None:
        return Markup("")
    costs: list[tuple[str, Callable[[Row], float | None]]] = [
        ("Sampling time per second of audio, s", wall_per_second),
        ("Sequential network calls per clip", lambda arm: arm.get("network_calls")),
    ]
    panels = [
        _panel(results, name, title, find_cost, number)
        for number, (title, find_cost) in enumerate(costs)
    ]
    return Markup('<div class="plots">{}</div>').format(join(panels))


def _panel(
    results: Scored,
    name: str,
    x_title: str,
    find_cost: Callable[[Row], float | None],
    number: int,
) -> Markup:
    points: list[Point] = []
    facts: ScoreEntry | None = None  # unit and direction, those of the first point
    for index, arm in enumerate(model_arms(results)):
        # A log axis has no place for zero, and an unmeasured cost is no point.
        score, cost = arm.get("scores", {}).get(name), find_cost(arm)
        if score and score["value"] is not None and cost and math.isfinite(cost):
            points.append(Point(arm_title(arm), index, float(cost), score))
            facts = facts or score
    if facts is None:
        return Markup("")
    levels = [
        (arm_title(arm).replace("Codec floor", "Floor"), value)
        for arm in results["arms"]
        if not is_arm(arm)
        and (score := arm.get("scores", {}).get(name)) is not None
        and (value := score["value"]) is not None
    ]
    y_ticks, place_y = linear_axis(
        [value for point in points for value in extremes(point.score)] + [y for _, y in levels],
        origin=origin_of(name),
    )
    x_ticks, place_x = log_axis([point.cost for point in points])
    arrow = ARROWS.get(facts.get("direction", ""), "")
    y_title = f"{score_title(name)} {arrow} {facts.get('unit', '')}"
    told = "; ".join(f"{p.title}: {format_interval(p.score)} at {p.cost:.3g}" for p in points)
    parts = [
        Markup(
            '<title id="plot{0}t">{1} against {2}</title><desc id="plot{0}d">{3}. Bars are 95 % '
            "intervals.</desc>"
        ).format(number, score_title(name), x_title[0].lower() + x_title[1:], told),
        draw_frame(x_ticks, place_x, y_ticks, place_y, x_title, y_title),
        *_levels(levels, place_y),
        *_points(points, place_x, place_y),
        *draw_labels(points, levels, place_y),
    ]
    return Markup(
        '<svg class="plot" viewBox="0 0 {1} {2}" role="img" aria-labelledby="plot{0}t '
        'plot{0}d">{3}</svg>'
    ).format(number, WIDTH, HEIGHT, join(parts))


def draw_frame(
    x_ticks: Sequence[float],
    place_x: Callable[[float], float],
    y_ticks: Sequence[float],
    place_y: Callable[[float], float],
    x_title: str,
    y_title: str,
    x_scale: str = " (log scale)",
) -> Markup:
    """Return axes, grid and titles; `x_scale` says in words what the x axis is."""
    # As many decimals as the distance of two ticks needs; the small number is against log10(0.1)
    # just below -1.
    decimals = max(0, -math.floor(math.log10(y_ticks[1] - y_ticks[0]) + 1e-9))
    parts = [Markup('<text class="axis" x="2" y="12">{}</text>').format(y_title)]
    for tick in y_ticks:
        y = place_y(tick)
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(_LEFT, y, _RIGHT))
        label = typeset(f"{tick:.{decimals}f}")
        parts.append(
            Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                _LEFT - 7, y + 4, label
            )
        )
    for tick in x_ticks:
        x = place_x(tick)
        parts.append(Markup('<path class="rule" d="M{:.1f} {}v5"/>').format(x, _BOTTOM))
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                x, _BOTTOM + 19, f"{tick:g}"
            )
        )
    parts.append(Markup('<path class="rule" d="M{} {}H{}"/>').format(_LEFT, _BOTTOM, _RIGHT))
    middle = (_LEFT + _RIGHT) / 2
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}{}</text>').format(
            middle, HEIGHT - 8, x_title, x_scale
        )
    )
    return join(parts)


def _levels(levels: Sequence[tuple[str, float]], place_y: Callable[[float], float]) -> list[Markup]:
    path = Markup('<path class="level" d="M{} {:.1f}H{}"/>')
    return [path.format(_LEFT, place_y(value), _RIGHT) for _, value in levels]


def _points(
    points: Sequence[Point], place_x: Callable[[float], float], place_y: Callable[[float], float]
) -> list[Markup]:
    drawn = []
    for point in points:
        x = place_x(point.cost)
        y = place_y(point.value)
        low_y, high_y = (place_y(value) for value in extremes(point.score))
        ends = join(Markup("M{:.1f} {:.1f}h8").format(x - 4, end_y) for end_y in (low_y, high_y))
        drawn.append(
            Markup('<g class="arm{}"><path class="bar" d="M{:.1f} {:.1f}V{:.1f}{}"/>{}</g>').format(
                point.number % 6, x, low_y, high_y, ends, marker(point.number, x, y)
            )
        )
    return drawn


def draw_labels(
    points: Sequence[Point], levels: Sequence[tuple[str, float]], place_y: Callable[[float], float]
) -> list[Markup]:
    """Return the names in the right margin, near the height of what they name, where they can hide
    no data.
    """
    named = [(place_y(point.value), point.title, point.number) for point in points]
    named += [(place_y(value), title, -1) for title, value in levels]
    named.sort()
    drawn = []
    for (y, title, index), label_y in zip(named, _spread([y for y, _, _ in named])):
        text = Markup('<text class="{}" x="{}" y="{:.1f}">{}</text>')
        if index < 0:
            leader = Markup('<path class="leader" d="M{} {:.1f}L{} {:.1f}"/>')
            drawn.append(leader.format(_RIGHT, y, _RIGHT + 20, label_y))
            drawn.append(text.format("tick", _RIGHT + 24, label_y + 4.5, title))
        else:
            shape = marker(index, _RIGHT + 13, label_y)
            label = text.format("label", _RIGHT + 24, label_y + 4.5, title)
            drawn.append(Markup('<g class="arm{}">{}{}</g>').format(index % 6, shape, label))
    return drawn


def marker(index: int, x: float, y: float, size: float = 5.0) -> Markup:
    """Return the arm's marker; shape and colour both tell arms apart."""
    shapes = (
        "M{l} {y}a{s} {s} 0 1 0 {w} 0a{s} {s} 0 1 0 -{w} 0z",
        "M{l} {t}H{r}V{b}H{l}z",
        "M{x} {T}L{R} {y}L{x} {B}L{L} {y}z",
        "M{x} {T}L{R} {b}H{L}z",
        "M{x} {B}L{R} {t}H{L}z",
        "M{l} {t}L{r} {b}M{r} {t}L{l} {b}",
    )
    # Diamonds and triangles reach further out, for markers of equal area.
    far = size * 1.35
    numbers = {
        "x": x,
        "y": y,
        "s": size,
        "w": 2 * size,
        "l": x - size,
        "r": x + size,
        "t": y - size,
        "b": y + size,
    }
    numbers |= {"L": x - far, "R": x + far, "T": y - far, "B": y + far}
    path = shapes[index % len(shapes)].format(
        **{key: f"{value:.1f}" for key, value in numbers.items()}
    )
    return Markup('<path class="marker" d="{}"/>').format(path)


def origin_of(name: str) -> float:
    """Return where the axis of a score may start: opinion scores begin at 1, most others at 0."""
    metric = known_metric(name)
    lowest = 0.0 if metric is None else metric.range[0]
    return lowest if 0 <= lowest < math.inf else 0.0


def extremes(score: Ends) -> tuple[float, float]:
    """Return the ends of a score's interval, or the score itself."""
    low, high = score.get("low"), score.get("high")
    value = value_of(score)
    return (value if low is None else low, value if high is None else high)


def linear_axis(
    values: Sequence[float], is_horizontal: bool = False, origin: float = 0.0
) -> tuple[list[float], Callable[[float], float]]:
    """Return ticks and the place of a value on the y axis, or on the x axis; `origin` is the least
    that a value can be.
    """
    low, high = min(values), max(values)
    if origin < low and low - origin < 0.6 * (high - origin):
        low = origin  # the axis starts there unless that would hide the differences
    span = (high - low) or abs(high) or 1.0
    # Below the resolution of the numbers ticks would fall on one place.
    span = max(span, 1e-12 * max(abs(low), abs(high)))
    power = math.floor(math.log10(span)) - 2
    step = next(
        step
        for n in range(5)
        for base in (1, 2, 5)
        if span / (step := base * 10.0 ** (power + n)) <= 5
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, max(last, first + 1) + 1)]

    start, end = (_LEFT, _RIGHT) if is_horizontal else (_BOTTOM, _TOP)

    def place(value: float) -> float:
        return start + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)

    return ticks, place


def log_axis(values: Sequence[float]) -> tuple[list[float], Callable[[float], float]]:
    """Return ticks and the place of a value on the x axis."""
    low, high = math.log10(min(values)) - 0.15, math.log10(max(values)) + 0.15
    bases = (1, 2, 3, 5) if high - low < 1 else (1, 2, 5) if high - low < 2 else (1,)
    ticks = [
        base * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for base in bases
    ]
    ticks = [tick for tick in ticks if tick > 0 and low <= math.log10(tick) <= high]

    def place(value: float) -> float:
        return _LEFT + (math.log10(value) - low) / (high - low) * (_RIGHT - _LEFT)

    return ticks, place


def _spread(positions: Sequence[float]) -> list[float]:
    """Move sorted positions apart until each is a line below the last, keeping the middle."""
    placed: list[float] = []
    for position in positions:
        placed.append(max(position, placed[-1] + _LINE_HEIGHT) if placed else position)
    shift = (
        sum(after - before for before, after in zip(positions, placed)) / len(placed)
        if placed
        else 0.0
    )
    lowest = _BOTTOM - 4
    shift += max(0.0, placed[-1] - shift - lowest) if placed else 0.0
    return [position - shift for position in placed]
