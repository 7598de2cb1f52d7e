"""The errand from the first request to the deleted slice, whatever happens in between.

In: a `Rental`. Out: the report on this disk, and no slice. A slice costs money for as long as it
exists, so there is one rule: whichever way this process leaves, by success, an error, Ctrl-C or
SIGTERM, the slice is deleted, unless `--keep` or a person says otherwise, and then the command that
deletes it is printed. The run itself lies in the bucket and resumes.
"""

import contextlib
import itertools
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import NamedTuple

from genlab.config import GenlabError
from genlab.config.errors import one_line
from genlab.launch.remote import RemoteRun
from genlab.launch.rental import Rental, Sight
from genlab.launch.tool import ToolError
from genlab.machine.stopping import EXIT_FAILED, EXIT_OK, EXIT_RESUME, Terminated
from genlab.run.ownership import check_is_ours
from genlab.run.status import heartbeat_age_s
from genlab.watch.progress import Progress

POLL_S = 30.0
MISSES = 10  # looks in a row that may fail: a network that is away for five minutes
SILENT_S = 600.0  # without a heartbeat the person is told once


class Preempted(GenlabError):
    """The slice was taken away more often than was allowed; the run is in the bucket."""

    exit_code = EXIT_RESUME


class JobFailed(GenlabError):
    """The comparison ended with an error; it carries the exit code."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


class Wishes(NamedTuple):
    """What a person said about the errand: how many slices to try, whether the last one stays, and
    what the slice costs an hour.
    """

    attempts: int
    keep: bool
    hourly: float | None = None

    def spent(self, hours: float) -> str:
        """Return how long it took and what it cost at most: waiting in the queue is free."""
        cost = "" if self.hourly is None else f", at most {self.hourly * hours:.2f}"
        return f"{hours:.2f} h{cost}"


def carry_out(
    rental: Rental, remote: RemoteRun, out: Path, wishes: Wishes, progress: Progress
) -> Path:
    """Do all steps and return where the report is.

    Raises:
        JobFailed: with the exit code of the comparison.
        Preempted: if no slice lived long enough.
        GenlabError: if the cloud refuses; the slice is deleted in each of these cases.
    """
    check_is_ours(out)  # before a slice is paid for
    with _giving_back(rental, wishes, progress):
        sight = _run(rental, remote, wishes, progress)
        if sight.code != EXIT_OK:
            log = rental.last_words()
            text = f"the comparison ended with exit code {sight.code} on the slice"
            if log.strip():
                place = _keep_log(log, out.parent)
                text += f": {one_line(log.strip().splitlines()[-1], 200)}; more in {place}"
            raise JobFailed(text, sight.code or EXIT_FAILED)
        progress.note(f"pulling {rental.job.url}")
        return remote.pull(out)


def _keep_log(log: str, folder: Path) -> Path:
    """Write the log of the first host under a name that is free, and return it."""
    for number in itertools.count(1):
        place = folder / ("host0.log" if number == 1 else f"host0-{number}.log")
        with contextlib.suppress(FileExistsError), place.open("x", encoding="utf-8") as file:
            file.write(log)
            return place
    raise AssertionError("a count without an end")


def _run(rental: Rental, remote: RemoteRun, wishes: Wishes, progress: Progress) -> Sight:
    for left in reversed(range(wishes.attempts)):
        rental.begin(progress.note)
        sight = _follow(rental, remote, progress)
        if sight.state != "preempted":
            return sight
        progress.note(f"{rental.job.machine}: taken away; {left} more may be asked for")
        if left:
            rental.end()  # what is left of it counts against the quota
    raise Preempted(
        f"{rental.job.machine}: taken away {wishes.attempts} times; the run is in "
        f"{rental.job.url}, and the same command resumes"
    )


def _follow(rental: Rental, remote: RemoteRun, progress: Progress) -> Sight:
    """Return what became of the job, printing how far its arms are meanwhile."""
    misses = 0
    is_silent = False
    while True:
        try:
            sight = rental.look()
            misses = 0
        except ToolError as error:
            # A laptop that slept, a host that restarts: the job does not need this process.
            misses += 1
            if misses > MISSES:
                raise
            progress.note(f"cannot look just now ({misses} of {MISSES}): {error}")
            sight = Sight("running")
        with contextlib.suppress(GenlabError):  # a bucket that is slow is asked in the next turn
            is_silent = _tell(remote, progress, is_silent)
        if sight.state in ("ended", "preempted"):
            return sight
        sleep(POLL_S)


def _tell(remote: RemoteRun, progress: Progress, was_silent: bool) -> bool:
    """Print how far every arm is; return whether nothing has beaten for long."""
    statuses = remote.statuses()
    for name, status in statuses.items():
        step, steps = status.get("step"), status.get("steps")
        if name and isinstance(step, int) and isinstance(steps, int):
            progress(name, step, steps)
    ages = [heartbeat_age_s(status) for status in statuses.values()]
    is_silent = bool(ages) and min(ages) > SILENT_S
    if is_silent and not was_silent:
        progress.note(f"{remote.url}: no heartbeat for {min(ages) / 60:.0f} min")
    return is_silent


@contextlib.contextmanager
def _giving_back(rental: Rental, wishes: Wishes, progress: Progress) -> Iterator[None]:
    """Delete the slice at the end of this context, or say how to."""
    began = monotonic()
    keep = wishes.keep
    try:
        yield
    except KeyboardInterrupt as error:
        # SIGTERM, and Ctrl-C in a script, ask nobody: a slice without a person is deleted.
        if not keep and not isinstance(error, Terminated):
            keep = _wants_to_keep(rental, progress)
        raise
    finally:
        hours = (monotonic() - began) / 3600
        if not rental.holds:
            progress.note(f"{rental.job.machine}: not deleted, since it is not of this errand")
        elif keep:
            progress.note(
                f"kept, and billed until you delete it: {rental.end_command} "
                f"({wishes.spent(hours)} so far)"
            )
        else:
            _give_back(rental, progress)
            progress.note(f"{rental.job.machine}: deleted after {wishes.spent(hours)}")


def _wants_to_keep(rental: Rental, progress: Progress) -> bool:
    if not sys.stdin.isatty():
        return False
    # As a note, because bars that are drawn again would cover a prompt.
    progress.note(f"{rental.job.machine}: delete the slice? It is billed until then. [Y/n]")
    try:
        return input().strip().lower() in ("n", "no")
    except (EOFError, KeyboardInterrupt):
        return False


def _give_back(rental: Rental, progress: Progress) -> None:
    progress.note(f"{rental.job.machine}: deleting it; please wait")
    try:
        with _undisturbed(progress):
            rental.end()
    except ToolError as error:
        raise GenlabError(
            f"{rental.job.machine}: MAY STILL RUN AND BE BILLED, since deleting it failed "
            f"({one_line(str(error), 200)}); run `{rental.end_command}`"
        ) from None


@contextlib.contextmanager
def _undisturbed(progress: Progress) -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM: a deletion that is cut short leaves a slice behind."""

    def wait(number: int, frame: FrameType | None) -> None:
        progress.note("still deleting the slice; please wait")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, wait) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
