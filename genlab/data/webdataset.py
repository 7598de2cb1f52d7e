"""WebDataset shards: tar archives whose members of one sample share a name (Aizman et al. 2019,
arXiv 2001.01858; the format is described in the README of the webdataset package).

In: a folder with .tar files. Out: one row per recording, with the text of a .txt, the class of a
.cls and the fields of a .json beside it. The archives stay as they are and are read at the places
of their members; links and names that lead elsewhere are refused by name.
"""

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.data.decoding import FORMATS, AudioError
from genlab.data.folder import existing_directory
from genlab.data.listing import Listing, Skipped, SourceRow, count_of, printable, walk_files
from genlab.data.packed import MAX_MEMBER_BYTES, Packed, packed_row, split_of_name
from genlab.data.table import parse_object
from genlab.data.tar import BrokenTarError, read_members
from genlab.run.names import inside

MAX_SIDE_BYTES = 1 << 20  # of a text or a table beside a recording
SIDES = {".txt", ".cls", ".json"}
ARCHIVE, COMPRESSED = ".tar", (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Shards(Packed):
    """A folder of WebDataset shards with KEY.flac (or .wav, .ogg, .mp3) and KEY.json, .txt, .cls.

    Fields of the JSON are columns as in the table of a folder. Without a speaker the class is one.
    """

    kind: Literal["shards"] = "shards"

    def listing(self) -> Listing:
        """Return the recordings of every archive, without reading them."""
        return list_shards(self)

    def packs(self) -> Sequence[Path]:
        """Return the archives."""
        return _archives(self, [], [])

    def content(self, path: Path) -> tuple[bytes, str]:
        """Return the bytes of a member.

        Raises:
            AudioError: if the archive has changed or is cut short.
        """
        archive = next(parent for parent in path.parents if _is_archive(parent))
        name = path.relative_to(archive).as_posix()
        place = _scan(archive, _state(archive)).audio.get(name)
        if place is None:
            raise AudioError(path, "the archive has no such member any more")
        with open(archive, "rb") as file:
            content = _read(file, place)
        return content, Path(name).suffix.lower()


class Place(NamedTuple):
    """Where the bytes of a member lie in its archive."""

    offset: int
    size: int


class Scan(NamedTuple):
    """What an archive holds: recordings and what lies beside them, by name; what is not used."""

    audio: Mapping[str, Place]
    sides: Mapping[str, Place]
    skipped: tuple[tuple[str, str], ...]
    others: Mapping[str, int]


def list_shards(config: Shards) -> Listing:
    """Return the recordings of every archive below a folder.

    Raises:
        GenlabError: if there is no archive, or no recording in any.
    """
    root = existing_directory(config)
    rows: list[SourceRow] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    others = Counter[str]()
    archives = _archives(config, skipped, notes)
    # Headers only: what a recording holds is looked at when it is imported.
    for archive in archives:
        relative = archive.relative_to(root)
        scan = _scan(archive, _state(archive))
        shown = relative.as_posix()
        skipped += [
            Skipped(printable(f"{shown}/{name}" if name else shown), reason)
            for name, reason in scan.skipped
        ]
        others.update(scan.others)
        with open(archive, "rb") as file:
            found = _rows(root, relative, scan, file)
        rows += [row for row in found if isinstance(row, SourceRow)]
        skipped += [row for row in found if isinstance(row, Skipped)]
    if not rows:
        told = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:3])
        raise GenlabError(
            f"path: {config.path!r} does not look like Shards, expected .tar archives with "
            f"KEY.flac, .wav, .ogg or .mp3" + (f"; {told}" if told else "")
        )
    named = sum(1 for archive in archives if split_of_name(archive.relative_to(root)))
    if named:
        notes.append(f"splits are taken from the names of {count_of(named, 'archive')}")
    notes += [
        f"{count_of(count, 'member')} ignored ({printable(suffix)})"
        for suffix, count in sorted(others.items())
    ]
    return Listing(rows, skipped, notes)


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ARCHIVE and path.is_file()


def _archives(config: Shards, skipped: list[Skipped], notes: list[str]) -> list[Path]:
    root = existing_directory(config)
    alone = Path(os.path.abspath(Path(config.path).expanduser()))
    if alone.is_file():
        return [alone]
    found = []
    for path in walk_files(root, skipped, notes):
        if path.suffix.lower() == ARCHIVE:
            found.append(path)
        elif path.name.lower().endswith(COMPRESSED):
            # Members of a compressed archive have no place of their own to be read from.
            reason = "compressed: decompress it, shards are plain .tar archives"
            skipped.append(Skipped(printable(path.relative_to(root).as_posix()), reason))
    return found


