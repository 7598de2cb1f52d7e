"""Sequences whose items are made whenever they are asked for, so that ten thousand clips need no
more memory than one.

In: a function of a place, and how many places there are. Out: a sequence. Up to `IN_MEMORY` items
are made once and kept in a list: what a usual comparison has is never read twice.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar, overload

T = TypeVar("T")
U = TypeVar("U")

IN_MEMORY = 64


class Streamed(Sequence[T], Generic[T]):
    """What `make` returns for 0 to `length` - 1, made anew each time; slices are streamed too."""

    def __init__(self, make: Callable[[int], T], length: int):
        self._make, self._length = make, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> "Streamed[T]": ...
    def __getitem__(self, place: int | slice) -> "T | Streamed[T]":
        places = range(self._length)[place]  # raises IndexError, which ends iteration
        if isinstance(places, int):
            return self._make(places)
        return Streamed(partial(_make_at, self._make, places), len(places))


def sequence_of(make: Callable[[int], T], length: int) -> Sequence[T]:
    """Return what `make` returns for each place: a list if there are few, else streamed."""
    if length <= IN_MEMORY:
        return [make(place) for place in range(length)]
    return Streamed(make, length)


def each_of(make: Callable[[T], U], items: Sequence[T]) -> Sequence[U]:
    """Return `make` of each item: a list, streamed if the items are."""
    if isinstance(items, Streamed):
        return Streamed(partial(_make_of, make, items), len(items))
    return [make(item) for item in items]


def join_all(parts: Sequence[Sequence[T]]) -> Sequence[T]:
    """Return equally long sequences one after another: a list, streamed if one of them is."""
    if any(isinstance(part, Streamed) for part in parts):
        return Streamed(partial(_make_in, parts), sum(map(len, parts)))
    return [item for part in parts for item in part]


def split_up(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return streamed items in pieces of at most `size`, and any others in one piece."""
    if not isinstance(items, Streamed):
        return [items]
    return [items[first : first + size] for first in range(0, len(items), size)]


def _make_at(make: Callable[[int], T], places: range, place: int) -> T:
    return make(places[place])


def _make_of(make: Callable[[T], U], items: Sequence[T], place: int) -> U:
    return make(items[place])


def _make_in(parts: Sequence[Sequence[T]], place: int) -> T:
    part, within = divmod(place, len(parts[0]))
    return parts[part][within]
