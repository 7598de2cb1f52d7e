"""Traces of some training steps: what the host, the devices and the links between them did, for TensorBoard to show."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pydantic

from genlab.config import Config


class ProfileConfig(Config):
    """Trace `steps` steps after the first `start` of this attempt; the first ones of all are slower than the rest."""

    start: int = pydantic.Field(default=5, ge=1)
    steps: int = pydantic.Field(default=0, ge=0)


@contextlib.contextmanager
def trace_steps(config: ProfileConfig, run_dir: Path) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of steps made; the trace goes to plugins/profile in `run_dir`."""
    with contextlib.ExitStack() as tracing:

        def count(made: int) -> None:
            if config.steps and made == config.start:
                tracing.enter_context(jax.profiler.trace(str(run_dir)))
            elif made == config.start + config.steps:
                tracing.close()

        yield count
