"""Scores as dots with their 95 % intervals, as inline SVG: one panel per score, one line per row of
the table.

In: results.json. Out: `Markup`. The deciding score comes first, then the others in the order of the
score table; the first few panels are open and the rest are folded away. Faint rings are the single
training seeds, a hollow marker is an upper bound, and real audio and the codec floors are grey:
they bound what an arm can reach.
"""

import itertools
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from genlab.evaluate.entries import ScoreEntry
from genlab.report.answer import model_arms, primary_score
from genlab.report.inputs import Scored
from genlab.report.plot import extremes, linear_axis, marker, origin_of, value_of
from genlab.report.tables import ARROWS, join
from genlab.report.text import arm_title, format_score, score_title, typeset
from genlab.run.bounds import BASELINE, FLOOR, REAL

OPEN_PANELS = 9
_WIDTH, _LEFT, _RIGHT = 380, 132, 366
_TOP, _LINE = 34, 19
_LONGEST_TITLE = 19  # letters that fit left of the panel
_LETTER, _UNIT_LETTER, _TITLE_LETTER = 7.4, 6.3, 7.0  # widths: of digits, of words, of bold words


def has_rings(results: Scored) -> bool:
    """Return whether any score has a ring for each of its training seeds."""
    scores = [score for arm in model_arms(results) for score in arm.get("scores", {}).values()]
    return any(_seeds(score) for score in scores)


def dot_plots(results: Scored) -> Markup:
    """Return the panels of all scores that some trained arm has; nothing if there are none."""
    names = list(
        dict.fromkeys(name for arm in model_arms(results) for name in arm.get("scores", {}))
    )
    decides = primary_score(results)
    names.sort(key=lambda name: name != decides)
    panels = [
        panel for number, name in enumerate(names) if (panel := _panel(results, name, number))
    ]
    first = panels[:OPEN_PANELS]
    rest = panels[OPEN_PANELS:]
    parts = [Markup('<div class="dots">{}</div>').format(join(first))] if first else []
    if rest:
        more = Markup(
            '<details><summary>{} more scores as dots</summary><div class="dots">{}</div></details>'
        )
        parts.append(more.format(len(rest), join(rest)))
    return join(parts)


def _panel(results: Scored, name: str, number: int) -> Markup:
    indices = {arm["name"]: index for index, arm in enumerate(model_arms(results))}
    # Real audio, floors and baselines first: they are the bounds that the arms are read against.
    places = {REAL: 0, FLOOR: 1, BASELINE: 2}
    rows = sorted(results["arms"], key=lambda arm: places.get(arm.get("family", ""), 3))
    rows = [arm for arm in rows if math.isfinite(value_of(arm.get("scores", {}).get(name)))]
    if not any(arm["name"] in indices for arm in rows):
        return Markup("")
    scores = [arm["scores"][name] for arm in rows]
    ticks, place = _axis(
        [
            value
            for score in scores
            for value in (*extremes(score), value_of(score), *_seeds(score))
        ],
        origin_of(name),
    )
    bottom = _TOP + _LINE * len(rows) + 2
    # A picture says nothing to a screen reader, so <desc> says all values.
    told = "; ".join(f"{arm_title(arm)}: {format_score(score)}" for arm, score in zip(rows, scores))
    facts = scores[-1]
    arrow = ARROWS.get(str(facts.get("direction", "")), "")
    parts = [
        Markup(
            '<title id="dots{0}t">{1}</title><desc id="dots{0}d">{2}. Bars are 95 % '
            "intervals.</desc>"
        ).format(number, score_title(name), told),
        Markup('<text class="name" x="0" y="13">{} {}</text>').format(score_title(name), arrow),
        Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
            _RIGHT, _unit_y(score_title(name), str(facts.get("unit", ""))), facts.get("unit", "")
        ),
        *_grid(ticks, place, bottom),
    ]
    for line, (arm, score) in enumerate(zip(rows, scores)):
        y = _TOP + _LINE * (line + 0.5)
        parts.append(
            _row(
                arm_title(arm).replace("Codec floor", "Floor"),
                score,
                indices.get(arm["name"]),
                place,
                y,
            )
        )
    return Markup(
        '<svg class="plot" viewBox="0 0 {1} {2}" role="img" aria-labelledby="dots{0}t '
        'dots{0}d">{3}</svg>'
    ).format(number, _WIDTH, bottom + 20, join(parts))


