"""Kill points: a process ends at its n-th change of the disk; the same command must come to the
same end.

The command runs in a forked process, once undisturbed; what it leaves is what every other run must
leave: the same files, with the same content but for times, machines and process numbers. What a
kill leaves is had in two ways:

- `data`, `compare` and `evaluate` run once more and are stopped (SIGSTOP) before each chosen
  change. What lies on the disk then is copied, byte for byte what SIGKILL leaves, and each copy is
  handed to the same command. So a point costs what is left of the command, not all of it. Of every
  `DIE_EVERY` points one dies in earnest instead.
- the coordinator of a sweep, or its workers, always die in earnest: here it matters who lives on.

Scoring is replaced by something quick, since what is tested is what survives on the disk, not what
a score is.
"""

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from kill_points import Counter

from .world import World, make_comparison, score_quickly

LIMIT_S = 900.0
DIE_EVERY = 10
# What may differ between two runs of the same command.
VOLATILE = re.compile(
    r"(_s|wall_s|heartbeat|pid|host|attempt|commit|command|peak_rss_bytes|latency|real_time_factor|ended|seconds|"
    r"compile_s|data_wait_fraction|started|written_at|^digest|^time)$"
)
UNCOMPARED = re.compile(
    r"(^|/)(lock|\.lock|log\.txt|wall\.json|status\.json|attempts\.json|.*\.lock)$|events\.out|"
    r"/checkpoints/|report\.html$|report\.md$|figure|previews/|sampling_speed"
)
LITTER = re.compile(r"\.tmp$|\.partial(/|$)|/\.[^/]+\.\d+$|^\.[^/]+\.\d+$|orbax-checkpoint-tmp")


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command, what it starts from, and which folder of its place holds what it leaves."""

    name: str
    prepare: Callable[[World, Path], None]
    argv: Callable[[Path], list[str]]
    kept: str
    own_cache: bool = False
    dies: str = "copy"
    """Who dies: "copy" (see above), "command" in earnest, or "workers" of it."""


@dataclasses.dataclass
class KillReport:
    """How many points, and the lost ones with what was lost."""

    points: dict[str, int] = dataclasses.field(default_factory=dict)
    changes: dict[str, int] = dataclasses.field(default_factory=dict)
    lost: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)

    def table(self) -> str:
        """Return a line per scenario, then what was lost and what litter was left behind."""
        lines = [
            f"{name}: {count} kill points over {self.changes[name]} changes"
            for name, count in self.points.items()
        ]
        lines.append(
            f"all: {sum(self.points.values())} kill points, {len(self.lost)} lost, "
            f"{len(self.left)} with litter"
        )
        return "\n".join([*lines, *self.lost[:40], *self.left[:20]])


def _write_config(world: World, place: Path) -> None:
    (place / "config.json").write_text(json.dumps(make_comparison(str(world.audio)).to_dict()))


def _prepare_evaluate(world: World, place: Path) -> None:
    shutil.copytree(world.run, place / "run", ignore=shutil.ignore_patterns("events*"))


def _prepare_sweep(world: World, place: Path) -> None:
    shutil.copy(world.page, place / "page.py")


def _sweep(place: Path) -> list[str]:
    return ["sweep", "run", str(place / "page.py"), "--out", str(place / "out")]


SCENARIOS = (
    Scenario(
        "data",
        _write_config,
        lambda place: ["data", str(place / "config.json")],
        "cache",
        own_cache=True,
    ),
    Scenario(
        "compare",
        _write_config,
        lambda place: ["compare", str(place / "config.json"), "--out", str(place / "run")],
        "run",
    ),
    Scenario(
        "evaluate",
        _prepare_evaluate,
        lambda place: ["evaluate", str(place / "run"), "evaluation.reference_clips=9"],
        "run",
    ),
    Scenario("sweep", _prepare_sweep, _sweep, "out", dies="command"),
    Scenario("sweep workers", _prepare_sweep, _sweep, "out", dies="workers"),
)
SHARES = {"data": 19, "compare": 50, "evaluate": 26, "sweep": 2, "sweep workers": 3}


def run_kills(
    points: int,
    world: World,
    folder: Path,
    only: tuple[str, ...] = (),
    minutes: float | None = None,
    only_at: int | None = None,
) -> KillReport:
    """Kill at so many points, spread over the scenarios and over all changes of each, and return
    the report.
    """
    _warm_up(world)
    ends = None if minutes is None else time.monotonic() + 60 * minutes
    chosen = [scenario for scenario in SCENARIOS if not only or scenario.name in only]
    total, report = sum(SHARES[scenario.name] for scenario in chosen), KillReport()
    for scenario in chosen:
        bench = Bench(scenario, world, folder / scenario.name.replace(" ", "-"))
        wanted, litter = bench.run_undisturbed()
        count = min(bench.changes, max(1, round(points * SHARES[scenario.name] / total)))
        places = [1 + number * bench.changes // count for number in range(count)]
        random.Random(0).shuffle(places)  # cut short, they still come from everywhere
        report.changes[scenario.name] = bench.changes
        for at in bench.kill_at([only_at] if only_at is not None else places):
            code, _ = bench.run()
            report.points[scenario.name] = report.points.get(scenario.name, 0) + 1
            died = f"{scenario.name} at change {at} of {bench.changes}"
            found, left = bench.read_content()
            lost, litter_left = "", sorted(left - litter)
            if code != 0:
                lost = f"the same command then ends with {code}: {bench.read_log()}"
            elif found != wanted:
                lost = describe_difference(wanted, found)
            elif litter_left:
                report.left.append(f"{died}: {', '.join(litter_left[:3])} left behind")
            if lost:
                report.lost.append(f"{died}: {lost}")
            print(f"{died}: {lost or 'nothing lost'}", file=sys.stderr, flush=True)
            if ends is not None and time.monotonic() > ends:
                break
    return report


def _warm_up(world: World) -> None:
    """Import what a command imports, so that a fork has it, and keep compiled programs beside the
    world.
    """
    import jax

    import genlab.cli.runs
    import genlab.cli.sweeps
    import genlab.compare  # noqa: F401

    jax.config.update("jax_compilation_cache_dir", str(world.root / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Bench:
    """Runs one scenario in its place, `folder`/place, which is made again for every point."""

    def __init__(self, scenario: Scenario, world: World, folder: Path):
        self.scenario, self._world, self._folder = scenario, world, folder
        self._place = folder / "place"
        self.changes = 0

    def run_undisturbed(self) -> tuple[dict[str, str], set[str]]:
        """Run the command to its end, count its changes, and return what it left."""
        self._renew()
        code, _ = self.run()
        assert code == 0, (
            f"{self.scenario.name}: undisturbed it ends with {code}: {self.read_log()}"
        )
        logs = list(self._folder.glob("changes*"))
        self.changes = min(len(log.read_text().splitlines()) for log in logs)
        return self.read_content()

    def kill_at(self, places: list[int]) -> Iterator[int]:
        """Yield each place with the disk as a death there left it."""
        if self.scenario.dies != "copy":
            for at in places:
                self._renew()
                self.run({at})
                yield at
            return
        in_earnest = set(places[DIE_EVERY - 1 :: DIE_EVERY])
        self._renew()
        _, stopped = self.run(set(places) - in_earnest, signal.SIGSTOP)
        copies = dict(zip(sorted(set(places) - in_earnest), stopped))
        for at in places:
            self._renew()
            if at in copies:
                shutil.rmtree(self._place)
                copies[at].rename(self._place)
            # Threads that stop at once are stopped once, so some places have no copy.
            elif self.run({at})[0] != -signal.SIGKILL:  # this run made fewer changes
                continue
            yield at

    def run(
        self, at: set[int] | None = None, number: int = signal.SIGKILL
    ) -> tuple[int, list[Path]]:
        """Run the command in a fork that gets a signal before these changes.

        Returns its exit code, and copies of the place at each change at which it stopped.
        """
        for log in self._folder.glob("changes*"):
            log.unlink()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._be_child(at or set(), number)
        began, copies = time.monotonic(), []
        while True:
            done, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if done and os.WIFSTOPPED(status):
                copies.append(self._folder / f"copy-{len(copies)}")
                shutil.rmtree(copies[-1], ignore_errors=True)
                shutil.copytree(self._place, copies[-1], symlinks=True)
                os.kill(child, signal.SIGCONT)
            elif done:
                return os.waitstatus_to_exitcode(status), copies
            if time.monotonic() - began > LIMIT_S:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)

    def _renew(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(parents=True)
        self.scenario.prepare(self._world, self._place)

    def _be_child(self, at: set[int], number: int) -> None:
        """Run the command and end the process."""
        code = 1
        try:
            speak_to(os.open(self._folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            os.chdir(self._place)
            cache = self._place / "cache" if self.scenario.own_cache else self._world.cache
            os.environ["GENLAB_CACHE"] = str(cache)
            score_quickly()
            if self.scenario.dies == "workers":
                fork_workers(self._watch_worker(at, number))
            else:
                fork_workers(lambda place: None)
                sys.addaudithook(Counter(self._place, at, number, self._folder / "changes"))
            code = run_command(self.scenario.argv(self._place))
        finally:
            os._exit(code)

    def _watch_worker(self, at: set[int], number: int) -> Callable[[Path], None]:
        def watch(place: Path) -> None:
            """Die once: the second attempt of a run finds its mark."""
            mark = self._folder / f"changes-{place.name}"
            sys.addaudithook(Counter(place, set() if mark.exists() else at, number, mark))

        return watch

    def read_content(self) -> tuple[dict[str, str], set[str]]:
        """Return a digest per file that matters, and the names of temporary files that are left."""
        found, litter, folder = {}, set(), self._place / self.scenario.kept
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if LITTER.search(name):
                litter.add(re.sub(r"\d+", "N", name))
            elif path.is_file() and not UNCOMPARED.search(name):
                found[name] = _digest(path, self._place)
        return found, litter

    def read_log(self) -> str:
        """Return the end of what the last command said."""
        path = self._folder / "log"
        return path.read_text(errors="replace").strip()[-600:] if path.exists() else ""


def run_command(argv: list[str]) -> int:
    """Run genlab in this process, and return its exit code."""
    from genlab.cli import main

    code = 1
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def speak_to(log: int) -> None:
    """Send standard output and error of this process to an open file."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)


