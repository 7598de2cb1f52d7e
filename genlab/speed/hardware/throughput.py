"""How fast every family trains and samples at each size, against the measured product of two
matrices, and whether it takes the memory that the compiler planned.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import jax

from genlab.speed.hardware.families import (
    Family,
    SamplingProgram,
    TrainingProgram,
    main_families,
    other_families,
)
from genlab.speed.hardware.size import HardwareSize, ModelSize
from genlab.speed.hardware.step import Case, Row
from genlab.speed.hardware.timing import product_flops_per_s, seconds_per_call


class Throughput:
    """How fast does every family train and sample?"""

    name = "throughput"
    question = "How fast does every family train and sample, and in which memory?"
    share = 8.0
    environment: Mapping[str, str] = {}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return training before sampling, and the three families with peers before the others."""
        cases = []
        for families in (main_families(size), other_families()):
            for model in size.models:
                cases += [
                    Case(f"train {family.name}, {model.name}", partial(_train, size, family, model))
                    for family in families
                ]
            for model in size.models:
                cases += [
                    Case(
                        f"sample {family.name}, {model.name}, batch {clips}",
                        partial(_sample, size, family, model, clips),
                    )
                    for clips in size.sampled_clips
                    for family in families
                ]
        return cases


def _train(size: HardwareSize, family: Family, model: ModelSize) -> Row:
    before = _peak_bytes()
    program = TrainingProgram(family, size.task(model), model.clips)
    seconds = seconds_per_call(program.step, size.repeats)
    return {
        "params": program.params,
        "clips": model.clips,
        "frames": size.frames,
        "compile_s": program.compile_s,
        **_speed(size, seconds, program.flops),
        **_memory(before, program.planned_bytes),
    }


def _sample(size: HardwareSize, family: Family, model: ModelSize, clips: int) -> Row:
    before = _peak_bytes()
    program = SamplingProgram(family, size.task(model), clips)
    # One call at a time: whoever samples waits for the tokens.
    seconds = seconds_per_call(lambda: jax.block_until_ready(program.draw()), 1)
    return {
        "params": program.params,
        "clips": clips,
        "frames": size.frames,
        "network_calls": program.network_calls,
        "audio_s_per_s": clips * size.frames / size.spec.frame_hz / seconds,
        "compile_s": program.compile_s,
        **_speed(size, seconds, program.flops),
        **_memory(before, program.planned_bytes),
    }


def _speed(size: HardwareSize, seconds: float, flops: float) -> Row:
    peak = product_flops_per_s(size.product, size.dtype)
    return {
        "seconds": seconds,
        "flops": flops,
        "measured_product_flops_per_s": peak,
        "mfu": flops / seconds / peak,
    }


def _memory(before: int | None, planned: int | None) -> Row:
    """Return the planned memory, and what was used at most; the device keeps one record for the
    whole process, which says something of this program only if this program broke it.
    """
    after = _peak_bytes()
    is_record = after is not None and (before is None or after > before)
    return {"planned_bytes": planned, "peak_bytes": after if is_record else None}


def _peak_bytes() -> int | None:
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
