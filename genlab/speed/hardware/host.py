"""What the host does for every step: the loop and the loader, around a model that costs nothing.

A device that waits for the host does nothing. The seconds counted are those of the main thread's
CPU, which a busy machine does not change; a step of the device has to be longer than them.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from genlab.data.batches import BatchSource
from genlab.speed.hardware.size import FULL, HardwareSize
from genlab.speed.hardware.step import Case, Row
from genlab.tokens import LossOut
from genlab.train import TrainSettings, train
from genlab.training.optim import OptimConfig

CLIPS, BATCH, SAMPLES = 50, 32, 16_000
LOG_EVERY = 50
STRETCHES = 8  # of LOG_EVERY steps; the first holds compilation and warm-up
MOST_S = 5e-3  # a step of the smallest model takes several times as long


class Host:
    """What does the host do for every step?"""

    name = "host"
    question = "How long does the host work for every step, while the device may have to wait?"
    share = 1.0
    environment: Mapping[str, str] = {}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return the one case: batches of 32 one-second waves, 2 MB each."""
        stretches = STRETCHES if size is FULL else 2
        return [Case("loop and loader", partial(_measure, stretches))]


class _Free(nnx.Module):
    """A model of 16 numbers."""

    def __init__(self, key: Key[Array, ""]):
        self.slope = nnx.Param(jnp.ones(16))

    def loss(
        self, waves: Float[Array, "b n"], num_samples: Int[Array, "b"], *, key: Key[Array, ""]
    ) -> LossOut:
        """Return something that depends on the weights and the batch."""
        lost = jnp.square(waves[:, :16] * self.slope[None]).mean(-1)
        return LossOut(lost, jnp.ones(waves.shape[0]), {})


class _Clocks:
    """A writer that reads the clocks whenever metrics are logged."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, float]] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Note the clocks of this thread, of this process, and of the wall."""
        clocks = (time.thread_time(), time.process_time(), time.perf_counter())
        self.rows.append((step, *clocks))


def _measure(stretches: int) -> Row:
    import grain

    waves = np.random.default_rng(0).integers(-3000, 3000, (CLIPS, 3 * SAMPLES)).astype(np.int16)

    def cut(index: int, rng: np.random.Generator) -> tuple[tuple[np.ndarray, np.int32], np.int32]:
        first = int(rng.integers(0, 2 * SAMPLES))
        wave = waves[index % CLIPS][first : first + SAMPLES].astype(np.float32) / 32768
        return (wave, np.int32(SAMPLES)), np.int32(index)

    clocks = _Clocks()
    dataset = grain.MapDataset.range(600).seed(0).shuffle().repeat(None).random_map(cut)
    with tempfile.TemporaryDirectory() as folder:
        train(
            _Free,
            BatchSource(dataset, BATCH),
            steps=LOG_EVERY * (stretches + 1),
            optim=OptimConfig(),
            seed=0,
            settings=TrainSettings(log_every=LOG_EVERY, save_every_s=None),
            run_dir=Path(folder) / "run",
            writer=clocks,
        )
    # From the end of the first stretch to the last but one: saving falls into the last.
    first, last = clocks.rows[0], clocks.rows[-2]
    steps = last[0] - first[0]
    main_s, process_s, wall_s = ((last[i] - first[i]) / steps for i in (1, 2, 3))
    return {
        "main_thread_s_per_step": main_s,
        "process_s_per_step": process_s,
        "wall_s_per_step": wall_s,
        "steps": steps,
        "tolerance": MOST_S,
        "passed": main_s <= MOST_S,
    }