def fork_workers(begin: Callable[[Path], None]) -> None:
    """Make a sweep fork its workers instead of starting Python; `begin` is called in each with its
    run directory.

    They are forks of a process of their own, which is made here, before anything starts threads.
    """
    from genlab.sweeps import executors

    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        _fork_on_request(theirs, begin)
    theirs.close()
    lines = ours.makefile("rw", buffering=1)

    def ask(request: list[Any]) -> Any:
        lines.write(f"{json.dumps(request)}\n")
        return json.loads(lines.readline())

    class Forked:
        """What the sweep uses of `subprocess.Popen`."""

        def __init__(self, program: list[str], stdout: Any, **more: Any):
            self.returncode: int | None = None
            self.pid = ask([program[program.index("genlab.cli") + 1 :], stdout.name])

        def poll(self) -> int | None:
            if self.returncode is None:
                self.returncode = ask([self.pid])
            return self.returncode

        def wait(self) -> int:
            while self.poll() is None:
                time.sleep(0.01)
            return self.returncode or 0

        def terminate(self) -> None:
            os.kill(self.pid, signal.SIGTERM)

    executors.POLL_S, executors.LOCKED_WAIT_S = 0.05, 0.2
    executors.subprocess = types.SimpleNamespace(
        Popen=Forked, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT
    )


