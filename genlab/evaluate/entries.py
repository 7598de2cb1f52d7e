"""The entries of results.json that scoring writes and that every report reads: one type for both.

What a report can do without is `NotRequired`: versions add fields, and files of earlier ones stay
readable.
"""

from typing import Annotated, Literal, NotRequired

import pydantic
from pydantic import Field
from typing_extensions import TypedDict

from genlab.run.stored import OPEN, Count, Number

Known = Number | None  # null where a number is not defined
Amount = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Direction = Literal["lower", "higher"]
Verdict = Literal["ranks", "blind", "reversed"]
GateState = Literal["passed", "failed", "not applicable"]


@pydantic.with_config(OPEN)
class ScoreEntry(TypedDict):
    """One cell of the score table."""

    value: Known
    low: NotRequired[Known]
    high: NotRequired[Known]
    n: NotRequired[Count | None]
    seeds: NotRequired[Count | None]
    unit: NotRequired[str]
    direction: NotRequired[Direction]
    validity: NotRequired[str]
    note: NotRequired[str]
    covers: NotRequired[str]
    by_seed: NotRequired[list[Known]]


@pydantic.with_config(OPEN)
class ControlEntry(TypedDict):
    """A control of one arm on one score."""

    arm: str
    control: str
    score: str
    difference: NotRequired[Known]
    low: NotRequired[Known]
    high: NotRequired[Known]
    passed: NotRequired[bool | None]
    reason: NotRequired[str]
    status: NotRequired[str]


@pydantic.with_config(OPEN)
class PlanEntry(TypedDict):
    """What it takes to see a difference."""

    prompt_error: Number
    target: NotRequired[Number]
    prompts: NotRequired[Count]
    seeds: NotRequired[Count]
    power: NotRequired[Number]
    seeds_needed: NotRequired[Count | None]
    prompts_needed: NotRequired[dict[str, Count | None]]
    level: NotRequired[Number]
    declared: NotRequired[bool]


@pydantic.with_config(OPEN)
class DifferenceEntry(TypedDict):
    """Arm `a` minus arm `b` on the same prompts."""

    score: str
    a: str
    b: str
    difference: Known
    low: Known
    high: Known
    better: NotRequired[str]
    p_holm: NotRequired[Known]
    margin: NotRequired[Known]
    equivalent: NotRequired[bool]
    p_value: NotRequired[Known]
    p_equivalent: NotRequired[Known]
    plan: NotRequired[PlanEntry | None]


@pydantic.with_config(OPEN)
class GateEntry(TypedDict):
    """A gate of the verdict: a rule, and whether it holds."""

    name: str
    state: GateState
    reason: str


@pydantic.with_config(OPEN)
class AuditEntry(TypedDict):
    """What the audit found about one metric."""

    verdicts: dict[str, Verdict]
    values: NotRequired[dict[str, list[Known]]]
    false_alarms: Number
    failed: list[str]
    is_trusted: bool
    must_notice: NotRequired[list[str]]


@pydantic.with_config(OPEN)
class MetricEntry(TypedDict):
    """A row that the user's own metric adds to the table of scores."""

    name: str
    unit: NotRequired[str]
    needs: NotRequired[str]
    provenance: NotRequired[str]
