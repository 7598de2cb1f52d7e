"""A finished directory of the cache of which the bulk stays in the bucket.

In: a directory of a shared cache (shared.py) that is larger than this disk is to hold. Out: its
small files, and `.in_bucket`, which says where the rest is: parts of a token store are read there
record by record (data/bucket_records.py), audio of a corpus is copied when a clip is first heard.
"""

import os
from pathlib import Path

from genlab.config import GenlabError

MARKER = ".in_bucket"
LOCAL_VARIABLE = "GENLAB_LOCAL_GB"
DEFAULT_LOCAL_GB = 100.0


def local_bytes() -> float:
    """Return how many bytes of a shared store or corpus this disk is to hold.

    Raises:
        GenlabError: if the variable is no number of gigabytes.
    """
    told = os.environ.get(LOCAL_VARIABLE, "")
    try:
        found = float(told) if told else DEFAULT_LOCAL_GB
        # NaN is less than nothing, too
        if not 0 <= found < 1e9:
            raise ValueError
    except ValueError:
        raise GenlabError(
            f"{LOCAL_VARIABLE}={told:.40}: expected gigabytes, such as {DEFAULT_LOCAL_GB:g}: what "
            "of a shared token store or corpus may lie on this disk"
        ) from None
    return found * 1e9


def is_bulky(name: str) -> bool:
    """Return whether a file of a corpus or token store is one of many, or large: audio, or a part;
    the tables beside them are neither.
    """
    return "/" in name or name.startswith("part-") or name.endswith(".flac")


def place_of(directory: Path) -> str | None:
    """Return where in a bucket the bulk of a directory is, or None if all of it is here."""
    path = directory / MARKER
    return path.read_text(encoding="utf-8") if path.exists() else None
