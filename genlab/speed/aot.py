"""Compile for TPUs that are not there: the training step and the sampler of an arm, for any slice,
on any machine.

In: a config, the name of a slice, and how the mesh is cut. Out: for every program whether it fits,
what it keeps in memory, what its collectives move, and which of arithmetic, memory and network
bounds it. Nothing is built or opened: the token space comes from the codec's config, and shapes
take the place of weights and batches. The compiler is the one that runs on TPU hosts (libtpu), so
what it says about memory and collectives is the program's; times are estimates from the published
figures of the chip, as if everything that can overlap did.

FLOPs are walked over the jaxpr (nets/flops.py), because the compiler counts the body of a loop
once; so does its count of bytes, for which hlo.py reads the compiled text.
"""

import contextlib
import importlib.util
import math
import os
import pickle
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import serialize_executable, topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jax.stages import Compiled, Lowered
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from genlab.config import GenlabError
from genlab.config.shipped import install_command
from genlab.decoders.conditioning import CondVocab
from genlab.decoders.cost import sample_cost, train_flops
from genlab.decoders.parts import part_shapes
from genlab.decoders.task import Task
from genlab.experiment import Comparison, DecoderRun, TokenData
from genlab.machine.sharding import batch_shardings, compiler_options, make_mesh
from genlab.machine.topologies import Chip, Topology, find_topology
from genlab.nets.attention import why_plain
from genlab.nets.flops import count_flops
from genlab.nets.param import place_state
from genlab.run.stored import write_whole
from genlab.speed.hlo import Program
from genlab.tokens import Cond, Tokens, TokenSpec
from genlab.training.step import create_state, make_update

STEPS = 1000  # of the learning rate's schedule
# Rows of tables that no result depends on: speakers of a large corpus, and the units of the shipped
# recogniser.
NUM_SPEAKERS, NUM_UNITS = 1024, 256
# Read speech has about 15 characters per second; texts are padded to whole tiles.
SYMBOLS_PER_S, SYMBOL_TILE = 15, 128
# A search for the largest batch ends when it is known to this share; after so many points it no
# longer trusts lines.
SEARCH_SHARE = 1 / 8
LINES = 5

Verb = Literal["train", "sample"]


class Roofline(NamedTuple):
    """Estimated seconds that arithmetic, memory and network need at least; the longest bounds the
    step.

    `intensity` is FLOPs per byte of memory traffic; `mfu` is the share of the peak that the FLOPs
    the model needs, so none that are computed again, could reach.
    """

    compute_s: float
    memory_s: float
    network_s: float
    intensity: float
    mfu: float

    @property
    def bound(self) -> str:
        """What the step waits for."""
        times = {"compute": self.compute_s, "memory": self.memory_s, "network": self.network_s}
        return max(times, key=lambda name: times[name])

    @property
    def step_s(self) -> float:
        """Estimated seconds of a step."""
        return max(self.compute_s, self.memory_s, self.network_s)


def roofline(
    chip: Chip,
    *,
    executed_flops: float,
    model_flops: float,
    memory_bytes: float,
    network_bytes: float,
) -> Roofline:
    """Return the estimate for one chip's share of a step."""
    times = (
        executed_flops / chip.peak_flops,
        memory_bytes / chip.hbm_bytes_per_s,
        network_bytes / chip.ici_bytes_per_s,
    )
    return Roofline(
        *times,
        executed_flops / max(memory_bytes, 1),
        model_flops / chip.peak_flops / max(*times, 1e-12),
    )


class CompilePlan(NamedTuple):
    """What to compile and for what."""

    run: DecoderRun
    topology: Topology
    mesh: Mesh
    spec: TokenSpec
    num_symbols: int


def plan_arms(config: Comparison | DecoderRun, topology_name: str) -> dict[str, CompilePlan]:
    """Return what to compile for every arm of `config` on a slice; the mesh is cut as
    `settings.sharding` says.

    Raises:
        GenlabError: if the compiler is not installed, there is no such slice, or the mesh does not
            fit it.
    """
    topology = find_topology(topology_name)
    mesh = make_mesh(config.settings.sharding, describe(topology))
    spec, num_symbols = _token_shape(config.data, config.condition.content)
    if isinstance(config, DecoderRun):
        return {config.name: CompilePlan(config, topology, mesh, spec, num_symbols)}
    runs = {name: config.run(name, config.seeds[0], STEPS) for name in config.arms}
    return {name: CompilePlan(run, topology, mesh, spec, num_symbols) for name, run in runs.items()}


