"""What every file of a finished corpus or token store held when it was written: a flipped bit is
refused, not used.

In: a directory that is whole except for one file. Out: `digests.json` beside its files, with the
size and the SHA-256 of each and a digest of the table itself. Small files are compared when they
are opened, audio and F0 when they are first read, and parts of a token store by their size and
their edges. Each record carries a checksum of its own, but nothing says in which part it belongs:
the first block holds the first record, whose clip is in no other part, and the last one the places
of all records, which alone are the same if all records have one length. `genlab data check` reads
every byte. A directory of a version that wrote no digests is opened as before, unchecked.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NotRequired

import pydantic
from typing_extensions import TypedDict

from genlab.config import digest
from genlab.run import in_bucket
from genlab.run.stored import OPEN, Count, DamagedError, read_stored, write_atomically

DIGESTS_NAME = "digests.json"
MOST_SHOWN = 5
EDGE_BYTES = 2**16  # a block of a record file
Progress = Callable[[str, int, int], None]


_Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]


@pydantic.with_config(OPEN)
class FileDigest(TypedDict):
    """Size in bytes and SHA-256 in hex of one file."""

    bytes: Count
    sha256: _Sha256


@pydantic.with_config(OPEN)
class _Table(TypedDict):
    schema: Literal[1]
    files: dict[str, FileDigest]
    digest: str
    edges: NotRequired[dict[str, _Sha256]]
    """SHA-256 of the edges of files that are too large to be read when they are opened."""


class Digests:
    """The digests of a finished directory; `fix` is what a refusal tells people to do."""

    def __init__(
        self,
        directory: Path,
        files: Mapping[str, FileDigest],
        fix: str,
        edges: Mapping[str, str] | None = None,
    ):
        self.directory = directory
        self.files = files
        self._fix = fix
        self._edges = edges or {}
        self._compared: set[str] = set()

    @classmethod
    def load(cls, directory: Path) -> "Digests | None":
        """Return the digests of a directory; None if the version that made it wrote none.

        Raises:
            DamagedError: if the table itself is damaged.
        """
        path = directory / DIGESTS_NAME
        fix = rebuild(directory)
        table = read_stored(path, _Table, fix=fix)
        if table is None:
            return None
        if digest(table["files"]) != table["digest"]:
            raise DamagedError(f"{path}: damaged: its content does not match its own digest; {fix}")
        return cls(directory, table["files"], fix, table.get("edges"))

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            DamagedError: if it is missing, or not what was written.
        """
        path = self.directory / name
        wanted = self._wanted(name)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self._refusal(name, f"cannot be read ({error.strerror})") from None
        if (
            len(content) != wanted["bytes"]
            or hashlib.sha256(content).hexdigest() != wanted["sha256"]
        ):
            raise self._refusal(name, "its content does not match its digest")
        self._compared.add(name)
        return content

    def compare(self, name: str) -> None:
        """Read a file and compare it, once per process.

        Raises:
            DamagedError: as `read`.
        """
        if name in self._compared:
            return
        wanted = self._wanted(name)
        try:
            is_same = digest_file(self.directory / name) == wanted
        except OSError as error:
            raise self._refusal(name, f"cannot be read ({error.strerror})") from None
        if not is_same:
            raise self._refusal(name, "its content does not match its digest")
        self._compared.add(name)

    def compare_edges(self, name: str) -> None:
        """Compare the size of a large file, and its edges if the version that wrote it noted them.

        Raises:
            DamagedError: if it is missing, of another size, or begins or ends otherwise.
        """
        wanted = self._wanted(name)["bytes"]
        path = self.directory / name
        try:
            found = path.stat().st_size
            is_same = name not in self._edges or digest_edges(path) == self._edges[name]
        except OSError as error:
            raise self._refusal(name, f"cannot be read ({error.strerror})") from None
        if found != wanted:
            raise self._refusal(name, f"expected {wanted} bytes, got {found}")
        if not is_same:
            raise self._refusal(name, "it does not begin and end as it was written")

    def find_damage(self, progress: Progress | None = None) -> list[str]:
        """Read every byte of every file; return a line per file that has changed."""
        damage, stage = [], f"check {self.directory.name}"
        is_partial = in_bucket.place_of(self.directory) is not None
        for done, name in enumerate(sorted(self.files)):
            if progress is not None:
                progress(stage, done, len(self.files))
            path = self.directory / name
            if is_partial and in_bucket.is_bulky(name) and not path.exists():
                continue
            try:
                is_same = digest_file(path) == self.files[name]
            except OSError as error:
                damage.append(f"{path}: cannot be read ({error.strerror})")
            else:
                damage += [] if is_same else [f"{path}: its content does not match its digest"]
        if progress is not None:
            progress(stage, len(self.files), len(self.files))
        return damage

    def _wanted(self, name: str) -> FileDigest:
        if name not in self.files:
            raise self._refusal(name, f"{DIGESTS_NAME} has no such file")
        return self.files[name]

    def _refusal(self, name: str, what: str) -> DamagedError:
        return DamagedError(f"{self.directory / name}: damaged: {what}; {self._fix}")


