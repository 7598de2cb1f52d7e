"""Corpora whose recordings lie inside larger files: a member of a tar archive, a cell of a table.

In: `Packed`, from which the kinds derive. Out: the same import as that of a folder. For as long as
one recording is read it is a file of our own in the directory that is being built; its name is ours
too, so nothing that an archive says decides where something is written.
"""

import abc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

from genlab.data.columns import find_columns, plain
from genlab.data.decoding import AudioError
from genlab.data.folder import ImportConfig
from genlab.data.listing import Skipped, SourceRow, printable
from genlab.data.manifest import Manifest
from genlab.data.recipe import Recipe
from genlab.data.states import file_states
from genlab.data.table import SPLIT_ALIASES, USUAL_SPLITS, source_row

MAX_MEMBER_BYTES = 1 << 31
# The first bytes of what libsndfile reads, and the extension that goes with it.
MAGIC = {b"RIFF": ".wav", b"RF64": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3"}


class Packed(ImportConfig):
    """The options of every corpus whose recordings lie inside larger files."""

    may_be_file: ClassVar[bool] = True

    @abc.abstractmethod
    def packs(self) -> Sequence[Path]:
        """Return the larger files, whose state decides whether the corpus is built again."""

    @abc.abstractmethod
    def content(self, path: Path) -> tuple[bytes, str]:
        """Return the bytes of the recording that a row calls `path`, and their extension.

        Raises:
            AudioError: if they cannot be had.
        """

    @contextmanager
    def opened(self, path: Path, row: SourceRow, scratch: Path) -> Iterator[Path]:
        """Yield a file with the bytes of the recording, which is gone afterwards."""
        content, suffix = self.content(path)
        file = scratch.with_name(f"{scratch.name}.recording{suffix}")
        file.write_bytes(content)
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)

    def recipe(self, source: Manifest | None) -> Recipe:
        """Return how the corpus is made; it is built again when one of the larger files changes."""
        recipe = super().recipe(source)
        return recipe._replace(inputs=recipe.inputs | {"files": file_states(self.packs())})


def packed_row(
    root: Path, path: str, values: dict[str, JsonValue], label: str, split: str
) -> SourceRow | Skipped:
    """Return the row of a recording from what is stored beside it, or why it cannot be used.

    Args:
        root: the folder of the corpus.
        path: what the row is called: the larger file, and the place in it.
        values: columns by name, as of a table.
        label: its class, the speaker of a recording without one.
        split: that of the larger file, "" if it says none.
    """
    # A column that names a file elsewhere is a label: the recording is here.
    columns = find_columns(tuple(values))
    if isinstance(columns, str):
        return Skipped(printable(path), columns)
    named = columns.get("path")
    renamed = {(f"source_{name}" if name == named else name): v for name, v in values.items()}
    columns = {field: name for field, name in columns.items() if field != "path"}
    row = source_row(root, {"path": path, **renamed}, {**columns, "path": "path"})
    if isinstance(row, str):
        return Skipped(printable(path), row)
    given = values.get(columns.get("speaker", ""))
    speaker = "" if given is None else str(given).strip()  # speaker 0 is one
    return row._replace(speaker=speaker or label, split=row.split or split)


def split_of_name(relative: Path) -> str:
    """Return the split that the name of a file or of a folder above it begins with, "" if none."""
    for part in relative.parts:
        word = plain(re.split(r"[-_.]", part, maxsplit=1)[0])
        if word in SPLIT_ALIASES or word in USUAL_SPLITS:
            return SPLIT_ALIASES.get(word, word)
    return ""


def suffix_of(path: Path, content: bytes) -> str:
    """Return the extension that belongs to the bytes of a recording.

    Raises:
        AudioError: if they are none that is read.
    """
    for magic, suffix in MAGIC.items():
        if content.startswith(magic):
            return suffix
    # A frame of MP3 without a tag begins with eleven set bits.
    if len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0:
        return ".mp3"
    raise AudioError(path, "the bytes are not WAV, FLAC, OGG or MP3")
