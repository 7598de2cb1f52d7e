"""Which clips are read, and in which order, without a list of all of them.

In: how many clips there are, and how many of them are wanted. Out: a sequence of record numbers
that costs no memory, or little. The order within a pass is grain's `MapDataset.shuffle`, a block
cipher that is walked until it falls inside [0, n) (Black and Rogaway 2002, "Ciphers with arbitrary
finite domains"): place i of pass p is a pure function of (seed, p, i), whatever the number of
hosts. The fixed part of the clips that `data.train_clips` asks for was always drawn by numpy, and
still is, so that runs go on bitwise; of more clips than ever were in one store it is drawn by the
same cipher.
"""

from array import array
from collections.abc import Sequence
from typing import overload

import numpy as np

from genlab.config import GenlabError

MOST_LISTED = 2**24  # clips of which numpy shuffles all the numbers: 128 MB for a moment
MOST_CLIPS = 2**32 - 1  # grain's cipher has 32 bits


class Drawn(Sequence[int]):
    """`wanted` of the `total` record numbers from `first` on, by a fixed bijection: less is always
    within more.
    """

    def __init__(self, first: int, total: int, wanted: int):
        self.first, self.total, self.wanted = first, total, wanted

    def __len__(self) -> int:
        return self.wanted

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        places = range(self.wanted)[index]  # as of a list, with its IndexError
        if isinstance(places, range):
            return [self._number(place) for place in places]
        return self._number(places)

    def _number(self, place: int) -> int:
        from grain.experimental import index_shuffle  # slow to import, as all of grain

        return self.first + index_shuffle(place, max_index=self.total - 1, seed=0, rounds=4)


def draw_part(first: int, total: int, wanted: int) -> Sequence[int]:
    """Return `wanted` of the `total` record numbers from `first` on, the same every time; less is
    always within more.
    """
    if total > MOST_LISTED:
        return Drawn(first, total, wanted)
    picked = np.sort(np.random.default_rng(0).permutation(total)[:wanted])
    return array("q", (picked + first).astype(np.int64).tobytes())


def check_shuffled(split: str, clips: int) -> None:
    """Make sure that the clips of a split can be shuffled.

    Raises:
        GenlabError: if there are more than the cipher has numbers for.
    """
    if clips > MOST_CLIPS:
        raise GenlabError(
            f"split {split!r}: {clips} clips, expected at most {MOST_CLIPS}, which is what grain "
            "shuffles; divide the corpus, or join its clips to longer ones"
        )
