"""Tokens as shards that are read from front to back: WebDataset tars and ArrayRecord files.

A sample of a tar is the files of one key, as WebDataset names them: `KEY.npy` (or `KEY.codes.npy`)
holds the codes, `KEY.json` text, speaker, split and labels, `KEY.txt` a text. A record of an
ArrayRecord is the length of its header (uint32, little-endian), the header in JSON with `id` and
`frames`, and the codes as little-endian int16, "t k". Nothing is unpacked to a disk.
"""

import io
import json
import os
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.data.manifest import parse_array
from genlab.data.own.arrays import MOST_LINE, MOST_MEMBER
from genlab.data.own.labels import labels_of
from genlab.data.own.row import FIX, MOST_FRAMES, Facts, Row, parse_facts
from genlab.data.own.spec import OwnSpec
from genlab.run.stored import parse_json

_END = bytes(1024)  # closes every tar
TAR_SUFFIX, RECORD_SUFFIX = ".tar", ".array_record"
_LIMITS = {"npy": MOST_MEMBER, "codes.npy": MOST_MEMBER, "json": MOST_LINE, "txt": MOST_LINE}


class Tars:
    """The layout of WebDataset."""

    def __init__(self, directory: Path):
        self.directory = directory

    @property
    def files(self) -> list[Path]:
        """The shards by name."""
        return sorted(self.directory.glob(f"*{TAR_SUFFIX}"))

    def rows(self) -> Iterator[Row]:
        """Yield every sample of every shard."""
        for path in self.files:
            key, files = "", {}
            for name, suffix, content in _members(path):
                if name != key and files:
                    yield _sample(path, key, files)
                    files = {}
                if suffix in files:
                    raise GenlabError(f"{path}: {shorten(name)}.{suffix} occurs twice; {FIX}")
                key = name
                files[suffix] = content
            if files:
                yield _sample(path, key, files)


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, suffix and content of the files of a tar that belong to samples."""
    try:
        _check_end(path)
        # A stream is read once from front to back; an index of it could claim anything.
        with tarfile.open(path, "r|") as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                stem, _, suffix = place.name.partition(".")
                if member.isdir() or suffix not in _LIMITS:
                    continue
                if not member.isreg() or place.is_absolute() or ".." in place.parts:
                    raise GenlabError(
                        f"{path}: {shorten(member.name)}: expected a plain file below the top of "
                        f"the archive; {FIX}"
                    )
                if member.size > _LIMITS[suffix]:
                    raise GenlabError(
                        f"{path}: {shorten(member.name)}: {member.size} bytes, expected at most "
                        f"{_LIMITS[suffix]}; {FIX}"
                    )
                file = archive.extractfile(member)
                content = b"" if file is None else file.read()
                yield str(place.with_name(stem)), suffix, content
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise GenlabError(
            f"{path}: damaged: {error!s:.80}; write that shard again, as a tar that is not "
            "compressed"
        ) from None


def _check_end(path: Path) -> None:
    """Refuse a tar that was cut between two files: what is left of it would read well."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_END)))
        if file.read() != _END:
            raise tarfile.ReadError("it has no end")


def _sample(path: Path, key: str, files: dict[str, bytes]) -> Row:
    where = f"{path}: {shorten(key)}"
    values = {}
    if "json" in files:
        values = parse_json(files["json"], path=Path(f"{where}.json"), fix=FIX)
        if not isinstance(values, dict):
            raise GenlabError(f"{where}.json: expected a JSON object; {FIX}")
    if "txt" in files:
        values["text"] = files["txt"].decode("utf-8", "surrogateescape")
    codes = files.get("npy", files.get("codes.npy"))
    if codes is None:
        raise GenlabError(f"{where}: no {shorten(key)}.npy with its codes; {FIX}")
    facts = parse_facts({"id": key, **values}, where)
    labels = labels_of(values, Facts._fields, where)
    return Row(facts, where, lambda: parse_array(codes, where=where, fix=FIX), labels)


class Records:
    """The layout of ArrayRecord files."""

    def __init__(self, directory: Path, spec: OwnSpec):
        self.directory = directory
        self.spec = spec

    @property
    def files(self) -> list[Path]:
        """The shards by name."""
        return sorted(self.directory.glob(f"*{RECORD_SUFFIX}"))

    def rows(self) -> Iterator[Row]:
        """Yield every record of every shard."""
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

        for path in self.files:
            number = 0
            try:
                reader = array_record_module.ArrayRecordReader(str(path))
                for number in range(reader.num_records()):
                    yield self._row(reader.read(), f"{path}: record {number}")
                reader.close()  # which is where a file that is none says so
            except RuntimeError as error:
                raise GenlabError(
                    f"{path}: record {number}: damaged: {_first_line(error)}; write that shard "
                    "again"
                ) from None

    def _row(self, record: bytes, where: str) -> Row:
        length = struct.unpack_from("<I", record)[0] if len(record) >= 4 else -1
        if not 0 < length <= min(MOST_LINE, len(record) - 4):
            raise GenlabError(f"{where}: expected a header and its length; {FIX}")
        values = parse_json(record[4 : 4 + length], path=Path(where), fix=FIX)
        if not isinstance(values, dict):
            raise GenlabError(f"{where}: expected a JSON object; {FIX}")
        frames, body = values.get("frames"), record[4 + length :]
        count = frames if isinstance(frames, int) and not isinstance(frames, bool) else 0
        # Multiplied as Python's integers, which no absurd count can overflow.
        if not 0 < count <= MOST_FRAMES or len(body) != self._bytes(count):
            raise GenlabError(
                f"{where}: frames={shorten(frames)}: its {len(body)} bytes of codes are not "
                f"so many frames of {self.spec.codebooks} codes; {FIX}"
            )
        shape = (count, self.spec.codebooks)
        facts = parse_facts(values, where)
        labels = labels_of(values, Facts._fields, where)
        return Row(facts, where, lambda: np.frombuffer(body, "<i2").reshape(shape), labels)

    def _bytes(self, frames: int) -> int:
        return 2 * frames * self.spec.codebooks


def pack_record(facts: Facts, codes: Int[np.ndarray, "t k"]) -> bytes:
    """Return a record of an ArrayRecord, as `Records` reads it."""
    header = json.dumps({**facts._asdict(), "frames": len(codes)}).encode()
    return struct.pack("<I", len(header)) + header + codes.astype("<i2").tobytes()


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar, with nothing of this machine in it."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


def npy_bytes(values: Int[np.ndarray, "t k"]) -> bytes:
    """Return the bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()
