"""Do two scores of the same draws agree? The energy of a block decides, and hardly notices whether
its values hang together; the variogram of the block does (`genlab.evaluate.blocks`).

In: per rival of the best arm, what either score says of the two. Out: passed or failed, with the
reason in words. The rule: what the energy shows must not be contradicted. Where both scores decide
and name different arms, or one shows a difference where the other shows that there is none worth
naming, no winner is named. Where the variogram does not decide, nothing contradicts, and it is
said.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from genlab.evaluate.entries import AuditEntry, DifferenceEntry, GateState

Side = Literal["best", "rival", "equivalent", "undecided", "not measured"]


class Sides(NamedTuple):
    """What two scores say of the best arm and a rival."""

    first: Side
    second: Side

    @property
    def are_at_odds(self) -> bool:
        """Whether what is shown by one is denied by the other."""
        shown = ("best", "rival", "equivalent")
        return self.first in shown and self.second in shown and self.first != self.second


def side_of(pair: DifferenceEntry | None, best: str) -> Side:
    """Return what a paired difference says of the arm `best` and its rival."""
    if pair is None:
        return "not measured"
    better = pair.get("better")
    if better:
        return "best" if better == best else "rival"
    return "equivalent" if pair.get("equivalent") else "undecided"


def check_agreement(
    second: str, best: str, rivals: Mapping[str, Sides], audit: AuditEntry | None
) -> tuple[GateState, str]:
    """Return the state of the gate, and its reason.

    Args:
        second: what to call the score that must not contradict.
        best: the title of the best arm by the first.
        rivals: by title, what both say of it and the best one.
        audit: of the second score on this corpus.
    """
    if missing := [title for title, sides in rivals.items() if sides.second == "not measured"]:
        return "failed", f"{second} was not measured for {best} and {' and '.join(missing)}"
    if rivals and audit is None:
        return "failed", f"{second} was not audited on this corpus"
    if rivals and audit is not None and not audit["is_trusted"]:
        lost = ", ".join(audit["failed"])
        return "failed", f"by its audit {second} cannot be trusted here: {lost}"
    if odd := [title for title, sides in rivals.items() if sides.are_at_odds]:
        told = " and ".join(f"{title} ({_word(rivals[title], best, title)})" for title in odd)
        return "failed", f"the energy and {second} disagree about {best} and {told}"
    alike = [title for title, sides in rivals.items() if sides.first == sides.second]
    open_ = [title for title in rivals if title not in alike]
    told = [f"{second} agrees about {' and '.join(alike)}"] if alike else []
    told += [f"{second} does not decide between {best} and {' or '.join(open_)}"] if open_ else []
    return "passed", "; ".join(told) or "there is no other arm to compare with"


def _word(sides: Sides, best: str, rival: str) -> str:
    names = {"best": best, "rival": rival, "equivalent": "neither"}
    return f"the one says {names[sides.first]}, the other {names[sides.second]}"
