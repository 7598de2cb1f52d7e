"""What must hold for every input, however bad it is, and the guard that runs one input and says
whether it held.

In: a `Trial`. Out: a `Verdict`. An input is *accepted* (and then what came of it must be sane:
`judge`) or *refused* (a documented exit code, and one printable line that names the field or the
file). Everything else is a fault: another exception, more than `CPU_S` seconds of work or `WALL_S`
of waiting, much memory, a network connection, a change outside the place that the input was given,
or an accepted result that is wrong, which is called silent.
"""

import dataclasses
import io
import os
import resource
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CPU_S = 10.0
WALL_S = 60.0
MOST_MEMORY_BYTES = 1 << 30
LONGEST_LINE = 3000
REFUSALS = (2, 74, 75, 130)
FAULTS = (
    "traceback",
    "hang",
    "silent",
    "vague",
    "touched",
    "memory",
    "network",
    "exit code",
    "rejected",
    "kit",
)


@dataclasses.dataclass
class Trial:
    """One input.

    `act` does what a user would do with it and returns what came of it; with `is_command` it
    returns an exit code. `names` are texts of which a refusal must hold one. `judge` returns what
    is wrong with an accepted result, None if nothing is. `must_refuse` and `must_accept` are for
    inputs of which it is known.
    """

    what: str
    act: Callable[[], Any]
    names: tuple[str, ...]
    judge: Callable[[Any], str | None] = lambda result: None
    is_command: bool = False
    must_refuse: bool = False
    must_accept: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`kind` is "accepted", "refused" or one of `FAULTS`; `text` the refusal, or what is wrong."""

    kind: str
    text: str


class Hang(BaseException):
    """The input took too long. Not an Exception: nothing on the way may take it for an error of its
    own.
    """


class Network(BaseException):
    """Something wanted a network connection."""


def run_trial(trial: Trial, watched: tuple[Path, ...], streams: "Streams") -> Verdict:
    """Run one input under guard and return the verdict."""
    before, memory = {path: snapshot(path) for path in watched}, _peak_bytes()
    home = Path.cwd()
    result, error, code = None, None, 0
    streams.clear()
    try:
        with _limited():
            result = trial.act()
            code = result if trial.is_command else 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as caught:
        error = caught
    told = streams.read_errors()
    moved, changed = (
        Path.cwd() != home,
        [path for path in watched if snapshot(path) != before[path]],
    )
    os.chdir(home)
    if moved or changed:
        return Verdict(
            "touched",
            "the current directory" if moved else _what_changed(changed[0], before[changed[0]]),
        )
    if _peak_bytes() - memory > MOST_MEMORY_BYTES:
        return Verdict("memory", f"{(_peak_bytes() - memory) / 2**20:.0f} MiB more")
    if isinstance(error, Hang | Network):
        return Verdict(type(error).__name__.lower(), where(error))
    return _judge(trial, result, error, code, told)


def _judge(trial: Trial, result: Any, error: BaseException | None, code: int, told: str) -> Verdict:
    from genlab.config import GenlabError

    if error is not None and (trial.is_command or not isinstance(error, GenlabError)):
        return Verdict("traceback", f"{type(error).__name__}: {error!s:.300} ({where(error)})")
    if trial.is_command and "Traceback (most recent call last)" in told:
        return Verdict("traceback", told[-600:])
    if error is None and code == 0:
        if trial.must_refuse:
            return Verdict("silent", f"accepted: {result!r:.300}")
        try:
            wrong = trial.judge(result)
        except GenlabError as late:  # found when it is used, and said
            return _judge_line(trial, str(late))
        except Exception as broken:
            return Verdict(
                "traceback", f"in use: {type(broken).__name__}: {broken!s:.300} ({where(broken)})"
            )
        return Verdict("silent", wrong) if wrong else Verdict("accepted", "")
    if trial.must_accept:
        return Verdict("rejected", str(error) if error is not None else told[-600:])
    if error is not None:
        return _judge_line(trial, str(error))
    if code not in REFUSALS:
        return Verdict("exit code", f"{code}: {told[-300:]}")
    lines = told.rstrip("\n").split("\n")
    return _judge_line(trial, lines[-1])


def _judge_line(trial: Trial, line: str) -> Verdict:
    line = line.strip()
    if not line:
        return Verdict("vague", "nothing said")
    if len(line) > LONGEST_LINE:
        return Verdict("vague", f"{len(line)} characters: {line[:300]}")
    if trial.is_command and not line.isprintable():
        return Verdict("vague", f"not printable: {line[:300]!r}")
    if trial.names and not any(name and name in line for name in trial.names):
        return Verdict("vague", f"names none of {', '.join(map(repr, trial.names))}: {line[:400]}")
    return Verdict("refused", line)


class Streams:
    """Standard output and error of this process as files, so that C libraries are heard as well."""

    def __init__(self, folder: Path):
        self._paths = [folder / "stdout", folder / "stderr"]
        for number, path in zip((1, 2), self._paths):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            os.dup2(handle, number)
            os.close(handle)
        sys.stdout = io.TextIOWrapper(
            os.fdopen(1, "wb", 0, closefd=False), "utf-8", "backslashreplace", "\n", True
        )
        sys.stderr = io.TextIOWrapper(
            os.fdopen(2, "wb", 0, closefd=False), "utf-8", "backslashreplace", "\n", True
        )

    def clear(self) -> None:
        """Forget what was written."""
        for number in (1, 2):
            os.ftruncate(number, 0)

    def read_errors(self) -> str:
        """Return what standard error got."""
        sys.stderr.flush()
        return self._paths[1].read_text("utf-8", "replace")


def limit_memory(more_bytes: int) -> None:
    """Let this process have so much address space beyond what it has."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, resource.RLIM_INFINITY))


def refuse_network() -> None:
    """Make every attempt to reach another machine a fault."""

    def refuse(*args: Any, **more: Any) -> Any:
        raise Network(f"{args[:2]!r:.200}")

    socket.getaddrinfo = refuse
    socket.socket.connect = refuse
    socket.socket.connect_ex = refuse


def snapshot(path: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of everything below `path`."""
    found = {}
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            state = os.lstat(os.path.join(folder, name))
            size = state.st_size if name in names else 0
            found[os.path.join(folder, name)] = (size, state.st_mtime_ns if name in names else 0)
    return found


def empty(folder: Path) -> Path:
    """Return `folder`, emptied."""
    if folder.exists():
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Hang(f"{signal.Signals(number).name}")

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _what_changed(path: Path, before: dict[str, tuple[int, int]]) -> str:
    after = snapshot(path)
    changed = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    return f"{path}: {', '.join(changed[:3])}"


def where(error: BaseException) -> str:
    """Return the innermost line of genlab that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/genlab/" in frame.filename.replace(os.sep, "/")]
    inner = (ours or frames)[-1]
    return f"{Path(inner.filename).name}:{inner.lineno} in {inner.name}"
