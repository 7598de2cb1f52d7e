"""Kill points: a process dies by SIGKILL at its n-th change of the disk; the same command must come to the same end.

A change is a call that replaces, renames, removes, syncs or makes something, or opens a file for writing. The command
runs in a forked process, once undisturbed, then once per kill point and again after it. What the two leave behind must
be equal: the same files, with the same content but for times, machines and process numbers.

Scoring is replaced by something quick, since what is tested is what survives on the disk, not what a score is.
"""

import builtins
import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .world import ROOT_FOLDER, World, make_comparison, score_quickly

CALLS = ("replace", "rename", "fsync", "unlink", "remove", "mkdir", "rmdir", "link", "symlink", "truncate")
LIMIT_S = 300.0
VARIABLE = "GENLAB_FUZZ_KILLS"  # "AT TOKEN COUNT-FILE" of worker processes
# What may differ between two runs of the same command.
VOLATILE = re.compile(
    r"(_s|wall_s|heartbeat|pid|host|attempt|commit|command|peak_rss_bytes|latency|real_time_factor|ended|seconds|"
    r"compile_s|data_wait_fraction|started|written_at)$"
)
UNCOMPARED = re.compile(r"(^|/)(lock|\.lock|log\.txt|wall\.json|status\.json|attempts\.json|.*\.lock)$|events\.out|"
                        r"/checkpoints/|report\.html$|report\.md$|figure|previews/|sampling_speed")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command, what it starts from, and which folder holds what it leaves."""

    name: str
    prepare: Callable[[World, Path], None]
    argv: Callable[[World, Path], list[str]]
    cache: Callable[[World, Path], Path]
    kept: Callable[[Path], list[Path]]
    in_workers: bool = False
    """Whether the processes that it starts die, not itself."""


@dataclasses.dataclass
class KillReport:
    """How many points, and the lost ones with what was lost."""

    points: dict[str, int] = dataclasses.field(default_factory=dict)
    lost: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)

    def table(self) -> str:
        """Return a line per scenario, then what was lost and what litter was left behind."""
        lines = [f"{name}: {count} kill points" for name, count in self.points.items()]
        lines.append(
            f"all: {sum(self.points.values())} kill points, {len(self.lost)} lost, {len(self.left)} with litter"
        )
        return "\n".join([*lines, *self.lost[:40], *self.left[:20]])


class Counter:
    """Counts changes of the disk, and ends the process at one of them if the token is still there."""

    def __init__(self, at: int, token: Path, count_file: Path):
        self.at, self.token, self.count_file = at, token, count_file
        self.count = 0
        self._lock = threading.Lock()
        self._unlink = os.unlink
        self._write = os.write
        self._handle = os.open(count_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def tick(self) -> None:
        """Count one change that is about to be made."""
        with self._lock:
            self.count += 1
            os.lseek(self._handle, 0, os.SEEK_SET)
            self._write(self._handle, str(self.count).encode())
            if self.count != self.at:
                return
            try:
                self._unlink(self.token)  # one death for all processes of a command
            except FileNotFoundError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Put the counter before every call that changes the disk."""
        for name in CALLS:
            setattr(os, name, self._before(getattr(os, name)))
        plain = builtins.open

        @functools.wraps(plain)
        def counted(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            if any(letter in mode for letter in "wax+") and file != os.devnull:
                self.tick()
            return plain(file, mode, *args, **more)

        builtins.open = io.open = counted

    def _before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def counted(*args: Any, **more: Any) -> Any:
            self.tick()
            return call(*args, **more)

        return counted


def install_from_environment() -> None:
    """Do in a worker of a sweep what its coordinator's environment says."""
    at, token, count_file = os.environ[VARIABLE].split(" ")
    score_quickly()
    Counter(int(at), Path(token), Path(count_file)).install()


def _write_config(world: World, place: Path) -> None:
    (place / "config.json").write_text(json.dumps(make_comparison(str(world.audio)).to_dict()))


def _prepare_evaluate(world: World, place: Path) -> None:
    shutil.copytree(world.run, place / "run", ignore=shutil.ignore_patterns("events*"))


def _prepare_sweep(world: World, place: Path) -> None:
    shutil.copy(world.page, place / "page.py")


SCENARIOS = (
    Scenario(
        "data", _write_config, lambda world, place: ["data", str(place / "config.json")],
        lambda world, place: place / "cache", lambda place: [place / "cache"],
    ),
    Scenario(
        "compare", _write_config,
        lambda world, place: ["compare", str(place / "config.json"), "--out", str(place / "run")],
        lambda world, place: world.cache, lambda place: [place / "run"],
    ),
    Scenario(
        "evaluate", _prepare_evaluate,
        lambda world, place: ["evaluate", str(place / "run"), "evaluation.reference_clips=9"],
        lambda world, place: world.cache, lambda place: [place / "run"],
    ),
    Scenario(
        "sweep", _prepare_sweep,
        lambda world, place: ["sweep", "run", str(place / "page.py"), "--out", str(place / "out")],
        lambda world, place: world.cache, lambda place: [place / "out"],
    ),
    Scenario(
        "sweep workers", _prepare_sweep,
        lambda world, place: ["sweep", "run", str(place / "page.py"), "--out", str(place / "out")],
        lambda world, place: world.cache, lambda place: [place / "out"], in_workers=True,
    ),
)  # fmt: skip
SHARES = {"data": 25, "compare": 35, "evaluate": 25, "sweep": 5, "sweep workers": 10}


def run_kills(
    points: int,
    world: World,
    folder: Path,
    only: tuple[str, ...] = (),
    minutes: float | None = None,
    only_at: int | None = None,
) -> KillReport:
    """Kill at so many points, spread over the scenarios and over all changes of each, and return the report."""
    import genlab.cli.runs  # warm: a fork has it
    import genlab.compare  # noqa: F401

    ends = None if minutes is None else time.monotonic() + 60 * minutes
    chosen = [scenario for scenario in SCENARIOS if not only or scenario.name in only]
    total, report = sum(SHARES[scenario.name] for scenario in chosen), KillReport()
    for scenario in chosen:
        place = folder / scenario.name.replace(" ", "-") / "place"
        code, changes = _run(scenario, world, place, 0, is_new=True)
        assert code == 0, f"{scenario.name}: undisturbed it ends with {code}: {_log(place)}"
        wanted, litter = _content(scenario, place)
        count = min(changes, max(1, round(points * SHARES[scenario.name] / total)))
        for number in range(count):
            if ends is not None and time.monotonic() > ends:
                break
            at = 1 + number * changes // count if only_at is None else only_at
            code, _ = _run(scenario, world, place, at, is_new=True)
            died = f"{scenario.name} at change {at} of {changes}"
            code, _ = _run(scenario, world, place, 0, is_new=False)
            report.points[scenario.name] = report.points.get(scenario.name, 0) + 1
            if code != 0:
                report.lost.append(f"{died}: the same command then ends with {code}: {_log(place)}")
                continue
            found, left = _content(scenario, place)
            if found != wanted:
                changed = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
                first = _first_difference(wanted.get(changed[0], ""), found.get(changed[0], ""))
                report.lost.append(f"{died}: {', '.join(changed[:4])} differ: {first}")
            elif left - litter:
                report.left.append(f"{died}: {', '.join(sorted(left - litter)[:3])} left behind")
    return report


def _run(scenario: Scenario, world: World, place: Path, at: int, is_new: bool) -> tuple[int, int]:
    """Run the command in a fork that dies at change `at` (0: never); return its exit code and its number of changes."""
    if is_new:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        scenario.prepare(world, place)
    token, count_file = place.parent / "token", place.parent / "count"
    token.touch()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_child(scenario, world, place, at, token, count_file)
    began = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > LIMIT_S:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(status), int(count_file.read_text() or 0)


def _be_child(scenario: Scenario, world: World, place: Path, at: int, token: Path, count_file: Path) -> None:
    """Run the command and end the process."""
    code = 1
    try:
        log = os.open(place.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        os.chdir(place)
        os.environ["GENLAB_CACHE"] = str(scenario.cache(world, place))
        paths = [str(ROOT_FOLDER), str(ROOT_FOLDER / "tests"), str(Path(__file__).parent / "site")]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        in_worker = at if scenario.in_workers else 0
        worker_count = count_file if scenario.in_workers else count_file.with_name("count-of-workers")
        os.environ[VARIABLE] = f"{in_worker} {token} {worker_count}"
        score_quickly()
        own_count = count_file.with_name("count-of-coordinator") if scenario.in_workers else count_file
        Counter(0 if scenario.in_workers else at, token, own_count).install()
        from genlab.cli import main

        code = main(scenario.argv(world, place))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _content(scenario: Scenario, place: Path) -> tuple[dict[str, str], set[str]]:
    """Return a digest per file that matters, and the names of temporary files that are left."""
    found, litter = {}, set()
    for folder in scenario.kept(place):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if re.search(r"\.tmp$|\.partial(/|$)|/\.[^/]+\.\d+$|^\.[^/]+\.\d+$|orbax-checkpoint-tmp", name):
                litter.add(re.sub(r"\d+", "N", name))
            elif path.is_file() and not UNCOMPARED.search(name):
                found[name] = _digest(path, place)
    return found, litter


def _digest(path: Path, place: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        text = json.dumps(_without_times(json.loads(content)), sort_keys=True)
        content = text.replace(str(place), "PLACE").encode()
    elif path.suffix == ".csv":
        content = b"\n".join(
            sorted(line for line in content.splitlines() if b"_s" not in line and b"real_time" not in line)
        )
    is_text = path.suffix in (".json", ".csv", ".txt")
    return content.decode() if is_text else hashlib.sha256(content).hexdigest()[:12]


def _first_difference(wanted: str, found: str) -> str:
    same = next((place for place, pair in enumerate(zip(wanted, found)) if pair[0] != pair[1]), 0)
    around = slice(max(0, same - 100), same + 60)
    return f"{wanted[around]!r} became {found[around]!r}"


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        value = {**value, "values": None} if value.get("item") == "Training wall clock" else value
        return {key: _without_times(child) for key, child in value.items() if not VOLATILE.search(key)}
    return [_without_times(child) for child in value] if isinstance(value, list) else value


def _log(place: Path) -> str:
    path = place.parent / "log"
    return path.read_text(errors="replace").strip()[-600:] if path.exists() else ""
