"""Who works in a run directory, and how far it is: the lock, status.json and its heartbeat.

status.json   state, step, attempt, host, pid, heartbeat; replaced atomically
lock          held by the one process that works here
"""

import contextlib
import fcntl
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.machine import hosts, liveness
from genlab.machine.stopping import LockedError
from genlab.run import bucket
from genlab.run.files import read_json, write_json
from genlab.run.ownership import check_is_ours
from genlab.run.stored import remove_leftovers

# flock does not reach another host on every file system; there, a heartbeat younger than this
# counts as alive.
REMOTE_ALIVE_S = 600.0
HEARTBEAT_S = 10.0
CLOCKS_DIFFER_S = 60.0
UNTOUCHED = ("checkpoints", "bad_checkpoints")  # Orbax tidies up there


class _Held(NamedTuple):
    """The lock of a run directory: its inode, and the thread of this process that took it."""

    inode: int
    thread: int


_locks: dict[Path, _Held] = {}  # run directories that this process holds


def write_status(run_dir: Path, state: str, step: int, **more: JsonValue) -> None:
    """Replace status.json; `state` is running, finished, interrupted, diverged or failed."""
    beat = {"heartbeat": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
    write_json(run_dir / "status.json", {"state": state, "step": step, **more, **beat})


def read_status(run_dir: Path) -> dict[str, JsonValue]:
    """Return status.json, empty if it is missing or is not a status."""
    status = read_json(run_dir / "status.json")
    return status if isinstance(status, dict) else {}


def heartbeat_age_s(status: Mapping[str, JsonValue]) -> float:
    """Return how long ago a status was written; infinite for a time to come, or none."""
    age_s = _age_by_clocks_s(status)
    # A heartbeat from the future would lock the run until then; clocks differ by less.
    return age_s if age_s > -CLOCKS_DIFFER_S else math.inf


def _age_by_clocks_s(status: Mapping[str, JsonValue]) -> float:
    """Return how long ago a status was written, negative for a time to come; infinite for none."""
    beat = status.get("heartbeat")
    if isinstance(beat, bool) or not isinstance(beat, int | float):
        return math.inf
    return time.time() - beat


@contextlib.contextmanager
def lock_run(run_dir: Path) -> Iterator[None]:
    """Hold the run directory; the kernel lets go when the process dies, however it dies.

    What killed processes left half-written is removed.

    Raises:
        LockedError: if a process on this host holds it, or one on another host was alive
            `REMOTE_ALIVE_S` ago.
        GenlabError: if genlab did not make what lies there; at the end, if the directory was
            deleted meanwhile.
    """
    # Only the first host writes into the directory, so only it locks.
    if not hosts.is_leader():
        yield
        return
    check_is_ours(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    _refuse_other_host(run_dir)
    with open(run_dir / "lock", "a+", encoding="utf-8") as file:
        _take_lock(file, run_dir)
        # The name is for people; the kernel's lock is what holds, and it ends with the process.
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        remove_leftovers(run_dir, skip=UNTOUCHED)
        # A deleted and recreated directory has another inode, by which `check_held` notices.
        inode = os.fstat(file.fileno()).st_ino
        _locks[run_dir.absolute()] = _Held(inode, threading.get_ident())
        try:
            yield
            check_held(run_dir)
        finally:
            _locks.pop(run_dir.absolute(), None)


@contextlib.contextmanager
def hold_run(run_dir: Path) -> Iterator[None]:
    """Hold the run directory as `lock_run` does, or keep holding it if a caller already does.

    A command that writes into a run directory before its training begins takes the lock first: if
    it is refused, it has changed nothing of the process that works there.
    """
    held = _locks.get(run_dir.absolute())
    if held is not None and held.thread == threading.get_ident():
        yield
        return
    with lock_run(run_dir):
        yield


@contextlib.contextmanager
def lock_to_delete(run_dir: Path) -> Iterator[None]:
    """Hold a run directory from which something is deleted, maybe all; one that is gone is free.

    Raises:
        LockedError: as `lock_run`: the process that works there needs what would be deleted.
    """
    if not run_dir.is_dir():
        yield
        return
    _refuse_other_host(run_dir)
    with open(run_dir / "lock", "a+", encoding="utf-8") as file:
        _take_lock(file, run_dir)
        yield


def _take_lock(file: TextIO, run_dir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        raise LockedError(
            f"{run_dir}: process {holder} trains here; wait for it, or use another directory"
        ) from None
    # Deleted between the opening and the locking: what is locked is no file of the directory.
    if not _is_at(run_dir / "lock", os.fstat(file.fileno()).st_ino):
        raise LockedError(f"{run_dir}: was deleted just now by another process; run it again")


def check_held(path: Path) -> None:
    """Raise if `path` lies in a run directory that this process locked and that is gone.

    What is written there would be lost, or be found in a run directory without the rest.

    Raises:
        GenlabError: if it was deleted, also if something of its name was made since.
    """
    for run_dir, held in _locks.items():
        if not _is_at(run_dir / "lock", held.inode) and path.absolute().is_relative_to(run_dir):
            raise GenlabError(
                f"{run_dir}: deleted or replaced while this command worked there; what it had made "
                "is lost, so nothing more is written; run it again"
            )


def _is_at(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False


def _refuse_other_host(run_dir: Path) -> None:
    """Raise if another host trains here. In a bucket, where new machines resume, and where the
    clocks disagree, watch first whether it is alive.
    """
    status = read_status(run_dir)
    first_seen = status.get("heartbeat", 0.0)
    is_watched = False
    while status.get("state") == "running" and status.get("host") not in (
        None,
        socket.gethostname(),
    ):
        # flock does not reach across hosts; the heartbeat is all there is.
        age_s = _age_by_clocks_s(status)
        # From the future: either its clock is ahead, or ours was set back since it died.
        is_ahead = age_s <= -CLOCKS_DIFFER_S
        has_moved = status.get("heartbeat", 0.0) != first_seen
        if not has_moved and (age_s >= REMOTE_ALIVE_S or (is_ahead and is_watched)):
            return
        where = f"process {status.get('pid')} on {status['host']}"
        when = f"{age_s:.0f} s ago" if not is_ahead else f"{-age_s:.0f} s ahead of this clock"
        # In a bucket a machine that was taken away leaves "running" behind, and its successor must
        # not wait for a person. A heartbeat that moves means a live one.
        if has_moved or not (is_ahead or bucket.is_copy(run_dir)):
            raise LockedError(
                f"{run_dir}: {where} trains here (heartbeat {when}); wait for it, or "
                f"{REMOTE_ALIVE_S:.0f} s after its last heartbeat, or use another directory"
            )
        print(
            f"{run_dir}: {where} trained here (heartbeat {when}); waiting to see whether it lives",
            file=sys.stderr,
        )
        is_watched = True
        time.sleep(2 * HEARTBEAT_S if is_ahead else HEARTBEAT_S)
        bucket.pull(run_dir / "status.json")
        status = read_status(run_dir)


@contextlib.contextmanager
def track_status(run_dir: Path, start: int, steps: int) -> Iterator[Callable[[int], None]]:
    """Keep status.json true while a run trains; yields `beat(step)`, cheap at every step."""
    before = read_status(run_dir)
    if start == steps and before.get("state") == "finished":
        yield lambda done: None
        return
    # Nothing is left to do: a finished run must not be reopened, not even for a moment.
    earlier = before.get("attempt")
    attempt = earlier + 1 if isinstance(earlier, int) else 1
    step = start
    written = time.monotonic()
    write_status(run_dir, "running", start, steps=steps, attempt=attempt)

    def beat(done: int) -> None:
        nonlocal step, written
        step = done
        if time.monotonic() - written >= HEARTBEAT_S:
            write_status(run_dir, "running", done, steps=steps, attempt=attempt)
            written = time.monotonic()

    def say_interrupted() -> None:
        write_status(run_dir, "interrupted", step, steps=steps, attempt=attempt)

    try:
        # Exit without unwinding (a lost host) skips `except`, so the last words are left
        # beforehand.
        with liveness.last_words(say_interrupted):
            yield beat
    except BaseException as error:
        state = _state_after(error)
        write_status(
            run_dir,
            state,
            step,
            steps=steps,
            attempt=attempt,
            error=str(error) or type(error).__name__,
        )
        raise
    write_status(run_dir, "finished", steps, steps=steps, attempt=attempt)


@contextlib.contextmanager
def keep_alive(run_dir: Path) -> Iterator[None]:
    """Keep status.json true while a job of many stages runs; a thread beats, because stages may be
    long and silent.
    """
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError):  # a full disk is reported by what needs the disk
                write_status(run_dir, "running", 0)
            is_over.wait(HEARTBEAT_S)

    def say_interrupted() -> None:
        is_over.set()
        write_status(run_dir, "interrupted", 0)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    state = "finished"
    try:
        with liveness.last_words(say_interrupted):
            yield
    except BaseException as error:
        state = _state_after(error)
        raise
    finally:
        is_over.set()
        thread.join()
        with contextlib.suppress(OSError):
            write_status(run_dir, state, 0)


def _state_after(error: BaseException) -> str:
    is_stopped = liveness.is_echo(error) or isinstance(error, KeyboardInterrupt)
    return "interrupted" if is_stopped else getattr(error, "run_state", "failed")
