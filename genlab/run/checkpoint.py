"""Checkpoints, and how a run recovers after a crash.

    batch_hashes.txt   one digest per step
    checkpoints/N/     Orbax v1, one directory per saved step, renamed into place when it is
                       whole, or in a bucket (bucket.py) given commit_success.txt
    bad_checkpoints/   what failed its check at a restore, kept for inspection

In: a dict of named pytrees of arrays. Out: the same, bit for bit, or the newest older checkpoint
that is intact. Orbax restores a flipped byte and casts a wrong type silently, so every checkpoint
carries the shape, the type and a checksum of each leaf, and restoring checks them. This is the only
file that knows Orbax.

If there are several processes (`machine/hosts.py`), all save and restore their parts of the arrays,
on any mesh, and only the leader writes the other files. The checksum of a leaf does not depend on
how it is split.
"""

import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, PyTree, Shaped, UInt32

from genlab.config import GenlabError, digest
from genlab.machine import hosts
from genlab.machine.sharding import path_name
from genlab.run import bucket
from genlab.run.digests import chain_digest, combine_digests
from genlab.run.silence import hush_saving, silenced
from genlab.run.status import check_held

Meta = dict[str, Any]
"""JSON beside the arrays: identity, tally, step, and the leaves with their checksums."""
Expect = Callable[[Meta], dict[str, PyTree]]


class CheckpointMismatch(GenlabError):
    """The checkpoint is intact but belongs to another model, optimizer or run."""


class Restored(NamedTuple):
    """A checked checkpoint: `state` has the structure that was asked for."""

    step: int
    state: dict[str, PyTree]
    meta: Meta


class _Damaged(Exception):
    """The checkpoint cannot be trusted."""


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
    """Saves in the background and keeps the newest `keep`, with those of every `keep_every_steps`
    and one per `keep_every_s`, where these are given. One per process and run directory, under
    `lock_run`.
    """

    def __init__(
        self,
        run_dir: Path,
        keep: int,
        keep_every_steps: int | None = None,
        keep_every_s: float | None = None,
    ):
        # Here, because it takes half as long as jax, and reading a config needs no checkpoint.
        from orbax.checkpoint import v1 as ocp

        self._run_dir, root = run_dir, _root(run_dir)
        self.wait_s = 0.0  # for which the caller of the last save had to wait
        # Orbax leaves a half-written save alone when the kill came just before the rename, and its
        # name stays taken.
        if hosts.is_leader() and root.is_dir():
            for path in root.iterdir():
                if ".orbax-checkpoint-tmp" in path.name or (
                    _is_step(path) and not _is_committed(path)
                ):
                    epath.Path(path).rmtree()
        hosts.wait_for_all("half-written checkpoints are gone")
        hush_saving()
        decide, preserve = ocp.training.save_decision_policies, ocp.training.preservation_policies
        kept = [
            preserve.LatestN(keep),
            *([preserve.EveryNSteps(keep_every_steps)] if keep_every_steps else []),
            *([preserve.EveryNSeconds(round(keep_every_s))] if keep_every_s else []),
        ]
        self._checkpointer = ocp.training.Checkpointer(
            str(root),
            save_decision_policy=decide.FixedIntervalPolicy(1),
            preservation_policy=preserve.AnyPreservationPolicy(kept),
        )

    def save(self, step: int, state: dict[str, PyTree], meta: Meta) -> None:
        """Start to save `state` (named pytrees) as `step`; waits only for the copy to the host and
        for an earlier save.

        On CPUs the copy is ours: their arrays may hand Orbax their own memory, which the next
        donated step overwrites.
        """
        asked = time.perf_counter()
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
        self.wait_s = time.perf_counter() - asked

    def close(self) -> None:
        """Wait for the last save and let go."""
        self._checkpointer.close()


def saved_steps(run_dir: Path) -> list[int]:
    """Return the steps that have a checkpoint directory, oldest first; they may still fail their
    check.
    """
    root = _root(run_dir)
    found = (
        [path for path in root.iterdir() if _is_step(path) and _is_committed(path)]
        if root.is_dir()
        else []
    )
    return sorted(int(path.name) for path in found)


def _root(run_dir: Path) -> Path:
    return bucket.stored_at(run_dir / bucket.CHECKPOINTS)


def _is_step(path: Path) -> bool:
    """Return whether a directory has the name of a step, as Orbax writes it."""
    return re.fullmatch("0|[1-9][0-9]{0,18}", path.name) is not None


def _is_committed(path: Path) -> bool:
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


def _restore(path: Path, step: int, expect: Expect) -> Restored:
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
                f"model needs {wanted.get(name, 'nothing')}; use the config the run was made "
                "with, or another directory"
            )
    from orbax.checkpoint import v1 as ocp

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


def _read_meta(path: Path, step: int) -> Meta:
    from orbax.checkpoint import v1 as ocp

    try:
        with silenced():
            saved: Any = ocp.checkpointables_metadata(str(path)).custom_metadata
        meta, is_whole = saved["meta"], digest(saved["meta"]) == saved["digest"]
        leaves = meta["leaves"].values()
    except Exception as error:  # anything that a damaged file makes the reader raise
        raise _Damaged(
            f"its metadata cannot be read: {str(error.__cause__ or error)[:200]}"
        ) from error
    if not is_whole or meta.get("step") != step:
        raise _Damaged("its metadata does not match its checksum")
    # The author of a damaged file could have made the checksum match.
    if not all(isinstance(leaf, list) for leaf in leaves):
        raise _Damaged("its metadata does not list the leaves")
    return meta


def _place(tree: PyTree) -> PyTree:
    """Ask for the arrays where they belong, or else on the default device, wherever the checkpoint
    was made.
    """
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = (
            leaf.sharding if isinstance(leaf.sharding, jax.sharding.NamedSharding) else default
        )
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, tree)


def _describe(
    state: dict[str, PyTree], *, with_checksum: bool
) -> dict[str, list[str | list[int] | int]]:
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
