"""Runs inputs in worker processes and counts what came of them.

A worker is one warm process that takes chunks of indices and answers with a line of JSON per input.
One that says nothing for `SILENT_S` is killed, its input counts as a hang, and another worker goes
on with the next input.
"""

import dataclasses
import importlib
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quick_commands import QUICKLY

from .contract import (
    FAULTS,
    WALL_S,
    Streams,
    Verdict,
    empty,
    limit_memory,
    refuse_network,
    run_trial,
    where,
)
from .world import ROOT_FOLDER as ROOT
from .world import World

# Of 100 inputs so many go to each area: what is cheap and wide gets more.
SHARES = {
    "configs": 30,
    "arguments": 12,
    "manifests": 18,
    "audio": 14,
    "weights": 8,
    "run_dirs": 10,
    "caches": 8,
    "places": 5,
}
CHUNK = 25
SILENT_S = WALL_S + 40.0
MORE_MEMORY_BYTES = 4 << 30


@dataclasses.dataclass
class Report:
    """Counts per area and kind of verdict, and the faults themselves."""

    counts: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    faults: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def add(self, answer: dict[str, Any]) -> None:
        """Count one answer of a worker."""
        self.counts.setdefault(answer["area"], Counter())[answer["kind"]] += 1
        if answer["kind"] in FAULTS:
            self.faults.append(answer)

    @property
    def inputs(self) -> int:
        """How many inputs were run."""
        return sum(sum(counts.values()) for counts in self.counts.values())

    def table(self) -> str:
        """Return a row per area: inputs, refused, accepted, and each kind of fault."""
        totals: Counter[str] = sum(self.counts.values(), Counter())
        shown = [
            "refused",
            "accepted",
            *(kind for kind in FAULTS if kind in FAULTS[:3] or totals[kind]),
        ]
        lines = [["area", "inputs", *shown]]
        for area, counts in [*sorted(self.counts.items()), ("all", totals)]:
            lines.append([area, str(sum(counts.values())), *(str(counts[kind]) for kind in shown)])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in lines
        )

    def describe_faults(self, most: int = 40) -> str:
        """Return each fault once per place it came from, with the command that repeats it."""
        groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for fault in self.faults:
            groups.setdefault((fault["area"], fault["kind"], _kind_of(fault["text"])), []).append(
                fault
            )
        lines = []
        for (area, kind, _), faults in sorted(groups.items(), key=lambda item: -len(item[1]))[
            :most
        ]:
            first = faults[0]
            lines.append(
                f"{kind} x {len(faults)}: {first['text']}\n    input: {first['what'][:300]}\n    "
                "again: "
                f"python -m tests.fuzz --only {area} --seed {first['seed']} --index "
                f"{first['index']}"
            )
        return "\n".join(lines)


def _kind_of(text: str) -> str:
    """Return what texts of one fault share: where it was raised, or the text without names, numbers
    and quotes.
    """
    if text.endswith(")") and ".py:" in text:
        return text.rsplit("(", 1)[-1]
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|[\d.]+", "", text)[:30]


def plan(inputs: int, only: Sequence[str] = ()) -> dict[str, int]:
    """Return how many inputs each area gets."""
    shares = {area: share for area, share in SHARES.items() if not only or area in only}
    return {
        area: max(min(1, inputs), round(inputs * share / sum(shares.values())))
        for area, share in shares.items()
    }


