"""A trace of a few training steps, for TensorBoard's profiler or Perfetto."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

FIRST_STEP = 5  # the steps before it hold what happens only once


@contextlib.contextmanager
def trace_steps(run_dir: Path, num_steps: int) -> Iterator[Callable[[int], None]]:
    """Yield a function of the steps made that traces `num_steps` of them into profile/, past the first five."""
    with contextlib.ExitStack() as tracing:

        def profile(made: int) -> None:
            if num_steps and made == FIRST_STEP:
                tracing.enter_context(jax.profiler.trace(str(run_dir / "profile")))
            elif made == FIRST_STEP + num_steps:
                tracing.close()

        yield profile