def _unit_y(title: str, unit: str) -> int:
    """Return the height of the unit: on the line of the title, or below it where both do not fit
    beside each other.
    """
    wide = _TITLE_LETTER * (len(title) + 2) + _UNIT_LETTER * (len(unit) + 2)
    return 13 if wide <= _RIGHT else 28


def _grid(ticks: Sequence[float], place: Callable[[float], float], bottom: float) -> list[Markup]:
    line = Markup('<path class="grid" d="M{:.1f} {}V{}"/>')
    label = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>')
    drawn = [line.format(place(tick), _TOP, bottom) for tick in ticks]
    for text, at, anchor in place_labels([(typeset(f"{t:.6g}"), place(t)) for t in ticks]):
        drawn.append(label.format(at, bottom + 14, anchor, text))
    return drawn


def place_labels(labels: Sequence[tuple[str, float]]) -> list[tuple[str, float, str]]:
    """Return the texts of an axis with their places and anchors, every second or third of them
    where all would run into each other.

    Args:
        labels: texts with the places of their ticks, from left to right.
    """

    def spans(chosen: Sequence[tuple[str, float]]) -> list[tuple[str, float, str, float, float]]:
        found = []
        for text, x in chosen:
            wide = _LETTER * len(text)
            # None may leave the picture.
            if x + wide / 2 > _WIDTH:
                found.append((text, float(_WIDTH), "end", _WIDTH - wide, float(_WIDTH)))
            else:
                found.append((text, x, "middle", x - wide / 2, x + wide / 2))
        return found

    for stride in range(1, len(labels) + 1):
        found = spans(labels[::stride])
        if all(one[4] + _LETTER <= other[3] for one, other in itertools.pairwise(found)):
            return [one[:3] for one in found]
    return []


def _row(
    title: str,
    score: ScoreEntry,
    index: int | None,
    place: Callable[[float], float],
    y: float,
) -> Markup:
    """Return one line: name, interval, single seeds, and the marker on top of them."""
    x, (low, high) = place(value_of(score)), map(place, extremes(score))
    shown = (
        title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1].rstrip(' ,')}…"
    )
    ends = Markup("M{:.1f} {:.1f}v7M{:.1f} {:.1f}v7").format(low, y - 3.5, high, y - 3.5)
    rings = join(
        Markup('<circle class="seed" cx="{:.1f}" cy="{:.1f}" r="2.2"/>').format(place(value), y)
        for value in _seeds(score)
    )
    css = "bound" if index is None else f"arm{index % 6}"
    if score.get("validity") == "upper bound":
        css += " hollow"
    shape = marker(0 if index is None else index, x, y, 4.0 if index is None else 4.6)
    return Markup(
        '<g class="{}"><text class="label" x="0" y="{:.1f}">{}</text>'
        '<path class="bar" d="M{:.1f} {:.1f}H{:.1f}{}"/>{}{}</g>'
    ).format(css, y + 4.5, shown, low, y, high, ends, rings, shape)


def _seeds(score: ScoreEntry) -> list[float]:
    """Return the score of each training seed, if there are several."""
    found = [value for value in score.get("by_seed") or [] if value is not None]
    values = [value for value in found if math.isfinite(value)]
    return values if len(values) > 1 else []


def _axis(values: Sequence[float], origin: float) -> tuple[list[float], Callable[[float], float]]:
    """Return ticks and the place of a value on the x axis."""
    ticks, _ = linear_axis([value for value in values if math.isfinite(value)], origin=origin)
    span = ticks[-1] - ticks[0]
    return ticks, lambda value: _LEFT + (value - ticks[0]) / span * (_RIGHT - _LEFT)
