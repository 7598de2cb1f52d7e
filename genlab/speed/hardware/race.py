"""The same work in torch, in turn with ours in one process: who is faster, by how much.

Both sides make a few repetitions each per round, in alternating order, so what drifts with time
(clocks, temperature) moves both; the ratio is the median over rounds of theirs / ours.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax

from genlab.nets.backbone import BackboneConfig
from genlab.speed import peers
from genlab.speed.hardware import torch_models
from genlab.speed.hardware.families import (
    Family,
    SamplingProgram,
    TrainingProgram,
    main_families,
)
from genlab.speed.hardware.size import HardwareSize, ModelSize
from genlab.speed.hardware.step import Case, Row, Skipped
from genlab.speed.size import BenchSize

ROUNDS = 5


class Race:
    """How much faster than torch.compile and flash attention are we?"""

    name = "torch"
    question = "How much faster are we than the same work in torch, compiled, with flash attention?"
    share = 7.0
    # Both frameworks share the accelerator: neither may take all of its memory at once.
    environment: Mapping[str, str] = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return training, largest last, before sampling at batch 1."""
        families = main_families(size)
        return [
            Case(f"{verb} {family.name}, {model.name}", partial(race, size, family, model))
            for verb, race in (("train", _race_training), ("sample", _race_sampling))
            for model in size.models
            for family in families
        ]


def require_torch(package: str = "torch") -> str:
    """Return torch's name of the device that jax computes on.

    Raises:
        Skipped: if torch, or the package, is not installed, or cannot use that device.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec(package) is None:
        raise Skipped(f"{package} is not installed")
    import torch

    if jax.default_backend() == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise Skipped("torch does not see the accelerator")
    return "cuda"


def wait_for_torch(device: str) -> None:
    """Wait until everything that was sent to torch's device is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def interleave(
    ours: Callable[[], object], theirs: Callable[[], object], wait: Callable[[], None], repeats: int
) -> Row:
    """Return the median seconds of one repetition on both sides, and of their ratio per round."""

    def run_ours() -> None:
        last = None
        for _ in range(repeats):
            last = ours()
        jax.block_until_ready(last)

    def run_theirs() -> None:
        for _ in range(repeats):
            theirs()
        wait()

    sides = (run_ours, run_theirs)
    times: tuple[list[float], list[float]] = ([], [])
    for side in sides:
        side()  # compiles
    for number in range(ROUNDS):
        # Alternating who goes first cancels what drifts with time.
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            sides[index]()
            times[index].append((time.perf_counter() - began) / repeats)
    ratios = [other / own for own, other in zip(*times)]
    return {
        "ours_s": statistics.median(times[0]),
        "torch_s": statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        "rounds": ROUNDS,
    }


def _race_training(size: HardwareSize, family: Family, model: ModelSize) -> Row:
    device = require_torch()
    import torch

    torch.manual_seed(0)
    theirs = torch_models.training_step(family.name, size, model, device)
    ours = TrainingProgram(family, size.task(model), model.clips)
    row = interleave(ours.step, theirs, partial(wait_for_torch, device), size.repeats)
    with torch.device("meta"):
        params = torch_models.count_parameters(
            torch_models.build_decoder(family.name, size, model)[0]
        )
    return {"peer": "torch.compile", "params": ours.params, "torch_params": params, **row}


def _race_sampling(size: HardwareSize, family: Family, model: ModelSize) -> Row:
    device = require_torch("transformers" if family.name == "ar" else "torch")
    ours = SamplingProgram(family, size.task(model), 1)
    if family.name == "ar":
        peer = _generate(size, model, device)
        name, theirs = peer.name, peer.run
    else:
        calls = round(ours.network_calls)
        name = f"torch.compile, {calls} network calls and nothing between them"
        theirs = torch_models.drawing(family.name, size, model, calls, device)
    draw = partial(_wait_for, ours)
    row = interleave(draw, theirs, partial(wait_for_torch, device), 1)
    return {"peer": name, "params": ours.params, "network_calls": ours.network_calls, **row}


def _wait_for(program: SamplingProgram) -> None:
    jax.block_until_ready(program.draw())


def _generate(size: HardwareSize, model: ModelSize, device: str) -> peers.Peer:
    """Return transformers' own loop over MusicGen, in the type of our program."""
    import torch

    asked = BenchSize(
        backbone=BackboneConfig(width=model.width, layers=model.layers, heads=model.heads),
        codebooks=size.codebooks,
        entries=size.entries,
        latent_channels=size.latent_channels,
        frames=size.frames,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if size.dtype == "bfloat16" else torch.float32)
    try:
        with torch.device(device):
            peer = peers.build_peer("ar_sample", asked)
    finally:
        torch.set_default_dtype(before)
    assert peer is not None, "MusicGen has a peer at every size"
    return peer
