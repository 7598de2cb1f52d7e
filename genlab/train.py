"""The training loop of everything that has `loss`: codec, recogniser and every decoder.

In: a function that builds the model, a `BatchSource`, an `OptimConfig`, a run directory. Out: the
trained model and what the run cost. Called again on the same directory it resumes, and a finished
run returns at once.

Step n reads batch n and folds n into its key, so an interrupted run ends with the same bits.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key
from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.data.batches import BatchSource, batch_digest, example_digests
from genlab.decoders.inputs import batch_check
from genlab.machine import hosts
from genlab.machine.sharding import (
    abstract_batch,
    gather,
    leave_mesh,
    put_batch,
    put_everywhere,
    use_mesh,
)
from genlab.machine.stopping import (
    StopRequest,
    TrainingDiverged,
    TrainingInterrupted,
    stop_on_signal,
)
from genlab.nets.param import place_state
from genlab.run import checkpoint
from genlab.run.checkpoint import CheckpointWriter, HashLog
from genlab.run.status import hold_run, track_status
from genlab.training.looks import BEST, LookEntry, Looker, Looks, curve, handed_over
from genlab.training.optim import OptimConfig
from genlab.training.settings import TrainSettings
from genlab.training.step import (
    SAVED,
    Build,
    Model,
    State,
    Update,
    Watch,
    compile_update,
    create_state,
    split_model,
)
from genlab.training.tally import Tally, read_meta
from genlab.training.writer import Buffered, Writer
from genlab.watch.profiling import trace_steps
from genlab.watch.progress import Progress


class RunResult(NamedTuple):
    """A finished run. `model` holds the averaged parameters if the run kept an average, or what a
    look chose if it looked at validation; times sum over all attempts.
    """

    steps: int
    model: nnx.Module
    wall_s: float
    compile_s: float
    data_wait_s: float
    host_s: float
    batch_hash: str
    last_metrics: dict[str, float]
    looks: Sequence[LookEntry] = ()
    look_s: float = 0.0


class _Run(NamedTuple):
    """What stays the same from the first step to the last. `identity` is what a checkpoint must
    share to be ours.
    """

    graphdef: nnx.GraphDef
    source: BatchSource
    steps: int
    settings: TrainSettings
    run_dir: Path
    identity: dict[str, JsonValue]
    writer: Writer | None
    progress: Progress | None
    stop: StopRequest
    watch: Mapping[int, Watch]
    looker: Looker


def train(
    build: Build,
    source: BatchSource,
    *,
    steps: int,
    optim: OptimConfig,
    seed: int,
    settings: TrainSettings,
    run_dir: Path,
    writer: Writer | None = None,
    progress: Progress | None = None,
    watch: Mapping[int, Watch] | None = None,
    looks: Looks | None = None,
) -> RunResult:
    """Train to `steps`, from the newest intact checkpoint in `run_dir` if there is one.

    The model that `build` makes has `loss(*args, key=key) -> LossOut`. `writer.scalars(step, {name:
    value})` is called every `settings.log_every` steps, and `writer.flush()`, if there is one,
    before each save; `progress`: a `Progress`. `watch[n]` gets the model, averaged, after step n,
    outside the times that are counted, as the `looks` at validation are.

    Raises:
        GenlabError: naming what in a batch is not of the decoder's task, and its clips.
        TrainingDiverged: with the step and its clips; no checkpoint holds a bad value.
        TrainingInterrupted: after SIGTERM or the first Ctrl-C, with the state saved; a second
            signal kills.
        LockedError: if another process trains in `run_dir`.
        CheckpointMismatch: if it holds another run.
    """
    source.check_length(steps, optim.accumulate)
    create = jax.jit(partial(create_state, build, optim, steps))
    # A resumed run on other data would go unnoticed, so the digest of its first batch is part of
    # its identity.
    first = source.batch_at(0)
    identity = {f"optim.{name}": value for name, value in optim.to_dict().items()}
    identity |= {"seed": seed, "steps": steps, "digest of the first batch": batch_digest(first)}
    identity["looks"] = None if looks is None else looks.identity
    with hold_run(run_dir), stop_on_signal() as stop, use_mesh(settings.sharding):
        init_key, step_key = put_everywhere(tuple(jax.random.split(jax.random.key(seed))))
        # Shapes alone: a resumed run never allocates the initial state.
        graphdef, abstract = jax.eval_shape(create, init_key)
        source = source.checked(
            batch_check(nnx.merge(graphdef, abstract["params"], abstract["rest"]))
        )
        run = _Run(
            graphdef,
            source,
            steps,
            settings,
            run_dir,
            identity,
            writer,
            progress,
            stop,
            watch or {},
            Looker(looks, graphdef, optim),
        )
        restored = checkpoint.restore_latest(
            run_dir, partial(_expect, run, abstract), move_damaged=True
        )
        if restored is None:
            start = 0
            state = create(init_key)[1]
            tally = Tally()
        else:
            start = restored.step
            tally = read_meta(restored.meta, run_dir)["tally"]
            # Counters are not saved: the step is the checkpoint's, and whatever was saved is
            # finite.
            counters = put_everywhere({"step": jnp.int32(start), "first_bad_step": jnp.int32(-1)})
            state = {**run.looker.take_best(restored.state), **counters}
        with track_status(run_dir, start, steps) as beat:
            if start < steps:
                began = time.perf_counter()
                update = compile_update(
                    graphdef, optim, steps, state, abstract_batch(first.args), step_key
                )
                tally.compile_s += time.perf_counter() - began
                state = _loop(
                    run,
                    lambda state, args: update(state, args, step_key),
                    state,
                    start,
                    tally,
                    beat,
                )
        model = nnx.merge(graphdef, *gather(run.looker.chosen(state)))
    return RunResult(steps, model, **dataclasses.asdict(tally))


def load_trained(
    build: Callable[[Key[Array, ""]], Model], run_dir: Path, use_ema: bool = True
) -> Model:
    """Return the model of the newest intact checkpoint in `run_dir`, with averaged parameters if
    the run kept them.

    Raises:
        GenlabError: if there is no intact checkpoint, or it is of another model than `build` makes.
    """
    return restore_trained(build, run_dir, use_ema)[0]


def restore_trained(
    build: Callable[[Key[Array, ""]], Model], run_dir: Path, use_ema: bool = True
) -> tuple[Model, checkpoint.Restored]:
    """Return the model as `load_trained` does, and the checkpoint."""
    graphdef, params, rest = jax.eval_shape(lambda key: split_model(build(key)), jax.random.key(0))

    def expect(meta: checkpoint.Meta) -> State:
        read = read_meta(meta, run_dir)
        names = handed_over(read["identity"], bool(read["tally"].looks), use_ema)
        return dict(zip(names, (params, rest), strict=True))

    restored = checkpoint.restore_latest(run_dir, expect, move_damaged=False)
    if restored is None:
        raise GenlabError(
            f"{run_dir}: no intact checkpoint; train first, or name another run directory"
        )
    return nnx.merge(graphdef, *restored.state.values()), restored


def result_of(model: nnx.Module, restored: checkpoint.Restored, run_dir: Path) -> RunResult:
    """Return what `train` returned when it made the checkpoint that `restore_trained` gave."""
    tally = read_meta(restored.meta, run_dir)["tally"]
    return RunResult(restored.step, model, **dataclasses.asdict(tally))


def _expect(run: _Run, abstract: State, meta: checkpoint.Meta) -> State:
    """Return what to read from a checkpoint, after making sure that it belongs to this run."""
    read = read_meta(meta, run.run_dir)
    identity = read["identity"]
    for field, ours in run.identity.items():
        if (theirs := identity.get(field)) != ours:
            raise checkpoint.CheckpointMismatch(
                f"{run.run_dir}: {field}: now {ours}, but the run here was started with {theirs}; "
                "use the settings and the data it was started with, or another directory"
            )
    wanted = {name: abstract[name] for name in SAVED}
    if read["tally"].looks:
        wanted |= dict(zip(BEST, (abstract["params"], abstract["rest"]), strict=True))
    return place_state(run.graphdef, wanted)


def _loop(
    run: _Run,
    update: Update,
    state: State,
    start: int,
    tally: Tally,
    beat: Callable[[int], None],
):
    """Run the steps from `start` and return the last state. One step is in flight while the next
    batch is fetched.
    """
    settings = run.settings
    metrics = None
    name = "/".join(run.run_dir.parts[-2:])
    logged = (start, dataclasses.replace(tally))
    loss: float | None = None
    began = saved_at = time.perf_counter()
    task = run.progress.stage(f"train {name}", run.steps, done=start) if run.progress else None
    with (
        contextlib.closing(CheckpointWriter(run.run_dir, *settings.kept)) as saver,
        contextlib.closing(HashLog(run.run_dir, start, tally.batch_hash)) as hashes,
        contextlib.closing(run.source.iterate(start)) as batches,
        trace_steps(settings.profile, run.run_dir) as profile,
    ):
        for done in range(start + 1, run.steps + 1):
            asked = time.perf_counter()
            batch = next(batches)
            got = time.perf_counter()
            # The device stood idle, for want of data or of the host, only if the step in flight is
            # over by now.
            is_idle = metrics is None or metrics["loss"].is_ready()  # pyright: ignore[reportAttributeAccessIssue]
            in_flight = metrics
            state, metrics = update(state, put_batch(batch.args))
            if is_idle:
                tally.data_wait_s += got - asked
                tally.host_s += asked - began + time.perf_counter() - got
            hashes.append(example_digests(batch))
            jax.block_until_ready(in_flight)
            stopping = run.stop.at(done)
            is_last = done == run.steps
            is_logging = is_last or done % settings.log_every == 0
            is_due = settings.is_save_due(done, time.perf_counter() - saved_at, saver.wait_s)
            is_saving = is_last or bool(stopping) or is_due
            if is_logging or is_saving:
                tally.last_metrics = _fetch(run, state, metrics)
                loss = tally.last_metrics["loss"]
            if done in run.watch or run.looker.is_due(done):
                tally.last_metrics = _fetch(run, state, metrics)  # waits for the step
                tally.wall_s += time.perf_counter() - began
                _show(run, state, tally, done)
                began = time.perf_counter()
            # Everything counted as idle lies between two such moments, so no share of a stretch is
            # told in the next.
            now = time.perf_counter()
            tally.wall_s += now - began
            began = now
            if is_logging:
                logged = _log(run, tally, done, logged)
            if is_saving:
                _save(run, saver, hashes, state, tally, done)
                saved_at = now
            beat(done)
            profile(done - start)
            _tell(run, task, done, loss)
            if stopping and not is_last:
                told = f"{stopping}: saved step {done}; run again to resume"
                raise TrainingInterrupted(f"{run.run_dir}: {told}")
    if run.progress and task is not None:
        run.progress.finish(task)
    return state


def _tell(run: _Run, task: int | None, done: int, loss: float | None) -> None:
    """Move the bar of the training, with the newest loss that is known."""
    if run.progress is None or task is None:
        return
    if loss is None:
        run.progress.update(task, done)
    else:
        run.progress.update(task, done, loss=loss)


def _show(run: _Run, state: State, tally: Tally, done: int) -> None:
    """Look at validation, and hand the averaged model to the watch of this step. All processes
    gather it, one looks.
    """
    if run.looker.is_due(done):
        began = time.perf_counter()
        found = run.looker.look(state, done, tally.looks)
        tally.look_s += time.perf_counter() - began
        if run.writer and hosts.is_leader():
            run.writer.scalars(done, curve(found, run.looker.by))
    if done in run.watch:
        model = nnx.merge(run.graphdef, *gather(run.looker.newest(state)))
        with leave_mesh():
            if hosts.is_leader():
                run.watch[done](model)


def _save(
    run: _Run,
    saver: CheckpointWriter,
    hashes: HashLog,
    state: State,
    tally: Tally,
    done: int,
) -> None:
    """Save a checkpoint, after everything that a restart from it will not write again."""
    hashes.flush()
    if isinstance(run.writer, Buffered):
        run.writer.flush()
    tally.batch_hash = hashes.chained
    meta = {"identity": run.identity, "tally": dataclasses.asdict(tally)}
    saver.save(done, {name: state[name] for name in SAVED} | run.looker.best, meta)


def _fetch(run: _Run, state: State, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Return the metrics of the last step as numbers, unless some step so far went wrong."""
    bad = int(state["first_bad_step"])
    if bad >= 0:
        clips = run.source.batch_at(bad).clip_ids.tolist()
        raise TrainingDiverged(
            f"{run.run_dir}: step {bad}: loss or gradient is not finite; clips {clips}; nothing "
            "after it was saved; look at these clips, or lower optim.peak_lr or optim.clip_norm"
        )
    return {name: float(value) for name, value in jax.device_get(metrics).items()}


def _log(run: _Run, tally: Tally, done: int, last: tuple[int, Tally]) -> tuple[int, Tally]:
    """Write the metrics and the speed since the last call, which returned `last`: steps, and where
    their time went.
    """
    if run.writer and hosts.is_leader():
        speed = tally.speed_since(last[1], done - last[0])
        run.writer.scalars(done, tally.last_metrics | speed)
    return done, dataclasses.replace(tally)
