"""The run directory: what is on disk, who may write it, and how a run recovers after a crash.

    config.json        what the run is (written by the caller through `write_json`)
    status.json        state, step, attempt, host, pid, heartbeat; replaced atomically
    lock               held by the one process that trains here
    batch_hashes.txt   one digest per step
    checkpoints/N/     Orbax v1, one directory per saved step, renamed into place when it is
                       whole, or in a bucket (bucket.py) given commit_success.txt
    bad_checkpoints/   what failed its check at a restore, kept for inspection

In: a dict of named pytrees of arrays. Out: the same, bit for bit, or the newest older checkpoint
that is intact. Orbax restores a flipped byte and casts a wrong type silently, so every checkpoint
carries the shape, the type and a checksum of each leaf, and restoring checks them. This is the only
file that knows Orbax.

If there are several processes (`hosts.py`), all save and restore their parts of the arrays, on any
mesh, and only the leader writes the other files. The checksum of a leaf does not depend on how it
is split.
"""

import contextlib
import fcntl
import json
import math
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Shaped, UInt32
from orbax.checkpoint import v1 as ocp

from genlab.config import GenlabError, digest
from genlab.machine import hosts, liveness
from genlab.machine.sharding import path_name
from genlab.machine.stopping import LockedError
from genlab.run import bucket, trust
from genlab.run.digests import chain_digest, combine_digests
from genlab.run.ownership import check_is_ours
from genlab.run.silence import silenced
from genlab.run.stored import DamagedError, parse_json, partial_path, read_content, remove_leftovers

# flock does not reach another host on every file system; there, a heartbeat younger than this
# counts as alive.
REMOTE_ALIVE_S = 600.0
HEARTBEAT_S = 10.0
CLOCKS_DIFFER_S = 60.0
UNTOUCHED = ("checkpoints", "bad_checkpoints")  # Orbax tidies up there

_locks: dict[Path, int] = {}  # run directories that this process holds, with the inode of the lock


Expect = Callable[[dict[str, Any]], dict[str, Any]]


class CheckpointMismatch(GenlabError):
    """The checkpoint is intact but belongs to another model, optimizer or run."""


class Restored(NamedTuple):
    """A checked checkpoint: `state` has the structure that was asked for."""

    step: int
    state: dict[str, Any]
    meta: dict[str, Any]


class _Damaged(Exception):
    """The checkpoint cannot be trusted."""


def write_json(path: Path, values: Any) -> None:
    """Write `values` so that a reader, or a restart after a crash, sees the old file or the new
    one, whole.
    """
    if not hosts.is_leader():
        return
    temporary = partial_path(path)
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_config(run_dir: Path, values: dict[str, Any]) -> None:
    """Write config.json and, if it refers to Python files, their digests.

    Raises:
        ConfigError: if the directory was made with other files; nothing is written then.
        GenlabError: if somebody else's files lie there, or links that lead out.
    """
    if hosts.is_leader():
        check_is_ours(run_dir)
    trust.check_pins(values, run_dir)
    if pins := trust.pins_of(values):
        write_json(run_dir / trust.PINS_NAME, pins)
    write_json(run_dir / "config.json", values)


def read_json(path: Path) -> Any | None:
    """Return the content of `path`, or None if it is missing or damaged. What counts is read by
    `read_stored`.
    """
    try:
        content = read_content(path, fix="")
        return None if content is None else parse_json(content, path=path, fix="")
    except DamagedError:
        return None


