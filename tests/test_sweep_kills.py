"""Sweeps in real processes that are killed, and on a disk that fills up: no run is lost, and none
is done twice.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from quick_commands import QUICKLY
from sweep_toys import write_page

from genlab.machine.stopping import EXIT_DISK_FULL, EXIT_RESUME
from genlab.run.checkpoint import saved_steps
from genlab.sweeps.page import SweepRun, expand, load_sweep
from genlab.sweeps.runs import read_state, run_directory

STEPS = (550, 350)  # some seconds each and checkpoints every 50, which leaves time to kill them in


class Bench:
    """A page, the directory of its sweep, and a coordinator in a process of its own."""

    def __init__(self, folder: Path, out: Path, cache: Path):
        self.page, self.out = write_page(folder, *STEPS), out
        self.runs: list[SweepRun] = expand(load_sweep(self.page))
        self.environment = {
            **os.environ,
            "GENLAB_CACHE": str(cache),
            **QUICKLY,
        }

    def start(self) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "genlab.cli",
            "sweep",
            "run",
            str(self.page),
            "--out",
            str(self.out),
        ]
        return subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def directory(self, index: int) -> Path:
        return run_directory(self.out, self.runs[index])

    def attempts(self, index: int) -> list[int]:
        path = self.directory(index) / "attempts.json"
        return (
            [attempt["exit"] for attempt in json.loads(path.read_text())] if path.exists() else []
        )

    def has_saved(self, index: int, step: int) -> bool:
        return max(saved_steps(self.directory(index) / "arms/ar/seed0"), default=0) >= step

    def kill_worker(self, index: int) -> None:
        os.kill(
            json.loads((self.directory(index) / "status.json").read_text())["pid"], signal.SIGKILL
        )


def wait_for(
    condition: Callable[[], object], coordinator: subprocess.Popen, limit_s: float = 240.0
) -> None:
    ends = time.monotonic() + limit_s
    while not condition():
        if coordinator.poll() is not None or time.monotonic() > ends:
            coordinator.kill()
            raise AssertionError(f"never came: {coordinator.communicate()[0][-2000:]}")
        time.sleep(0.1)


def run_and_kill(folder: Path, cache: Path) -> Bench:
    """Return a sweep that lost a worker, then coordinator and worker, was asked to stop, and lost a
    coordinator.
    """
    folder.mkdir()
    bench = Bench(folder, folder / "out", cache)
    coordinator = bench.start()
    wait_for(lambda: bench.has_saved(0, 100), coordinator)
    bench.kill_worker(0)
    wait_for(
        lambda: bench.attempts(0) == [-signal.SIGKILL] and bench.has_saved(1, 100), coordinator
    )
    coordinator.kill()
    bench.kill_worker(1)
    coordinator.wait()
    coordinator = bench.start()
    wait_for(lambda: bench.has_saved(0, 250), coordinator)
    coordinator.send_signal(signal.SIGTERM)
    coordinator.wait()
    assert coordinator.returncode == EXIT_RESUME and bench.attempts(0) == [
        -signal.SIGKILL,
        EXIT_RESUME,
    ]
    coordinator = bench.start()
    wait_for(lambda: bench.has_saved(0, 400), coordinator)
    coordinator.kill()
    coordinator.wait()
    last = bench.start()
    told, _ = last.communicate(timeout=240)
    assert last.returncode == 0, told[-2000:]
    return bench


def check_killed(killed: Bench) -> None:
    assert [read_state(run, killed.out).state for run in killed.runs] == ["finished", "finished"]
    assert killed.attempts(0) == [-signal.SIGKILL, EXIT_RESUME], (
        "nobody was there to note the end of the last attempt"
    )
    assert killed.attempts(1) == [0]
    for index, steps in enumerate(STEPS):
        directory = killed.directory(index)
        assert len((directory / "arms/ar/seed0/batch_hashes.txt").read_text().splitlines()) == steps
        log = (directory / "log.txt").read_text()
        assert log.count("report: ") == 1, "one process came to the end"
    assert "continues at 0" not in (killed.directory(0) / "log.txt").read_text()


def fill_disk(folder: Path, cache: Path) -> Bench | None:
    """Return a sweep whose disk was full on the way, or None where no small disk can be made."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", disk]).returncode
    ):
        return None
    try:
        bench = Bench(folder, disk / "out", cache)
        first = bench.start()
        told, _ = first.communicate(timeout=240)
        assert first.returncode == EXIT_DISK_FULL and "free some space" in told, told[-2000:]
        assert {read_state(run, bench.out).state for run in bench.runs} <= {
            "waiting",
            "interrupted",
        }
        subprocess.run(["mount", "-o", "remount,size=500m", disk], check=True)
        second = bench.start()
        told, _ = second.communicate(timeout=400)
        assert second.returncode == 0, told[-2000:]
        bench.out = Path(shutil.copytree(bench.out, folder / "out"))
        return bench
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


@pytest.mark.slow
def test_no_run_is_lost_and_none_is_done_twice(tmp_path: Path):
    killed = run_and_kill(tmp_path / "killed", tmp_path / "cache")
    check_killed(killed)
    filled = fill_disk(tmp_path / "filled", tmp_path / "cache")
    if filled is None:
        pytest.skip("killed processes passed; a disk that fills up takes a root that may mount")
    for index in range(2):  # to the last bit what the killed runs came to
        ours, theirs = (
            json.loads((b.directory(index) / "results.json").read_text()) for b in (filled, killed)
        )
        for key in ("scores", "batch_hash"):
            assert ours["arms"][-1][key] == theirs["arms"][-1][key]
