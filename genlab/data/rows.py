"""The rows of a manifest: all in memory, or of a large corpus on the disk, read when they are asked
for.

In: clips, or a `manifest.jsonl`. Out: a sequence of clips that also knows its speakers, splits,
order and hash. A million clips as Python objects take 2 GB and their hash a quarter of a minute,
and every host of a run needs a few thousand of them. So `write_rows` leaves an index beside a
manifest of more than `MOST_HELD` rows: `manifest.index.npy`, 36 bytes per row, which is mapped, and
`manifest.index.json` with what is asked of all rows at once. An index that does not belong to its
manifest is not believed; a large manifest without one is read once from end to end.
"""

import hashlib
import itertools
import json
import os
import threading
from abc import abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import pydantic
from jaxtyping import Int, Shaped
from typing_extensions import TypedDict

from genlab.config import GenlabError
from genlab.data.audio import AudioFormat, Channels
from genlab.data.clip import Clip, read_clip
from genlab.data.digests import Digests, digest_file
from genlab.run.stored import (
    OPEN,
    Number,
    read_content,
    read_stored,
    whole_file,
    write_atomically,
)

MOST_TOLD = 3
MOST_HELD = 2**16  # rows that are held in memory, some 150 MB
# Where a row lies in the file, and what clips are chosen and sorted by.
COLUMNS = np.dtype(
    [
        ("first", "<i8"),
        ("bytes", "<i4"),
        ("by_id", "<i8"),
        ("samples", "<i8"),
        ("split", "<i4"),
        ("speaker", "<i4"),
    ]
)
UNMEANT = {"path", "f0_path", "other_path", "num_samples"}


@pydantic.with_config(OPEN)
class Facts(TypedDict):
    """The contents of `manifest.index.json`: what is true of all rows, and of which files."""

    manifest: str
    columns: str
    hash: str
    seconds: Number
    speakers: list[str]
    splits: list[str]
    formats: list[tuple[int, Channels]]


class HeldRows(tuple[Clip, ...]):
    """Rows in memory."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """All speakers, sorted."""
        return tuple(sorted({clip.speaker for clip in self}))

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits, sorted."""
        return tuple(sorted({clip.split for clip in self}))

    @property
    def formats(self) -> list[AudioFormat]:
        """All rates and channels that occur, sorted."""
        return sorted({AudioFormat(clip.sample_rate_hz, clip.channels) for clip in self})

    @property
    def seconds(self) -> float:
        """Seconds of audio."""
        return sum(clip.duration_s for clip in self)

    @property
    def hash(self) -> str:
        """10 hex digits over what the rows mean."""
        return hash_rows(sorted(self, key=lambda clip: clip.id))

    def split(self, name: str) -> Sequence[Clip]:
        """Return the clips of a split, in their order."""
        return [clip for clip in self if clip.split == name]

    def find(self, ids: Iterable[str]) -> dict[str, Clip]:
        """Return the clips of these ids, by id; what is not there is left out."""
        wanted = set(ids)
        return {clip.id: clip for clip in self if clip.id in wanted}

    def in_record_order(self) -> Sequence[Clip]:
        """Return the clips by split, length and id."""
        return sorted(self, key=lambda clip: (clip.split, clip.num_samples, clip.id))


