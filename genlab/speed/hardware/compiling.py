"""How long the training steps take to compile, and to load from the persistent cache."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial

import jax
from jax.experimental.compilation_cache import compilation_cache

from genlab.speed.hardware.families import Family, TrainingProgram, main_families
from genlab.speed.hardware.size import HardwareSize, ModelSize
from genlab.speed.hardware.step import Case, Row


class Compiling:
    """How long does compiling take, and what does the persistent cache save?"""

    name = "compiling"
    question = "How long does compiling take, and what does the persistent cache save?"
    share = 3.0
    environment: Mapping[str, str] = {}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return the families with peers, from the largest model down."""
        return [
            Case(f"{family.name}, {model.name}", partial(_compile_twice, size, family, model))
            for model in reversed(size.models)
            for family in main_families(size)
        ]


def _compile_twice(size: HardwareSize, family: Family, model: ModelSize) -> Row:
    hits: list[str] = []

    def note(event: str, **facts: str | int) -> None:
        if event.endswith("/cache_hits"):
            hits.append(event)

    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    least = jax.config.jax_persistent_cache_min_compile_time_secs  # pyright: ignore[reportAttributeAccessIssue]
    jax.monitoring.register_event_listener(note)
    # An empty cache of its own: what other steps have compiled would be found in theirs.
    with tempfile.TemporaryDirectory() as folder:
        try:
            _use_cache(folder, 0.0)
            cold, _ = _seconds(size, family, model)
            found_cold = len(hits)
            warm, compile_s = _seconds(size, family, model)
        finally:
            jax.monitoring.unregister_event_listener(note)
            _use_cache(before, least)
    return {
        "cold_s": cold,
        "cached_s": warm,
        "cached_step_s": compile_s,
        "programs_found": len(hits) - found_cold,
        "passed": len(hits) > found_cold,
    }


def _use_cache(folder: str | None, least_s: float) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_s)
    compilation_cache.reset_cache()


def _seconds(size: HardwareSize, family: Family, model: ModelSize) -> tuple[float, float]:
    """Return the seconds until a training step can be made, and those of its own compilation."""
    jax.clear_caches()
    began = time.perf_counter()
    program = TrainingProgram(family, size.task(model), model.clips)
    return time.perf_counter() - began, program.compile_s
