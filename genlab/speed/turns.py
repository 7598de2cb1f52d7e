"""Programs that take turns, so that a slow drift of the machine moves all of them.

In: functions that do one repetition to its end. Out: the seconds of each in every round, and a
warning where other processes took too much of the machine meanwhile.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

WARM_UPS = 2
QUIET_CORES = 0.2  # what other processes may use before their share decides a ratio


def take_turns(
    name: str, sides: dict[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of every side in every round; a float that it returns counts instead."""
    for _ in range(WARM_UPS):
        for run in sides.values():
            run()
    times: dict[str, list[float]] = {side: [] for side in sides}
    others = _busy_cpu_s()
    ours = time.process_time()
    began_all = time.perf_counter()
    for number in range(rounds):
        # Alternating who goes first cancels what drifts with time: clock, caches, temperature.
        for side in sides if number % 2 == 0 else reversed(sides):
            began = time.perf_counter()
            counted = sides[side]()
            times[side].append(
                counted if isinstance(counted, float) else time.perf_counter() - began
            )
    # What other processes used meanwhile: their share, not ours, makes a ratio doubtful.
    others = _busy_cpu_s() - others - (time.process_time() - ours)
    _warn_if_busy(name, others / (time.perf_counter() - began_all))
    return times


def _busy_cpu_s() -> float:
    """Return the CPU seconds that all processes together have used; 0 where that is unknown."""
    try:
        fields = [
            int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        ]
    except (OSError, ValueError, IndexError):
        return 0.0
    idle, waiting = fields[3:5]
    return (sum(fields) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def _warn_if_busy(name: str, other_cores: float) -> None:
    if other_cores > QUIET_CORES:
        print(
            f"genlab bench: {name}: other processes used {other_cores:.1f} cores meanwhile; on a "
            "busy machine torch's threads wait for each other, so neither times nor ratio mean "
            "much",
            file=sys.stderr,
        )
