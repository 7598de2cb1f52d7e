"""How fast genlab is on this machine, and beside the PyTorch programs that a user would otherwise
run.

In: names of workloads. Out: one dict per workload, which is the JSON line of `genlab bench --json`:
the median seconds of one repetition, and where a peer is installed (peers.py), its median too and
the median over rounds of peer / ours. Both sides run in turn in one process, in alternating order,
so a slow drift of the machine moves both; they share its threads and its allocator settings.
Weights are random and data synthetic: speed does not depend on them.

Decoders run without conditions, as their peers do. The training step is the product's: clipping,
AdamW, the average.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
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

from genlab.codecs.convnext import StackConfig
from genlab.codecs.dac import DacConfig
from genlab.codecs.encodec import EncodecConfig
from genlab.codecs.frozen import FrozenCodec
from genlab.codecs.mimi import MimiConfig
from genlab.codecs.mimi_convolutions import ConvolutionsConfig
from genlab.codecs.mimi_transformer import WindowTransformerConfig
from genlab.codecs.seanet import SEANetConfig
from genlab.codecs.spectral import SpectralCodecConfig
from genlab.config import GenlabError
from genlab.data.batches import BatchSource
from genlab.data.store import SplitInfo, StoreInfo, TokenClip, TokenStore, finish_store, write_part
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.decoders.task import SamplerConfig, Task
from genlab.nets.backbone import BackboneConfig
from genlab.run.checkpoint import CheckpointWriter
from genlab.speed import peers
from genlab.speed.size import BenchSize
from genlab.tokens import Cond, Tokens
from genlab.training.optim import OptimConfig
from genlab.training.step import SAVED, create_state, make_update

WARM_UPS = 2
QUIET_CORES = 0.2  # what other processes may use before their share decides a ratio
STEPS = 1_000_000  # of the learning rate's schedule
NOTHING = ConditionConfig(content="none", speaker=False)
VOCAB = CondVocab(num_speakers=1)
TOP_K = 250


QUICK = BenchSize(
    backbone=BackboneConfig(width=32, layers=2, heads=2),
    codec=SpectralCodecConfig(
        encoder=StackConfig(width=16, blocks=1), decoder=StackConfig(width=16, blocks=1)
    ),
    codebooks=2,
    entries=16,
    latent_channels=8,
    frames=16,
    batch=2,
    masked_steps=(2, 1),
    diffusion_steps=2,
    audio_s=0.2,
    encodec=EncodecConfig(
        network=SEANetConfig(latent_channels=8, channels=4, strides=(8, 5, 4, 2), is_causal=True),
        entries=16,
    ),
    mimi=MimiConfig(
        width=16,
        entry_channels=8,
        entries=16,
        convolutions=ConvolutionsConfig(filters=4),
        transformer=WindowTransformerConfig(layers=2, heads=2, inner_width=16),
    ),
    dac=DacConfig(encoder_width=4, decoder_width=32, latent_channels=64, entries=16),
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """`run` does one repetition to its end; if it returns a float, that counts instead of the
    seconds it took.
    """

    run: Callable[[], object]
    shape: str
    note: Callable[[], str] = lambda: ""


def run_workloads(
    names: tuple[str, ...] = (), *, rounds: int = 5, quick: bool = False
) -> Iterator[dict[str, JsonValue]]:
    """Measure each workload in turn (all of them without names), and yield its line as soon as it
    is known.

    Raises:
        GenlabError: if a name is unknown or there are no rounds.
    """
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise GenlabError(
            f"bench {' '.join(unknown)}: no such workload, choose from {', '.join(WORKLOADS)}"
        )
    if rounds < 1:
        raise GenlabError(f"--rounds {rounds}: expected at least 1")
    size = QUICK if quick else BenchSize()
    for name in names or WORKLOADS:
        with WORKLOADS[name](size) as workload:
            yield _measure(name, workload, peers.find_peer(name, size, num_threads()), rounds)


def format_line(line: dict[str, JsonValue]) -> str:
    """Return the line of one workload for a person."""
    peer = (
        "no peer installed"
        if line["peer"] is None
        else f"{line['peer']} {line['peer_s']:.4f} s, ratio {line['ratio']:.2f}"
    )
    setting = f"{line['shape']}, {line['dtype']}, {line['threads']} threads"
    return f"{line['workload']:<24} {line['ours_s']:.4f} s  ({setting})  {peer}"


def num_threads() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measure(
    name: str, workload: Workload, peer: peers.Peer | None, rounds: int
) -> dict[str, JsonValue]:
    sides = [workload.run] + ([] if peer is None else [peer.run])
    for _ in range(WARM_UPS):
        for side in sides:
            side()
    times: list[list[float]] = [[] for _ in sides]
    others = _busy_cpu_s()
    ours = time.process_time()
    began_all = time.perf_counter()
    for number in range(rounds):
        # Alternating who goes first cancels what drifts with time: clock, caches, temperature.
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            began = time.perf_counter()
            counted = sides[side]()
            times[side].append(
                counted if isinstance(counted, float) else time.perf_counter() - began
            )
    # What other processes used meanwhile: their share, not ours, makes a ratio doubtful.
    others = _busy_cpu_s() - others - (time.process_time() - ours)
    _warn_if_busy(name, others / (time.perf_counter() - began_all))
    is_paired = peer is not None
    return {
        "workload": name,
        "ours_s": statistics.median(times[0]),
        "peer": peer.name if is_paired else None,
        "peer_s": statistics.median(times[1]) if is_paired else None,
        # The median of paired ratios: both sides of a round meet the same load.
        "ratio": statistics.median(theirs / ours for ours, theirs in zip(*times))
        if is_paired
        else None,
        "shape": workload.shape + workload.note(),
        "dtype": "float32",
        "threads": num_threads(),
    }


def _busy_cpu_s() -> float:
    """Return the CPU seconds that all processes together have used; 0 where that is unknown."""
    try:
        fields = [
            int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        ]
    except (OSError, ValueError, IndexError):
        return 0.0
    idle, waiting = fields[3:5]
    return (sum(fields) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def _warn_if_busy(name: str, other_cores: float) -> None:
    if other_cores > QUIET_CORES:
        print(
            f"genlab bench: {name}: other processes used {other_cores:.1f} cores meanwhile; on a "
            "busy machine torch's threads wait for each other, so neither times nor ratio mean "
            "much",
            file=sys.stderr,
        )


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
def _train_step(config: Any, detail: str, size: BenchSize) -> Iterator[Workload]:
    trainer = _Trainer(config, size)
    args = _tokens(size, size.batch)
    shape = f"{_shape(size, size.batch)}, {detail}, {_millions(trainer.state['params'])}"
    yield Workload(lambda: trainer.step(args), shape)


@contextlib.contextmanager
def _sample(
    config: Any, sampler_of: Callable[[BenchSize], SamplerConfig], size: BenchSize
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
    compiled = draw.lower(*args, next(keys)).compile()
    yield Workload(
        lambda: jax.block_until_ready(compiled(*args, next(keys))),
        f"{_shape(size, 1)}, {calls[0]} network calls, {_millions(state)}",
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
            yield Workload(run, _shape(size, size.batch), note)
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

        yield Workload(run, f"{num_bytes / 1e6:.0f} MB of state, on disk and checked")


WORKLOADS: dict[str, Callable[[BenchSize], contextlib.AbstractContextManager[Workload]]] = {
    "ar_train_step": partial(_train_step, ARConfig(), "delay pattern"),
    "masked_train_step": partial(_train_step, MaskedConfig(), "one level"),
    "diffusion_train_step": partial(_train_step, DiffusionConfig(), "flow matching"),
    "ar_sample": partial(
        _sample, ARConfig(), lambda size: ARSampler(top_k=min(TOP_K, size.entries))
    ),
    "masked_sample": partial(
        _sample, MaskedConfig(), lambda size: MaskedSampler(steps=size.masked_steps)
    ),
    "diffusion_sample": partial(
        _sample, DiffusionConfig(), lambda size: DiffusionSampler(steps=size.diffusion_steps)
    ),
    "codec_encode_10s": partial(_codec, "encode"),
    "codec_decode_10s": partial(_codec, "decode"),
    "encodec_24khz_10s": partial(_published, "encodec"),
    "mimi_10s": partial(_published, "mimi"),
    "dac_16khz_10s": partial(_published, "dac"),
    "data_loader": _data_loader,
    "checkpoint_save": _checkpoint_save,
}
