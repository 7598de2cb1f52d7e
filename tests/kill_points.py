"""Ends a genlab command just before the n-th change it makes on disk, as a kill would.

A change is what Python asks of the disk under one directory: a file opened for writing, a rename, a
removal, a new directory. `python tests/kill_points.py` runs the command in this process with an
audit hook that counts them, and at number N sends the process a signal (SIGKILL by default, so that
nothing is tidied up). Writes in C++ (Orbax, array records, FLAC) are not seen one by one, but the
renames and directories around them are.

    count_changes(run_dir, "evaluate", str(run_dir))             all of them, a line for each
    end_at(run_dir, 7, "evaluate", str(run_dir))                 the process, ended before change 7
    end_at(run_dir, 7, "report", str(run_dir), number=SIGTERM)   asked to end, as a scheduler does

For code that needs no process of its own, `forked(directory, at, call)` does the same to a call in
a fork of this one; the call must not use jax.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Arguments of the audited call that are paths.
CHANGES = {
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.truncate": 1,
    "os.link": 2,
    "os.symlink": 2,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Counter:
    """Counts changes under `under`; before change `at` it sends this process a signal.

    `at` is a number, from 1, or several, or a text: the first change whose line contains it. A line
    has the event and the paths, relative to `under`: "os.rename .status.json.7.tmp status.json".
    """

    def __init__(
        self,
        under: Path,
        at: int | str | Collection[int] | None,
        number: int = signal.SIGKILL,
        log: Path | None = None,
    ):
        self.count = 0
        self._under, self._number = os.path.realpath(under), number
        self._text = at if isinstance(at, str) else None
        self._numbers = (
            {at} if isinstance(at, int) else set() if at is None or self._text else {*at}
        )
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        """Take one event of `sys.addaudithook`."""
        paths = self._changed(event, arguments)
        if not any(self._is_ours(path) for path in paths):
            return
        self.count += 1
        names = [os.path.relpath(os.fsdecode(path), self._under) for path in paths]
        line = " ".join([event, *names])
        if self._log is not None:
            os.write(self._log, f"{line}\n".encode())
        is_named = self._text is not None and self._text in line
        if self.count in self._numbers or is_named:
            self._text = None
            os.kill(os.getpid(), self._number)

    def stop(self) -> None:
        """Count no more: a hook cannot be removed."""
        self._under, self._text, self._numbers = os.devnull, None, set()

    def _changed(self, event: str, arguments: tuple[object, ...]) -> tuple[object, ...]:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(flags, int) and flags & WRITING:
                return (path,)
            return (path,) if any(letter in str(mode or "") for letter in "wax+") else ()
        return arguments[: CHANGES.get(event, 0)]

    def _is_ours(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        name = os.path.abspath(os.fsdecode(path))
        return name == self._under or name.startswith(self._under + os.sep)


def run_until(
    under: Path,
    at: int | str | None,
    *command: str,
    number: int = signal.SIGKILL,
    log: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start `genlab COMMAND`; it ends before change `at` under `under`, with None by itself."""
    options = ["--under", str(under), "--signal", str(int(number))]
    options += [] if at is None else ["--at", str(at)]
    options += [] if log is None else ["--log", str(log)]
    environment = {**os.environ, **(environ or {})}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    arguments = [sys.executable, __file__, *options, "--", *command]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=environment, stdout=pipe, stderr=pipe, text=True)


def end_at(
    under: Path,
    at: int | str,
    *command: str,
    number: int = signal.SIGKILL,
    environ: Mapping[str, str] | None = None,
    limit_s: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run `genlab COMMAND` until just before change `at`, and return how it ended."""
    process = run_until(under, at, *command, number=number, environ=environ)
    output, errors = process.communicate(timeout=limit_s)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def count_changes(
    under: Path,
    *command: str,
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """Run `genlab COMMAND` to its end, and return its changes in order, one line each."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "changes"
        process = run_until(under, None, *command, log=log, environ=environ)
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-2000:]
        return log.read_text().splitlines() if log.exists() else []


def forked(
    directory: Path,
    at: int | str | None,
    call: Callable[[], object],
    number: int = signal.SIGKILL,
) -> int:
    """Run `call` in a fork that ends before change `at`; return its exit code, -9 if killed."""
    with warnings.catch_warnings():
        # jax has threads; the call does not need them
        warnings.simplefilter("ignore", RuntimeWarning)
        child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(Counter(directory, at, number))
            call()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Run a genlab command that ends at a change."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--under", type=Path, required=True, help="count changes in this directory")
    parser.add_argument("--at", help="end before this one: a number from 1, or part of its line")
    parser.add_argument("--signal", type=int, default=int(signal.SIGKILL))
    parser.add_argument("--log", type=Path, help="write a line for each change")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the arguments of genlab")
    arguments = parser.parse_args()
    from genlab.cli import main as run_command

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    at = arguments.at if arguments.at is None or not arguments.at.isdigit() else int(arguments.at)
    sys.addaudithook(Counter(arguments.under, at, arguments.signal, arguments.log))
    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
