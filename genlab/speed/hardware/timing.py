"""Seconds of programs that run on another device: several repetitions are sent before one is waited
for, as in training.
"""

import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

BATCHES = 3  # of repetitions; the median of their means counts


def seconds_per_call(run: Callable[[], object], repeats: int) -> float:
    """Return the seconds of one call of `run`, whose result is waited for after `repeats` calls.

    It is called once before, so that nothing compiles while it is timed.
    """
    jax.block_until_ready(run())
    means = []
    for _ in range(BATCHES):
        began = time.perf_counter()
        last = None
        for _ in range(repeats):
            last = run()
        jax.block_until_ready(last)
        means.append((time.perf_counter() - began) / repeats)
    return statistics.median(means)


@functools.cache
def product_flops_per_s(size: int, dtype: str, repeats: int = 8) -> float:
    """Return the FLOP/s of a product of two square matrices of random numbers.

    Random, because zeros and ones draw less power, and a chip at its limit of power then runs
    faster than any training will.
    """
    left, right = jax.random.normal(jax.random.key(0), (2, size, size)).astype(dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=a.dtype))
    return 2 * size**3 / seconds_per_call(lambda: product(left, right), repeats)
