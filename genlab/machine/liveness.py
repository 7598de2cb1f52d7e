"""What becomes of a process when another of the same run ends before its time.

A process that fails says so to the others with its exit code, and they end with the same one. Of a
process that is killed, or whose host vanishes, nobody hears again: JAX notices within
`hosts.heartbeat_timeout_s`, at once if it was the leader, and aborts the rest; here that becomes
`EXIT_RESUME`. What must still be done goes into `last_words`: a process that waits for a device
cannot be interrupted, only ended.
"""

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from genlab.config import GenlabError
from genlab.machine import hosts
from genlab.machine.stopping import (
    EXIT_DISK_FULL,
    EXIT_FAILED,
    EXIT_RESUME,
    EXIT_USER_ERROR,
    TrainingInterrupted,
    is_disk_full,
)

POLL_S = 1.0
GRACE_S = 5.0  # for a process that ends by itself for the same reason
LAST_WORDS_S = 10.0
NOTES = "genlab/processes/"
# How the libraries under JAX say that another process is gone.
ECHOES = (
    "gloo",
    "coordination service",
    "barrier failed",
    "nccl",
    "unavailable:",
    "connection reset",
)

_last_words: list[Callable[[], None]] = []
_heard_at: dict[int, float] = {}
_read_at: float = 0.0


@contextlib.contextmanager
def shared_fate() -> Iterator[None]:
    """Do what one of several processes does; what ends it early ends the others too, and the
    reverse.

    Only the end that all agreed on, `TrainingInterrupted`, passes; every other one ends the process
    here.
    """
    if not hosts.is_one_of_several():
        yield
        return
    interrupted = None
    with _watching():
        try:
            try:
                yield
            except TrainingInterrupted as error:
                interrupted = error
            hosts.wait_for_all("all have ended")  # until then somebody may still fail
        except BaseException as error:
            _end_on(error)
    if interrupted is not None:
        raise interrupted


def _end_on(error: BaseException) -> None:
    if isinstance(error, GenlabError):
        print(f"genlab: {_line(error)}", file=sys.stderr)
        _leave(getattr(error, "exit_code", EXIT_USER_ERROR), _line(error))
    if isinstance(error, KeyboardInterrupt):
        _leave(EXIT_RESUME, "stopped by hand")
    if is_echo(error):
        # if the other left word, `_listen` ends this process with it
        time.sleep(GRACE_S + 3 * POLL_S)
        _end(
            EXIT_RESUME, f"another process is gone ({_line(error):.100}); the same command resumes"
        )
    traceback.print_exception(error)
    _leave(
        EXIT_DISK_FULL if is_disk_full(error) else EXIT_FAILED,
        f"{type(error).__name__}: {_line(error)}",
    )


@contextlib.contextmanager
def last_words(say: Callable[[], None]) -> Iterator[None]:
    """Call `say`, from some thread and within `LAST_WORDS_S`, should the process have to end in
    this context.
    """
    _last_words.append(say)
    try:
        yield
    finally:
        _last_words.remove(say)


def is_echo(error: BaseException | None) -> bool:
    """Return whether an error only says that another process is gone."""
    while error is not None and hosts.is_one_of_several():
        if isinstance(error, RuntimeError | ValueError) and any(
            word in str(error).lower() for word in ECHOES
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _watching() -> Iterator[None]:
    """Listen for the end of the other processes. Nothing of it may be left when Python ends: it
    would crash then.
    """
    is_over = threading.Event()
    thread = threading.Thread(
        target=_listen, args=(hosts.coordination_client(), is_over), daemon=True
    )
    # abort() leaves no other moment: a handler in C, which Python's own signals are not.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_abort)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    before = libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        libc.signal(signal.SIGABRT, before)


def _leave(exit_code: int, reason: str) -> None:
    """End, and let the others know why."""
    with contextlib.suppress(Exception):  # without a leader nobody can be told
        note = f"{exit_code} {reason:.300}"
        hosts.coordination_client().key_value_set(
            f"{NOTES}left/{hosts.index()}", note, allow_overwrite=True
        )
        # the note lies with the leader
        time.sleep(GRACE_S + 2 * POLL_S if hosts.is_leader() else 0.0)
    _exit(exit_code)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _listen(client: Any, is_over: threading.Event) -> None:
    global _read_at
    beats: dict[int, str] = {}
    for beat in itertools.count():
        if is_over.wait(POLL_S):
            return
        try:
            client.key_value_set(f"{NOTES}beat/{hosts.index()}", str(beat), allow_overwrite=True)
            notes = client.key_value_dir_get(NOTES)
        except Exception:  # the leader is gone, and JAX will say so
            return
        _read_at = time.monotonic()
        if hosts.must_end(client):
            # All read the same word; the leader, with whom it lies, ends last.
            time.sleep(2 * POLL_S if hosts.is_leader() else 0.0)
            _end(EXIT_RESUME, "stopped by SIGTERM; the same command resumes")
        for key, value in notes:
            kind, number = key.removeprefix(NOTES).split("/")
            if kind == "left" and int(number) != hosts.index():
                exit_code, _, reason = value.partition(" ")
                if is_over.wait(GRACE_S):
                    return
                _end(int(exit_code), f"process {number} failed: {reason}")
            if kind == "beat" and beats.get(int(number)) != value:
                beats[int(number)], _heard_at[int(number)] = value, _read_at


def _on_abort(number: int) -> None:
    limit_s = hosts.heartbeat_timeout_s() / 2
    silent = [process for process, heard_at in _heard_at.items() if _read_at - heard_at > limit_s]
    if not hosts.is_leader() and not _answers(hosts.coordinator_address()):
        silent = [0]
    if silent:  # else the fault is our own, and nothing changes
        _end(EXIT_RESUME, f"process {silent[0]} is gone; the same command resumes")


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError:
        return False
    return True


def _end(exit_code: int, reason: str) -> None:
    print(f"genlab: {reason}", file=sys.stderr, flush=True)
    thread = threading.Thread(target=_say_last_words, daemon=True)
    thread.start()
    thread.join(LAST_WORDS_S)
    _exit(exit_code)


def _say_last_words() -> None:
    for say in reversed(_last_words):
        with contextlib.suppress(Exception):
            say()


def _exit(exit_code: int) -> None:
    """End at once: JAX's own way waits for processes that wait for this one."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(exit_code)