class _Lazy(Sequence[Clip]):
    """Clips that are read one by one; a part of them is a tuple."""

    @abstractmethod
    def read(self, place: int) -> Clip:
        """Return the clip at a place from 0 on."""

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Clip, ...]: ...
    def __getitem__(self, index: int | slice) -> Clip | tuple[Clip, ...]:
        places = range(len(self))[index]  # as of a tuple, with its IndexError
        return tuple(map(self.read, places)) if isinstance(places, range) else self.read(places)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(ours == theirs for ours, theirs in zip(self, other))

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class StoredRows(_Lazy):
    """Rows on the disk, found by their index.

    Args:
        path: the manifest.
        columns: one of `COLUMNS` per row; mapped, if it comes from a disk.
        facts: what is true of all rows.
        fix: what to do about a damaged manifest.
    """

    def __init__(self, path: Path, columns: Shaped[np.ndarray, "n"], facts: Facts, fix: str):
        self._path, self._columns, self._facts, self._fix = path, columns, facts, fix
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()

    @property
    def speakers(self) -> tuple[str, ...]:
        """All speakers, sorted."""
        return tuple(self._facts["speakers"])

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits, sorted."""
        return tuple(self._facts["splits"])

    @property
    def formats(self) -> list[AudioFormat]:
        """All rates and channels that occur, sorted."""
        return [AudioFormat(*each) for each in self._facts["formats"]]

    @property
    def seconds(self) -> float:
        """Seconds of audio."""
        return self._facts["seconds"]

    @cached_property
    def hash(self) -> str:
        """10 hex digits over what the rows mean; without an index all of them are read for it."""
        known = self._facts["hash"]
        return known or hash_rows(self.read(int(place)) for place in self._columns["by_id"])

    def __len__(self) -> int:
        return len(self._columns)

    def __iter__(self) -> Iterator[Clip]:
        with self._path.open("rb") as file:  # from end to end is faster than row by row
            for line in file:
                if line.strip():
                    yield read_clip(line, self._path, self._fix)

    def read(self, place: int) -> Clip:
        """Return the clip in a row."""
        row = self._columns[place]
        with self._lock:  # Windows has no reading at a place
            self._file.seek(int(row["first"]))
            line = self._file.read(int(row["bytes"]))
        return read_clip(line, self._path, self._fix)

    def split(self, name: str) -> Sequence[Clip]:
        """Return the clips of a split, in their order."""
        names = self._facts["splits"]
        number = names.index(name) if name in names else -1
        return _Picked(self, np.flatnonzero(self._columns["split"] == number))

    def find(self, ids: Iterable[str]) -> dict[str, Clip]:
        """Return the clips of these ids, by id; what is not there is left out."""
        places = {wanted: self._place_of(wanted) for wanted in ids}
        known = sorted((place, name) for name, place in places.items() if place is not None)
        return {name: self.read(place) for place, name in known}

    def _place_of(self, wanted: str) -> int | None:
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            place = int(self._columns["by_id"][middle])
            found = self.read(place).id
            if found == wanted:
                return place
            low, high = (middle + 1, high) if found < wanted else (low, middle)
        return None

    def in_record_order(self) -> Sequence[Clip]:
        """Return the clips by split, length and id."""
        columns = self._columns
        rank = np.empty(len(self), np.int64)
        rank[columns["by_id"]] = np.arange(len(self))
        return _Picked(self, np.lexsort((rank, columns["samples"], columns["split"])))


class _Picked(_Lazy):
    """Some of the rows, in an order of their own."""

    def __init__(self, rows: StoredRows, places: Int[np.ndarray, "m"]):
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, place: int) -> Clip:
        return self._rows.read(int(self._places[place]))


Rows = HeldRows | StoredRows


def hold(clips: Iterable[Clip], where: Path) -> Rows:
    """Return clips as rows.

    Raises:
        GenlabError: if two of them have one id.
    """
    if isinstance(clips, StoredRows):
        return clips
    rows = HeldRows(clips)
    counts = Counter(clip.id for clip in rows)
    _refuse_repeated([name for name, count in counts.items() if count > 1], where)
    return rows


def read_rows(path: Path, digests: Digests | None, fix: str) -> Rows:
    """Return the rows of the manifest `path`.

    Raises:
        GenlabError: if it is damaged.
    """
    if digests is not None:
        digests.compare(path.name)
    rows = _open_indexed(path, digests, fix)
    if rows is not None:
        return rows
    if _count_lines(path) > MOST_HELD:
        return _index_rows(path, fix)
    content = read_content(path, fix=fix) or b""
    # Lines end with a newline alone: a text may hold other characters that `splitlines` takes for
    # ends.
    lines = content.decode("utf-8").split("\n")
    return hold((read_clip(line, path, fix) for line in lines if line.strip()), path.parent)


def write_rows(path: Path, rows: Rows) -> None:
    """Write a manifest so that it is whole or absent, after its index if it is a large one."""
    is_large = len(rows) > MOST_HELD
    sizes = []
    with whole_file(path) as partial:
        with partial.open("wb") as file:
            for clip in rows:
                line = json.dumps(clip.to_dict(), sort_keys=True).encode() + b"\n"
                file.write(line)
                if is_large:
                    sizes.append(len(line))
            if not rows:
                file.write(b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_large:
            _write_index(path, rows, np.array(sizes), digest_file(partial)["sha256"])


def hash_rows(clips: Iterable[Clip]) -> str:
    """Return 10 hex digits over what clips mean, which are sorted by id: `digest` of the list of
    all of them, one at a time.
    """
    found = hashlib.sha256(b"[")
    for number, clip in enumerate(clips):
        row = {name: value for name, value in clip.to_dict().items() if name not in UNMEANT}
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        found.update(("," * (number > 0) + text).encode())
    found.update(b"]")
    return found.hexdigest()[:10]


def _index_path(path: Path) -> Path:
    return path.with_suffix(".index.npy")


def _open_indexed(path: Path, digests: Digests | None, fix: str) -> StoredRows | None:
    """Return the rows of a manifest whose index belongs to it, or None."""
    columns_path = _index_path(path)
    facts_path = columns_path.with_suffix(".json")
    if not (columns_path.exists() and facts_path.exists()):
        return None
    if digests is not None:
        digests.compare(facts_path.name)
    facts = read_stored(facts_path, Facts, fix=fix)
    known = digest_file(path)["sha256"] if digests is None else digests.files[path.name]["sha256"]
    if facts is None or facts["manifest"] != known:
        return None
    if digest_file(columns_path)["sha256"] != facts["columns"]:
        return None
    return StoredRows(path, np.load(columns_path, mmap_mode="r"), facts, fix)


def _write_index(path: Path, rows: Rows, sizes: Int[np.ndarray, "n"], manifest: str) -> None:
    columns = np.zeros(len(rows), COLUMNS)
    columns["bytes"], columns["first"] = sizes, np.cumsum(sizes) - sizes
    facts = _fill(columns, rows, path.parent)
    columns_path = _index_path(path)
    with whole_file(columns_path) as partial:
        with partial.open("wb") as file:
            np.save(file, columns)
        facts["columns"] = digest_file(partial)["sha256"]
    facts["manifest"], facts["hash"] = manifest, rows.hash
    write_atomically(columns_path.with_suffix(".json"), json.dumps(facts))


def _index_rows(path: Path, fix: str) -> StoredRows:
    """Return the rows of a large manifest that has no index, each of them checked."""
    sizes, firsts, place = array("q"), array("q"), 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                sizes.append(len(line))
                firsts.append(place)
            place += len(line)
    columns = np.zeros(len(sizes), COLUMNS)
    columns["bytes"], columns["first"] = sizes, firsts
    facts = Facts(manifest="", columns="", hash="", seconds=0, speakers=[], splits=[], formats=[])
    rows = StoredRows(path, columns, facts, fix)
    facts.update(_fill(columns, rows, path.parent))
    return rows


def _fill(columns: Shaped[np.ndarray, "n"], rows: Iterable[Clip], where: Path) -> Facts:
    """Fill in the columns that clips are chosen and sorted by, and return what is true of all rows.

    Raises:
        GenlabError: if two clips have one id.
    """
    ids, formats, seconds = [], set(), 0.0
    splits: dict[str, int] = {}
    speakers: dict[str, int] = {}
    for place, clip in enumerate(rows):
        ids.append(clip.id)
        formats.add((clip.sample_rate_hz, clip.channels))
        seconds += clip.duration_s
        split = splits.setdefault(clip.split, len(splits))
        speaker = speakers.setdefault(clip.speaker, len(speakers))
        columns[place]["samples"] = clip.num_samples
        columns[place]["split"], columns[place]["speaker"] = split, speaker
    by_id = sorted(range(len(ids)), key=ids.__getitem__)
    _refuse_repeated(
        [ids[i] for i, j in itertools.pairwise(by_id) if ids[i] == ids[j]][:MOST_TOLD], where
    )
    columns["by_id"] = by_id
    # Numbered as they came; from now on as they are sorted, which is how rows are compared.
    for name, numbers in (("split", splits), ("speaker", speakers)):
        rank = {each: number for number, each in enumerate(sorted(numbers))}
        columns[name] = np.array([rank[each] for each in numbers], np.int32)[columns[name]]
    return Facts(
        manifest="",
        columns="",
        hash="",
        seconds=seconds,
        speakers=sorted(speakers),
        splits=sorted(splits),
        formats=sorted(formats),
    )


def _refuse_repeated(names: Sequence[str], where: Path) -> None:
    if names:
        told = ", ".join(sorted(set(names))[:MOST_TOLD])
        raise GenlabError(f"manifest in {where}: clip ids must be unique, repeated: {told}")


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    except OSError:
        return 0  # what is wrong is said when it is read
