"""Keeps Orbax from writing to standard error about a damaged checkpoint, of which the reader says a
line itself.

It logs through absl. What was still under way when a read failed ends later, in threads of
TensorStore, as exceptions that nobody takes. Python hands them to hooks, asyncio logs them, and a
coroutine that was never begun is a warning: of all of these Orbax's are dropped and no others.
"""

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import CoroutineType, TracebackType

LIBRARIES = ("orbax", "tensorstore", "uvloop")

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Read a checkpoint in this context: errors are raised as ever, but nothing is printed."""
    _watch_exceptions()
    logger = logging.getLogger("absl")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def hush_saving() -> None:
    """Keep Orbax from printing what its threads raise while they save: a full disk is 1,800 lines.

    The same error is raised by the next wait for the save, which says it in one.
    """
    _watch_exceptions()
    logger = logging.getLogger("absl")
    if _has_no_trace not in logger.filters:
        logger.addFilter(_has_no_trace)


def _has_no_trace(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or not record.exc_info


def _watch_exceptions() -> None:
    if not isinstance(sys.excepthook, _ExceptHook):
        sys.excepthook = _ExceptHook(sys.excepthook)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)
    asyncio_logger = logging.getLogger("asyncio")
    if _is_not_late not in asyncio_logger.filters:
        asyncio_logger.addFilter(_is_not_late)
    warnings.filterwarnings("ignore", r"coroutine 'Store\._", RuntimeWarning)


def _is_not_late(record: logging.LogRecord) -> bool:
    """Return whether a record of asyncio is about something else than a read that failed before."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not _is_late(error)


class _ExceptHook:
    """C++ threads print what a callback raised through `sys.excepthook`."""

    def __init__(self, before: Hook):
        self._before = before

    def __call__(
        self,
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
    ) -> None:
        if threading.current_thread() is threading.main_thread() or not _is_late(error):
            self._before(kind, error, trace)


class _UnraisableHook:
    """Coroutines that were never awaited to their end are heard of here."""

    def __init__(self, before: "Callable[[sys.UnraisableHookArgs], object]"):
        self._before = before

    def __call__(self, unraisable: "sys.UnraisableHookArgs") -> None:
        error, origin = unraisable.exc_value, unraisable.object
        is_ours = isinstance(origin, CoroutineType) and _is_theirs(origin.cr_code.co_filename)
        if not is_ours and (error is None or not _is_late(error)):
            self._before(unraisable)


def _is_late(error: BaseException) -> bool:
    """Return whether an exception is of a read that has already failed."""
    if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
        return True
    trace = error.__traceback__
    while trace is not None:
        if _is_theirs(trace.tb_frame.f_code.co_filename):
            return True
        trace = trace.tb_next
    return False


def _is_theirs(filename: str) -> bool:
    return any(f"/{name}/" in filename.replace("\\", "/") for name in LIBRARIES)