def write_status(run_dir: Path, state: str, step: int, **more: Any) -> None:
    """Replace status.json; `state` is running, finished, interrupted, diverged or failed."""
    beat = {"heartbeat": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
    write_json(run_dir / "status.json", {"state": state, "step": step, **more, **beat})


def read_status(run_dir: Path) -> dict[str, Any]:
    """Return status.json, empty if it is missing or is not a status."""
    status = read_json(run_dir / "status.json")
    return status if isinstance(status, dict) else {}


def heartbeat_age_s(status: Mapping[str, Any]) -> float:
    """Return how long ago a status was written; infinite for a time to come, or none."""
    beat = status.get("heartbeat")
    if isinstance(beat, bool) or not isinstance(beat, int | float):
        return math.inf
    age_s = time.time() - beat
    # A heartbeat from the future would lock the run until then; clocks differ by less.
    return age_s if age_s > -CLOCKS_DIFFER_S else math.inf


@contextlib.contextmanager
def lock_run(run_dir: Path) -> Iterator[None]:
    """Hold the run directory; the kernel lets go when the process dies, however it dies.

    What killed processes left half-written is removed.

    Raises:
        LockedError: if a process on this host holds it, or one on another host was alive
            `REMOTE_ALIVE_S` ago.
        GenlabError: if genlab did not make what lies there; at the end, if the directory was
            deleted meanwhile.
    """
    if not hosts.is_leader():
        yield
        return
    check_is_ours(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    _refuse_other_host(run_dir)
    with open(run_dir / "lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise LockedError(
                f"{run_dir}: process {holder} trains here; wait for it, or use another directory"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        remove_leftovers(run_dir, skip=UNTOUCHED)
        held = os.fstat(file.fileno()).st_ino
        _locks[run_dir.absolute()] = held
        try:
            yield
            check_held(run_dir)
        finally:
            _locks.pop(run_dir.absolute(), None)


def check_held(path: Path) -> None:
    """Raise if `path` lies in a run directory that this process locked and that is gone.

    What is written there would be lost, or be found in a run directory without the rest.

    Raises:
        GenlabError: if it was deleted, also if something of its name was made since.
    """
    for run_dir, held in _locks.items():
        try:
            is_there = (run_dir / "lock").stat().st_ino == held
        except FileNotFoundError:
            is_there = False
        if not is_there and path.absolute().is_relative_to(run_dir):
            raise GenlabError(
                f"{run_dir}: deleted or replaced while this command worked there; what it had made "
                "is lost, so nothing more is written; run it again"
            )


def _refuse_other_host(run_dir: Path) -> None:
    """Raise if another host trains here. In a bucket, where new machines resume, watch first
    whether it is alive.
    """
    status = read_status(run_dir)
    first_seen = status.get("heartbeat", 0.0)
    while status.get("state") == "running" and status.get("host") not in (
        None,
        socket.gethostname(),
    ):
        age_s = heartbeat_age_s(status)
        if age_s >= REMOTE_ALIVE_S:
            return
        where = f"process {status.get('pid')} on {status['host']}"
        if not bucket.is_copy(run_dir) or status["heartbeat"] != first_seen:
            raise LockedError(
                f"{run_dir}: {where} trains here (heartbeat {age_s:.0f} s ago); "
                f"wait for it, or {REMOTE_ALIVE_S:.0f} s after its last heartbeat, or use another "
                "directory"
            )
        print(
            f"{run_dir}: {where} trained here {age_s:.0f} s ago; waiting to see whether it lives",
            file=sys.stderr,
        )
        time.sleep(HEARTBEAT_S)
        bucket.pull(run_dir / "status.json")
        status = read_status(run_dir)


@contextlib.contextmanager
def track_status(run_dir: Path, start: int, steps: int) -> Iterator[Callable[[int], None]]:
    """Keep status.json true while a run trains; yields
    `beat(step)`, cheap enough for every step.
    """
    before = read_status(run_dir)
    if start == steps and before.get("state") == "finished":
        yield lambda done: None
        return
    earlier = before.get("attempt")
    attempt = earlier + 1 if isinstance(earlier, int) else 1
    step, written = start, time.monotonic()
    write_status(run_dir, "running", start, steps=steps, attempt=attempt)

    def beat(done: int) -> None:
        nonlocal step, written
        step = done
        if time.monotonic() - written >= HEARTBEAT_S:
            write_status(run_dir, "running", done, steps=steps, attempt=attempt)
            written = time.monotonic()

    def say_interrupted() -> None:
        write_status(run_dir, "interrupted", step, steps=steps, attempt=attempt)

    try:
        with liveness.last_words(say_interrupted):
            yield beat
    except BaseException as error:
        state = _state_after(error)
        write_status(
            run_dir,
            state,
            step,
            steps=steps,
            attempt=attempt,
            error=str(error) or type(error).__name__,
        )
        raise
    write_status(run_dir, "finished", steps, steps=steps, attempt=attempt)


@contextlib.contextmanager
def keep_alive(run_dir: Path) -> Iterator[None]:
    """Keep status.json true while a job of many stages runs; a thread beats, because stages may be
    long and silent.
    """
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError):  # a full disk is reported by what needs the disk
                write_status(run_dir, "running", 0)
            is_over.wait(HEARTBEAT_S)

    def say_interrupted() -> None:
        is_over.set()
        write_status(run_dir, "interrupted", 0)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    state = "finished"
    try:
        with liveness.last_words(say_interrupted):
            yield
    except BaseException as error:
        state = _state_after(error)
        raise
    finally:
        is_over.set()
        thread.join()
        with contextlib.suppress(OSError):
            write_status(run_dir, state, 0)


def _state_after(error: BaseException) -> str:
    is_stopped = liveness.is_echo(error) or isinstance(error, KeyboardInterrupt)
    return "interrupted" if is_stopped else getattr(error, "run_state", "failed")


class HashLog:
    """batch_hashes.txt: line n is the digest of the batch of step n. A restart cuts off what it
    will do again.

    `chained` is the hash of all lines so far, up to the last `flush`.
    """

    LINE_BYTES = 17

    def __init__(self, run_dir: Path, start_step: int, chained: str):
        self.chained = chained
        self._pending: list[np.ndarray] = []
        self._file = open(run_dir / "batch_hashes.txt" if hosts.is_leader() else os.devnull, "ab")
        if hosts.is_leader():
            self._file.truncate(start_step * self.LINE_BYTES)

    def append(self, examples: UInt32[np.ndarray, "b"]) -> None:
        """Add a step, given the digests of the examples that this process read."""
        self._pending.append(examples)

    def flush(self) -> None:
        """Make what was appended survive a kill. All processes come here at the same step."""
        if self._pending:
            # [processes steps b] -> [steps processes*b]
            examples = hosts.collect(np.stack(self._pending)[None]).swapaxes(0, 1)
            for step in examples.reshape(len(self._pending), -1):
                line = combine_digests(step)
                self._file.write(f"{line}\n".encode())
                self.chained = chain_digest(self.chained, line)
            self._pending = []
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


class CheckpointWriter:
    """Saves in the background and keeps the newest `keep`. One per process and run directory, under
    `lock_run`.
    """

    def __init__(self, run_dir: Path, keep: int):
        self._run_dir, root = run_dir, _root(run_dir)
        # Orbax leaves a half-written save alone when the kill came just before the rename, and its
        # name stays taken.
        if hosts.is_leader() and root.is_dir():
            for path in root.iterdir():
                if ".orbax-checkpoint-tmp" in path.name or (
                    path.name.isdigit() and not _is_committed(path)
                ):
                    epath.Path(path).rmtree()
        hosts.wait_for_all("half-written checkpoints are gone")
        decide, preserve = ocp.training.save_decision_policies, ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            str(root),
            save_decision_policy=decide.FixedIntervalPolicy(1),
            preservation_policy=preserve.LatestN(keep),
        )

    def save(self, step: int, state: dict[str, Any], meta: dict[str, Any]) -> None:
        """Start to save `state` (named pytrees) as `step`; waits only for the copy to the host and
        for an earlier save.

        On CPUs the copy is ours: their arrays may hand Orbax their own memory, which the next
        donated step overwrites.
        """
        self._checkpointer.wait()
        check_held(self._run_dir)  # Orbax would make the directory again
        bucket.push(self._run_dir)  # what a restart needs must be there before the checkpoint is
        meta = {**meta, "step": step, "leaves": _describe(state, with_checksum=True)}
        state = jax.tree.map(jnp.copy, state) if jax.default_backend() == "cpu" else state
        self._checkpointer.save_checkpointables_async(
            step,
            {name: tree for name, tree in state.items() if jax.tree.leaves(tree)},
            force=True,
            custom_metadata={"meta": meta, "digest": digest(meta)},
        )

    def close(self) -> None:
        """Wait for the last save and let go."""
        self._checkpointer.close()


def saved_steps(run_dir: Path) -> list[int]:
    """Return the steps that have a checkpoint directory, oldest first; they may still fail their
    check.
    """
    root = _root(run_dir)
    found = (
        [path for path in root.iterdir() if path.name.isdigit() and _is_committed(path)]
        if root.is_dir()
        else []
    )
    return sorted(int(path.name) for path in found)


def _root(run_dir: Path) -> Any:
    return bucket.stored_at(run_dir / bucket.CHECKPOINTS)


def _is_committed(path: Any) -> bool:
    """Return whether a step's directory is whole: nothing can be renamed at once in a bucket, so
    Orbax marks it.
    """
    return not str(path).startswith(bucket.SCHEME) or (path / "commit_success.txt").exists()


def restore_latest(run_dir: Path, expect: Expect, *, move_damaged: bool) -> Restored | None:
    """Return the newest intact checkpoint, or None; each damaged one on the way is reported as a
    warning.

    `expect` takes the meta of a checkpoint and returns what to read from it: named pytrees of
    `jax.ShapeDtypeStruct`. With `move_damaged`, which needs the lock, what failed goes to
    bad_checkpoints/ so that its step can be saved again.

    Raises:
        CheckpointMismatch: if an intact checkpoint has other leaves, shapes or types than expected.
    """
    for step in reversed(saved_steps(run_dir)):
        try:
            return _restore(_root(run_dir) / str(step), step, expect)
        except _Damaged as error:
            warnings.warn(
                f"{run_dir}: checkpoint {step} is damaged ({error}); trying the one before",
                stacklevel=2,
            )
            if move_damaged and hosts.is_leader():
                bucket.move(
                    _root(run_dir) / str(step),
                    run_dir / "bad_checkpoints" / f"{step}-{time.time_ns()}",
                )
    return None


def _restore(path: Any, step: int, expect: Expect) -> Restored:
    meta = _read_meta(path, step)
    abstract = expect(meta)
    wanted = _describe(abstract, with_checksum=False)
    found = {
        name: leaf for name, leaf in meta["leaves"].items() if name.split("/", 1)[0] in abstract
    }
    for name in sorted(wanted.keys() | found.keys()):
        if name not in wanted or name not in found or wanted[name] != found[name][:2]:
            raise CheckpointMismatch(
                f"{path}: {name}: the checkpoint has {found.get(name, ['nothing'])[:2]}, this "
                "model needs "
                f"{wanted.get(name, 'nothing')}; use the config the run was made with, or another "
                "directory"
            )
    try:
        placed = {name: _place(tree) for name, tree in abstract.items() if jax.tree.leaves(tree)}
        with silenced():
            state = ocp.load_checkpointables(str(path), placed)
    # Orbax reports every failure of a read as the same error; the cause says what it was.
    except Exception as error:
        raise _Damaged(str(error.__cause__ or error).splitlines()[0][:200]) from error
    state = {name: state.get(name, tree) for name, tree in abstract.items()}
    for name, leaf in _describe(state, with_checksum=True).items():
        if leaf != found[name]:
            raise _Damaged(f"{name}: content does not match its checksum")
    return Restored(step, state, meta)


def _read_meta(path: Any, step: int) -> dict[str, Any]:
    try:
        with silenced():
            saved: Any = ocp.checkpointables_metadata(str(path)).custom_metadata
        meta, expected = saved["meta"], saved["digest"]
    except Exception as error:  # anything that a damaged file makes the reader raise
        raise _Damaged(
            f"its metadata cannot be read: {str(error.__cause__ or error)[:200]}"
        ) from error
    if digest(meta) != expected or meta["step"] != step:
        raise _Damaged("its metadata does not match its checksum")
    return meta


def _place(tree: Any) -> Any:
    """Ask for the arrays where they belong, or else on the default device, wherever the checkpoint
    was made.
    """
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def place(leaf: Any) -> Any:
        sharding = (
            leaf.sharding if isinstance(leaf.sharding, jax.sharding.NamedSharding) else default
        )
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, tree)


def _describe(state: dict[str, Any], *, with_checksum: bool) -> dict[str, list[Any]]:
    """Return path -> [type, shape] of every leaf, with its checksum if asked."""
    leaves = {
        path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
    }
    described = {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in leaves.items()}
    if with_checksum:
        for name, checksum in jax.device_get(_checksums(leaves)).items():
            described[name].append(int(checksum))
    return described


@jax.jit
def _checksums(leaves: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    return {name: checksum(leaf) for name, leaf in leaves.items()}


def checksum(array: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    """Return the sum of all elements' bits, each times an odd number of its own, modulo 2^32.

    A sum can be made of parts on any mesh. Odd numbers have inverses modulo 2^32, so no change of
    one element is missed, and other damage with probability 2^-32.
    """
    width = array.dtype.itemsize
    bits = (
        array.astype(jnp.uint8)
        if array.dtype == bool
        else jax.lax.bitcast_convert_type(array, f"uint{8 * width}")
    )
    place = jnp.zeros(array.shape, jnp.uint32)
    for axis, size in enumerate(array.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    return jnp.sum(bits.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)
