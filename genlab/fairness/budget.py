"""The budget: what each arm may spend, solved before anything is trained.

In: a `Comparison` and the token store. Out: per arm its parameters, FLOPs, steps, seconds of audio
seen, and sampling cost. FLOPs are the executed matrix-product FLOPs of a training step, by the
formula that each decoder file states; `check_flops` walks the real loss and its gradient and
refuses a formula that is off by more than a percent.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, PyTree

from genlab.config import GenlabError
from genlab.data.store import TokenStore
from genlab.decoders.conditioning import CondVocab
from genlab.decoders.cost import abstract_decoder as decoder_of
from genlab.decoders.cost import sample_cost, train_flops
from genlab.decoders.task import SamplerConfig, Task
from genlab.decoders.views import check_view
from genlab.experiment import Comparison, DecoderRun
from genlab.fairness.latency import fit_sampler, with_steps
from genlab.fairness.measured import Measured, measure
from genlab.machine import memory as host
from genlab.nets.flops import count_flops
from genlab.nets.param import count_shared
from genlab.training.spend import Budget

TOLERANCE = 0.01
MAX_STEPS = 2**31 - 1  # counters of updates are int32 on the device


@dataclasses.dataclass(frozen=True)
class ArmBudget:
    """What one arm spends.

    `shared_params` are those of `params` that lie in what all families share (`count_shared`).
    `seconds_seen` counts real audio, not padding; `epochs` counts passes over the clips of the
    training split, which holds `unique_seconds`. Sampling cost is that of one clip of `num_frames`
    frames with `sampler`. `step_s` is the measured time of an update, and `floor_db` the mel
    distance of the codec's resynthesis from what the arm reads, in the modes that need them.
    """

    name: str
    family: str
    reads: str
    params: int
    shared_params: int
    flops_per_clip: float
    steps: int
    train_flops: float
    seconds_seen: float
    unique_seconds: float
    epochs: float
    network_calls: int
    sample_flops: float
    sampler: SamplerConfig
    step_s: float | None = None
    floor_db: float | None = None
    sample_s: float | None = None
    bitrate_bps: float | None = None


def solve_budget(
    config: Comparison, store: TokenStore, measured: Measured | None = None
) -> dict[str, ArmBudget]:
    """Return what every arm spends. What a mode must know of machine and codec is `measured`, now
    if it was not before.

    Raises:
        GenlabError: if rounding to whole steps leaves what the mode holds equal more than 1 % apart
            (too few steps), a sampler does not fit its budget, or the codec's floors are too far
            apart.
    """
    measured = measure(config, store) if measured is None else measured
    step_s, floor_db = measured.get("step_s", {}), measured.get("floor_db", {})
    clips, unique_seconds, seconds_per_epoch = _train_seconds(config, store)
    runs = {name: config.run(name, config.seeds[0], steps=1) for name in config.arms}
    # The costs of all arms, for an error that names a budget every arm can meet.
    costs = [clip_flops(run, store) * config.batch_size for run in runs.values()]
    budgets = {}
    for name, arm in config.arms.items():
        run = runs[name]
        flops_per_clip = clip_flops(run, store)
        flops_per_step = flops_per_clip * config.batch_size
        steps = _solve_any(config, name, flops_per_step, costs, clips, step_s.get(name))
        if config.checkpoint.looks_with(config.optim):
            config.checkpoint.steps_of(steps)  # refused before anything trains
        epochs = steps * config.batch_size / clips
        task = run.task(store)
        sampler, sample_s = _solve_sampler(config, name, task, measured)
        sampling = sample_cost(arm.decoder, sampler, task)
        abstract = abstract_decoder(run, store)
        budgets[name] = ArmBudget(
            name,
            arm.decoder.kind,
            abstract.reads,
            count_params(abstract),
            count_shared(abstract),
            flops_per_clip,
            steps,
            steps * flops_per_step,
            epochs * seconds_per_epoch,
            unique_seconds,
            epochs,
            sampling.network_calls,
            sampling.flops,
            sampler,
            step_s.get(name),
            floor_db.get(abstract.reads),
            sample_s,
            _bitrate_of(name, task, measured),
        )
    _check_bitrates(budgets)
    _check_floors(config.budget, budgets)
    return budgets


def _solve_sampler(
    config: Comparison, name: str, task: Task, measured: Measured
) -> tuple[SamplerConfig, float | None]:
    """Return the sampler of an arm and the seconds of a clip, if these are held equal."""
    arm, limit = config.arms[name], config.budget.sampling
    if limit is None:
        return arm.sampler, None
    if limit.seconds is None:
        return fit_sampler(name, arm.decoder, arm.sampler, task, limit), None
    timed = measured.get("sampling", {}).get(name)
    if timed is None:
        raise GenlabError(f"arms.{name}: the time of a clip was not measured")
    chosen = None if timed["steps"] is None else with_steps(arm.sampler, timed["steps"])
    return chosen or arm.sampler, timed["seconds"]


def _bitrate_of(name: str, task: Task, measured: Measured) -> float | None:
    levels = measured.get("levels", {}).get(name)
    if levels is None:
        return None
    return levels * math.log2(task.spec.entries) * task.spec.frame_hz


def _check_bitrates(budgets: Mapping[str, ArmBudget]) -> None:
    """Refuse codes of different kbit/s: no training makes up for levels that an arm never draws."""
    rates = {name: arm.bitrate_bps for name, arm in budgets.items() if arm.bitrate_bps is not None}
    highest = max(rates.values(), default=0.0)
    lower = [name for name, rate in rates.items() if rate < highest]
    if lower:
        told = ", ".join(f"arms.{name} {rate / 1000:.3g}" for name, rate in rates.items())
        raise GenlabError(
            f"budget.mode='iso_bitrate': the codes that the arms draw have different kbit/s "
            f"({told}); draw as many levels in every arm, or leave out {' and '.join(lower)}"
        )


def _solve_any(
    config: Comparison,
    name: str,
    flops_per_step: float,
    costs: Sequence[float],
    clips: int,
    step_s: float | None,
) -> int:
    """Return the whole steps that arm `name` may take in any mode; `clips` are those of a pass."""
    budget = config.budget
    if budget.epochs is not None:
        # The same for every arm: all read the same batches of the same clips.
        exact, wanted = budget.epochs * clips / config.batch_size, budget.epochs
        return _round_steps(exact, f"budget.epochs={wanted:g}: an arm", "epochs", wanted)
    if budget.wall_s is not None:
        if step_s is None:
            raise GenlabError(f"arms.{name}: the time of an update was not measured")
        exact, told = budget.wall_s / step_s, f"budget.wall_s={budget.wall_s:g}: arm {name!r}"
        return _round_steps(exact, f"{told}, at {step_s:.3g} s an update,", "wall_s", budget.wall_s)
    return solve_steps(budget, name, flops_per_step, costs)


def _round_steps(exact: float, told: str, field: str, wanted: float) -> int:
    steps = max(1, round(exact))
    if abs(steps / exact - 1) > TOLERANCE / 2:
        # A hundred steps are always near enough.
        raise GenlabError(
            f"{told} makes {exact:.3g} updates, which whole ones miss by "
            f"{abs(steps / exact - 1):.1%}; raise budget.{field} to "
            f"budget.{field}={100 * wanted / exact:.4g}, or lower batch_size"
        )
    if steps > MAX_STEPS:
        raise GenlabError(
            f"{told} makes {exact:.3g} updates, more than {MAX_STEPS}; lower budget.{field}"
        )
    return steps


def _check_floors(budget: Budget, budgets: Mapping[str, ArmBudget]) -> None:
    """Refuse to compare codes with latents of a codec that loses much more of the audio in one of
    them.
    """
    floors = {arm.reads: arm.floor_db for arm in budgets.values() if arm.floor_db is not None}
    if budget.floor_tolerance is None or len(floors) < 2:
        return
    spread = max(floors.values()) / max(min(floors.values()), 1e-9) - 1
    if spread > budget.floor_tolerance:
        told = ", ".join(f"{value:.3g} dB from {reads}" for reads, value in floors.items())
        arms = {
            reads: " and ".join(name for name, arm in budgets.items() if arm.reads == reads)
            for reads in floors
        }
        which = "; ".join(f"{reads} are read by {names}" for reads, names in arms.items())
        raise GenlabError(
            f"budget.floor_tolerance={budget.floor_tolerance:g}: resynthesis lies {told}, "
            f"{spread:.1%} apart ({which}); use a codec with more codebooks, compare arms that "
            f"read the same, or state budget.floor_tolerance={math.ceil(100 * spread) / 100:g}"
        )


def solve_steps(
    budget: Budget, name: str, flops_per_step: float, costs: Sequence[float] = ()
) -> int:
    """Return the number of whole steps that arm `name` may take; `costs` are the FLOPs per step of
    all arms.

    Raises:
        GenlabError: if they miss the training FLOPs by more than half of `TOLERANCE`: two arms may
            miss on either side; it names the next budget that all arms can meet. Also if they are
            more than can be counted.
    """
    if budget.steps is not None:
        return budget.steps
    assert budget.train_flops is not None, "every other mode that comes here has FLOPs"
    # Rounded, not floored: the error is then on both sides of the budget and half as large.
    steps = max(1, round(budget.train_flops / flops_per_step))
    off = abs(steps * flops_per_step / budget.train_flops - 1)
    told = (
        f"budget.train_flops={budget.train_flops:.3g}: arm {name!r} needs {flops_per_step:.3g} a "
        "step"
    )
    if off > TOLERANCE / 2:
        fitting = next_budget(budget.train_flops, costs or (flops_per_step,))
        missed = f"so {steps} whole steps miss it by {off:.1%}"
        if steps == 1:
            missed = f"{flops_per_step / budget.train_flops:.3g} times the whole budget"
        raise GenlabError(
            f"{told}, {missed}; raise train_flops to budget.train_flops={fitting:.7g}, which "
            "every arm meets, or lower batch_size"
        )
    if steps > MAX_STEPS:
        raise GenlabError(
            f"{told}, so it would take {steps:.3g} steps, more than {MAX_STEPS}; lower train_flops"
        )
    return steps


def next_budget(train_flops: float, costs: Sequence[float]) -> float:
    """Return the least budget from `train_flops` on, in few digits, that whole steps of every arm
    meet.

    `costs` are the arms' FLOPs per step. A hundred steps of the most expensive arm are always
    enough.
    """
    # a little less than is allowed, so that rounding the answer is safe
    half = 0.99 * TOLERANCE / 2

    def misses(flops: float) -> list[float]:
        return [
            cost for cost in costs if abs(max(1, round(flops / cost)) * cost / flops - 1) > half
        ]

    wanted = train_flops
    while missed := misses(wanted):
        # The next multiple of a cost comes within reach a little before it is met.
        ahead = max((math.floor(wanted / cost) + 1) * cost / (1 + half) for cost in missed)
        wanted = max(ahead, wanted * (1 + 1e-6))
    for digits in range(2, 6):
        unit = 10.0 ** (math.floor(math.log10(wanted)) - digits + 1)
        rounded = float(f"{math.ceil(wanted / unit) * unit:.{digits}g}")
        if not misses(rounded):
            return rounded
    return float(f"{wanted:.7g}")


def check_budget(config: Comparison) -> None:
    """Refuse a budget that no arm can meet by what is known without the corpus, which takes long to
    build.

    How long texts are is not known yet: with `content="text"` only what is too dear without a text
    is refused here.

    Raises:
        GenlabError: as `solve_steps`, or if there is no such codec.
    """
    data = config.data
    _check_own(config)
    is_known = config.condition.content != "text"
    spec = data.spec
    # No cost depends on how many speakers or units there are.
    vocab = CondVocab(num_speakers=1, num_units=1)
    costs = {}
    for name, arm in config.arms.items():
        backbone = arm.apply(config.optim, config.backbone)[1]
        task = Task(
            spec, vocab, backbone, config.condition, num_frames=data.example_frames, num_symbols=1
        )
        check_view(f"arms.{name}", arm.decoder, task)
        costs[name] = config.batch_size * train_flops(arm.decoder, task)
    for name, needed in costs.items():
        wanted = config.budget.train_flops or math.inf
        if config.budget.steps is None and config.budget.train_flops is None:
            continue  # how many updates these modes allow, corpus and machine say
        if is_known or needed > wanted * (1 + TOLERANCE):
            solve_steps(config.budget, name, needed, list(costs.values()))


def _check_own(config: Comparison) -> None:
    """Refuse what tokens that were encoded elsewhere do not have."""
    if config.data.own is None:
        return
    if config.condition.content == "semantic":
        raise GenlabError(
            "condition.content='semantic': tokens that were encoded elsewhere have no semantic "
            "units; use condition.content=none, or text if their rows have texts"
        )
    if config.data.is_heard:
        return
    # What only audio can answer; without a codec there is none.
    asked = {
        "settings.previews": config.settings.previews,
        "metrics": len(config.metrics),
        "audit": int(config.audit),
    }
    for field, count in asked.items():
        if count:
            raise GenlabError(
                f"{field}: this needs audio, and data.codec=null names no codec that decodes these "
                f"tokens; name the one that made them, or leave out {field}"
            )


def checkpoint_bytes(config: Comparison, budgets: Mapping[str, ArmBudget]) -> float:
    """Return what the checkpoints of all arms and seeds take on disk: of each the parameters, their
    two moments, the averages, and what a look keeps.
    """
    copies = 3 + config.optim.num_averages + config.checkpoint.looks_with(config.optim)
    params = sum(budget.params for budget in budgets.values())
    # Of a rate that is tried one checkpoint is kept.
    kept = len(config.seeds) * config.settings.keep + len(config.optim.peak_lrs or ())
    return 4.0 * copies * params * kept


def check_memory(run: DecoderRun, params: int) -> None:
    """Refuse what cannot be trained in the memory that is there, before any of it is taken.

    Counted is the least it takes: the parameters, their two moments and averages, what a look
    keeps, and one activation of a batch.

    Raises:
        GenlabError: that says how much it needs and how much there is.
    """
    shared = 3 + run.optim.num_averages + run.checkpoint.looks_with(run.optim)
    frames = run.batch_size // run.optim.accumulate * run.data.example_frames
    needed = 4.0 * (shared * params + frames * run.backbone.width)
    present = host.device_memory_bytes()
    if present is not None and needed > present:
        raise GenlabError(
            f"arm {run.name!r}: training {params:.3g} parameters with batch_size={run.batch_size} "
            f"takes at least {needed / 2**30:.3g} GiB, and there are {present / 2**30:.3g} GiB; "
            "lower backbone.width, backbone.layers or batch_size"
        )


def clip_flops(run: DecoderRun, store: TokenStore) -> float:
    """Return the FLOPs of one loss and its gradient over one training example."""
    task = run.task(store)._replace(num_frames=run.data.example_frames)
    return train_flops(run.arm.decoder, task)


def check_flops(run: DecoderRun, store: TokenStore) -> float:
    """Return walked / formula FLOPs of one real training batch.

    Raises:
        GenlabError: if they differ by more than 1 %.
    """
    graph, params, rest = nnx.split(abstract_decoder(run, store), nnx.Param, ...)
    batch = run.source_of(store).batch_at(0)

    def loss(params: nnx.State, rest: nnx.State, args: PyTree, key: Array) -> Array:
        out = nnx.merge(graph, params, rest).loss(*args, key=key)
        return (out.per_example * out.weight).sum()

    walked = (
        count_flops(jax.value_and_grad(loss), params, rest, batch.args, jax.random.key(0))
        / run.batch_size
    )
    ratio = walked / clip_flops(run, store)
    if abs(ratio - 1) > TOLERANCE:
        raise GenlabError(
            f"arm {run.name!r}: its FLOP formula is off by {ratio - 1:+.1%} from the walk over "
            "its training step"
        )
    return ratio


def abstract_decoder(run: DecoderRun, store: TokenStore) -> Any:
    """Return the decoder with shapes instead of arrays."""
    return decoder_of(run.arm.decoder, run.task(store))


def count_params(model: nnx.Module) -> int:
    """Return how many numbers a decoder learns; shapes are enough."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _train_seconds(config: Comparison, store: TokenStore) -> tuple[int, float, float]:
    """Return clips, unique seconds, and seconds of real audio that one pass of crops shows."""
    numbers = store.numbers("train", config.data.train_clips)
    hz = store.info.spec.frame_hz
    frames = store.frames(numbers)
    seen = np.minimum(frames, config.data.example_frames).sum() / hz
    unique_s = (
        store.split("train").seconds
        if config.data.train_clips is None
        else float(frames.sum() / hz)
    )
    return len(numbers), unique_s, float(seen)
