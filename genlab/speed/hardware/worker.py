"""The process of one step: it runs cases and says what came of each, one JSON line at a time.

In: one argument, the JSON of an `Order`. Out: lines on standard output: the names of all cases,
then `begun` and `ended` of each. Whatever libraries print goes to standard error. A step has a
process of its own, so that a crash, a hang, or memory that is not given back costs no other step;
the alarm ends it also where it hangs outside Python, or its parent is gone.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

import pydantic

from genlab.config.errors import one_line
from genlab.speed.hardware.record import Entry
from genlab.speed.hardware.size import SIZES
from genlab.speed.hardware.step import Case, Skipped
from genlab.speed.hardware.steps import STEPS

GRACE_S = 2.0


class Order(pydantic.BaseModel):
    """What a worker is to do: the cases in `done` not at all, those in `tried` last."""

    step: str
    size: str
    seconds: float
    done: list[str]
    tried: list[str]


class Said(pydantic.BaseModel):
    """One line of a worker: the names of all cases, or the case that begins, or the one that has
    ended and its entry.
    """

    names: list[str] | None = None
    begun: str | None = None
    ended: str | None = None
    entry: Entry | None = None


def put_in_order(cases: Sequence[Case], done: Sequence[str], tried: Sequence[str]) -> list[Case]:
    """Return the cases to run: those that were never tried first."""
    left = [case for case in cases if case.name not in done]
    return sorted(left, key=lambda case: case.name in tried)


def run_case(case: Case) -> Entry:
    """Return what came of a case; what it raises is its entry, and the next one still runs."""
    began = time.perf_counter()
    try:
        row, state, text = case.measure(), "measured", ""
    except Skipped as reason:
        row, state, text = {}, "skipped", str(reason)
    except Exception as error:  # of compilers, drivers and two frameworks
        row, state, text = {}, "failed", f"{type(error).__name__}: {one_line(str(error), 400)}"
    return {"state": state, "seconds": time.perf_counter() - began, "row": row, "text": text}


def work(order: Order, say: Callable[[Said], None]) -> None:
    """Run the cases of one step until they are done or its time is over."""
    ends = time.monotonic() + order.seconds
    step = next(step for step in STEPS if step.name == order.step)
    size = SIZES[order.size]
    cases = step.cases(size)[: size.most_cases]
    say(Said(names=[case.name for case in cases]))
    for case in put_in_order(cases, order.done, order.tried):
        if time.monotonic() > ends:
            return
        say(Said(begun=case.name))
        say(Said(ended=case.name, entry=run_case(case)))


def main() -> int:
    """Do what the argument orders."""
    order = Order.model_validate_json(sys.argv[1])
    # The default action of the alarm ends the process wherever it is, also inside a compiler.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, order.seconds + GRACE_S)
    lines = _take_output()
    from genlab.run.programs import keep_programs

    keep_programs()
    work(order, lambda said: print(said.model_dump_json(exclude_none=True), file=lines, flush=True))
    return 0


def _take_output() -> TextIO:
    """Return the standard output, and let everything else that writes there write to stderr."""
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return kept


if __name__ == "__main__":
    sys.exit(main())
