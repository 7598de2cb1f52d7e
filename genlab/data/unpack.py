"""Archives from elsewhere, unpacked into a folder that they cannot leave.

In: a .tar, .tar.gz, .tar.bz2 or .zip, and how many bytes may come out of it. Out: plain files and
folders below the target. Absolute names, `..`, links, devices, a file that is there already, a
password or more bytes than allowed refuse the whole archive, by the name of the member. What a
header claims is not believed: bytes are counted while they are written.
"""

import bz2
import gzip
import os
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.data.tar import BrokenTarError, Readable, read_members
from genlab.machine.stopping import is_disk_full
from genlab.run.names import inside

CHUNK_BYTES = 1 << 20
MAX_MEMBERS = 2_000_000
MAX_RATIO = 8  # of audio, which compresses to a half; texts beside it are few
PLAIN_BYTES = 64 << 20  # come out of any archive, however small
SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar", ".zip")
STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ArchiveError(GenlabError):
    """An archive is damaged, or wants more than to put files into its folder."""


class _Budget:
    """Counts what comes out of an archive."""

    def __init__(self, archive: Path, most_bytes: int, progress: Callable[[int], None]):
        self.archive, self.most_bytes, self.progress = archive, most_bytes, progress
        self.members = self.bytes = 0

    def add_member(self) -> None:
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise ArchiveError(
                f"{self.archive.name}: more than {MAX_MEMBERS:,} members; not unpacked"
            )

    def add_bytes(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self.most_bytes:
            raise ArchiveError(
                f"{self.archive.name}: more than {self.most_bytes:,} bytes come out of it, an "
                "archive bomb; not unpacked"
            )
        self.progress(self.bytes)


def unpack(
    archive: Path,
    target: Path,
    *,
    most_bytes: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Unpack an archive into the folder `target`, which is made, and return the number of files.

    Args:
        archive: the file; its name says what it is.
        target: where its members go. What was unpacked before an error stays there.
        most_bytes: how much may come out; by default `MAX_RATIO` times its size.
        progress: called with the bytes so far.

    Raises:
        ArchiveError: if the archive is damaged or hostile; the text names the member.
    """
    size = archive.stat().st_size
    budget = _Budget(
        archive, max(PLAIN_BYTES, MAX_RATIO * size) if most_bytes is None else most_bytes, progress
    )
    target.mkdir(parents=True, exist_ok=True)
    suffix = next((name for name in SUFFIXES if archive.name.lower().endswith(name)), None)
    try:
        if suffix == ".zip":
            return _unpack_zip(archive, target, budget)
        if suffix in (".tar.gz", ".tgz"):
            with gzip.open(archive) as file:
                return _unpack_tar(file, target, budget)
        if suffix == ".tar.bz2":
            with bz2.open(archive) as file:
                return _unpack_tar(file, target, budget)
        if suffix == ".tar":
            with open(archive, "rb") as file:
                return _unpack_tar(file, target, budget)
    except (BrokenTarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ArchiveError(f"{archive.name}: damaged archive: {error!s:.200}") from None
    except (OSError, ValueError, NotImplementedError) as error:
        # Decompressors call damage an OSError; a disk that is full or read-only stays one.
        if is_disk_full(error) or getattr(error, "errno", None) is not None:
            raise
        raise ArchiveError(f"{archive.name}: damaged archive: {error!s:.200}") from None
    raise ArchiveError(f"{archive.name}: expected one of {', '.join(SUFFIXES)}")


class _Bounded(NamedTuple):
    """A stream that stops where it has given more than it may: skipped bytes count as well."""

    file: IO[bytes] | gzip.GzipFile
    budget: _Budget

    def read(self, size: int, /) -> bytes:
        content = self.file.read(size)
        self._check()
        return content

    def seek(self, offset: int, /) -> int:
        # In steps, since a jump over a bomb would unpack all of it before it can be refused.
        while (place := self.file.tell()) < offset:
            if self.file.seek(min(offset, place + CHUNK_BYTES)) <= place:
                break
            self._check()
        return self.file.tell()

    def _check(self) -> None:
        # Headers, long names and padding come on top of what members hold.
        headers = 4_096 * (self.budget.members + 64)
        if self.file.tell() > self.budget.most_bytes + headers:
            self.budget.add_bytes(self.budget.most_bytes + 1)


def _unpack_tar(file: IO[bytes] | gzip.GzipFile, target: Path, budget: _Budget) -> int:
    bounded = _Bounded(file, budget)
    count = 0
    for member in read_members(bounded):
        budget.add_member()
        if member.what not in ("file", "folder"):
            raise _hostile(budget, member.name, f"is a {member.what}")
        if member.what == "folder":
            if member.name.strip("./"):
                _make_folder(_place(budget, target, member.name), budget, member.name)
            continue
        path = _place(budget, target, member.name)
        _make_folder(path.parent, budget, member.name)
        written = _write(bounded, path, member.size, budget, member.name)
        if written < member.size:
            raise BrokenTarError(f"cut short within {shorten(member.name)}")
        count += 1
    return count


def _unpack_zip(archive: Path, target: Path, budget: _Budget) -> int:
    count = 0
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            budget.add_member()
            name = info.orig_filename  # as it is written: the module cuts it at a NUL
            mode = info.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or not stat.S_IFMT(mode)):
                raise _hostile(budget, name, "is a link or a device")
            if info.flag_bits & 1 or info.compress_type not in STORED_OR_DEFLATED:
                raise _hostile(budget, name, "needs a password or an unusual method")
            path = _place(budget, target, name)
            if info.is_dir():
                _make_folder(path, budget, name)
                continue
            _make_folder(path.parent, budget, name)
            with file.open(info) as source:
                # To its end, where the module compares the checksum.
                _write(source, path, None, budget, name)
            count += 1
    return count


def _place(budget: _Budget, target: Path, name: str) -> Path:
    """Return where a member goes."""
    try:
        path = inside(target, name)
        # Bytes that are no text cannot be printed in a report, nor stored on every disk.
        name.encode()
    except (GenlabError, UnicodeEncodeError):
        raise _hostile(budget, name, "has a name that leads out of its folder") from None
    if any(len(os.fsencode(part)) > 255 or not part.isprintable() for part in path.parts):
        raise _hostile(budget, name, "has a name that no disk holds")
    return path


def _make_folder(path: Path, budget: _Budget, name: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _hostile(budget, name, "takes a file for a folder") from None


def _write(source: Readable, path: Path, size: int | None, budget: _Budget, name: str) -> int:
    """Copy `size` bytes, or all, into a new file, and return how many there were."""
    written = 0
    try:
        file = open(path, "xb")
    except (FileExistsError, IsADirectoryError):
        raise _hostile(budget, name, "occurs twice") from None
    with file:
        while size is None or written < size:
            wanted = CHUNK_BYTES if size is None else min(CHUNK_BYTES, size - written)
            chunk = source.read(wanted)
            if not chunk:
                break
            budget.add_bytes(len(chunk))
            file.write(chunk)
            written += len(chunk)
    return written


def _hostile(budget: _Budget, name: str, what: str) -> ArchiveError:
    shown = shorten(name.encode("utf-8", "backslashreplace").decode())
    return ArchiveError(f"{budget.archive.name}: member {shown} {what}; nothing of it is used")
