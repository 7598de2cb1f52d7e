"""Profiles of training: traces of some steps for TensorBoard, and the peak that speed is compared
with.

The peak of a TPU is the catalogued one in bfloat16. Of any other device it is what one large matrix
product reaches there, in the type that its training uses: float32 on a CPU, bfloat16 elsewhere.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pydantic

from genlab.config import Config
from genlab.machine.topologies import CHIPS

# What jax calls the devices of the catalogue.
DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "TPU7x": "tpu7x",
}


class ProfileConfig(Config):
    """Trace a few steps of this attempt with jax.profiler."""

    start: int = pydantic.Field(default=5, ge=1)
    """Steps of this attempt before the trace; the first ones are slower than the rest."""
    steps: int = pydantic.Field(default=0, ge=0)
    """Steps to trace; 0 traces none."""


@contextlib.contextmanager
def trace_steps(config: ProfileConfig, run_dir: Path) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of steps made; the trace goes to plugins/profile in
    `run_dir`.
    """
    with contextlib.ExitStack() as tracing:

        def count(made: int) -> None:
            if config.steps and made == config.start:
                tracing.enter_context(jax.profiler.trace(str(run_dir)))
            elif made == config.start + config.steps:
                tracing.close()

        yield count


@functools.cache
def find_peak_flops() -> float:
    """Return FLOP/s of all devices together: catalogued, or measured once per process."""
    device = jax.devices()[0]
    chip = DEVICE_KINDS.get(device.device_kind)
    if chip is not None:
        return jax.device_count() * CHIPS[chip].peak_flops
    # Fake devices share the cores of one machine.
    return measure_flops_per_s() * (1 if device.platform == "cpu" else jax.device_count())


def measure_flops_per_s(rounds: int = 5) -> float:
    """Return the best rate of one large matrix product on this device, in FLOP/s."""
    is_cpu = jax.default_backend() == "cpu"
    size, dtype = (1024, jnp.float32) if is_cpu else (8192, jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    matrix = jnp.ones((size, size), dtype)
    product(matrix).block_until_ready()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        product(matrix).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)
