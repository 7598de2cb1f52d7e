"""Tries faults in copies of the tree: each against the tests of its file, then against all test
files that name its module.

A fault is noticed if a test fails that passes without it; that one test is run again without it. A
fault whose tests pass has survived. One whose tests do not end within the limit is undecided, which
counts as not noticed.
"""

import dataclasses
import math
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .table import Fault

Outcome = Literal["noticed", "survived", "undecided"]
# Of the top folder; the copies need none of it.
LEFT_OUT = {".git", ".venv", ".hypothesis", "runs", "build", "site", ".genlab_cache"}
CACHES = ("__pycache__", ".pytest_cache", ".ruff_cache", "*.egg-info")
NORMAL = 1.959964  # the quantile of a two-sided 95 % interval


class KitError(Exception):
    """The tests cannot say anything, because they fail without a fault."""


class Trial(NamedTuple):
    """A fault and what became of it."""

    fault: Fault
    outcome: Outcome
    by: str
    """The test that failed."""
    seconds: float


@dataclasses.dataclass
class Report:
    """All trials."""

    trials: list[Trial]
    seconds: float = 0.0

    def table(self) -> str:
        """Return a row per package: noticed, survived, undecided, the score with its interval."""
        lines = [["package", "faults", "noticed", "survived", "undecided", "score", "95 %"]]
        packages = sorted({trial.fault.package for trial in self.trials})
        for name in (*packages, "all"):
            chosen = [one for one in self.trials if name in (one.fault.package, "all")]
            counts = Counter(one.outcome for one in chosen)
            low, high = wilson(counts["noticed"], len(chosen))
            outcomes = [str(counts[kind]) for kind in ("noticed", "survived", "undecided")]
            share = f"{counts['noticed'] / max(len(chosen), 1):.0%}"
            lines.append([name, str(len(chosen)), *outcomes, share, f"[{low:.0%}, {high:.0%}]"])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
            for line in lines
        )

    def describe_survivors(self) -> str:
        """Return every fault that no test noticed, with the tests that should."""
        return "\n".join(
            f"{one.outcome}: {one.fault.file} ({one.fault.place})\n"
            f"    - {one.fault.old}\n    + {one.fault.new}\n    tests: {' '.join(one.fault.tests)}"
            for one in self.trials
            if one.outcome != "noticed"
        )


def wilson(hits: int, tries: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if not tries:
        return 0.0, 1.0
    share, extra = hits / tries, NORMAL**2 / tries
    centre = (share + extra / 2) / (1 + extra)
    half = NORMAL * math.sqrt(share * (1 - share) / tries + extra / (4 * tries)) / (1 + extra)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def run_faults(
    faults: Sequence[Fault],
    root: Path,
    *,
    workers: int = 2,
    is_wide: bool = True,
    limit_s: float = 900.0,
    minutes: float | None = None,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> Report:
    """Try faults, each in one of `workers` copies of the tree at `root`.

    Args:
        faults: rows of the table.
        root: of the project.
        workers: copies that are used at the same time.
        is_wide: try what survives its file's tests against all test files that name its module.
        limit_s: how long the tests of one fault may take.
        minutes: begin no further faults after so long.
        tell: called with every trial as it ends.

    Raises:
        KitError: if a test that failed with a fault fails without it, too.
    """
    began = time.monotonic()
    waiting: queue.SimpleQueue[Fault] = queue.SimpleQueue()
    for fault in faults:
        waiting.put(fault)
    trials: list[Trial] = []
    problems: list[Exception] = []
    with tempfile.TemporaryDirectory(prefix="genlab-mutants-") as scratch:

        def work(number: int) -> None:
            try:
                tree = Tree(root, Path(scratch) / str(number), limit_s)
                while not problems:
                    if minutes is not None and time.monotonic() - began > 60 * minutes:
                        return
                    trial = tree.attempt(waiting.get_nowait(), is_wide)
                    trials.append(trial)
                    tell(trial)
            except queue.Empty:
                return
            except Exception as problem:  # raised again below, in the caller's thread
                problems.append(problem)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if problems:
        raise problems[0]
    order = {fault: number for number, fault in enumerate(faults)}
    return Report(sorted(trials, key=lambda one: order[one.fault]), time.monotonic() - began)


class Tree:
    """A copy of the project, in which one fault at a time is tried."""

    def __init__(self, root: Path, copy: Path, limit_s: float):
        self.copy = copy
        self._limit_s = limit_s
        self._sound: set[str] = set()
        shutil.copytree(root, copy, ignore=_left_out(root))

    def attempt(self, fault: Fault, is_wide: bool) -> Trial:
        """Return what became of a fault; the copy is as it was afterwards."""
        began = time.monotonic()
        path = self.copy / fault.file
        source = path.read_text(encoding="utf-8")
        wide = self._naming(fault) if is_wide else ()
        outcome: Outcome = "survived"
        by = ""
        for tests in (fault.tests, wide):
            if not tests:
                continue
            self._write(path, fault.apply(source))
            try:
                code, failed = self._run(tests)
            finally:
                self._write(path, source)
            if code is None:
                outcome = "undecided"
            elif code != 0:
                self._confirm(fault, failed or tests)
                outcome, by = "noticed", " ".join(failed[:1])
                break
        return Trial(fault, outcome, by, time.monotonic() - began)

    def _confirm(self, fault: Fault, failed: Sequence[str]) -> None:
        """Check that what failed passes without the fault."""
        name = failed[0]
        if name in self._sound:
            return
        code, _ = self._run((name,))
        if code != 0:
            raise KitError(f"{name} fails without a fault, so it cannot notice {fault.place}")
        self._sound.add(name)

    def _naming(self, fault: Fault) -> tuple[str, ...]:
        """Return the test files that name the module of a fault, without those of its row."""
        module = fault.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        own = {test.partition("::")[0] for test in fault.tests if "::" not in test}
        parent, _, last = module.rpartition(".")
        patterns = (rf"{re.escape(module)}\b", rf"from {re.escape(parent)} import .*\b{last}\b")
        names = [
            path.relative_to(self.copy).as_posix()
            for path in sorted((self.copy / "tests").rglob("test_*.py"))
            if any(re.search(one, path.read_text(encoding="utf-8")) for one in patterns)
        ]
        return tuple(name for name in names if name not in own)

    def _run(self, tests: Sequence[str]) -> tuple[int | None, list[str]]:
        """Return pytest's exit status (None past the limit), and the first test that failed."""
        options = "-n0 -x -q --tb=no -rfE --no-header -p no:cacheprovider".split()
        options += ["-m", ""]  # the slow ones too
        # What compiles once is shared by all copies, however short it took.
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.copy),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, *tests],
                cwd=self.copy,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._limit_s,
            )
        except subprocess.TimeoutExpired:
            return None, []
        if done.returncode not in (0, 1, 2) and done.returncode > 0:
            told = (done.stdout + done.stderr).strip().splitlines()[-3:]
            raise KitError(f"pytest {' '.join(tests)}: {' '.join(told)}")
        found = re.findall(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.+?)?)(?: - .*)?$", done.stdout, re.M)
        return done.returncode, found

    def _write(self, path: Path, text: str) -> None:
        """Write a source, and forget what was compiled of the one before: Python tells them apart
        by size and second alone.
        """
        path.write_text(text, encoding="utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


def _left_out(root: Path) -> Callable[[str, list[str]], set[str]]:
    caches = shutil.ignore_patterns(*CACHES)

    def ignore(folder: str, names: list[str]) -> set[str]:
        return set(caches(folder, names)) | (
            LEFT_OUT & set(names) if folder == str(root) else set()
        )

    return ignore
