"""What a corpus directory holds before any audio is opened: rows to import, and what cannot be one.

`Listing` is the common shape of all that finds files: a walk through a tree (`walk_files`), a table
that somebody wrote (`table.py`), or the layout of a well-known corpus (`layouts.py`).
"""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from genlab.data.decoding import FORMATS
from genlab.data.digests import DIGESTS_NAME
from genlab.data.manifest import MANIFEST_NAME

# Where these are, genlab trained or sampled: the default --out may lie beside the recordings.
RUN_NAMES = frozenset({"config.json", "status.json", "lock"})
SAMPLED_NAME = "sampled.json"
# Hidden, and nobody's recordings: what systems and tools leave everywhere, genlab's own cache.
UNMISSED = frozenset({".DS_Store", ".git", ".gitignore", ".genlab_cache", ".directory"})
MAX_NAME_CHARS = 120
MAX_TEXT_BYTES = 2**31  # of a table or a transcript


class SourceRow(NamedTuple):
    """One recording to import. `path` is relative to the corpus; an empty `split` is drawn later.

    Of the file `duration_s` seconds from `offset_s` on are used; None means all that is left.
    """

    path: str
    id: str
    text: str = ""
    speaker: str = ""
    split: str = ""
    licence: str = ""
    labels: Mapping[str, JsonValue] = {}
    offset_s: float = 0.0
    duration_s: float | None = None


class Skipped(NamedTuple):
    """A file, or a line of a manifest, that was not used."""

    path: str
    reason: str


class Listing(NamedTuple):
    """What a corpus directory holds before any audio is opened."""

    rows: list[SourceRow]
    skipped: list[Skipped]
    notes: list[str]


def count_of(number: int, noun: str) -> str:
    """Return how many there are, in words: 1 clip, 2 clips, 1,200 clips, 10 classes."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending * (number != 1)}"


def printable(name: str) -> str:
    """Return a file name, which on Linux may be any bytes, as text that JSON can hold."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def shorten(name: str) -> str:
    """Return a name in one line of at most `MAX_NAME_CHARS` characters."""
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in name)
    return shown if len(shown) <= MAX_NAME_CHARS else f"{shown[:MAX_NAME_CHARS]}..."


def find_broken_text(text: str) -> str | None:
    """Return why `text` cannot be stored, or None; bytes that are not UTF-8 are surrogates here."""
    if "\0" in text:
        return "holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if "\udc80" <= text[error.start] <= "\udcff":
            return "is not UTF-8 text: save the file as UTF-8"
        return "holds half of a surrogate pair, which is no character"
    return None


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a table or transcript.

    Raises:
        OSError: if it is missing, larger than 2 GiB, or no regular file: a named pipe would block.
    """
    try:
        state = path.stat()
    except ValueError as error:  # a NUL or a surrogate in the name
        raise OSError(None, str(error)) from None
    if not stat.S_ISREG(state.st_mode):
        raise OSError(None, "a folder" if stat.S_ISDIR(state.st_mode) else "not a regular file")
    if state.st_size > MAX_TEXT_BYTES:
        raise OSError(None, f"{state.st_size} bytes, at most {MAX_TEXT_BYTES} accepted")
    return path.read_bytes()


def walk_files(root: Path, skipped: list[Skipped], notes: list[str]) -> Iterator[Path]:
    """Yield the files under `root` in a fixed order, following links to folders; no hidden ones.

    A link to a folder that is listed anyway, or that contains the link, goes to `notes`, and so
    does what genlab itself made below `root`: corpora, runs, samples. A folder that cannot be read
    goes to `skipped`.
    """

    def note(error: OSError) -> None:
        name = printable(str(error.filename))
        skipped.append(Skipped(name, f"folder cannot be read: {error.strerror}"))

    # Real folders come first, so that a link never takes the place of the folder that it names.
    seen = {_identity(root)}
    for folder, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(folder, name) for name in folders]
        seen |= {_identity(path) for path in paths if not path.is_symlink()}
    hidden: list[str] = []
    for folder, folders, names in os.walk(root, onerror=note, followlinks=True):
        unread = [name for name in folders if name.startswith(".")]
        kept = []
        for name in sorted(name for name in folders if not name.startswith(".")):
            path = Path(folder, name)
            if path.is_symlink():
                if _identity(path) in seen:
                    shown = printable(path.relative_to(root).as_posix())
                    notes.append(f"{shown}: a link to a folder that is listed anyway, not followed")
                    continue
                seen.add(_identity(path))
            kept.append(name)
            if path.suffix.lower() in FORMATS:
                shown = printable(path.relative_to(root).as_posix())
                notes.append(f"{shown}: a folder, not an audio file")
        folders[:] = kept
        if Path(folder) != root and {MANIFEST_NAME, DIGESTS_NAME} <= set(names):
            shown = printable(os.path.relpath(folder, root))
            notes.append(f"{shown}: a corpus that genlab built, not read again")
            folders[:] = []
            continue
        if Path(folder) != root and (RUN_NAMES <= set(names) or SAMPLED_NAME in names):
            shown = printable(os.path.relpath(folder, root))
            notes.append(f"{shown}: what genlab made in a run, not recordings; not read")
            folders[:] = []
            continue
        hidden += [
            os.path.relpath(Path(folder, name), root)
            for name in sorted([*names, *unread])
            if name.startswith(".") and name not in UNMISSED
        ]
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))
    if hidden:
        what = "file or folder" if len(hidden) == 1 else "files and folders"
        example = shorten(printable(Path(hidden[0]).as_posix()))
        notes.append(
            f"{len(hidden):,} hidden {what} not read (for example {example}): the name begins "
            "with a dot"
        )


def _identity(path: Path) -> tuple[int, int] | str:
    return file_identity(path) or str(path)


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what all spellings of the path of a file or folder share; None if it is not there."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return (state.st_dev, state.st_ino)
