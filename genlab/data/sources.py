"""Where openly licensed corpora are: addresses, checksums and licences, as data in sources.json.

In: that file, or one of the user in the same form, for a mirror or for other corpora. Out: `Source`
by name. The file holds no code and nothing but what is declared here; every archive has a checksum.
"""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import pydantic

from genlab.config import Config, GenlabError
from genlab.config.errors import meant, shorten
from genlab.data.download import Checksum
from genlab.data.unpack import SUFFIXES
from genlab.run.stored import Count, read_stored

SOURCES_PATH = Path(__file__).with_name("sources.json")


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise ValueError("expected an address that begins with https:// or http://")
    if not parts.path.lower().endswith(SUFFIXES):
        raise ValueError(f"expected the address of an archive: {', '.join(SUFFIXES)}")
    return url


def _check_inner(path: str) -> str:
    if path and not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", path):
        raise ValueError("expected a folder inside the archive, such as corpus-1.0")
    return path


class Archive(Config):
    """One file of a publisher."""

    url: Annotated[str, pydantic.AfterValidator(_check_url)]
    """Its address."""
    sha256: str | None = pydantic.Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Its SHA-256; this or md5 is needed."""
    md5: str | None = pydantic.Field(default=None, pattern=r"^[0-9a-f]{32}$")
    """Its MD5, where the publisher states no other."""
    bytes: Count | None = None
    """Its size, if known."""

    @pydantic.model_validator(mode="after")
    def _check_digest(self) -> "Archive":
        if self.sha256 is None and self.md5 is None:
            raise ValueError("expected sha256 or md5: nothing is used unchecked")
        return self

    @property
    def name(self) -> str:
        """The name of the file."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1]

    @property
    def checksum(self) -> Checksum:
        """What it must be."""
        if self.sha256 is not None:
            return Checksum("sha256", self.sha256, self.bytes)
        return Checksum("md5", self.md5 or "", self.bytes)


class Source(Config):
    """A corpus that its publisher lets anyone download."""

    title: str
    """What it is, in a line."""
    licence: str
    """Under which it may be used."""
    attribution: str
    """Whom to name."""
    page: str
    """Where the publisher describes it."""
    kind: Literal["speech_commands", "librispeech", "ljspeech", "vctk", "fsdd", "esc50", "folder"]
    """The `data.corpus.kind` that reads it."""
    folder: Annotated[str, pydantic.AfterValidator(_check_inner)] = ""
    """Where in the archives `data.corpus.path` begins."""
    files: tuple[Archive, ...] = pydantic.Field(min_length=1, max_length=1024)
    """The archives, all unpacked into one folder."""

    @property
    def num_bytes(self) -> int | None:
        """The size of all archives; None if that of one is not known."""
        sizes = [file.bytes for file in self.files]
        return sum(size for size in sizes if size is not None) if None not in sizes else None


def read_sources(path: Path = SOURCES_PATH) -> dict[str, Source]:
    """Return the known corpora by name.

    Raises:
        GenlabError: if the file is missing or holds something else.
    """
    found = read_stored(path, dict[str, Source], fix="see genlab/data/sources.json for the form")
    if found is None:
        raise GenlabError(f"--sources {path}: no such file; expected a list of corpora in JSON")
    return found


def find_source(sources: dict[str, Source], name: str) -> Source:
    """Return the corpus of this name.

    Raises:
        GenlabError: if there is none; it names those that are there.
    """
    if name not in sources:
        raise GenlabError(
            f"{shorten(name)}: no corpus of that name{meant(name, sources)}; expected one of "
            f"{', '.join(sources)}"
        )
    return sources[name]
