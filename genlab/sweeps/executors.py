"""Who runs the runs: processes on this machine, SkyPilot's managed jobs, or somebody who copies
commands.

In: the runs of a sweep that are not finished. A run is the same idempotent command everywhere,
`genlab compare CONFIG --out DIR`. A finished run returns at once, an interrupted one resumes
bit-exactly, and one that another process holds says so. So there is no queue to lose: if the
coordinator or a worker is killed, the next `genlab sweep run` reads the files and resumes. Several
coordinators may work on one shared directory.
"""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from genlab.codecs.frozen import SHIPPED
from genlab.config import GenlabError
from genlab.config.shipped import install_command
from genlab.experiment import Comparison
from genlab.machine.stopping import EXIT_DISK_FULL, EXIT_OK, EXIT_RESUME
from genlab.run.trust import find_code
from genlab.sweeps.page import SweepRun
from genlab.sweeps.runs import add_attempt, config_path, read_state, run_directory
from genlab.watch.progress import Progress

POLL_S = 1.0
LOCKED_WAIT_S = 5.0
# Where the hosts of a managed job find its config: outside the source, because SkyPilot copies that
# without what git ignores, and runs/ is ignored.
CONFIG_THERE = "/tmp/genlab_launch/config.json"


class Stopped(GenlabError):
    """The coordinator was asked to stop; its workers have saved."""

    exit_code = EXIT_RESUME


class DiskFull(GenlabError):
    """No run can continue until somebody frees space."""

    exit_code = EXIT_DISK_FULL


class _Worker(NamedTuple):
    run: SweepRun
    process: subprocess.Popen[bytes]
    began: float


def command_of(out: Path, run: SweepRun) -> list[str]:
    """Return the command that is the run."""
    directory = str(run_directory(out, run))
    return ["genlab", "compare", str(config_path(out, run)), *names_of(run), "--out", directory]


def names_of(run: SweepRun) -> list[str]:
    """Return overrides that say again what the page names, as `names_in` does for its config."""
    return names_in(run.config)


def names_in(config: Comparison) -> list[str]:
    """Return overrides that say again which code and which codec a person named.

    By itself a config.json runs no code and downloads nothing. They change no value.
    """
    codec = config.data.codec
    code = dict(find_code(config.to_dict()))
    named = code if codec in (SHIPPED, None) else {"data.codec": codec, **code}
    return [f"{field}={json.dumps(text)}" for field, text in named.items()]


def run_locally(runs: Sequence[SweepRun], out: Path, slots: int, progress: Progress) -> None:
    """Run everything that is not finished or failed, `slots` at a time, until nothing is left to
    do.

    A TPU or a GPU belongs to one process, so one slot is the default.

    Raises:
        Stopped: on SIGTERM or SIGINT, after the workers were told and have saved.
        DiskFull: when a run or this process could not write; the other workers are told to save and
            end.
    """
    workers: list[_Worker] = []
    told = -1
    not_before: dict[str, float] = {}
    with _stop_on_signal() as stop:
        try:
            while not stop.is_set():
                done = [worker for worker in workers if worker.process.poll() is not None]
                workers = [worker for worker in workers if worker not in done]
                for worker in done:
                    _note(worker, out)
                    not_before[worker.run.id] = time.monotonic() + LOCKED_WAIT_S
                # States are read from disk in every turn, because other processes and hosts may
                # work on the same sweep.
                states = {run.id: read_state(run, out).state for run in runs}
                ended = sum(state in ("finished", "failed") for state in states.values())
                if ended != told:
                    progress("sweep", ended, len(runs))
                    told = ended
                # A worker may still be saving after its last status.
                if ended == len(runs) and not workers:
                    return
                busy = {worker.run.id for worker in workers}
                ready = [
                    run
                    for run in runs
                    if states[run.id] in ("waiting", "interrupted")
                    and run.id not in busy
                    # A run that another process holds is left alone for a while, not started in a
                    # tight loop.
                    and time.monotonic() >= not_before.get(run.id, 0.0)
                ]
                workers += [_start(run, out) for run in ready[: slots - len(workers)]]
                stop.wait(POLL_S)
            raise Stopped("stopped; the runs are saved, and the same command resumes")
        finally:
            _end(workers, out)


def print_commands(runs: Sequence[SweepRun], out: Path) -> list[str]:
    """Return one shell command per run that is not finished or failed: for Slurm arrays, Kueue, or
    a shell.
    """
    open_runs = [run for run in runs if read_state(run, out).state not in ("finished", "failed")]
    return [shlex.join(command_of(out, run)) for run in open_runs]


def launch_on_skypilot(runs: Sequence[SweepRun], out: Path, task_file: Path) -> list[str]:
    """Launch one managed job per unfinished run with the task of `task_file`, and return the names
    of the jobs.

    A preempted slice is replaced and the run resumes from its checkpoint in the bucket. Results lie
    in the bucket: copy or mount it over `runs/` before `genlab sweep report`.

    Raises:
        GenlabError: if SkyPilot is not installed.
    """
    try:
        import sky
    except ImportError:
        raise GenlabError(
            f"--executor skypilot: needs SkyPilot; run `{install_command('cloud')}`"
        ) from None
    names = []
    for run in runs:
        if read_state(run, out).state in ("finished", "failed"):
            continue
        task = sky.Task.from_yaml(str(task_file))
        task.update_envs(cloud_places(f"{out.name}/runs/{run.id}", names_of(run)))
        task.update_file_mounts(cloud_files(config_path(out, run)))
        sky.jobs.launch(task, name=run.id)
        names.append(run.id)
    return names


def cloud_places(run: str, named: Sequence[str]) -> dict[str, str]:
    """Return the variables of sweeps/cloud/tpu.yaml for a job with `cloud_files`: where the run
    directory lies in the bucket, and overrides as `names_of` gives them.
    """
    return {"CONFIG": CONFIG_THERE, "RUN": run, "NAMED": " ".join(named)}


def cloud_files(config: Path) -> dict[str, str]:
    """Return what a managed job gets beside the source, by where its hosts find it: its config."""
    return {CONFIG_THERE: str(config.absolute())}


def _start(run: SweepRun, out: Path) -> _Worker:
    directory = run_directory(out, run)
    directory.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-m", "genlab.cli", *command_of(out, run)[1:]]
    with open(directory / "log.txt", "ab") as log:
        # A session of its own: a Ctrl-C in the terminal reaches the coordinator, which asks the
        # workers to save.
        process = subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return _Worker(run, process, time.monotonic())


def _note(worker: _Worker, out: Path) -> None:
    exit_code = worker.process.returncode
    try:
        add_attempt(worker.run, out, exit_code, time.monotonic() - worker.began)
    except OSError as error:
        raise DiskFull(
            f"{out}: {error.strerror}; free some space, then the same command resumes"
        ) from None
    if exit_code == EXIT_DISK_FULL:
        raise DiskFull(f"{out}: the disk is full; free some space, then the same command resumes")


def _end(workers: Sequence[_Worker], out: Path) -> None:
    """Ask what still runs to save and end, and wait for it."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.terminate()
    for worker in workers:
        worker.process.wait()
        if worker.process.returncode != EXIT_OK:
            with contextlib.suppress(OSError):
                add_attempt(worker.run, out, EXIT_RESUME, time.monotonic() - worker.began)


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Turn the first SIGTERM or SIGINT into a request to stop; a second acts as usual."""
    stop = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in numbers:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
