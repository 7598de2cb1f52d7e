"""How fast genlab is on this machine, and beside the PyTorch programs that a user would otherwise
run.

In: names of workloads. Out: one dict per workload, which is the JSON line of `genlab bench --json`:
the median seconds of one repetition, and where a peer is installed (peers.py), its median too and
the median over rounds of peer / ours. Both sides run in turn in one process, in alternating order,
so a slow drift of the machine moves both; they share its threads and its allocator settings.
Weights are random and data synthetic: speed does not depend on them.

Training and sampling also say which share they reach of the rate of this machine's float32 product
(rate.py), measured in the same rounds at the size of their own largest one. FLOPs are those that
the project counts everywhere (decoders/cost.py).

Decoders run without conditions, as their peers do. The training step is the product's: clipping,
AdamW, the average.
"""

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, PyTree
from pydantic import JsonValue

from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError
from genlab.data.batches import BatchSource
from genlab.data.store import SplitInfo, StoreInfo, TokenClip, TokenStore, finish_store, write_part
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.cost import sample_cost, train_flops
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.decoders.task import SamplerConfig, Task
from genlab.run.checkpoint import CheckpointWriter
from genlab.speed import peers
from genlab.speed.profile import profile
from genlab.speed.rate import MatrixProduct
from genlab.speed.size import MEDIUM, QUICK, BenchSize
from genlab.speed.turns import WARM_UPS, take_turns
from genlab.tokens import Cond, Tokens
from genlab.training.optim import OptimConfig
from genlab.training.step import SAVED, create_state, make_update

STEPS = 1_000_000  # of the learning rate's schedule
NOTHING = ConditionConfig(content="none", speaker=False)
VOCAB = CondVocab(num_speakers=1)
TOP_K = 250


@dataclasses.dataclass(frozen=True)
class Workload:
    """`run` does one repetition to its end; if it returns a float, that counts instead of the
    seconds it took.

    `flops` is what the project counts for one repetition, and `product` its largest product of
    matrices; None where nothing is counted. `is_compiled` says whether compiled programs take most
    of its time, which is what a profile divides.
    """

    run: Callable[[], object]
    shape: str
    note: Callable[[], str] = lambda: ""
    flops: float | None = None
    product: MatrixProduct | None = None
    is_compiled: bool = True


def run_workloads(
    names: tuple[str, ...] = (),
    *,
    rounds: int = 5,
    quick: bool = False,
    sizes: tuple[str, ...] = (),
    profiles: bool = False,
) -> Iterator[dict[str, JsonValue]]:
    """Measure each workload in turn (all of them without names) at each of its sizes (or those that
    are named), and yield its line as soon as it is known.

    Raises:
        GenlabError: if a name is unknown, no workload has a size that is named, or there are no
            rounds.
    """
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise GenlabError(
            f"bench {' '.join(unknown)}: no such workload, choose from {', '.join(WORKLOADS)}"
        )
    if rounds < 1:
        raise GenlabError(f"--rounds {rounds}: expected at least 1")
    if quick and sizes:
        raise GenlabError(f"--size {sizes[0]}: --quick has a toy size only, leave out one of them")
    chosen = [
        (name, label, size)
        for name in names or WORKLOADS
        for label, size in _sizes_of(name, quick).items()
        if not sizes or label in sizes
    ]
    if not chosen:
        raise GenlabError(
            f"--size {' '.join(sizes)}: {', '.join(names)} has no such size, leave it out"
        )
    for name, label, size in chosen:
        with WORKLOADS[name](size) as workload:
            peer = peers.find_peer(name, size, num_threads())
            line = {"workload": name, "size": label, **_measure(name, workload, peer, rounds)}
            if profiles:
                # After the rounds: a trace makes what it watches slower.
                spent = profile(workload.run) if workload.is_compiled else None
                line["profile"] = None if spent is None else spent._asdict()
            yield line


def _sizes_of(name: str, quick: bool) -> dict[str, BenchSize]:
    """Return the sizes of a workload by name; only decoders have more than one."""
    if quick:
        return {"toy": QUICK}
    return {"small": BenchSize()} | ({"medium": MEDIUM} if name in DECODERS else {})