def describe(topology: Topology) -> Any:
    """Return the devices of a slice as the compiler knows them.

    Raises:
        GenlabError: if the compiler is not installed or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise GenlabError(f"aot: the TPU compiler is not installed; run `{install_command('aot')}`")
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.compiler_name, **topology.options
        )
    except Exception as error:  # anything that the compiler raises for a shape it does not know
        raise GenlabError(
            f"--topology {topology.compiler_name}: {str(error).splitlines()[0][:200]}"
        ) from None
    return found.devices


def _token_shape(data: TokenData, content: str) -> tuple[TokenSpec, int]:
    spec = data.spec
    characters = SYMBOLS_PER_S * data.num_frames / spec.frame_hz
    return spec, SYMBOL_TILE * math.ceil(characters / SYMBOL_TILE) if content == "text" else 1


def build_abstract(plan: CompilePlan) -> Callable[[Key[Array, ""]], nnx.Module]:
    """Return a function of a key that builds the arm's decoder; to be traced, not run."""
    return lambda key: plan.run.arm.decoder.build(_task(plan), key=key)


def _task(plan: CompilePlan) -> Task:
    run, spec = plan.run, plan.spec
    vocab = CondVocab(
        num_speakers=NUM_SPEAKERS, num_units=NUM_UNITS, is_two_sided=_hears_other(plan)
    )
    shape = (spec.codebooks, spec.entries, spec.latent_channels)
    return Task(
        spec,
        vocab,
        run.backbone,
        run.condition,
        num_frames=run.data.num_frames,
        num_symbols=plan.num_symbols,
        code_vectors=jnp.zeros(shape),
    )


def _hears_other(plan: CompilePlan) -> bool:
    return getattr(plan.run.arm.decoder, "other", None) is not None


def abstract_batch(plan: CompilePlan, num_clips: int) -> tuple[Tokens, Cond]:
    """Return the shapes of a batch, placed on the mesh."""
    spec = plan.spec
    frames = plan.run.data.num_frames

    def array(*shape: int, dtype: DTypeLike = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_clips, *shape), dtype)

    # Shapes in the place of arrays: the chips that would hold the batch need not be there.
    latents = array(frames, spec.latent_channels, dtype=jnp.float32)
    other: Any = array(frames, spec.codebooks) if _hears_other(plan) else None
    parts = part_shapes(plan.run.condition.parts, num_clips, frames)
    cond: Any = (
        array(),
        array(plan.num_symbols),
        array(frames),
        array(dtype=jnp.bool_),
        other,
        parts,
    )
    batch: Any = (
        Tokens(array(frames, spec.codebooks), latents, array()),  # pyright: ignore[reportArgumentType]
        Cond(*cond),
    )
    return jax.tree.map(_on, batch, batch_shardings(batch, plan.mesh))


