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
from genlab.fairness.words import list_words, miss_words

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
    scores: tuple[str, str], best: str, rivals: Mapping[str, Sides], audit: AuditEntry | None
) -> tuple[GateState, str]:
    """Return the state of the gate, and its reason.

    Args:
        scores: what to call the score that decides, and the one that must not contradict it.
        best: the title of the best arm by the first.
        rivals: by title, what both say of it and the best one.
        audit: of the second score on this corpus.
    """
    second = scores[1]
    if missing := [title for title, sides in rivals.items() if sides.second == "not measured"]:
        return "failed", f"{best} was not compared with {list_words(missing, 'or')} by {second}"
    if rivals and audit is None:
        return "failed", f"nobody has audited {second} on this corpus"
    if rivals and audit is not None and not audit["is_trusted"]:
        return "failed", f"the audit of {second} on this corpus says that " + miss_words(
            audit["failed"]
        )
    if odd := [title for title, sides in rivals.items() if sides.are_at_odds]:
        return "failed", "; ".join(_contradict(scores, best, title, rivals[title]) for title in odd)
    alike = [title for title, sides in rivals.items() if sides.first == sides.second]
    open_ = [title for title in rivals if title not in alike]
    told = [f"{second} confirms how {best} compares with {list_words(alike)}"] if alike else []
    told += [f"{second} does not tell {best} from {list_words(open_, 'or')}"] if open_ else []
    return "passed", "; ".join(told) or "there is no other arm to compare with"


def _contradict(scores: tuple[str, str], best: str, rival: str, sides: Sides) -> str:
    names = {"best": f"{best} is better", "rival": f"{rival} is better"}
    names["equivalent"] = "the two are equivalent"
    first, second = scores
    return (
        f"of {best} and {rival}, {first} says that {names[sides.first]}, and {second} says that "
        f"{names[sides.second]}"
    )
