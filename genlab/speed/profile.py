"""Where the time of a program goes that does not reach the rate of this machine's products.

In: a function that runs compiled programs. Out: shares of its seconds, from a trace of one call.
Operations use several threads each but run mostly one after the other, so what counts is whether
one of them is running, not on how many threads. XLA's CPU runs convolutions and some products by
themselves: their event lasts as long as it takes to start them. What the executor then waits for is
the operation that began last.
"""

import bisect
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax

from genlab.speed.hlo import FREE

# How XLA names the operations that hold a product: YNNPACK's (a CPU's library), its own, a GPU's.
PRODUCTS = ("ynn_fusion", "dot", "convolution", "conv_general_dilated", "gemm", "custom-call")
WAIT = "ThunkExecutor::Execute (wait for completion)"
LISTED = 4

Interval = tuple[float, float]


class Ran(NamedTuple):
    """One operation as the trace has it; nanoseconds."""

    name: str
    began: float
    ended: float


class TimeSpent(NamedTuple):
    """Shares of a call's seconds that add up to 1: a product of matrices runs, only something else
    that is compiled runs, or nothing does (the host, and sending programs to the device).

    `slowest` are the names of what else is compiled, the longest first, with their shares; two
    that run at the same time both count.
    """

    products: float
    others: float
    outside: float
    slowest: dict[str, float]


def profile(run: Callable[[], object]) -> TimeSpent | None:
    """Trace one call; None where the trace of this device names no operations."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # it would slow the host down that is to be measured
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
        ran = [event for path in Path(folder).rglob("*.xplane.pb") for event in _read(path)]
    return divide(ran, 1e9 * seconds) if ran else None


def divide(ran: Iterable[Ran], total_ns: float) -> TimeSpent:
    """Return where `total_ns` nanoseconds went in which these operations ran."""
    products: list[Interval] = []
    others: list[Interval] = []
    longest: dict[str, float] = defaultdict(float)
    for full, began, ended in ran:
        name = full.split(".")[0]  # without its number
        if name in FREE:  # a loop lasts as long as what it holds
            continue
        if any(word in name for word in PRODUCTS):
            products.append((began, ended))
        else:
            others.append((began, ended))
            longest[name] += (ended - began) / total_ns
    multiplying, busy = _covered(products), _covered(products + others)
    slowest = sorted(longest.items(), key=lambda item: -item[1])[:LISTED]
    return TimeSpent(
        multiplying / total_ns,
        (busy - multiplying) / total_ns,
        max(0.0, 1 - busy / total_ns),  # the trace has a clock of its own
        dict(slowest),
    )


def _covered(intervals: list[Interval]) -> float:
    """Return how long at least one of them lasts."""
    total, reached = 0.0, float("-inf")
    for began, ended in sorted(intervals):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


def add_waits(started: Iterable[Ran], waits: Iterable[Ran]) -> list[Ran]:
    """Return the operations in order, each until the next one began as far as the executor waited
    in between.
    """
    ran = sorted(started, key=lambda one: one.began)
    spans = sorted((wait.ended, wait.began) for wait in waits)
    longer = []
    for one, following in zip(ran, [*(other.began for other in ran[1:]), float("inf")]):
        place = bisect.bisect_right(spans, (one.ended, float("inf")))
        is_waiting = place < len(spans) and spans[place][1] < following
        end = min(spans[place][0], following) if is_waiting else one.ended
        longer.append(one._replace(ended=max(one.ended, end)))
    return longer


def _read(path: Path) -> list[Ran]:
    """Return the operations that the file of a trace names."""
    started: list[Ran] = []
    waits: list[Ran] = []
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                one = Ran(event.name, event.start_ns, event.start_ns + event.duration_ns)
                if event.name == WAIT:
                    waits.append(one)
                elif any(name == "hlo_op" for name, _ in event.stats):
                    started.append(one)
    return add_waits(started, waits)
