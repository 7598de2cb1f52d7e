"""Tokens as numpy files: `index.jsonl`, and the .npy and .npz files that its rows name.

A row is a JSON object: `id` and `file` are required; `key` is the name of the array in an .npz
(without it the id); `first` and `frames` take a part of an array; `text`, `speaker` and `split` are
optional, and everything else is a label. An .npz is read member by member, and nothing is ever
unpickled.
"""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.data.manifest import load_array, parse_array
from genlab.data.own.labels import labels_of
from genlab.data.own.row import FIX, MOST_ROWS, Facts, Row, parse_facts
from genlab.run.names import inside
from genlab.run.stored import parse_json

INDEX_NAME = "index.jsonl"
MOST_LINE = 2**20  # bytes of a row
MOST_MEMBER = 2**28  # bytes of one array of an archive
Held = zipfile.ZipFile | np.ndarray  # an open archive, or a mapped array
BROKEN = (OSError, ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, zlib.error)


class Arrays:
    """The layout of numpy files."""

    def __init__(self, directory: Path):
        self.directory = directory
        # The rows of one file follow each other, so the last one stays open.
        self._open: tuple[Path, Held] | None = None

    @property
    def files(self) -> list[Path]:
        """The index, and every array in the directory."""
        arrays = (path for suffix in ("npy", "npz") for path in self.directory.rglob(f"*.{suffix}"))
        return [self.directory / INDEX_NAME, *sorted(arrays)]

    def rows(self) -> Iterator[Row]:
        """Yield every row of the index."""
        path = self.directory / INDEX_NAME
        with path.open("rb") as file:
            for number in range(1, MOST_ROWS):
                line = file.readline(MOST_LINE + 1)
                if not line:
                    return
                if line.strip():
                    yield self._row(line, f"{path}:{number}")

    def _row(self, line: bytes, where: str) -> Row:
        if len(line) > MOST_LINE:
            raise GenlabError(f"{where}: a row of more than {MOST_LINE} bytes; {FIX}")
        values = parse_json(line, path=Path(where), fix=FIX)
        if not isinstance(values, dict):
            raise GenlabError(
                f"{where}: expected a JSON object, got {type(values).__name__}; {FIX}"
            )
        facts = parse_facts(values, where)
        # Neither the file nor the key may lead anywhere but to an array in this directory.
        name = values.get("file")
        if not isinstance(name, str) or not name:
            raise GenlabError(
                f"{where}: file={shorten(name)}: expected the name of a .npy or .npz; {FIX}"
            )
        try:
            path = inside(self.directory, name)
        except GenlabError as error:
            raise GenlabError(f"{where}: file: {error}; {FIX}") from None
        key = values.get("key", facts.id)
        if not isinstance(key, str):
            raise GenlabError(f"{where}: key={shorten(key)}: expected the name of an array; {FIX}")
        first, frames = (_whole(values, field, where) for field in ("first", "frames"))

        def read() -> Shaped[np.ndarray, "..."]:
            codes = self._array(path, key, where)
            if first is None and frames is None:
                return codes
            start = first or 0
            last = len(codes) if frames is None else start + frames
            if not codes.ndim or not start < last <= len(codes):
                raise GenlabError(
                    f"{where}: first={start}, frames={last - start}: {path.name} has "
                    f"{len(codes) if codes.ndim else 0} frames; {FIX}"
                )
            return codes[start:last]

        return Row(facts, where, read, labels_of(values, Facts._fields, where))

    def _array(self, path: Path, key: str, where: str) -> Shaped[np.ndarray, "..."]:
        if self._open is None or self._open[0] != path:
            if self._open is not None and isinstance(self._open[1], zipfile.ZipFile):
                self._open[1].close()
            self._open = (path, _open(path, where))
        held = self._open[1]
        return _read_member(held, path, key, where) if isinstance(held, zipfile.ZipFile) else held


def _whole(values: dict[str, JsonValue], field: str, where: str) -> int | None:
    value = values.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise GenlabError(
            f"{where}: {field}={shorten(value)}: expected a whole number of frames; {FIX}"
        )
    return value


def _open(path: Path, where: str) -> Held:
    """Return an archive, or an array that is mapped and not read."""
    if not path.is_file():
        raise GenlabError(f"{where}: file: no {path.name} in {path.parent}; {FIX}")
    if path.suffix == ".npy":
        return load_array(path, fix=f"row {where}", is_mapped=True)
    if path.suffix != ".npz":
        raise GenlabError(f"{where}: file={shorten(path.name)}: expected a .npy or .npz; {FIX}")
    try:
        archive = zipfile.ZipFile(path)
    except (*BROKEN, zipfile.BadZipFile) as error:
        raise GenlabError(f"{where}: {path}: no .npz ({error!s:.80}); {FIX}") from None
    names = archive.namelist()
    if len({*names}) != len(names):
        raise GenlabError(f"{where}: {path}: two arrays of one name; {FIX}")
    return archive


def _read_member(
    archive: zipfile.ZipFile, path: Path, key: str, where: str
) -> Shaped[np.ndarray, "..."]:
    try:
        member = archive.getinfo(f"{key}.npy")
    except KeyError:
        raise GenlabError(f"{where}: {path.name} has no array {shorten(key)}; {FIX}") from None
    if member.file_size > MOST_MEMBER:
        raise GenlabError(
            f"{where}: {path.name}: array {shorten(key)} of {member.file_size} bytes, expected at "
            f"most {MOST_MEMBER}; {FIX}"
        )
    try:
        # What the archive claims is only a claim: no more than the limit is ever unpacked.
        with archive.open(member) as file:
            content = file.read(MOST_MEMBER + 1)
    except (*BROKEN, zipfile.BadZipFile) as error:
        raise GenlabError(
            f"{where}: {path.name}: array {shorten(key)} cannot be read ({error!s:.80}); {FIX}"
        ) from None
    return parse_array(content[:MOST_MEMBER], where=f"{where}: {path.name}", fix=FIX)
