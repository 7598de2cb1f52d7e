"""How many frames every clip of a token store has, without reading the clips.

In: the part files of a store that is being finished. Out: `frames.npy`, one int32 per record, which
is mapped and not loaded. Budgets and prompts need lengths alone; to read a million clips for them
took minutes. A store that an earlier version wrote has no such file, and its records are read.
"""

import io
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int

from genlab.data.digests import FileDigest, digest_file, rebuild
from genlab.data.manifest import load_array
from genlab.data.part_files import part_paths, read_records
from genlab.data.record import read_heading
from genlab.run.stored import DamagedError, write_whole

FRAMES_NAME = "frames.npy"


def write_frames(directory: Path) -> FileDigest:
    """Write the frames of every record of a store whose parts are all there."""
    records = chain.from_iterable(map(read_records, part_paths(directory)))
    frames = np.fromiter((read_heading(record).frames for record in records), np.int32)
    buffer = io.BytesIO()
    np.save(buffer, frames)
    write_whole(directory / FRAMES_NAME, buffer.getvalue())
    return digest_file(directory / FRAMES_NAME)


def map_frames(directory: Path, clips: int) -> Int[np.ndarray, "n"] | None:
    """Return the frames of every record, None of a store that an earlier version wrote.

    Raises:
        DamagedError: if the file is there and not that.
    """
    path = directory / FRAMES_NAME
    if not path.exists():
        return None
    fix = rebuild(directory)
    found = load_array(path, fix=fix, is_mapped=True)
    if found.shape != (clips,) or found.dtype.kind != "i":
        told = f"expected {clips} whole numbers, got {list(found.shape)} of {found.dtype}"
        raise DamagedError(f"{path}: damaged: {told}; {fix}")
    return found


def pick(frames: Int[np.ndarray, "n"], numbers: Sequence[int]) -> Int[np.ndarray, "m"]:
    """Return the frames of some records; those of a whole split are a view."""
    if isinstance(numbers, range):
        return frames[numbers.start : numbers.stop : numbers.step]
    return frames[np.fromiter(numbers, np.int64, len(numbers))]
