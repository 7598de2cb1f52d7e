"""Values of named conditions as the token store gives them out: one per clip, memory-mapped beside
the store.

In: a directory that `gather_values` (told.py) wrote. Out: the value of the clip in a record, which
can be cut, padded and repeated with the frames of the clip.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from genlab.config import GenlabError
from genlab.data.digests import Digests, rebuild

VALUES_NAME, FIRSTS_NAME = "values.npy", "firsts.npy"


class PartValue(NamedTuple):
    """One value of one clip."""

    name: str
    value: Shaped[np.ndarray, "..."]
    is_per_frame: bool

    def cut(self, frames: slice) -> "PartValue":
        """Return the value of some of the clip's frames."""
        return self._replace(value=self.value[frames]) if self.is_per_frame else self

    def fit(self, num_frames: int) -> Shaped[np.ndarray, "..."]:
        """Return the value with its frames padded with zeros to `num_frames`."""
        if not self.is_per_frame:
            return self.value
        padding = [(0, num_frames - len(self.value))] + [(0, 0)] * (self.value.ndim - 1)
        return np.pad(self.value, padding)

    def repeat(self, num_frames: int) -> "PartValue":
        """Return the value with its frames repeated until there are `num_frames`."""
        if not self.is_per_frame:
            return self
        return self._replace(value=np.resize(self.value, (num_frames, *self.value.shape[1:])))


class PartValues:
    """The values of every clip of a token store, by record number.

    Args:
        name: what they are values of.
        is_per_frame: whether each has one entry per frame.
        directory: where `gather_values` (told.py) wrote them.

    Raises:
        GenlabError: if a file is missing or damaged.
    """

    def __init__(self, name: str, is_per_frame: bool, directory: Path):
        self.name, self.is_per_frame, self.directory = name, is_per_frame, directory
        digests = Digests.load(directory)
        if digests is None or {VALUES_NAME, FIRSTS_NAME} - set(digests.files):
            raise GenlabError(
                f"{directory}: digests.json is missing or lacks files; {rebuild(directory)}"
            )
        digests.compare(FIRSTS_NAME)
        digests.compare(VALUES_NAME)
        self._firsts = np.load(directory / FIRSTS_NAME)
        self._values = np.load(directory / VALUES_NAME, mmap_mode="r")

    def of(self, number: int) -> PartValue:
        """Return the value of the clip in record `number`."""
        first, last = self._firsts[number : number + 2]
        value = np.array(self._values[first:last] if self.is_per_frame else self._values[first])
        return PartValue(self.name, value, self.is_per_frame)
