"""What was found of a prediction: one line of the page of a sweep.

"in bounds" is a verdict of its own: the source takes upper bounds for values, and so did this one,
but were the bound tighter by more than the gap, the order would turn.

Out: `Finding`, with the verdict, the gates that it had to pass, and JSON types for findings.json.
"""

from typing import Literal, NamedTuple

from pydantic import JsonValue

from genlab.fairness.verdict import Gate
from genlab.statistics.bootstrap import Ends, finite_or_none

Verdict = Literal[
    "reproduced",
    "reversed",
    "reproduced in bounds",
    "reversed in bounds",
    "inconclusive",
    "not run",
    "not tested at this scale",
    "withdrawn",
    "arithmetic",
]


class Finding(NamedTuple):
    """A prediction and what was found: for a contrast the sum, for a crossing its x, with a 95 %
    interval.
    """

    text: str
    kind: str
    score: str
    expected: str
    verdict: Verdict
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p_holm: float = float("nan")
    seeds: int = 0
    note: str = ""
    gates: tuple[Gate, ...] = ()
    """What the verdict had to pass, the gravest first; empty of what was not run or is exact."""

    @property
    def interval(self) -> Ends:
        """What was found with its 95 % interval, None where an end is not finite."""
        value, low, high = (finite_or_none(end) for end in (self.value, self.low, self.high))
        return {"value": value, "low": low, "high": high}

    def to_dict(self) -> dict[str, JsonValue]:
        """Return JSON types; infinities and NaN become null."""
        values: dict[str, JsonValue] = {
            name: finite_or_none(value) if isinstance(value, float) else value
            for name, value in self._asdict().items()
            if name != "gates"
        }
        gates: list[JsonValue] = []
        for name, state, reason in self.gates:
            gates.append({"name": name, "state": state, "reason": reason})
        return {**values, "gates": gates}
