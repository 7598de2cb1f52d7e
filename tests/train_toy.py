"""A tiny model and data set, and a command that trains them: what the process-level tests start and
kill.

Run as `python tests/train_toy.py RUN_DIR [key=value ...]`; prints one JSON line with a digest of
the final parameters.
"""

import json
import sys
import time
import zlib
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from genlab.config import GenlabError
from genlab.data.batches import BatchSource
from genlab.tokens import LossOut
from genlab.train import TrainSettings, train
from genlab.training.optim import OptimConfig

WIDTH = 8


class Numbers:
    """Element i of the data set is the number i; `delay_s` makes the reader slow."""

    def __init__(self, count=64, delay_s=0.0):
        self.count, self.delay_s = count, delay_s

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(self.delay_s)
        return index


class Toy(nnx.Module):
    """Stacked, scanned layers, noise from the key, and a running average that `loss` moves: all
    that a codec does.
    """

    def __init__(self, rngs, layers=2):
        @nnx.split_rngs(splits=layers)
        @nnx.vmap
        def make(rngs):
            return nnx.Linear(WIDTH, WIDTH, rngs=rngs)

        self.layers = make(rngs)
        self.norm_scale = nnx.Param(jnp.ones(WIDTH))
        self.average = nnx.Variable(jnp.zeros(WIDTH))

    def loss(self, inputs, targets, weight, *, key):
        """Regress the targets from noisy inputs."""
        noisy = inputs + 0.1 * jax.random.normal(key, inputs.shape)
        hidden, _ = jax.lax.scan(lambda h, layer: (jnp.tanh(layer(h)), None), noisy, self.layers)
        self.average[...] = 0.9 * self.average[...] + 0.1 * hidden.mean(0)
        error = jnp.square(hidden * self.norm_scale[None] - targets).mean(-1)
        return LossOut(error, weight, {"hidden": jnp.abs(hidden).mean(-1)})


def build(key):
    return Toy(nnx.Rngs(key))


def make_source(batch_size=8, seed=5, delay_s=0.0, repeat=None):
    def element(index, rng):
        inputs = rng.normal(size=WIDTH).astype(np.float32)
        return (inputs, np.sin(inputs[::-1]).copy(), np.float32(1 + index % 3)), np.int32(index)

    dataset = (
        grain.MapDataset.source(Numbers(delay_s=delay_s))
        .seed(seed)
        .shuffle()
        .repeat(repeat)
        .random_map(element)
    )
    return BatchSource(dataset, batch_size)


def digest(model):
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))
    return [zlib.crc32(np.ascontiguousarray(leaf)) for leaf in leaves]


def main():
    options = {
        "steps": 60,
        "delay_s": 0.0,
        "save_every_steps": 5,
        **dict(item.split("=") for item in sys.argv[2:]),
    }
    settings = TrainSettings(
        log_every=10, save_every_s=None, save_every_steps=int(options["save_every_steps"]), keep=2
    )
    try:
        result = train(
            build,
            make_source(delay_s=float(options["delay_s"])),
            steps=int(options["steps"]),
            optim=OptimConfig(peak_lr=1e-2),
            seed=1,
            settings=settings,
            run_dir=Path(sys.argv[1]),
        )
    except GenlabError as error:
        print(error, file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    print(
        json.dumps(
            {"digest": digest(result.model), "batch_hash": result.batch_hash, "steps": result.steps}
        )
    )


if __name__ == "__main__":
    main()