def format_line(line: dict[str, JsonValue]) -> str:
    """Return the line of one workload for a person, and a second one if it was profiled."""
    peer = (
        "no peer installed"
        if line["peer"] is None
        else f"{line['peer']} {line['peer_s']:.4f} s, ratio {line['ratio']:.2f}"
    )
    setting = f"{line['shape']}, {line['dtype']}, {line['threads']} threads"
    name = f"{line['workload']} {line['size']}"
    text = f"{name:<28} {line['ours_s']:.4f} s  ({setting})  {peer}{_format_rate(line)}"
    # Loader and checkpoint are not traced, and not every device's trace names its operations.
    spent = line.get("profile")
    if not isinstance(spent, dict) or not isinstance(spent["slowest"], dict):
        return text
    slowest = ", ".join(f"{name} {share:.0%}" for name, share in spent["slowest"].items())
    return (
        f"{text}\n  of its time {spent['products']:.0%} multiplies matrices, "
        f"{spent['others']:.0%} is other compiled code ({slowest}), {spent['outside']:.0%} is "
        "outside compiled code"
    )


def _format_rate(line: dict[str, JsonValue]) -> str:
    own, reached = line["flops_per_s"], line["product_flops_per_s"]
    if not isinstance(own, float) or not isinstance(reached, float):
        return ""
    return (
        f"  {own / 1e9:.3g} GFLOP/s, {line['rate_share']:.0%} of the {reached / 1e9:.3g} of a "
        f"product {line['product']}"
    )


def num_threads() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measure(
    name: str, workload: Workload, peer: peers.Peer | None, rounds: int
) -> dict[str, JsonValue]:
    product = workload.product
    # The product is never right after the peer, whose threads still spin for a while: one round
    # ends where the next begins.
    sides: dict[str, Callable[[], object]] = {}
    if product is not None:
        sides["product"] = product.run
    sides["ours"] = workload.run
    if peer is not None:
        sides["peer"] = peer.run
    times = take_turns(name, sides, rounds)
    # Of pairs, here and below: all sides of a round meet the same load.
    ratio = [theirs / ours for ours, theirs in zip(times["ours"], times.get("peer", []))]
    return {
        "ours_s": statistics.median(times["ours"]),
        "peer": None if peer is None else peer.name,
        "peer_s": _median(times.get("peer", [])),
        "ratio": _median(ratio),
        **_rate(workload, times["ours"], times.get("product", [])),
        "shape": workload.shape + workload.note(),
        "dtype": "float32",
        "threads": num_threads(),
    }


def _rate(workload: Workload, ours: list[float], product: list[float]) -> dict[str, JsonValue]:
    """Return the FLOP/s of a workload, those of its largest product, and the one as a share of the
    other; None where nothing is counted.
    """
    flops, largest = workload.flops, workload.product
    if flops is None or largest is None:
        return dict.fromkeys(
            ("flops", "flops_per_s", "product", "product_flops_per_s", "rate_share")
        )
    shares = [
        flops / own_s / (largest.flops / product_s) for own_s, product_s in zip(ours, product)
    ]
    return {
        "flops": flops,
        "flops_per_s": flops / statistics.median(ours),
        "product": largest.shape,
        "product_flops_per_s": largest.flops / statistics.median(product),
        "rate_share": statistics.median(shares),
    }


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _tokens(size: BenchSize, batch: int) -> tuple[Tokens, Cond]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, size.entries, (batch, size.frames, size.codebooks)).astype(np.int32)
    latents = rng.standard_normal((batch, size.frames, size.latent_channels)).astype(np.float32)
    zeros = np.zeros((batch, size.frames), np.int32)
    tokens = jax.tree.map(np.asarray, (codes, latents, np.full(batch, size.frames, np.int32)))
    return Tokens(*tokens), Cond(
        *jax.tree.map(np.asarray, (zeros[:, 0], zeros[:, :1], zeros, np.zeros(batch, bool)))
    )


def _shape(size: BenchSize, batch: int) -> str:
    net = size.backbone
    return f"{net.layers}x{net.width}, batch {batch}, {size.frames} frames"


def _millions(tree: PyTree) -> str:
    """Return how many numbers the tree holds: FLOPs follow from them, and a peer may have more or
    fewer.
    """
    return f"{sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6:.1f} M parameters"


def _task(size: BenchSize) -> Task:
    return Task(size.spec, VOCAB, size.backbone, NOTHING, num_frames=size.frames)


def _largest_product(size: BenchSize, rows: int) -> MatrixProduct:
    """Return that of the feed-forward part, into its value and its gate, for so many positions."""
    net = size.backbone
    return MatrixProduct(rows, net.width, 2 * net.ffn_width)


