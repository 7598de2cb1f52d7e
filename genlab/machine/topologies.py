"""TPU slices by the names their users know, and what a chip can do.

In: a name such as v5litepod-16, v5e-16, v5p-16 or v5e:4x4. Out: what the compiler calls it, and the
facts of its chip. Up to v5p and for tpu7x the number in a name counts cores, two per chip; for v5e
and v6e it counts chips. Nothing here imports jax or asks a machine; `describe` in speed/aot.py
does.
"""

import math
import re
from typing import Any, NamedTuple

from genlab.config import GenlabError
from genlab.config.errors import one_line

GIB = 2**30
# To be set before jax is imported: compile here, ask no metadata server, and keep the compiler
# quiet about it.
COMPILER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Warnings of the partitioner; by default they go to a file.
    "TPU_STDERR_LOG_LEVEL": "1",
    # No chip is opened, so several compilations may run side by side.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Chip(NamedTuple):
    """One device as jax sees it: a chip, or for tpu7x one of its two cores.

    `hbm_bytes` is what the compiler leaves to a program; `ici_bytes_per_s` is what a chip can send
    and receive over all its links at once, in one direction.
    """

    name: str
    hbm_bytes: float
    peak_flops: float
    hbm_bytes_per_s: float
    ici_bytes_per_s: float
    devices_per_chip: int = 1


# bfloat16 FLOP/s, HBM bandwidth and ICI bandwidth (half of what is published for both directions):
# docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e and tpu7x, "Key chip specifications", read
# 2026-11. HBM: what libtpu 0.0.52 says is available when a program does not fit.
CHIPS = {
    # 32 GiB of HBM2 at 1200 GB/s, 275 TFLOP/s, six links of 50 GB/s.
    "v4": Chip("v4", 30.75 * GIB, 275e12, 1200e9, 300e9),
    # 16 GB of HBM2 at 819 GB/s, 197 TFLOP/s, 400 GB/s in both directions.
    "v5e": Chip("v5e", 15.75 * GIB, 197e12, 819e9, 200e9),
    # 95 GB of HBM2e at 2765 GB/s, 459 TFLOP/s, 1200 GB/s in both directions.
    "v5p": Chip("v5p", 95.73 * GIB, 459e12, 2765e9, 600e9),
    # 32 GB at 1638 GB/s, 918 TFLOP/s, 800 GB/s in both directions.
    "v6e": Chip("v6e", 31.24 * GIB, 918e12, 1638e9, 400e9),
    # A chip has 192 GB at 7380 GB/s, 2307 TFLOP/s and 1200 GB/s in both directions; each core is a
    # device with half.
    "tpu7x": Chip("tpu7x", 94.74 * GIB, 1153.5e12, 3690e9, 300e9, devices_per_chip=2),
}
# Chips along the axes of the shapes that are rented; those of three axes are the usual one of
# several.
FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
DEEP = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
}
FLAT_GENERATIONS = ("v5e", "v6e")  # of two axes, and named by chips, where others count cores
ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v6": "v6e", "v7x": "tpu7x"}


class Topology(NamedTuple):
    """A slice: its chip, the compiler's name for it, and what else the compiler needs to know."""

    chip: Chip
    compiler_name: str
    options: dict[str, Any]

    @property
    def num_devices(self) -> int:
        """Devices that jax sees."""
        return self.chip.devices_per_chip * _count(self.compiler_name.split(":")[1])


def find_topology(name: str, option: str = "--topology") -> Topology:
    """Return the slice that `name` means; `option` is where a person wrote it.

    Raises:
        GenlabError: if there is no such slice.
    """
    # No slice has a size of five digits, and int() takes neither long ones nor those of any script.
    size = r"[0-9]{1,4}"
    written = rf"([a-z0-9]+?)(?:-({size})|:({size}(?:x{size}){{1,2}}))"
    found = re.fullmatch(written, name.strip().lower())
    generation = ALIASES.get(found[1], found[1]) if found else ""
    if not found or generation not in CHIPS:
        raise GenlabError(
            f"{option} {one_line(name, 60)}: expected GENERATION-NUMBER or GENERATION:AxB[xC] with "
            f"one of {', '.join(CHIPS)}, for example v5litepod-16, v6e-16, v5p-16 or v5e:4x4"
        )
    # v5e and v6e are named by chips (v5e-16); the others by cores, two of which make a chip.
    is_flat = generation in FLAT_GENERATIONS
    shapes = FLAT if is_flat else DEEP
    chips = _count(found[3]) if found[3] else int(found[2]) // (1 if is_flat else 2)
    if found[3] is None and (chips not in shapes or (not is_flat and int(found[2]) % 2)):
        known = ", ".join(f"{generation}-{size * (1 if is_flat else 2)}" for size in shapes)
        raise GenlabError(
            f"{option} {name}: no slice of this size; known are {known}, or give its shape"
        )
    shape = found[3] or shapes[chips]
    # A shape of the wrong rank would only fail inside libtpu, with a text that names no option.
    if shape.count("x") != (1 if is_flat else 2):
        raise GenlabError(
            f"{option} {name}: {generation} has {2 if is_flat else 3} axes, for example {shapes[8]}"
        )
    return Topology(CHIPS[generation], f"{generation}:{shape}", _options(generation, shape))


def _options(generation: str, shape: str) -> dict[str, Any]:
    if generation == "v4":
        # Without it the compiler takes the two cores of a chip for two devices.
        return {
            "chip_config_name": "megacore",
            "chips_per_host_bounds": (2, 2, 1),
            "wrap": (True, True, True),
        }
    if shape == "1x1":
        return {"chips_per_host_bounds": (1, 1, 1)}
    # One host holds all eight; unsaid, the compiler takes them for two hosts.
    return {"chips_per_host_bounds": (2, 4, 1)} if shape == "2x4" else {}


def _count(shape: str) -> int:
    return math.prod(int(size) for size in shape.split("x"))
