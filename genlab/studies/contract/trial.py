"""How a promise is tried out: a check that raises `Broken` or returns, and a finding that says what
came of it.
"""

from collections.abc import Callable
from typing import NamedTuple

from genlab.config import Config
from genlab.config.errors import one_line
from genlab.config.open import Hashed


class Finding(NamedTuple):
    """One promise, and what is wrong; an empty text is nothing."""

    promise: str
    problem: str


class Broken(Exception):
    """A promise is not kept; the text says how that was seen."""


def try_out(promises: dict[str, Callable[[], None]]) -> list[Finding]:
    """Run every check; what one of them raises is its problem, and the others still run."""
    findings = []
    for promise, check in promises.items():
        try:
            check()
            problem = ""
        except Broken as broken:
            problem = str(broken)
        except Exception as error:  # the code is the user's own, and may raise anything
            problem = f"{type(error).__name__}: {one_line(str(error), 300)}"
        findings.append(Finding(promise, problem))
    return findings


def require(is_kept: object, problem: str) -> None:
    """Raise `Broken` with the problem unless the promise is kept."""
    if not is_kept:
        raise Broken(problem)


def require_round_trip(config: Config | Hashed) -> None:
    """Raise `Broken` unless config.json gives a config back as it was, with the same digest."""
    again = type(config).from_dict(config.to_dict())
    is_same = again == config and again.digest() == config.digest()
    require(is_same, f"{type(config).__name__} comes back as another")