class _Trainer:
    """A decoder in the middle of training."""

    def __init__(self, config: Any, size: BenchSize):
        optim = OptimConfig()
        create = partial(create_state, lambda key: config.build(_task(size), key=key), optim, STEPS)
        key = jax.random.key(0)
        graph, _ = jax.eval_shape(jax.jit(create), key)
        self.state = jax.jit(create)(key)[1]
        self._key = key
        self._update = make_update(graph, optim, STEPS)

    def step(self, args: tuple[PyTree, ...]) -> None:
        """Make one update and wait for it."""
        self.state, metrics = self._update(self.state, args, self._key)
        jax.block_until_ready((self.state, metrics))


@contextlib.contextmanager
def _train_step(
    config: Any, detail: str, rows_of: Callable[[BenchSize], int], size: BenchSize
) -> Iterator[Workload]:
    trainer = _Trainer(config, size)
    args = _tokens(size, size.batch)
    shape = f"{_shape(size, size.batch)}, {detail}, {_millions(trainer.state['params'])}"
    yield Workload(
        lambda: trainer.step(args),
        shape,
        flops=size.batch * train_flops(config, _task(size)),
        product=_largest_product(size, size.batch * rows_of(size)),
    )


@contextlib.contextmanager
def _sample(
    config: Any,
    sampler_of: Callable[[BenchSize], SamplerConfig],
    rows_of: Callable[[BenchSize], int],
    size: BenchSize,
) -> Iterator[Workload]:
    decoder = config.build(_task(size), key=jax.random.key(0))
    graph, state = nnx.split(decoder)
    sampler, (tokens, cond) = sampler_of(size), _tokens(size, 1)
    keys = iter(jax.random.split(jax.random.key(1), 10_000))
    calls = []

    @jax.jit
    def draw(state: nnx.State, cond: Cond, num_frames: Array, key: Array) -> Tokens:
        model: Any = nnx.merge(graph, state)
        out = model.sample(cond, num_frames=num_frames, key=key, sampler=sampler)
        calls.append(out.num_network_calls)
        return out.tokens

    args = (state, cond, tokens.num_frames)
    # Traced once, here: what it counts is known before the first repetition.
    compiled = draw.lower(*args, next(keys)).compile()
    yield Workload(
        lambda: jax.block_until_ready(compiled(*args, next(keys))),
        f"{_shape(size, 1)}, {calls[0]} network calls, {_millions(state)}",
        flops=float(sample_cost(config, sampler, _task(size)).flops),
        product=_largest_product(size, rows_of(size)),
    )


@contextlib.contextmanager
def _codec(verb: str, size: BenchSize) -> Iterator[Workload]:
    codec = FrozenCodec(size.codec.build(key=jax.random.key(0)), "random", {})
    num_samples = int(size.audio_s * codec.spec.sample_rate_hz)
    wave = 0.1 * np.random.default_rng(0).standard_normal(num_samples).astype(np.float32)
    [(codes, _)] = codec.encode([wave])
    run = (
        partial(codec.encode, [wave]) if verb == "encode" else partial(codec.decode_codes, [codes])
    )
    spec = codec.spec
    shape = (
        f"{size.audio_s:g} s of {spec.sample_rate_hz} Hz, {len(codes)} frames of {spec.codebooks} "
        "codes"
    )
    yield Workload(run, shape)


@contextlib.contextmanager
def _published(kind: str, size: BenchSize) -> Iterator[Workload]:
    config = getattr(size, kind)
    codec = FrozenCodec(jax.jit(lambda key: config.build(key=key))(jax.random.key(0)), "random", {})
    spec = codec.spec
    wave = 0.1 * np.random.default_rng(0).standard_normal(
        int(size.audio_s * spec.sample_rate_hz)
    ).astype(np.float32)

    def run() -> None:
        [(codes, _)] = codec.encode([wave])
        codec.decode_codes([codes])

    yield Workload(
        run,
        (
            f"{size.audio_s:g} s of {spec.sample_rate_hz} Hz, {spec.codebooks} codes at "
            f"{spec.frame_hz:g} Hz"
        ),
    )


