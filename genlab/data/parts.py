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
from genlab.data.manifest import load_array

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
        fix = rebuild(directory)
        self._firsts = load_array(directory / FIRSTS_NAME, fix=fix)
        self._values = load_array(directory / VALUES_NAME, fix=fix, is_mapped=True)
        if not _are_firsts(self._firsts, self._values):
            raise GenlabError(
                f"{directory / FIRSTS_NAME}: damaged: expected where clips begin in {VALUES_NAME}; "
                f"{fix}"
            )

    def of(self, number: int) -> PartValue:
        """Return the value of the clip in record `number`."""
        first, last = self._firsts[number : number + 2]
        value = np.array(self._values[first:last] if self.is_per_frame else self._values[first])
        return PartValue(self.name, value, self.is_per_frame)


def _are_firsts(firsts: Shaped[np.ndarray, "..."], values: Shaped[np.ndarray, "..."]) -> bool:
    """Return whether these are the places in `values` where clips begin, and its end."""
    if firsts.ndim != 1 or not firsts.size or values.ndim == 0 or firsts.dtype != np.int64:
        return False
    return firsts[0] == 0 and firsts[-1] == len(values) and bool((np.diff(firsts) >= 0).all())
