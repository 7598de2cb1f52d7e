"""What is rented: a TPU slice by the names that Google's tools use, and the bucket beside it.

In: `--tpu`, `--zone` and `--bucket` as a person writes them. Out: the accelerator type and the
runtime version, or an error in one line. Nothing here asks a machine.

Types and runtime versions: docs.cloud.google.com/tpu/docs/v5e, v5p, v6e and v4, and
docs.cloud.google.com/tpu/docs/runtimes, read 2026-11. Ironwood (tpu7x) cannot be rented this way:
docs.cloud.google.com/tpu/docs/queued-resources says that it needs Google Kubernetes Engine.
"""

import math
import re
from typing import NamedTuple

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.machine.topologies import FLAT_GENERATIONS, find_topology
from genlab.run.shared import SCHEME

# Generation to the prefix of its accelerator types and the system image for JAX.
_RENTED = {
    "v4": ("v4", "tpu-ubuntu2204-base"),
    "v5e": ("v5litepod", "v2-alpha-tpuv5-lite"),
    "v5p": ("v5p", "v2-alpha-tpuv5"),
    "v6e": ("v6e", "v2-alpha-tpuv6e"),
}
_ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")
# cloud.google.com/storage/docs/buckets#naming; a prefix holds what needs no quoting anywhere.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
# Generations whose slices of eight chips are one host: docs.cloud.google.com/tpu/docs/v5e, v6e.
_ONE_OF_EIGHT = tuple(_RENTED[name][0] for name in FLAT_GENERATIONS)
# Of letters that mean nothing to a shell or to YAML, since it is written into both.
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PREFIX = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*", re.ASCII)


class Slice(NamedTuple):
    """A slice to rent: `accelerator` and `runtime` are Google's names, `chips` is what is billed.

    `wait_hours` is how long the request may stay in the queue before it expires by itself.
    """

    accelerator: str
    runtime: str
    chips: int
    zone: str
    is_spot: bool
    wait_hours: int

    @property
    def hosts(self) -> int:
        """Machines that hold the chips: up to eight of a flat slice share one, else four do."""
        is_one = self.accelerator.startswith(_ONE_OF_EIGHT) and self.chips <= 8
        return 1 if is_one else max(1, self.chips // 4)

    @property
    def region(self) -> str:
        """The region that the zone is in."""
        return self.zone.rpartition("-")[0]


def find_slice(tpu: str, zone: str, *, is_spot: bool, wait_hours: int, runtime: str = "") -> Slice:
    """Return the slice that `--tpu` and `--zone` mean.

    Raises:
        GenlabError: if there is no such slice, it cannot be rented, or the zone or the runtime is
            not written as they are.
    """
    topology = find_topology(tpu, option="--tpu")
    generation, shape = topology.compiler_name.split(":")
    if generation not in _RENTED:
        raise GenlabError(
            f"--tpu {tpu}: {generation} is rented through Google Kubernetes Engine only; expected "
            f"one of {', '.join(_RENTED)}"
        )
    if ":" in tpu:
        # The shape of a name is the usual one of its size; another would rent something else.
        raise GenlabError(
            f"--tpu {tpu}: expected GENERATION-NUMBER as Google names slices, for example "
            "v5litepod-16"
        )
    if not _ZONE.fullmatch(zone):
        raise GenlabError(
            f"--zone {shorten(zone)}: expected a zone such as us-central1-a, which is a region and "
            "a letter"
        )
    if runtime and not _IMAGE.fullmatch(runtime):
        raise GenlabError(
            f"--runtime-version {shorten(runtime)}: expected a system image such as "
            "v2-alpha-tpuv5-lite, of small letters, digits, '-', '_' and '.'; leave it out for "
            "Google's for JAX"
        )
    prefix, image = _RENTED[generation]
    chips = math.prod(int(size) for size in shape.split("x"))
    number = chips * (1 if generation in FLAT_GENERATIONS else 2)
    return Slice(f"{prefix}-{number}", runtime or image, chips, zone, is_spot, wait_hours)


def check_bucket(url: str) -> str:
    """Return `gs://BUCKET` or `gs://BUCKET/PREFIX` without a slash at its end.

    Raises:
        GenlabError: if it is neither.
    """
    bucket, _, prefix = url.removeprefix(SCHEME).rstrip("/").partition("/")
    is_right = url.startswith(SCHEME) and _BUCKET.fullmatch(bucket)
    if not is_right or (prefix and not _PREFIX.fullmatch(prefix)):
        raise GenlabError(
            f"--bucket {shorten(url)}: expected a bucket and perhaps a folder in it, for example "
            "gs://my-runs/first; small letters, digits, '-', '_' and '.' name a bucket"
        )
    return url.rstrip("/")
