"""How a process ends: exit codes, the errors that carry them, and signals turned into a request.

A scheduler has to distinguish "start me again" from "do not bother". An error with an `exit_code`
says which; the command line exits with it.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TypeVar

from genlab.config import GenlabError

# Only EXIT_RESUME asks to be started again; after EXIT_DISK_FULL somebody has to free space first.
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_LOCKED = 4
EXIT_DISK_FULL = 74
EXIT_RESUME = 75
EXIT_INTERRUPTED = 130  # by Ctrl-C

AGAIN_S = 0.05
Result = TypeVar("Result")


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether a full disk is behind an error; Orbax and TensorStore say so in the text of a
    cause.
    """
    while error is not None:
        if getattr(error, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        ) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class LockedError(GenlabError):
    """Another process works in this run directory."""

    exit_code = EXIT_LOCKED


class TrainingDiverged(GenlabError):
    """The loss or its gradient became infinite or NaN."""

    exit_code = EXIT_DIVERGED
    run_state = "diverged"


class TrainingInterrupted(GenlabError):
    """A signal asked the run to stop; the state is saved and the same command resumes."""

    exit_code = EXIT_RESUME
    run_state = "interrupted"


class Terminated(KeyboardInterrupt):
    """SIGTERM came while nothing trained: what is on disk is whole, and the same command resumes.

    Like the KeyboardInterrupt of Ctrl-C it is no `Exception`: no code that skips what is damaged
    takes it for damage.
    """

    exit_code = EXIT_RESUME
    run_state = "interrupted"


class StopRequest:
    """`requested` is empty until a signal comes, then its name."""

    requested: str = ""

    def at(self, step: int) -> str:
        """Return why to stop after `step`, or nothing: the same in all processes, when one of
        several got SIGTERM.
        """
        from genlab.machine import hosts

        if hosts.is_one_of_several() and hosts.is_preempted(step):
            self.requested = "SIGTERM"
        return self.requested


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn the first SIGTERM or SIGINT into a request to stop at the next step; a second one acts
    as it always did.

    Only the main thread may set handlers; elsewhere signals keep their meaning. One of several
    processes leaves them to JAX, which tells the others of a SIGTERM.
    """
    from genlab.machine import hosts

    stop = StopRequest()
    if hosts.is_one_of_several():
        with hosts.asking_at_steps():
            yield stop
        return
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    # The handlers of before, not the defaults: a notebook or pytest has its own.
    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = signal.Signals(number).name
        restore()

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        # Restored at once, so that a second Ctrl-C ends a run that hangs.
        restore()


def apart(call: Callable[[], Result]) -> Result:
    """Return `call()`, made in a thread of its own while this one waits.

    For calls in which a library in C calls Python back. Signals are handled in the main thread, and
    what one raises inside such a callback is lost: the library continues with less than it asked
    for.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@contextlib.contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Let the first SIGTERM raise `Terminated`, wherever the main thread is; a second one kills.

    Where Python cannot raise (a finaliser, a callback from C) it is sent again until it can.
    Training and sweeps take the signal over while they run (`stop_on_signal`), and so does JAX in
    one of several processes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated("SIGTERM")

    def send_again(lost: "sys.UnraisableHookArgs") -> None:
        if not isinstance(lost.exc_value, Terminated):
            tell(lost)
            return
        signal.signal(signal.SIGTERM, end)
        timers.append(threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM)))
        timers[-1].start()

    timers: list[threading.Timer] = []
    tell = sys.unraisablehook
    before = signal.signal(signal.SIGTERM, end)
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)
        if sys.unraisablehook is send_again:  # another one may have been put around it
            sys.unraisablehook = tell
