"""How the report words things: names of arms and scores, numbers with their intervals, quantities
with SI prefixes.
"""

import math
from typing import Final

from genlab.evaluate.entries import ControlEntry, DifferenceEntry, PlanEntry, ScoreEntry
from genlab.evaluate.gaps import OF_GAPS
from genlab.evaluate.metric import spell
from genlab.evaluate.table import METRICS
from genlab.report.additions import RatedPair
from genlab.report.inputs import Row
from genlab.run.bounds import (
    BIGRAM,
    CLIMATOLOGY,
    FLOOR,
    LOOKUP,
    LOOKUP_RESIDUALS,
    REAL,
    REGRESSION,
    REGRESSION_RESIDUALS,
    UNIFORM,
    UNIGRAM,
)
from genlab.statistics.bootstrap import Ends

QUESTION = (
    "Which way of decoding gives the best audio from the same tokens, the same data and the same "
    "budget?"
)
_ARM_TITLES = {
    "ar": "Autoregressive",
    "latent_ar": "AR over latents",
    "depth": "Depth transformer",
    "masked": "Masked parallel",
    "diffusion": "Latent diffusion",
    REAL: "Real audio",
    LOOKUP: "Mean latents",
    REGRESSION: "Regression",
    CLIMATOLOGY: "Climatology",
    LOOKUP_RESIDUALS: "Mean latents + residuals",
    REGRESSION_RESIDUALS: "Regression + residuals",
    UNIFORM: "Uniform codes",
    UNIGRAM: "Unigram",
    BIGRAM: "Bigram",
}
_TITLES = {metric.name: metric.title for metric in (*METRICS, *OF_GAPS)} | {
    "content": "Content error",  # results of early versions
    "network_calls": "Network calls, ratio",
    "flops": "Sampling FLOPs, ratio",
    "latency_s": "Seconds alone, ratio",
}
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
CANNOT: Final = "impossible"  # the validity of a score that an arm cannot have
CANNOT_CELL: Final = "cannot"  # in its place; its note says why
AT_MOST = "\N{LESS-THAN OR EQUAL TO} "


def arm_title(arm: Row) -> str:
    """Return the arm's name for people: its own `title`, its family if that is its name, else its
    name spelt out.
    """
    if title := arm.get("title"):
        return title
    if arm.get("family") == FLOOR:
        return f"Codec floor, {arm.get('reads')}" if arm.get("reads") else spell(arm["name"])
    return name_title(arm["name"])


def name_title(name: str) -> str:
    """Return the name of an arm for people: its family if that is its name, else spelt out."""
    return _ARM_TITLES.get(name, spell(name))


def interval_of(item: DifferenceEntry | ControlEntry | RatedPair) -> Ends:
    """Return a difference with its interval."""
    return {"value": item.get("difference"), "low": item.get("low"), "high": item.get("high")}


def score_title(name: str) -> str:
    """Return the score's name for people; `cer_ctc` becomes "Character error (CTC)"."""
    if name in _TITLES:
        return _TITLES[name]
    head, _, tail = name.partition("_")
    if head not in _TITLES or not tail:
        return spell(name)
    return f"{_TITLES[head]} ({'CTC' if tail == 'ctc' else tail.replace('_', ' ')})"


def format_interval(estimate: Ends, absolute: bool = False, decimals: int | None = None) -> str:
    """Return "value [low, high]" with `decimals`, or with as many digits as the interval supports.

    `absolute` drops a common sign.
    """
    value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
    if absolute and value is not None and low is not None and high is not None and high < 0:
        value, low, high = -value, -high, -low
    shown, bounds = (
        format_value(value, low, high, decimals),
        format_bounds(value, low, high, decimals),
    )
    return f"{shown} {bounds}".rstrip()


def format_score(score: ScoreEntry | None, decimals: int | None = None) -> str:
    """Return `format_interval` of a score, with the sign of a bound before a bound; "" of a row
    without the score.
    """
    if not score:
        return ""
    if score.get("validity") == CANNOT:
        return CANNOT_CELL
    bound = AT_MOST if score.get("validity") == "upper bound" else ""
    return f"{bound}{format_interval(score, decimals=decimals)}"


def format_value(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    decimals: int | None = None,
) -> str:
    """Return a number with `decimals`, or as many as `find_decimals` says."""
    if value is None or not math.isfinite(value):
        return MISSING
    if isinstance(value, int) and low is None:
        return typeset(f"{value:,}")
    return typeset(
        f"{value:,.{find_decimals(value, low, high) if decimals is None else decimals}f}"
    )


def format_bounds(
    value: float | None, low: float | None, high: float | None, decimals: int | None = None
) -> str:
    """Return "[low, high]", or nothing if there is no interval."""
    if value is None or low is None or high is None:
        return ""
    decimals = find_decimals(value, low, high) if decimals is None else decimals
    return f"[{typeset(f'{low:,.{decimals}f}')}, {typeset(f'{high:,.{decimals}f}')}]"


def typeset(number: str) -> str:
    """Return a formatted number with a true minus sign, and no sign before a rounded zero."""
    if number.startswith("-") and not number.strip("-0.,"):
        number = number[1:]
    return number.replace("-", MINUS)


def format_quantity(value: float | None, unit: str = "") -> str:
    """Return a large number with an SI prefix, such as "1.23 TFLOP"."""
    if value is None or not math.isfinite(value):
        return MISSING
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{format_value(value / factor)} {prefix}{unit}".rstrip()
    return f"{format_value(float(value))} {unit}".rstrip()


def format_seconds(value: float | None) -> str:
    """Return seconds as ms, s, min or h."""
    if value is None or not math.isfinite(value):
        return MISSING
    for factor, unit in ((3600, "h"), (60, "min")):
        if value >= 2 * factor:
            return f"{format_value(value / factor)} {unit}"
    return (
        f"{format_value(float(value))} s" if value >= 0.1 else f"{format_value(1000.0 * value)} ms"
    )


def power_columns(plan: PlanEntry) -> list[str]:
    """Return the heads of `power_cells`."""
    prompts = plan.get("prompts")
    at_hand = f"{plan.get('seeds')} seeds and {prompts} prompts"
    needed = [f"Prompts needed with {seeds} seeds" for seeds in plan.get("prompts_needed", {})]
    return ["To see", f"Power with {at_hand}", f"Seeds needed with {prompts} prompts", *needed]


def power_cells(plan: PlanEntry) -> list[str]:
    """Return what it takes to see a difference: power at hand, seeds needed, and prompts needed per
    number of seeds.
    """
    needed = plan.get("seeds_needed")
    seeds = "more than 100" if needed is None else str(needed)
    counts = plan.get("prompts_needed", {}).values()
    prompts = ["no number" if count is None else format_value(count) for count in counts]
    target, power = plan.get("target", math.nan), plan.get("power", math.nan)
    return [f"{target:.3g}", f"{power:.0%}", seeds, *prompts]


def find_decimals(value: float, low: float | None = None, high: float | None = None) -> int:
    """Return the decimals for two digits of the interval's half width, or for three significant
    digits without one.
    """
    scale = (
        (high - low) / 2 if low is not None and high is not None and high > low else abs(value) / 10
    )
    return max(0, min(5, 1 - math.floor(math.log10(scale)))) if 0 < scale < math.inf else 3


def inert_markdown(value: object) -> str:
    """Return one line of Markdown in which nothing acts as a table, as HTML, or as a link or
    picture.
    """
    text = " ".join(("" if value is None else str(value)).split())
    for old, new in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("](", "]\\("), ("]:", "]\\:")):
        text = text.replace(old, new)
    return text
