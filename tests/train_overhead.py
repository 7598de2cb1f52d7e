"""Measure what the loop and the loader cost, with a model that costs nothing. Run as `python
tests/train_overhead.py`.

Prints, per step of a batch of 32 one-second waves (2 MB): the CPU time of the main thread, which
delays the device, the CPU time of the whole process (loader threads and the update included), and
the wall time.
"""

import tempfile
import time
from pathlib import Path

import grain
import jax.numpy as jnp
import numpy as np
from flax import nnx

from genlab.data.batches import BatchSource
from genlab.tokens import LossOut
from genlab.train import TrainSettings, train
from genlab.training.optim import OptimConfig

CLIPS = np.random.default_rng(0).integers(-3000, 3000, (50, 48000)).astype(np.int16)


class Free(nnx.Module):
    def __init__(self, key):
        self.slope = nnx.Param(jnp.ones(16))

    def loss(self, waves, num_samples, *, key):
        return LossOut(
            jnp.square(waves[:, :16] * self.slope[None]).mean(-1), jnp.ones(waves.shape[0]), {}
        )


class Marks:
    def __init__(self):
        self.rows = []

    def scalars(self, step, values):
        self.rows.append(
            (step, time.thread_time(), time.process_time(), time.perf_counter(), values)
        )


def draw(index, rng):
    first = int(rng.integers(0, 32000))
    wave = CLIPS[index % 50][first : first + 16000].astype(np.float32) / 32768
    return (wave, np.int32(16000)), np.int32(index)


def main():
    marks = Marks()
    dataset = grain.MapDataset.range(600).seed(0).shuffle().repeat(None).random_map(draw)
    settings = TrainSettings(log_every=100, save_every_s=None)
    with tempfile.TemporaryDirectory() as folder:
        where = {"settings": settings, "run_dir": Path(folder) / "run", "writer": marks}
        train(Free, BatchSource(dataset, 32), steps=500, optim=OptimConfig(), seed=0, **where)
    for before, after in zip(marks.rows[:-1], marks.rows[1:], strict=True):
        main_ms, process_ms, wall_ms = (
            1e3 * (after[column] - before[column]) / (after[0] - before[0]) for column in (1, 2, 3)
        )
        print(
            f"steps {before[0]}-{after[0]}: main {main_ms:.2f} ms, process {process_ms:.2f} ms, "
            f"wall {wall_ms:.2f} ms"
        )


if __name__ == "__main__":
    main()