def run_inputs(
    counts: dict[str, int], seed: int, root: Path, workers: int = 2, minutes: float | None = None
) -> Report:
    """Run so many inputs of each area on the world in `root`, and return the report."""
    report, began, todo = Report(), time.monotonic(), queue.Queue()
    chunks = [
        (area, first, min(first + CHUNK, n))
        for area, n in counts.items()
        for first in range(0, n, CHUNK)
    ]
    random.Random(0).shuffle(chunks)  # areas that are slow must not come last
    for chunk in chunks:
        todo.put(chunk)
    ends = None if minutes is None else began + 60 * minutes
    lock = threading.Lock()

    def feed() -> None:
        worker = None
        while ends is None or time.monotonic() < ends:
            try:
                area, first, last = todo.get_nowait()
            except queue.Empty:
                break
            while first < last:
                worker = worker if worker is not None and worker.is_alive else Worker(root)
                for answer in worker.answers(area, seed, first, last):
                    with lock:
                        report.add(answer)
                    first = answer["index"] + 1
        if worker is not None:
            worker.end()

    threads = [threading.Thread(target=feed) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.seconds = time.monotonic() - began
    return report


def environment() -> dict[str, str]:
    """Return the environment of processes that run inputs: one CPU device, and this source tree."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return {
        **os.environ,
        "PYTHONPATH": paths,
        **QUICKLY,
        "PYTHONFAULTHANDLER": "1",
    }


def ensure_world(root: Path) -> None:
    """Make the world in a process of its own, unless it is there: this one stays free of what that
    needs.
    """
    if not (root / "world.json").exists():
        command = [sys.executable, "-m", "tests.fuzz", "--make-world", str(root)]
        subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True)


class Worker:
    """A process that runs inputs."""

    def __init__(self, root: Path):
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", "--worker", str(root)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.is_alive = True

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def answers(self, area: str, seed: int, first: int, last: int) -> Iterator[dict[str, Any]]:
        """Yield the answers to a chunk; after a hang or a crash the last one says so, and the
        worker is gone.
        """
        self._process.stdin.write(f"{area} {seed} {first} {last}\n")
        for index in range(first, last):
            try:
                line = self._lines.get(timeout=SILENT_S)
            except queue.Empty:
                line = None
            if line:
                yield json.loads(line)
                continue
            self.is_alive = False
            if line is None:
                self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace")[-500:]
            kind = "hang" if line is None else "traceback"
            what = (
                "no answer"
                if line is None
                else f"the process died ({self._process.returncode}): {text}"
            )
            yield {
                "area": area,
                "seed": seed,
                "index": index,
                "kind": kind,
                "text": what,
                "what": "",
            }
            return

    def end(self) -> None:
        """Let the process go."""
        if self.is_alive:
            self._process.stdin.close()
            self._process.wait()


def work(root: Path) -> None:
    """Be a worker: read chunks from standard input, answer on what was standard output."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        world, streams = prepare(root, scratch)
        limit_memory(MORE_MEMORY_BYTES)
        for line in sys.stdin:
            area, seed, first, last = line.split()
            for index in range(int(first), int(last)):
                what, verdict = run_one(area, int(seed), index, world, scratch / "place", streams)
                if verdict.kind == "touched":  # the next input finds everything as it was
                    os.chdir("/")
                    copy_world(root, world.root)
                    os.chdir(world.home)
                answer = {"area": area, "seed": int(seed), "index": index, "kind": verdict.kind}
                print(
                    json.dumps({**answer, "text": verdict.text[:1000], "what": what[:1000]}),
                    file=answers,
                )
        os.chdir("/")


def prepare(root: Path, scratch: Path) -> tuple[World, Streams]:
    """Open the world, move into its home, and take the streams."""
    world = copy_world(root, scratch / "world")
    os.environ |= {"GENLAB_CACHE": str(world.cache), "HF_HUB_OFFLINE": "1"}
    os.environ.pop("GENLAB_SHARED_CACHE", None)
    importlib.import_module("genlab.cli.runs")
    importlib.import_module("genlab.compare")
    os.chdir(world.home)
    refuse_network()
    return world, Streams(scratch)


def copy_world(root: Path, copy: Path) -> World:
    """Return the world as a copy that one worker may spoil; recordings and cache are shared."""
    world = World(empty(copy))
    for path in root.iterdir():
        if path.name in ("audio", "cache"):
            (copy / path.name).symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, copy / path.name)
        else:
            shutil.copy(path, copy / path.name)
    return world


def run_one(
    area: str, seed: int, index: int, world: World, place: Path, streams: Streams
) -> tuple[str, Verdict]:
    """Draw and run one input; return what it was and the verdict."""
    rng = random.Random(f"{area} {seed} {index}")
    try:
        trial = importlib.import_module(f"{__package__}.{area}").draw(rng, world, empty(place))
    except Exception as error:  # a fault of the kit itself
        return "", Verdict("kit", f"{type(error).__name__}: {error!s:.300} ({where(error)})")
    return trial.what, run_trial(trial, world.watched, streams)