def _state(archive: Path) -> tuple[int, int]:
    state = archive.stat()
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=4_096)
def _scan(archive: Path, state: tuple[int, int]) -> Scan:
    """Return what an archive holds; `state` is its size and time, so that a changed one is read."""
    audio: dict[str, Place] = {}
    sides: dict[str, Place] = {}
    skipped: list[tuple[str, str]] = []
    others = Counter[str]()
    try:
        with open(archive, "rb") as file:
            for member in read_members(file):
                fault = _fault(member.name, member.what)
                suffix = Path(member.name).suffix.lower()
                place = Place(member.offset, member.size)
                if member.what == "folder":
                    continue
                if fault is not None:
                    skipped.append((member.name, fault))
                elif suffix in FORMATS or suffix in SIDES:
                    held = audio if suffix in FORMATS else sides
                    if member.name.removeprefix("./") in held:
                        skipped.append((member.name, "listed twice, the first is used"))
                    held.setdefault(member.name.removeprefix("./"), place)
                else:
                    others[suffix or "no extension"] += 1
    except BrokenTarError as error:
        # What came before the damage is whole, and is used.
        skipped.append(("", str(error)))
    except OSError as error:
        skipped.append(("", f"cannot be read: {error.strerror or error}"))
    return Scan(audio, sides, tuple(skipped), others)


def _fault(name: str, what: str) -> str | None:
    """Return why a member is not used, None if it may be."""
    if what not in ("file", "folder"):
        return f"a {what}, not a file"
    try:
        inside(Path("."), name)
    except GenlabError:
        return "its name leads out of the archive"
    return None


def _key(name: str) -> str:
    """Return what the members of a sample share: the name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def _rows(root: Path, archive: Path, scan: Scan, file: BinaryIO) -> list[SourceRow | Skipped]:
    """Return a row, or the reason why there is none, for every recording of an archive."""
    beside: dict[str, list[str]] = {}
    for name in scan.sides:
        beside.setdefault(_key(name), []).append(name)
    split = split_of_name(archive)
    rows: list[SourceRow | Skipped] = []
    taken: dict[str, str] = {}
    for name in scan.audio:
        path = f"{archive.as_posix()}/{name}"
        first = taken.setdefault(_key(name), name)
        if first != name:
            # Stems of one sample would all have its text, and be one clip several times.
            rows.append(Skipped(printable(path), f"a second recording of sample {first!r}"))
            continue
        values = _values(file, scan, beside.pop(_key(name), []))
        if isinstance(values, str):
            rows.append(Skipped(printable(path), values))
            continue
        label = values.get("label", "")
        shown = str(label) if isinstance(label, str | int) else ""
        rows.append(packed_row(root, path, values, shown, split))
    rows += [
        Skipped(printable(f"{archive.as_posix()}/{names[0]}"), "no recording of that name")
        for names in beside.values()
    ]
    return rows


def _values(file: BinaryIO, scan: Scan, names: Sequence[str]) -> dict[str, JsonValue] | str:
    """Return what lies beside a recording as columns, or why it cannot be read."""
    values: dict[str, JsonValue] = {}
    for name in sorted(names):
        place = scan.sides[name]
        if place.size > MAX_SIDE_BYTES:
            return f"{name}: {place.size} bytes, at most {MAX_SIDE_BYTES} accepted"
        try:
            text = _read(file, place).decode("utf-8", "surrogateescape").strip()
        except AudioError as error:
            return f"{name}: {error.reason}"
        suffix = Path(name).suffix.lower()
        if suffix == ".json":
            found = parse_object(text)
            if isinstance(found, str):
                return f"{name}: {found}"
            values = {**found, **values}
        else:
            values["text" if suffix == ".txt" else "label"] = text
    return values


def _read(file: BinaryIO, place: Place) -> bytes:
    """Return the bytes of a member.

    Raises:
        AudioError: if the archive ends before, or they are too many.
    """
    if place.size > MAX_MEMBER_BYTES:
        raise AudioError("", f"{place.size} bytes, at most {MAX_MEMBER_BYTES} accepted")
    file.seek(place.offset)
    content = file.read(place.size)
    if len(content) < place.size:
        raise AudioError("", "the archive is cut short within it")
    return content
