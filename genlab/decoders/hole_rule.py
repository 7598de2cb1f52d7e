"""How a decoder knows both sides of a gap that it fills, by its own word.

In: the config of a decoder. Out: its rule, and whether gaps are then filled from the conditional
law of what was trained. Only such a law can be scored by its draws, as with a prompt that is
continued (`prompt_rule.py`): both sides of a gap are more than a beginning, so families that
continue exactly may fill by replacement, or not at all.

    exact               the law that was trained is that of the gap, given everything known
    replacement         known frames replace noisy ones, which training never showed
    part hidden         some codes of the known frames are not read when the gap is drawn
    earlier alone       what follows the gap is kept, but not read when the gap is drawn
    beginnings alone    training showed clean beginnings, and nothing clean after a gap
    cannot              training never left a gap, so it can only continue
"""

from typing import Final, Literal, Protocol, runtime_checkable

HoleRule = Literal[
    "exact", "replacement", "part hidden", "earlier alone", "beginnings alone", "cannot"
]
CANNOT: Final = "cannot"
NOT_DECLARED: Final = "not declared"


@runtime_checkable
class SaysHoleRule(Protocol):
    """The config of a decoder that says how both sides of a gap are known."""

    @property
    def hole_rule(self) -> HoleRule:
        """How the frames around a gap are known when it is filled."""
        ...


def describe_hole_rule(decoder: object) -> HoleRule | Literal["not declared"]:
    """Return the rule of a decoder's config."""
    return decoder.hole_rule if isinstance(decoder, SaysHoleRule) else NOT_DECLARED


def fills_its_law(decoder: object) -> bool:
    """Return whether gaps are filled from the conditional law of what was trained; no decoder is
    believed to that does not say so.
    """
    return describe_hole_rule(decoder) == "exact"


def visited_hole_rule(infill_share: float, hides_known: bool = False) -> HoleRule:
    """Return the rule of a decoder that visits the known frames first, wherever they lie.

    Args:
        infill_share: of the training examples that are visited in the order that fills a hole.
        hides_known: whether codes of a known frame are read after codes of a later one, or streams
            of it are not known.
    """
    if infill_share == 0:
        return CANNOT
    return "part hidden" if hides_known else "exact"
