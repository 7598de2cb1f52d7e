"""What the machine is: versions, devices, the doctor's findings, and the rates that shares refer
to.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata

import jax
import jax.extend.backend
import jax.numpy as jnp
from pydantic import JsonValue

from genlab import __version__
from genlab.config.errors import one_line
from genlab.speed.hardware.needs import CARRIED, FRAMEWORK
from genlab.speed.hardware.size import FULL, HardwareSize
from genlab.speed.hardware.step import Case, Row, Skipped
from genlab.speed.hardware.timing import product_flops_per_s, seconds_per_call

BESIDE = ("jaxlib", "torch", "transformers", "triton", "jax-cuda13-plugin", "nvidia-cudnn-cu13")
COPIED_BYTES, TOY_BYTES = 1 << 32, 1 << 20
DOCTOR_S = 60


class Machine:
    """Which machine is this, and how fast are its products and its memory?"""

    name = "machine"
    question = "Which machine is this, and how fast are its matrix products and its memory?"
    share = 2.0
    environment: Mapping[str, str] = {}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return the versions first: they are known at once."""
        rates = [
            Case(f"product {dtype}", partial(_product, size, dtype))
            for dtype in ("bfloat16", "float32")
        ]
        return [
            Case("versions and devices", _versions),
            *rates,
            Case("copy", partial(_copy, size)),
            Case("driver", _driver),
            Case("doctor", _doctor),
        ]


def _versions() -> Row:
    device = jax.devices()[0]
    names = [need.wheel for need in (*FRAMEWORK, *CARRIED)] + list(BESIDE)
    found: dict[str, JsonValue] = {name: _version(name) for name in names if _version(name)}
    memory = (device.memory_stats() or {}).get("bytes_limit")
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "device_bytes": memory,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "genlab": __version__,
        "compiler": jax.extend.backend.get_backend().platform_version[:200],
        "versions": found,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _product(size: HardwareSize, dtype: str) -> Row:
    rate = product_flops_per_s(size.product, dtype)
    return {"side": size.product, "dtype": dtype, "flops_per_s": rate}


def _copy(size: HardwareSize) -> Row:
    """Return the rate at which an array is read and written, counting both."""
    num_bytes = COPIED_BYTES if size is FULL else TOY_BYTES
    array = jnp.zeros(num_bytes // 4, jnp.float32)
    # Adding one is free beside the memory, and a plain copy could be left out by the compiler.
    add = jax.jit(lambda values: values + 1)
    seconds = seconds_per_call(lambda: add(array), size.repeats)
    return {"bytes": 2 * array.nbytes, "bytes_per_s": 2 * array.nbytes / seconds}


def _driver() -> Row:
    if shutil.which("nvidia-smi") is None:
        raise Skipped("there is no nvidia-smi")
    fields = "name,driver_version,memory.total,power.limit,clocks.max.sm"
    return {"nvidia_smi": _said(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"])}


def _doctor() -> Row:
    """Return what `genlab doctor` says. It may refuse where packages of the main job are missing,
    which the other steps do not need.
    """
    return {"lines": _said([sys.executable, "-m", "genlab.cli", "doctor"])}


def _said(command: Sequence[str]) -> list[JsonValue]:
    # On the CPU: this process holds the accelerator's memory.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=DOCTOR_S, env=environment
    )
    lines = (ended.stdout + ended.stderr).splitlines()
    return [one_line(line, 300) for line in lines[-80:]]
