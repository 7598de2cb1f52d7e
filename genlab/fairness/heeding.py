"""Controls of a verdict: did every compared arm show that it follows what it is told?

In: the controls of results.json by arm. Out: passed, failed or not applicable, with the reason in
words. A control is *not applicable* where there is nothing to swap. One that was made and that
nothing can be read from, because its score was struck or has no interval, is *not judged*: that is
no pass. An arm with such a control needs another one that it passed, of what it is told.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from genlab.evaluate.controls import ControlStatus
from genlab.evaluate.domains import DOMAINS
from genlab.evaluate.entries import ControlEntry, GateState
from genlab.fairness.words import control_words, list_words

OF_THE_BEGINNING: Final = ("prefix_swap",)
"""Controls of what is heard before: passing them says nothing of what is told."""
_NOT_TOLD: Final = {swap.not_told for domain in DOMAINS.values() for swap in domain.controls}
_STATES: Mapping[str, ControlStatus] = {
    "passed": "passed",
    "failed": "failed",
    "not applicable": "not applicable",
    "not judged": "not judged",
}


def control_status(item: ControlEntry) -> ControlStatus:
    """Return what became of a control. Runs of older versions do not say it, or call what was not
    judged not applicable; the number tells the two apart.
    """
    if item.get("passed"):
        return "passed"
    # What no arm is told it need not follow, whatever a run of an older version measured of it.
    if item.get("reason") in _NOT_TOLD:
        return "not applicable"
    stated = _STATES.get(item.get("status", ""), "failed")
    if item.get("difference") is None:
        return "not judged" if stated == "not judged" else "not applicable"
    return "not judged" if stated == "not applicable" else stated


def check_heeding(
    by_arm: Mapping[str, Sequence[ControlEntry]],
) -> tuple[GateState, str]:
    """Return the state of the gate of the controls, and its reason.

    Args:
        by_arm: the controls of every compared arm, by its title.
    """
    states = {
        title: [(str(item["control"]), control_status(item), item) for item in items]
        for title, items in by_arm.items()
    }
    lost = [
        f"{title} failed {control_words(name)}"
        for title, items in states.items()
        for name, state, _ in items
        if state == "failed"
    ]
    passed = {
        title: [name for name, state, _ in items if state == "passed"]
        for title, items in states.items()
    }
    lost += [
        f"{control_words(name)} says nothing about {title} "
        f"({item.get('reason') or 'the reason was not kept'})"
        for title, items in states.items()
        for name, state, item in items
        if state == "not judged" and set(passed[title]) <= set(OF_THE_BEGINNING)
    ]
    # Where others could be checked, an arm that was not is no better than one that failed.
    if any(passed.values()):
        lost += [
            f"nothing that {title} is told was swapped"
            if not states[title]
            else f"nothing that {title} is told can be swapped"
            for title in passed
            if not passed[title] and all(state == "not applicable" for _, state, _ in states[title])
        ]
    if lost:
        return "failed", "; ".join(lost)
    if not any(passed.values()):
        return "not applicable", "nothing that the arms are told can be swapped"
    names = dict.fromkeys(name for found in passed.values() for name in found)
    return "passed", f"every compared arm passed {list_words([*map(control_words, names)])}"
