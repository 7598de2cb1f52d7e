"""A directory of somebody's tokens as a token store: found, checked, copied once, opened.

In: a path. Out: a `TokenStore` whose clips have codes and no latents. What is read is checked row
by row (row.py) and then held in genlab's own format, with digests, so that training reads at random
and a damaged byte is refused. The name of the store holds a digest of `tokens.json` and of the
state of every file, so tokens that have changed are imported again.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from genlab.config import Config, GenlabError, digest
from genlab.config.errors import shorten
from genlab.data.digests import FileDigest
from genlab.data.own.arrays import INDEX_NAME, Arrays
from genlab.data.own.columns import Tables
from genlab.data.own.content import Content
from genlab.data.own.labels import LABELS_NAME, write_labels
from genlab.data.own.row import Layout, Row
from genlab.data.own.shards import Records, Tars
from genlab.data.own.spec import OwnSpec, read_spec, read_vectors
from genlab.data.record import SCHEMA, TokenClip
from genlab.data.shards import Progress
from genlab.data.states import file_states
from genlab.data.store import (
    INFO_NAME,
    PART_SUFFIX,
    TokenStore,
    finish_store,
    save_vectors,
    write_part,
)
from genlab.run.cache import only_builder
from genlab.run.shared import fetch, share

VERSION = 2  # raise it when the same files make another store
PART_BYTES = 2**26  # of codes in a part
PROGRESS_ROWS = 256


class OwnTokens(Config):
    """Tokens that were encoded elsewhere, in place of a corpus of audio."""

    domain: ClassVar[str] = "speech"  # evaluate/domains.py: what it is measured by, if it is heard
    kind: Literal["tokens"] = "tokens"
    directory: str
    """The directory with `tokens.json`; docs/tokens.md in the repository says what else."""

    @property
    def files(self) -> "TokenFiles":
        """What is in the directory."""
        return TokenFiles(Path(self.directory).expanduser())


def name_own(values: object, default_codec: str) -> object:
    """Return the fields of `data` with the shorthand tokens=PATH written out.

    It takes the place of corpus and codec, and so a codec that is only the default goes.
    """
    if not isinstance(values, dict) or "tokens" not in values:
        return values
    named = {name: value for name, value in values.items() if name != "tokens"}
    codec = named.get("codec", default_codec)
    named["codec"] = None if codec == default_codec else codec
    return {**named, "corpus": {"kind": "tokens", "directory": values["tokens"]}}


class TokenFiles:
    """The tokens in a directory; nothing is read before it is asked for."""

    def __init__(self, directory: Path):
        self.directory = directory

    @cached_property
    def spec(self) -> OwnSpec:
        """What `tokens.json` says."""
        return read_spec(self.directory)

    @cached_property
    def code_vectors(self) -> Float[np.ndarray, "k v d"] | None:
        """What every entry adds to the latents, if the directory says so."""
        return read_vectors(self.directory, self.spec)

    @cached_property
    def layout(self) -> Layout:
        """How the tokens are kept.

        Raises:
            GenlabError: if that is not clear.
        """
        found: list[tuple[str, Layout]] = []
        if (self.directory / INDEX_NAME).exists():
            found.append((INDEX_NAME, Arrays(self.directory)))
        others: list[tuple[str, Layout]] = [
            (".tar files", Tars(self.directory)),
            (".array_record files", Records(self.directory, self.spec)),
            (".parquet or .arrow files", Tables(self.directory, self.spec)),
        ]
        found += [(name, layout) for name, layout in others if layout.files]
        if len(found) != 1:
            names = " and ".join(name for name, _ in found) or "none of them"
            raise GenlabError(
                f"{self.directory}: {names} here; expected {INDEX_NAME} with .npy or .npz files, "
                "or .tar, .array_record, .parquet or .arrow files, of one kind"
            )
        return found[0][1]

    def find(self, cache_dir: Path) -> Path:
        """Return where the token store is or will be."""
        root = self.directory
        states = [
            [path.relative_to(root).as_posix(), state]
            for path, state in zip(self.layout.files, file_states(self.layout.files))
        ]
        vectors = None if self.code_vectors is None else _digest_array(self.code_vectors)
        return cache_dir / f"own-{digest([SCHEMA, VERSION, self.spec.to_dict(), vectors, states])}"

    def open(self, cache_dir: Path, progress: Progress | None = None) -> TokenStore:
        """Return the token store, importing the tokens first if that was not done.

        Raises:
            GenlabError: naming the file and the row that is wrong.
        """
        directory = self.find(cache_dir)
        if not (directory / INFO_NAME).exists():
            with only_builder(directory / ".lock"):
                # Another process may have made it meanwhile.
                if not (directory / INFO_NAME).exists() and not fetch(directory, INFO_NAME):
                    self._import(directory, progress)
        share(directory, INFO_NAME)
        return TokenStore(directory)

    def rows(self) -> Iterator[Row]:
        """Yield every clip, each with a name of its own.

        Raises:
            GenlabError: if a row is wrong, two clips have one name, or there is none.
        """
        seen: dict[str, int] = {}
        for number, row in enumerate(self.layout.rows()):
            if (earlier := seen.setdefault(row.facts.id, number)) != number:
                raise GenlabError(
                    f"{row.where}: id={shorten(row.facts.id)}: clip {earlier + 1} has it already; "
                    "give every clip a name of its own"
                )
            yield row
        if not seen:
            raise GenlabError(f"{self.directory}: no clips; expected at least one row")

    def content(self) -> Content:
        """Return what is known of all clips before their codes are read."""
        return Content(self.spec, [row.facts for row in self.rows()])

    def checked(
        self, content: Content, stage: str, progress: Progress | None = None
    ) -> Iterator[tuple[str, TokenClip]]:
        """Yield every clip after its split.

        Raises:
            GenlabError: naming the file and the row that is wrong.
        """
        number = 0
        for number, row in enumerate(self.rows()):
            yield content.take(number, row)
            if progress is not None and number % PROGRESS_ROWS == 0:
                progress(stage, number, content.num_clips)
        if progress is not None:
            progress(stage, number + 1, content.num_clips)

    def _import(self, directory: Path, progress: Progress | None) -> None:
        # What an interrupted import left is made again: nothing in it says how far it came.
        for path in directory.glob(f"*{PART_SUFFIX}"):
            path.unlink()
        vectors = self.code_vectors  # what can be refused at once comes before the clips
        parts, content = _Parts(directory), self.content()
        for split, clip in self.checked(content, "import", progress):
            parts.add(split, clip)
        written = parts.finish()
        if vectors is not None:
            save_vectors(directory, vectors)
        if content.labels:
            written[LABELS_NAME] = write_labels(directory, content.labels)
        finish_store(directory, content.describe(parts.clips, parts.frames), written)


class _Parts:
    """Part files, written as they fill up; at the end those of a split follow each other."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.clips: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self._held: dict[str, list[TokenClip]] = {}
        self._bytes: Counter[str] = Counter()
        self._written: dict[str, list[tuple[Path, FileDigest]]] = {}

    def add(self, split: str, clip: TokenClip) -> None:
        """Add a clip to a split."""
        self._held.setdefault(split, []).append(clip)
        self.clips[split] += 1
        self.frames[split] += len(clip.codes)
        self._bytes[split] += clip.codes.nbytes
        if self._bytes[split] >= PART_BYTES:
            self._write(split)

    def finish(self) -> dict[str, FileDigest]:
        """Write what is left, and return the digest of every part by its name."""
        named: dict[str, FileDigest] = {}
        for split in sorted(self._held):
            self._write(split)
            for path, found in self._written[split]:
                # Only now is it known how many parts the splits before it have.
                name = f"part-{len(named):05d}{PART_SUFFIX}"
                os.replace(path, self.directory / name)
                named[name] = found
        return named

    def _write(self, split: str) -> None:
        written = self._written.setdefault(split, [])
        if self._held[split]:
            path = self.directory / f"new-{split}-{len(written):05d}{PART_SUFFIX}"
            written.append((path, write_part(path, self._held[split])))
            self._held[split] = []
            self._bytes[split] = 0


def _digest_array(values: Float[np.ndarray, "..."]) -> str:
    return digest([list(values.shape), hashlib.sha256(values.tobytes()).hexdigest()])
