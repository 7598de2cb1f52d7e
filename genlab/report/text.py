"""How the report words things: names of arms and scores, numbers with their intervals, quantities
with SI prefixes.
"""

import math
from collections.abc import Mapping
from typing import Any

from genlab.evaluate.metric import spell
from genlab.evaluate.table import METRICS

QUESTION = (
    "Which way of decoding gives the best audio from the same tokens, the same data and the same "
    "budget?"
)
_ARM_TITLES = {
    "ar": "Autoregressive",
    "depth": "Depth transformer",
    "masked": "Masked parallel",
    "diffusion": "Latent diffusion",
    "real": "Real audio",
}
_TITLES = {metric.name: metric.title for metric in METRICS} | {
    "content": "Content error",  # results of early versions
    "network_calls": "Network calls, ratio",
    "flops": "Sampling FLOPs, ratio",
    "latency_s": "Seconds alone, ratio",
}
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
AT_MOST = "\N{LESS-THAN OR EQUAL TO} "


def arm_title(arm: Mapping[str, Any]) -> str:
    """Return the arm's name for people: its own `title`, its family if that is its name, else its
    name spelt out.
    """
    if arm.get("title"):
        return str(arm["title"])
    if arm.get("family") == "floor":
        return f"Codec floor, {arm['reads']}" if arm.get("reads") else spell(str(arm["name"]))
    return _ARM_TITLES.get(str(arm["name"]), spell(str(arm["name"])))


def score_title(name: str) -> str:
    """Return the score's name for people; `cer_ctc` becomes "Character error (CTC)"."""
    if name in _TITLES:
        return _TITLES[name]
    head, _, tail = name.partition("_")
    if head not in _TITLES or not tail:
        return spell(name)
    return f"{_TITLES[head]} ({'CTC' if tail == 'ctc' else tail.replace('_', ' ')})"


def format_interval(
    estimate: Mapping[str, Any], absolute: bool = False, decimals: int | None = None
) -> str:
    """Return "value [low, high]" with `decimals`, or with as many digits as the interval supports.

    `absolute` drops a common sign.
    """
    value, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    if absolute and value is not None and low is not None and high is not None and high < 0:
        value, low, high = -value, -high, -low
    shown, bounds = (
        format_value(value, low, high, decimals),
        format_bounds(value, low, high, decimals),
    )
    return f"{shown} {bounds}".rstrip()


def format_score(score: Mapping[str, Any], decimals: int | None = None) -> str:
    """Return `format_interval` of a score, with the sign of a bound before a bound; "" of a row
    without the score.
    """
    bound = AT_MOST if score.get("validity") == "upper bound" else ""
    return f"{bound}{format_interval(score, decimals=decimals)}" if score else ""


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


def power_columns(plan: Mapping[str, Any]) -> list[str]:
    """Return the heads of `power_cells`."""
    at_hand = f"{plan['seeds']} seeds and {plan['prompts']} prompts"
    needed = [f"Prompts needed with {seeds} seeds" for seeds in plan["prompts_needed"]]
    return [
        "To see",
        f"Power with {at_hand}",
        f"Seeds needed with {plan['prompts']} prompts",
        *needed,
    ]


def power_cells(plan: Mapping[str, Any]) -> list[str]:
    """Return what it takes to see a difference: power at hand, seeds needed, and prompts needed per
    number of seeds.
    """
    seeds = "more than 100" if plan["seeds_needed"] is None else str(plan["seeds_needed"])
    prompts = [
        "no number" if n is None else format_value(n) for n in plan["prompts_needed"].values()
    ]
    return [f"{plan['target']:.3g}", f"{plan['power']:.0%}", seeds, *prompts]


def find_decimals(value: float, low: float | None = None, high: float | None = None) -> int:
    """Return the decimals for two digits of the interval's half width, or for three significant
    digits without one.
    """
    scale = (
        (high - low) / 2 if low is not None and high is not None and high > low else abs(value) / 10
    )
    return max(0, min(5, 1 - math.floor(math.log10(scale)))) if 0 < scale < math.inf else 3


def inert_markdown(value: Any) -> str:
    """Return one line of Markdown in which nothing acts as a table, as HTML, or as a link or
    picture.
    """
    text = " ".join(("" if value is None else str(value)).split())
    for old, new in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("](", "]\\("), ("]:", "]\\:")):
        text = text.replace(old, new)
    return text
