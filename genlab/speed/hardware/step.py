"""A step of the pack: a question, and the cases that answer it one by one.

Each case is run once and gives a row: plain JSON that is kept as soon as it is known. A row that
has a tolerance says in `passed` whether it was met.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pydantic import JsonValue

from genlab.speed.hardware.size import HardwareSize

Row = dict[str, JsonValue]


class Case(NamedTuple):
    """One measurement of a step. `name` is its identity in the record."""

    name: str
    measure: Callable[[], Row]


class Step(Protocol):
    """A question to the hardware. Steps are asked in the order of their value."""

    @property
    def name(self) -> str:
        """What the record calls it."""
        ...

    @property
    def question(self) -> str:
        """What its rows answer, as a person would ask."""
        ...

    @property
    def share(self) -> float:
        """Its share of the time, over the sum of all shares of the steps that are left."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that its process needs before jax starts."""
        ...

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return its cases, the most valuable first. Nothing is measured yet."""
        ...


class Skipped(Exception):
    """A case cannot be measured here; the text says why."""