def check_directories(
    directories: Iterable[Path], whole: str, progress: Progress | None = None
) -> list[str]:
    """Read every byte of finished directories of the cache, and return a line per directory.

    Args:
        directories: corpora, or token stores.
        whole: the name of the file that makes such a directory whole.
        progress: told how many files were read.

    Raises:
        DamagedError: naming the damaged files, the first `MOST_SHOWN` of them.
    """
    lines, damage = [], []
    for directory in directories:
        digests = Digests.load(directory)
        if digests is not None:
            found = digests.find_damage(progress)
            damage += [(directory, line) for line in found]
            if not found:
                lines.append(f"{directory}: {len(digests.files)} files, all as they were written")
        elif (directory / whole).exists():
            lines.append(f"{directory}: not checked, the version that made it wrote no digests")
        else:
            lines.append(f"{directory}: not built")
    if damage:
        shown = "; ".join(line for _, line in damage[:MOST_SHOWN])
        more = f"; and {len(damage) - MOST_SHOWN} more" if len(damage) > MOST_SHOWN else ""
        gone = " and ".join(dict.fromkeys(str(directory) for directory, _ in damage))
        raise DamagedError(f"damaged: {shown}{more}; {rebuild(gone)}")
    return lines


def rebuild(directory: Path | str) -> str:
    """Return what to do about a damaged directory of the cache."""
    return f"delete {directory} and make it again with `genlab data CONFIG`"


def write_digests(
    directory: Path, files: Mapping[str, FileDigest], edges: Mapping[str, str] | None = None
) -> None:
    """Write `digests.json`; what makes the directory whole is written after it."""
    table = {"schema": 1, "files": files, "digest": digest(files)} | (
        {"edges": edges} if edges else {}
    )
    write_atomically(directory / DIGESTS_NAME, json.dumps(table, sort_keys=True))


def digest_files(directory: Path, names: Iterable[str]) -> dict[str, FileDigest]:
    """Return the digests of files by their names below `directory`."""
    return {name: digest_file(directory / name) for name in names}


def digest_file(path: Path) -> FileDigest:
    """Return the digest of a file."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        return FileDigest(bytes=file.tell(), sha256=found)


def digest_edges(path: Path) -> str:
    """Return the SHA-256 of the first and the last `EDGE_BYTES` of a file."""
    with path.open("rb") as file:
        first = file.read(EDGE_BYTES)
        file.seek(max(0, path.stat().st_size - EDGE_BYTES))
        return hashlib.sha256(first + file.read(EDGE_BYTES)).hexdigest()


def digest_text(text: str) -> FileDigest:
    """Return the digest of a file that will hold `text`."""
    content = text.encode()
    return FileDigest(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
