"""Run directories in a bucket: commands accept `gs://BUCKET/PATH` wherever they take a run
directory.

A command works on a local copy that it makes when it starts, and pushes what changed: every
`PUSH_EVERY_S`, before each checkpoint, and when it ends, unless by a kill -9. Only the leader
pushes, and every object is replaced at once. Checkpoints are never on the local disk: Orbax writes
them to the bucket, each process its own part of the arrays, so the processes need not share a disk.
The bucket is the truth: a copy that an earlier command left behind is replaced.

Corpora and token stores stay on the local disk, where they are read at random; run/shared.py
copies finished ones.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from genlab.config import GenlabError, digest
from genlab.machine import hosts, liveness
from genlab.machine.stopping import LockedError, end_on_sigterm
from genlab.run.cache import cache_root
from genlab.run.names import inside
from genlab.run.shared import SCHEME, UPLOADS, open_bucket, put, told

PUSH_EVERY_S = 30.0
CHECKPOINTS = "checkpoints"
NOT_MIRRORED = {CHECKPOINTS, "bad_checkpoints", "lock"}


class _Copy:
    """A run directory in a bucket and its local copy at `root`."""

    def __init__(self, url: str, root: Path):
        self.url, self.root = url, root
        self._files = open_bucket()
        self._pushed: dict[str, tuple[int, ...]] = {}
        self._pushing = threading.Lock()

    def pull(self) -> None:
        """Make the local copy equal to the bucket."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        start = len(self.url.removeprefix(SCHEME)) + 1
        names = [path[start:] for path in self._files.find(self.url) if not path.endswith("/")]
        names = [name for name in names if name and is_mirrored(name)]
        self._files.get(
            [f"{self.url}/{name}" for name in names],
            [str(inside(self.root, name)) for name in names],
        )
        self._pushed = self._states(self.root)

    def pull_file(self, path: Path) -> None:
        self._files.get_file(self.remote(path), str(path))

    def push(self, under: Path) -> None:
        """Make the bucket equal to what is in the local directory `under`."""
        with self._pushing:
            states = self._states(under)
            beneath = under.relative_to(self.root)
            gone = [
                name
                for name in self._pushed
                if PurePosixPath(name).is_relative_to(beneath) and name not in states
            ]
            with ThreadPoolExecutor(UPLOADS) as pool:
                changed = [
                    name for name, state in states.items() if self._pushed.get(name) != state
                ]
                for name, is_there in zip(changed, pool.map(self._put, changed)):
                    if is_there:
                        self._pushed[name] = states[name]
            for name in gone:
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(f"{self.url}/{name}")
                del self._pushed[name]

    def remote(self, path: Path) -> str:
        return f"{self.url}/{path.absolute().relative_to(self.root).as_posix()}".removesuffix("/.")

    def replace(self, source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # what an earlier attempt left
            self.remove(target)
        self._files.copy(source, target, recursive=True)

    def remove(self, directory: str) -> None:
        self._files.rm(directory, recursive=True)

    def _put(self, name: str) -> bool:
        try:
            # at once: some files grow while they are read
            content = (self.root / name).read_bytes()
        except FileNotFoundError:
            return False
        put(self._files, content, f"{self.url}/{name}")
        return True

    def _states(self, under: Path) -> dict[str, tuple[int, ...]]:
        states = {}
        for path in under.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            with contextlib.suppress(FileNotFoundError):
                if is_mirrored(name) and path.is_file():
                    state = path.stat()
                    states[name] = (state.st_size, state.st_mtime_ns, state.st_ino)
        return states


_COPIES: list[_Copy] = []


@contextlib.contextmanager
def working_copies(arguments: argparse.Namespace) -> Iterator[None]:
    """Replace the `gs://` run directories among the arguments of a command by local copies while it
    runs.
    """
    with contextlib.ExitStack() as stack:
        for name in ("config", "out"):
            url = getattr(arguments, name, None)
            if isinstance(url, str) and "://" in url:
                root = stack.enter_context(working_copy(url))
                if name == "config" and not any(root.iterdir()):
                    raise GenlabError(f"{url}: nothing is there")
                setattr(arguments, name, str(root) if name == "config" else root)
        yield


@contextlib.contextmanager
def working_copy(url: str) -> Iterator[Path]:
    """Hold a local copy of the run directory `url`, and push what changes in it until the end.

    Raises:
        LockedError: if another command on this machine holds it.
        GenlabError: if the bucket cannot be read or written.
    """
    if not url.startswith(SCHEME) or not url.removeprefix(SCHEME).strip("/"):
        raise GenlabError(f"{url}: expected a directory, or {SCHEME}BUCKET/PATH")
    url = url.rstrip("/")
    known = next((copy.root for copy in _COPIES if copy.url == url), None)
    if known is not None:
        yield known
        return
    # Processes of one run may share a disk, but not a copy.
    number = "" if hosts.is_leader() else f"-{hosts.index()}"
    root = (
        cache_root() / "buckets" / f"{PurePosixPath(url).name}-{digest(url)}{number}"
    ).absolute()
    # A command that ends pushes its last files; one of several processes leaves signals to JAX.
    ends = contextlib.nullcontext() if hosts.is_one_of_several() else end_on_sigterm()
    with _only_user(root, url), ends:
        with told(url, "read"):
            copy = _Copy(url, root)
            copy.pull()
        hosts.wait_for_all("the run directory is here")
        _COPIES.append(copy)
        try:
            with _pushing(copy), liveness.last_words(lambda: push(root)):
                yield root
        finally:
            _COPIES.remove(copy)


def stored_at(path: Path) -> Any:
    """Return where a checkpoint directory really is: a path in the bucket (etils.epath), or the
    absolute path given.
    """
    copy = _copy_of(path)
    if copy is None:
        return path.absolute()
    from etils import epath

    return epath.Path(copy.remote(path))


def shown(path: Path) -> str:
    """Return the name of a file or directory that a person can use after the command has ended."""
    copy = _copy_of(path)
    return str(path) if copy is None else copy.remote(path)


def is_copy(run_dir: Path) -> bool:
    """Return whether a directory belongs to a run directory in a bucket."""
    return _copy_of(run_dir) is not None


def push(directory: Path) -> None:
    """Bring what changed in a directory to the bucket; elsewhere do nothing."""
    copy = _copy_of(directory)
    if copy is not None and hosts.is_leader():
        copy.push(directory.absolute())


def pull(path: Path) -> None:
    """Read one file of a working copy again."""
    copy = _copy_of(path)
    if copy is not None:
        copy.pull_file(path)


def move(source: Path, target: Path) -> None:
    """Move a checkpoint, which `stored_at` gave, to where `target` really is."""
    copy = _copy_of(target)
    if copy is None:
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
    else:
        copy.replace(os.fspath(source), copy.remote(target))
        copy.remove(os.fspath(source))


def copy_checkpoints(run_dir: Path, other: Path) -> None:
    """Give another run directory of a working copy the checkpoints of `run_dir`; a local one
    already has them.
    """
    copy = _copy_of(other)
    if copy is not None:
        copy.push(other.absolute())  # what belongs to the checkpoints, before they count
        copy.replace(copy.remote(run_dir / CHECKPOINTS), copy.remote(other / CHECKPOINTS))


def _copy_of(path: Path) -> _Copy | None:
    path = path.absolute()
    return next((copy for copy in _COPIES if path.is_relative_to(copy.root)), None)


def is_mirrored(name: str) -> bool:
    """Return whether a file of a run directory, by its place in it, is part of the local copy."""
    parts = PurePosixPath(name).parts
    return NOT_MIRRORED.isdisjoint(parts) and not any(
        part.startswith(".") or part.endswith((".tmp", ".partial")) for part in parts
    )


@contextlib.contextmanager
def _pushing(copy: _Copy) -> Iterator[None]:
    """Push from a thread until the end, and then once more."""
    is_over = threading.Event()

    def push_often() -> None:
        while not is_over.wait(PUSH_EVERY_S):
            # the next round, a checkpoint or the end tries again and reports it
            with contextlib.suppress(Exception):
                copy.push(copy.root)

    thread = threading.Thread(target=push_often, daemon=True)
    if hosts.is_leader():
        thread.start()

    def finish() -> None:
        is_over.set()
        if hosts.is_leader():
            thread.join()
            copy.push(copy.root)

    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the error that is on its way says more
            finish()
        raise
    with told(copy.url, "written"):
        finish()


@contextlib.contextmanager
def _only_user(root: Path, url: str) -> Iterator[None]:
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.with_name(f"{root.name}.lock"), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LockedError(
                f"{url}: another command on this machine works there; wait for it"
            ) from None
        yield
