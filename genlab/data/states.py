"""What tells whether files of a corpus have changed: size, time, and some bytes of each.

Size and time alone do not tell apart what was packed with one time for all files and one length for
all clips, so some bytes are read too; of more than `MOST_SAMPLED` files, of every n-th.
"""

import contextlib
import functools
import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path

MOST_SAMPLED = 20_000  # files of a corpus that are looked into before it is taken for a built one
SAMPLE_BYTES = 512


def file_states(paths: Sequence[Path]) -> list[list[int | str]]:
    """Return what is known of each file without reading it whole; nothing if it is not there."""
    every = -(-len(paths) // MOST_SAMPLED) or 1
    return [_file_state(path, is_sampled=number % every == 0) for number, path in enumerate(paths)]


def _file_state(path: Path, *, is_sampled: bool) -> list[int | str]:
    """Return size, time and a digest of some bytes of a file, as far as they can be had."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # a NUL in the name is a ValueError
        return []
    found: list[int | str] = [state.st_size, state.st_mtime_ns]
    if is_sampled and stat.S_ISREG(state.st_mode):
        with contextlib.suppress(OSError):
            found.append(_digest_middle(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return found


@functools.lru_cache(maxsize=MOST_SAMPLED)  # a command asks several times
def _digest_middle(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    """Return a digest of the bytes in the middle, where recordings are seldom silent."""
    with open(path, "rb", buffering=0) as file:
        file.seek(max(0, (size - SAMPLE_BYTES) // 2))
        return hashlib.sha256(file.read(SAMPLE_BYTES)).hexdigest()[:10]