@contextlib.contextmanager
def _data_loader(size: BenchSize) -> Iterator[Workload]:
    trainer = _Trainer(ARConfig(), size)
    waited: list[float] = []
    steps: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        store = _write_store(Path(directory), size)
        batches = BatchSource(
            store.dataset("train", num_frames=size.frames, seed=0), size.batch
        ).iterate()

        def run() -> float:
            began = time.perf_counter()
            args = next(batches).args
            # Reported is the wait alone; the step is made so that loading has something to hide
            # behind.
            waited.append(time.perf_counter() - began)
            trainer.step(args)
            steps.append(time.perf_counter() - began)
            return waited[-1]

        def note() -> str:
            share = sum(waited[WARM_UPS:]) / sum(steps[WARM_UPS:])
            return f", waited for {share:.2%} of the time of {len(steps) - WARM_UPS} training steps"

        try:
            yield Workload(run, _shape(size, size.batch), note, is_compiled=False)
        finally:
            batches.close()


def _write_store(directory: Path, size: BenchSize, num_clips: int = 64) -> TokenStore:
    rng = np.random.default_rng(0)

    def clip(number: int) -> TokenClip:
        frames = int(rng.integers(size.frames // 2, 2 * size.frames))
        codes = rng.integers(0, size.entries, (frames, size.codebooks))
        latents = rng.standard_normal((frames, size.latent_channels))
        return TokenClip(
            f"clip{number}", "", "speaker", "", codes, latents, np.ones(frames, np.int64)
        )

    # Random numbers of real shapes: reading speed does not depend on their values.
    write_part(directory / "part-00000.array_record", map(clip, range(num_clips)))
    split = SplitInfo(
        first=0, clips=num_clips, seconds=num_clips * size.frames / size.spec.frame_hz
    )
    info = StoreInfo(
        spec=size.spec,
        codec_fingerprint="random",
        units_fingerprint="random",
        manifest_hash="random",
        num_units=1,
        speakers=("speaker",),
        licences=(),
        longest_text=1,
        latent_mean=(0.0,) * size.latent_channels,
        latent_std=(1.0,) * size.latent_channels,
        splits={"train": split},
    )
    finish_store(directory, info)
    return TokenStore(directory)


@contextlib.contextmanager
def _checkpoint_save(size: BenchSize) -> Iterator[Workload]:
    state = {name: tree for name, tree in _Trainer(ARConfig(), size).state.items() if name in SAVED}
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    with tempfile.TemporaryDirectory() as directory:
        counter = iter(range(1, 10_000))

        def run() -> None:
            writer = CheckpointWriter(Path(directory), keep=1)
            writer.save(next(counter), state, {})
            writer.close()

        text = f"{num_bytes / 1e6:.0f} MB of state, on disk and checked"
        yield Workload(run, text, is_compiled=False)


def _delayed(size: BenchSize) -> int:
    """Return the positions of a clip whose level k is k steps late."""
    return size.frames + size.codebooks - 1


def _frames(size: BenchSize) -> int:
    return size.frames


def _one(size: BenchSize) -> int:
    """Return the positions of a decoder that makes one step after the other."""
    return 1


Open = Callable[[BenchSize], contextlib.AbstractContextManager[Workload]]
# The rows of their largest product are the positions of a clip that one network call sees.
DECODERS: dict[str, Open] = {
    "ar_train_step": partial(_train_step, ARConfig(), "delay pattern", _delayed),
    "masked_train_step": partial(_train_step, MaskedConfig(), "one level", _frames),
    "diffusion_train_step": partial(_train_step, DiffusionConfig(), "flow matching", _frames),
    "ar_sample": partial(
        _sample, ARConfig(), lambda size: ARSampler(top_k=min(TOP_K, size.entries)), _one
    ),
    "masked_sample": partial(
        _sample, MaskedConfig(), lambda size: MaskedSampler(steps=size.masked_steps), _frames
    ),
    "diffusion_sample": partial(
        _sample,
        DiffusionConfig(),
        lambda size: DiffusionSampler(steps=size.diffusion_steps),
        _frames,
    ),
}
WORKLOADS: dict[str, Open] = DECODERS | {
    "codec_encode_10s": partial(_codec, "encode"),
    "codec_decode_10s": partial(_codec, "decode"),
    "encodec_24khz_10s": partial(_published, "encodec"),
    "mimi_10s": partial(_published, "mimi"),
    "dac_16khz_10s": partial(_published, "dac"),
    "data_loader": _data_loader,
    "checkpoint_save": _checkpoint_save,
}
