"""Jobs of measurements on threads and in processes, a few at a time.

In: `Work` of every measurement. Out: the results of their jobs, in order. A job holds the clips
that it measures and is made when it is about to run, so memory does not grow with their number.
What can be pickled runs in processes, if there are any: networks open themselves there again. The
rest (a network on an accelerator, a function inside a function) runs on threads beside them. The
same code runs in both, on one thread each, so where a job runs changes no bit of a score.
"""

import functools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from genlab.config import GenlabError
from genlab.evaluate.metric import Work
from genlab.evaluate.sessions import single_threaded_blas

WAITING_PER_WORKER = 4  # jobs that are made before a worker is free


class _Place(NamedTuple):
    """Which job of which measurement."""

    work: int
    job: int


def run_jobs(
    works: Sequence[Work], threads: int, processes: int, progress: Callable[[], None]
) -> list[list[object]]:
    """Return what the jobs of each measurement returned; `progress` is called after each job.

    Raises:
        GenlabError: if a process is killed, most likely for its memory.
    """
    found: list[list[object]] = [[None] * len(work.jobs) for work in works]
    is_local = [processes < 2] * len(works)
    most = WAITING_PER_WORKER * (threads + processes)
    running: dict[Future[tuple[bool, object]], _Place] = {}
    with ThreadPoolExecutor(threads) as pool:

        def start(place: _Place, is_sent: bool) -> None:
            job = works[place.work].jobs[place.job]
            payload = _pickled(job) if is_sent else None
            if payload is None:
                is_local[place.work] = True
                running[pool.submit(_run_here, job)] = place
            else:
                running[_processes(processes).submit(_run_sent, payload)] = place

        def settle() -> None:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                place, (is_done, result) = running.pop(future), future.result()
                if is_done:
                    found[place.work][place.job] = result
                    progress()
                else:  # its code cannot be found there
                    start(place, is_sent=False)

        try:
            for place in _in_order(works):
                while len(running) >= most:
                    settle()
                start(place, is_sent=not is_local[place.work])
            while running:
                settle()
        except BrokenProcessPool:
            _processes.cache_clear()
            raise GenlabError(
                f"evaluation.processes={processes}: a process that measures was killed, most "
                "likely for its memory; lower it"
            ) from None
        finally:
            for future in running:
                future.cancel()
    return found


def _in_order(works: Sequence[Work]) -> Iterator[_Place]:
    """Yield the longest jobs first, so that the workers finish together."""
    for number in sorted(range(len(works)), key=lambda i: not works[i].is_long):
        for job in range(len(works[number].jobs)):
            yield _Place(number, job)


def _pickled(job: Callable[[], object]) -> bytes | None:
    """Return a job for another process, None if it belongs to this one."""
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None


def _run_here(job: Callable[[], object]) -> tuple[bool, object]:
    return True, job()


def _run_sent(payload: bytes) -> tuple[bool, object]:
    """Return whether the job could be read, and its result."""
    try:
        job = pickle.loads(payload)
    except Exception:  # a module that cannot be imported here raises whatever it likes
        return False, None
    return True, single_threaded_blas(job)()


@functools.cache
def _processes(count: int) -> ProcessPoolExecutor:
    """Return the processes that measure, which serve every row: each takes seconds to start."""
    # Not forked: a fork of a process with jax's threads may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_begin)


def _begin() -> None:
    """Prepare a process: the accelerator and Ctrl-C belong to its parent, with which it ends."""
    import jax  # only here: measuring on threads needs none of it

    jax.config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by a pool"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
