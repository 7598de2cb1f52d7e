"""Pieces of a token store that several workers encode before one process joins them.

In: a corpus, a codec and units, opened once in every worker. Out: `part-NNNNN.array_record` with
its sums beside it, in a folder of their own next to the store, or in a bucket; `encode_corpus`
(cache.py) finds the pieces there and does the rest, so the store is the one that it makes alone. A
piece appears under its name when it is whole, so a worker may die at any time, two may make the
same piece, and one that outlives its job writes into a folder that is gone.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from genlab.codecs.cache import (
    PART_CLIPS,
    encode_part,
    pieces_directory,
    read_part,
    store_directory,
)
from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError
from genlab.data.manifest import Clip, Manifest
from genlab.data.part_files import PART_SUFFIX
from genlab.data.units import Units
from genlab.run.cache import CACHE_VARIABLE, writing_to_cache
from genlab.run.shared import SCHEME, SHARED_VARIABLE, open_bucket, put, told


class Material(NamedTuple):
    """What is encoded, and with what."""

    manifest: Manifest
    codec: FrozenCodec
    units: Units


class Opens(Protocol):
    """What is sent to a worker: it can be pickled and compared, and opens the material there."""

    def __call__(self) -> Material:
        """Return the material."""
        ...


class PieceEncoder(NamedTuple):
    """Encodes piece after piece in a worker, wherever that runs."""

    opens: Opens
    """Opens the corpus, the codec and the units."""
    place: str
    """Where pieces go: a folder that every worker sees, or gs://BUCKET/PATH."""
    store: str
    """Name of the store: it holds the digests of corpus, codec and units."""

    def __call__(self, number: int) -> int:
        """Make piece `number` unless it is there, and return the number.

        Raises:
            GenlabError: if the worker's corpus, codec or units are not those of the store, or
                nothing can be written.
        """
        if self.has(number):
            return number
        (manifest, codec, units), ordered = _open(self)
        clips = ordered[number * PART_CLIPS : (number + 1) * PART_CLIPS]
        is_in_bucket = self.place.startswith(SCHEME)
        # Under names of its own: another worker may be at the same piece. Beside its place, because
        # a file is renamed at once only on its own disk; that the folder must exist stops a worker
        # that outlived its job.
        with writing_to_cache():
            scratch = Path(tempfile.mkdtemp(dir=None if is_in_bucket else self.place))
        path = scratch / piece_name(number)
        encode_part(path, clips, manifest, codec, units)
        for made in (path, path.with_suffix(".json")):  # the sums last: they make the piece whole
            if is_in_bucket:
                with told(self.place, "written"):
                    put(open_bucket(), made.read_bytes(), f"{self.place}/{made.name}")
            else:
                os.replace(made, Path(self.place) / made.name)
        shutil.rmtree(scratch, ignore_errors=True)
        return number

    def has(self, number: int) -> bool:
        """Return whether piece `number` is there and whole."""
        name = piece_name(number)
        if not self.place.startswith(SCHEME):
            return read_part(Path(self.place) / name) is not None
        with told(self.place, "read"):
            return open_bucket().exists(f"{self.place}/{Path(name).with_suffix('.json')}")

    def check_place(self) -> None:
        """Make the place, and refuse one that cannot be written before any worker starts.

        Raises:
            GenlabError: naming it.
        """
        if self.place.startswith(SCHEME):
            with told(self.place, "written"):
                put(open_bucket(), b"", f"{self.place}/writable")
        else:
            with writing_to_cache():
                Path(self.place).mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.place).close()

    def collect(self, directory: Path, numbers: Sequence[int]) -> None:
        """Copy pieces out of a bucket to where `encode_corpus` finds them.

        Raises:
            GenlabError: if the bucket cannot be read.
        """
        if not self.place.startswith(SCHEME):
            return
        target = pieces_directory(directory)
        target.mkdir(parents=True, exist_ok=True)
        with told(self.place, "read"):
            files = open_bucket()
            for number in numbers:
                name = Path(piece_name(number))
                for each in (name, name.with_suffix(".json")):
                    files.get_file(f"{self.place}/{each}", str(target / each))

    def forget(self) -> None:
        """Remove pieces from the bucket, once the store is whole."""
        if self.place.startswith(SCHEME):
            with told(self.place, "removed"):
                open_bucket().rm(self.place, recursive=True)


def piece_name(number: int) -> str:
    """Return the file name of a piece."""
    return f"part-{number:05d}{PART_SUFFIX}"


# With the clips in their order: to sort a million for each piece would take as long as the piece.
_opened: dict[PieceEncoder, tuple[Material, Sequence[Clip]]] = {}
_opening = threading.Lock()  # an engine may give a worker several threads


def _open(encoder: PieceEncoder) -> tuple[Material, Sequence[Clip]]:
    """Return the material of a worker, which is opened once, and its clips in record order."""
    with _opening:
        if encoder not in _opened:
            if encoder.place.startswith(SCHEME):  # a machine of its own, where nothing is set
                os.environ.setdefault(SHARED_VARIABLE, encoder.place.rpartition("/")[0])
                os.environ.setdefault(CACHE_VARIABLE, tempfile.mkdtemp(prefix="genlab-"))
            material = encoder.opens()
            found = store_directory(*material, Path()).name
            if found != encoder.store:
                raise GenlabError(
                    f"worker: its corpus, codec and units make {found}, expected {encoder.store}; "
                    "give every worker the version of genlab and the files of the one that starts "
                    "them"
                )
            _opened[encoder] = material, material.manifest.in_record_order()
        return _opened[encoder]
