"""How fast the codecs encode and decode: the in-lab one and the published ones at their sizes, with
random weights, and the published ones beside transformers.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from genlab.codecs.frozen import FrozenCodec
from genlab.speed import peers
from genlab.speed.hardware.race import require_torch, wait_for_torch
from genlab.speed.hardware.size import FULL, HardwareSize
from genlab.speed.hardware.step import Case, Row, Skipped
from genlab.speed.size import QUICK, BenchSize

KINDS = ("codec", "mimi", "encodec", "dac")  # the fields of BenchSize
PEERS = {"mimi": "mimi_10s", "encodec": "encodec_24khz_10s", "dac": "dac_16khz_10s"}
ROUNDS = 5


class _Buildable(Protocol):
    def build(self, *, key: Key[Array, ""]) -> nnx.Module: ...


class Sound:
    """How fast do the codecs encode and decode?"""

    name = "codecs"
    question = "How fast do the codecs encode and decode?"
    share = 2.0
    environment: Mapping[str, str] = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return the codecs of ours, then those of transformers."""
        asked = BenchSize(audio_s=size.audio_s) if size is FULL else QUICK
        ours = [Case(f"{kind}, ours", partial(_ours, kind, asked)) for kind in KINDS]
        theirs = [
            Case(f"{kind}, transformers", partial(_theirs, workload, asked))
            for kind, workload in PEERS.items()
        ]
        return [*ours, *theirs]


def _ours(kind: str, size: BenchSize) -> Row:
    config: _Buildable = getattr(size, kind)
    network = jax.jit(lambda key: config.build(key=key))(jax.random.key(0))
    codec = FrozenCodec(network, "random", {})  # pyright: ignore[reportArgumentType]
    spec = codec.spec
    samples = int(size.audio_s * spec.sample_rate_hz)
    wave = 0.1 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    [(codes, _)] = codec.encode([wave])
    codec.decode_codes([codes])
    encode_s = _shortest(lambda: codec.encode([wave]))
    decode_s = _shortest(lambda: codec.decode_codes([codes]))
    return {
        "audio_s": size.audio_s,
        "sample_rate_hz": spec.sample_rate_hz,
        "codebooks": spec.codebooks,
        "encode_s": encode_s,
        "decode_s": decode_s,
        "both_s": encode_s + decode_s,
    }


def _theirs(workload: str, size: BenchSize) -> Row:
    device = require_torch("transformers")
    import torch

    with torch.device(device):
        peer = peers.build_peer(workload, size)
    if peer is None:
        raise Skipped("toy sizes have no peer")

    def run() -> None:
        peer.run()
        wait_for_torch(device)

    run()
    return {"peer": peer.name, "audio_s": size.audio_s, "both_s": _shortest(run)}


def _shortest(run: Callable[[], object]) -> float:
    """Return the least seconds of a few calls; the results are on the host when a call returns."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
