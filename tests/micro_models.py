"""Every trainable model at a size of a few kilobytes, with one batch of eight: for goldens and for
tests of devices.

Run as `python tests/micro_models.py PROCESS NUM_PROCESSES PORT` it joins a cluster of CPU
processes, trains every model on its share of the batch, and process 0 prints one JSON line of loss
curves.
"""

import json
import sys
from functools import partial

import jax
import numpy as np
from codec_toys import HOP, make_wave
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from genlab.codecs.convnext import StackConfig
from genlab.codecs.spectral import SpectralCodecConfig
from genlab.decoders.ar import ARConfig
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.masked import MaskedConfig
from genlab.decoders.task import Task
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import Cond, Tokens, TokenSpec
from genlab.training.optim import OptimConfig
from genlab.training.step import create_state, make_update

SPEC = TokenSpec(sample_rate_hz=16_000, hop_samples=320, codebooks=3, entries=12, latent_channels=4)
VOCAB = CondVocab(num_speakers=3, num_units=10)
BACKBONE = BackboneConfig(width=16, layers=2, heads=2)
CONDITION = ConditionConfig(content="semantic", dropout=0.1)
CODEC = SpectralCodecConfig(
    codebooks=3,
    entries=16,
    latent_channels=4,
    encoder=StackConfig(width=4, blocks=1),
    decoder=StackConfig(width=4, blocks=1),
)
DECODERS = {"ar": ARConfig(), "masked": MaskedConfig(), "diffusion": DiffusionConfig()}
NAMES = (*DECODERS, "codec")
OPTIM = OptimConfig(peak_lr=3e-3)
BATCH, FRAMES = 8, 10


def build(name, key):
    """Return the model of that name with fresh parameters."""
    if name == "codec":
        return CODEC.build(key=key)
    return DECODERS[name].build(Task(SPEC, VOCAB, BACKBONE, CONDITION), key=key)


def batch_of(name):
    """Return the arguments of the model's loss before the key, as numpy arrays."""
    if name == "codec":
        waves = np.stack([make_wave(seed, 24 * HOP) for seed in range(BATCH)])
        return waves, np.array([24, 20, 24, 11, 24, 24, 7, 24], np.int32) * HOP
    rng = np.random.default_rng(0)
    lengths = np.array([10, 7, 10, 4, 9, 10, 10, 6], np.int32)
    content = np.where(
        np.arange(FRAMES) < lengths[:, None], rng.integers(1, 11, (BATCH, FRAMES)), 0
    )
    tokens = Tokens(
        rng.integers(0, SPEC.entries, (BATCH, FRAMES, SPEC.codebooks)).astype(np.int32),
        rng.normal(size=(BATCH, FRAMES, SPEC.latent_channels)).astype(np.float32),
        lengths,
    )
    speaker, text = (
        np.arange(BATCH, dtype=np.int32) % 3,
        rng.integers(1, 20, (BATCH, 5)).astype(np.int32),
    )
    return tokens, Cond(speaker, text, content.astype(np.int32), np.zeros(BATCH, bool))


def loss_curve(name, steps, devices=None):
    """Return the loss at every step of training on one batch, which is spread over `devices` if
    there are any.
    """
    create = jax.jit(partial(create_state, partial(build, name), OPTIM, steps))
    init_key, step_key = jax.random.split(jax.random.key(3))
    graphdef, _ = jax.eval_shape(create, init_key)
    args, (_, state) = batch_of(name), create(init_key)
    if devices is not None:
        mesh = jax.make_mesh(
            (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
        )
        everywhere, split = (
            NamedSharding(mesh, PartitionSpec()),
            NamedSharding(mesh, PartitionSpec("data")),
        )
        put = jax.make_array_from_callback
        args = jax.tree.map(
            lambda leaf: put(leaf.shape, split, lambda index, leaf=leaf: leaf[index]), args
        )
        state = jax.tree.map(np.asarray, state)
        state = jax.tree.map(
            lambda leaf: put(leaf.shape, everywhere, lambda index, leaf=leaf: leaf[index]), state
        )
    update, losses = make_update(graphdef, OPTIM, steps), []
    for _ in range(steps):
        state, metrics = update(state, args, step_key)
        losses.append(metrics["loss"])
    return [float(loss) for loss in losses]


if __name__ == "__main__":
    process, num_processes, port = (int(arg) for arg in sys.argv[1:])
    jax.distributed.initialize(f"localhost:{port}", num_processes, process)
    curves = {name: loss_curve(name, 3, jax.devices()) for name in NAMES}
    if process == 0:
        print(json.dumps(curves))