def _on(leaf: jax.ShapeDtypeStruct, sharding: Sharding | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


class Traced(NamedTuple):
    """A program before the compiler: its lowered form, parameters, shapes of matrices, and FLOPs of
    all chips.
    """

    lowered: Lowered
    params: int
    matrices: frozenset[tuple[int, int]]
    executed_flops: float
    model_flops: float


def trace(plan: CompilePlan, verb: Verb, num_clips: int) -> Traced:
    """Return the training step or the sampler for so many clips, lowered for the slice."""
    run = plan.run
    build = build_abstract(plan)
    key = jax.eval_shape(lambda: jax.random.key(0))
    tokens, cond = abstract_batch(plan, num_clips)
    graph, plain = jax.eval_shape(partial(create_state, build, run.optim, STEPS), key)
    leaves = jax.tree.leaves(plain["params"])
    matrices = frozenset(leaf.shape[-2:] for leaf in leaves if len(leaf.shape) > 1)
    params = sum(leaf.size for leaf in leaves)
    if verb == "train":
        update = make_update(graph, run.optim, STEPS)
        executed = count_flops(
            update, *jax.tree.map(lambda leaf: _on(leaf, None), (plain, (tokens, cond))), key
        )
        model = num_clips * train_flops(run.arm.decoder, _task(plan))
        with jax.set_mesh(plan.mesh):
            lowered = update.lower(place_state(graph, plain), (tokens, cond), key)
        return Traced(lowered, params, matrices, executed, model)
    cost = sample_cost(run.arm.decoder, run.arm.sampler, _task(plan))

    def draw(
        params: nnx.State, rest: nnx.State, cond: Cond, num_frames: Array, key: Array
    ) -> Tokens:
        model: Any = nnx.merge(graph, params, rest)
        return model.sample(cond, num_frames=num_frames, key=key, sampler=run.arm.sampler).tokens

    with jax.set_mesh(plan.mesh):
        # Every step reads all weights for a few frames: gathering them each time would take longer
        # than the step.
        whole = NamedSharding(plan.mesh, PartitionSpec())
        weights = jax.tree.map(lambda leaf: _on(leaf, whole), (plain["params"], plain["rest"]))
        lowered = jax.jit(draw).lower(*weights, cond, tokens.num_frames, key)
    return Traced(lowered, params, matrices, num_clips * cost.flops, num_clips * cost.flops)


def compile_program(
    plan: CompilePlan, verb: Verb, num_clips: int, save_to: Path | None = None
) -> dict[str, Any]:
    """Compile one program and return its row: plain JSON types, bytes and FLOPs per chip and step.

    A program that does not fit gives a row that says so. `save_to` gets the executable, for a host
    with the slice.
    """
    chip, num_devices = plan.topology.chip, plan.topology.num_devices
    if verb == "train":
        data = plan.run.data.model_copy(update={"num_frames": plan.run.data.example_frames})
        plan = plan._replace(run=plan.run.model_copy(update={"data": data}))
    traced = trace(plan, verb, num_clips)
    row: dict[str, Any] = {
        "config": plan.run.name,
        "family": plan.run.arm.decoder.kind,
        "program": verb,
        "topology": plan.topology.compiler_name,
        "devices": num_devices,
        "mesh": dict(plan.mesh.shape),
        "params": traced.params,
        "clips": num_clips,
        "frames": plan.run.data.num_frames,
        "symbols": plan.num_symbols,
        "hbm_bytes": chip.hbm_bytes,
        "flops": traced.executed_flops / num_devices,
    }
    began, began_cpu = time.perf_counter(), time.process_time()
    with _captured_errors() as said, jax.set_mesh(plan.mesh):
        try:
            compiled, text = compile_text(traced.lowered)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return (
                row
                | {"fits": False, "compile_s": time.perf_counter() - began}
                | _overflow(str(error))
            )
    row |= {"fits": True, "compile_s": time.perf_counter() - began, "warnings": find_warnings(said)}
    # of all threads: other work on the machine moves it less
    row["compile_cpu_s"] = time.process_time() - began_cpu
    if save_to is not None:
        write_whole(save_to, pickle.dumps(serialize_executable.serialize(compiled)))
    return row | _measure(plan, verb, traced, compiled.memory_analysis(), Program(text))


def compile_text(lowered: Lowered, flags: dict[str, str] | None = None) -> tuple[Compiled, str]:
    """Return the compiled program and its text; `flags` are the compiler's, beside those of
    training.
    """
    # `as_text` cannot read back the programs of v6e and v5p (jaxlib 0.10.2: "async-update ... sees
    # 3"), but the compiler can write them.
    with tempfile.TemporaryDirectory() as directory:
        dump = {"xla_dump_to": directory, "xla_dump_hlo_as_text": True}
        compiled = lowered.compile({**compiler_options(), **(flags or {}), **dump})
        texts = Path(directory).glob("*.after_optimizations.txt")
        return compiled, max(texts, key=lambda path: path.stat().st_size).read_text(
            encoding="utf-8"
        )


def _overflow(text: str) -> dict[str, Any]:
    """Return the bytes the compiler wanted, and its words in one line."""
    used = re.search(r"[Uu]sed ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds", text)
    size, unit = (used[1] or used[3], used[2] or used[4]) if used else ("nan", "G")
    peak = float(size) * 1024 ** ("KMGT".index(unit) + 1)
    return {"peak_bytes": peak if used else None, "reason": " ".join(text.split())[:300]}


def find_warnings(lines: list[str]) -> list[str]:
    """Return the lines in which the partitioner says that it copies or moves what it should not."""
    found = [line for line in lines if re.search(r"[Ii]nvoluntary|rematerializ|reshard", line)]
    return list(dict.fromkeys(line[:300] for line in found))


def _measure(
    plan: CompilePlan, verb: Verb, traced: Traced, memory: Any, program: Program
) -> dict[str, Any]:
    num_devices = plan.topology.num_devices
    # over the parts of a batch
    outer_loops = int(verb == "train" and plan.run.optim.accumulate > 1)
    groups: dict[tuple[str, str, int, bool], list[float]] = {}
    for found in program.collectives():
        # In the loop over layers weights are gathered, and codes where tables are split by
        # channels; anything else that is large would be activations.
        is_weight = _is_part(found.shape, traced.matrices, plan.mesh.shape["fsdp"])
        is_code = "f" not in found.dtype
        is_large = not is_weight and not is_code and math.prod(found.shape) > 2**16
        moves = found.loops > outer_loops and found.kind == "all-gather" and is_large
        total = groups.setdefault((found.kind, found.dtype, found.loops, moves), [0, 0])
        total[0] += found.runs
        total[1] += found.runs * found.bytes_per_run
    collectives = [
        {
            "kind": kind,
            "dtype": dtype,
            "loops": loops,
            "activations": moves,
            "runs": runs,
            "bytes": size,
        }
        for (kind, dtype, loops, moves), (runs, size) in sorted(
            groups.items(), key=lambda item: -item[1][1]
        )
    ]
    estimate = roofline(
        plan.topology.chip,
        executed_flops=traced.executed_flops / num_devices,
        model_flops=traced.model_flops / num_devices,
        memory_bytes=program.memory_bytes(),
        network_bytes=sum(item["bytes"] for item in collectives),
    )
    kernels = program.kernels()
    return {
        "peak_bytes": memory.peak_memory_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "collectives": collectives,
        "kernels": kernels,
        "attention": _attention(plan, kernels),
        "memory_traffic_bytes": program.memory_bytes(),
        "estimate": {**estimate._asdict(), "bound": estimate.bound, "step_s": estimate.step_s},
    }


def _is_part(shape: tuple[int, ...], matrices: frozenset[tuple[int, int]], shards: int = 1) -> bool:
    """Return whether an array is a matrix, in either layout, or one of equal parts into which its
    outputs were cut.

    Where columns are gathered alone, the inputs are still split into so many `shards`.
    """
    if len(shape) != 2:
        return False
    pairs = (shape, shape[::-1])
    return any(
        i in (rows, rows * shards) and o % columns == 0
        for i, o in matrices
        for rows, columns in pairs
    )


def _attention(plan: CompilePlan, kernels: dict[str, int]) -> str:
    if any("splash" in name for name in kernels):
        return "splash"
    net = plan.run.backbone
    mixers = list(dict.fromkeys(mixer.kind for mixer in net.period))
    if all(mixer.part != "attention" for mixer in net.period):
        return f"none: {', '.join(mixers)} mixer"
    shape = (1, plan.run.data.num_frames + plan.num_symbols, net.heads, net.width // net.heads)
    return "plain: " + (
        why_plain("tpu", shape, jnp.dtype(net.dtype), False) or "per pair, or against a cache"
    )


def find_largest_batch(
    measure: Callable[[int], dict[str, Any]], start: int, unit: int
) -> dict[str, Any]:
    """Return the row of the largest batch that fits, a multiple of `unit`; the row of `unit` if not
    even that fits.

    Memory is nearly a straight line over clips, so two or three compilations find it: each is of
    the batch at which the line through the last two crosses what there is. The batch returned was
    compiled and fits, and it is known to `SEARCH_SHARE`: it leaves no more of the memory free, or
    the next that was tried is no further above and does not.
    """
    low, high, best = 0, 0, None
    points: list[tuple[int, float]] = []
    probe = max(1, start // unit)
    while not high or high - low > max(1, low * SEARCH_SHARE):
        row = measure(probe * unit)
        peak = row.get("peak_bytes")
        total = row["hbm_bytes"]
        if row["fits"]:
            low, best = probe, row
            # The first point costs no compilation: with no clips, memory is the arguments alone.
            points = points or [(0, row["argument_bytes"])]
            if peak >= (1 - SEARCH_SHARE) * total:
                break
        else:
            high = probe
            if high == 1:
                return row
        points += [(probe, peak)] if peak else []
        # Aimed half the tolerance below the limit, since a batch that does not fit teaches little.
        probe = _next_probe(points if peak else [], low, high, total * (1 - SEARCH_SHARE / 2))
    assert best is not None, "the gap closes on a batch that fits"
    return best


def _next_probe(points: list[tuple[int, float]], low: int, high: int, wanted_bytes: float) -> int:
    """Return where the line through the last two points reaches `wanted_bytes`, between `low` and
    `high`.

    The middle between these, or twice `low` while nothing has failed, when there is no line or
    lines have led nowhere.
    """
    halfway = (low + high) // 2 if high else 2 * low
    if len(points) < 2 or len(points) > LINES:
        return halfway
    (first, first_bytes), (second, second_bytes) = points[-2:]
    slope = (second_bytes - first_bytes) / (second - first)
    if slope <= 0:
        return halfway
    crossing = int(second + (wanted_bytes - second_bytes) / slope)
    return max(low + 1, min(crossing, high - 1) if high else crossing)


@contextlib.contextmanager
def _captured_errors() -> Iterator[list[str]]:
    """Yield a list that holds, afterwards, the lines written to the process's standard error, also
    past Python.
    """
    lines: list[str] = []
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