def _fork_on_request(requests: socket.socket, begin: Callable[[Path], None]) -> NoReturn:
    """Answer [ARGV, LOG] with a process number and [PID] with its exit code, until nobody asks any
    more.
    """
    try:
        for line in requests.makefile("r"):
            request = json.loads(line)
            if len(request) == 1:
                done, status = os.waitpid(request[0], os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if done else None
            else:
                answer = os.fork()
            if answer == 0 and len(request) == 2:
                requests.close()
                os.setsid()
                speak_to(os.open(request[1], os.O_WRONLY | os.O_APPEND))
                begin(Path(request[0][-1]))
                os._exit(run_command(request[0]))
            requests.sendall(f"{json.dumps(answer)}\n".encode())
    finally:
        os._exit(1)


def _digest(path: Path, place: Path) -> str:
    from genlab.report import outputs

    content = path.read_bytes()
    # its digests are of files that hold times: do they agree, one with another?
    if path.name == outputs.MANIFEST:
        content = (
            f"{sorted(json.loads(content)['files'])} {outputs.find_wrong(path.parent)}".encode()
        )
    elif path.suffix == ".json":
        text = json.dumps(_without_times(json.loads(content)), sort_keys=True)
        content = text.replace(str(place), "PLACE").encode()
    elif path.suffix == ".csv":
        content = b"\n".join(
            sorted(
                line
                for line in content.splitlines()
                if b"_s" not in line and b"real_time" not in line
            )
        )
    is_text = path.suffix in (".json", ".csv", ".txt")
    return content.decode() if is_text else hashlib.sha256(content).hexdigest()[:12]


def describe_difference(wanted: dict[str, str], found: dict[str, str]) -> str:
    """Return which files differ, and what about the first of them."""
    changed = sorted(
        name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
    )
    left, right = wanted.get(changed[0], ""), found.get(changed[0], "")
    same = next((place for place, pair in enumerate(zip(left, right)) if pair[0] != pair[1]), 0)
    around = slice(max(0, same - 100), same + 60)
    return f"{', '.join(changed[:4])} differ: {left[around]!r} became {right[around]!r}"


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        value = {**value, "values": None} if value.get("item") == "Training wall clock" else value
        return {
            key: _without_times(child) for key, child in value.items() if not VOLATILE.search(key)
        }
    return [_without_times(child) for child in value] if isinstance(value, list) else value
