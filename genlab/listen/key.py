"""The key of a listening test: which opaque id is which row of the table.

The page knows ids only, drawn at random and not derived from any name, plus the SHA-256 of the key
file. A digest of ids and names alone could be inverted by trying every assignment, so the key also
holds a nonce that no page carries: the digest ties answers to their key and reveals nothing about
it.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, model_validator

from genlab.config import Config, ConfigError, GenlabError, Seed
from genlab.run.bounds import REAL
from genlab.run.stored import parse_json, read_content, write_whole

Test = Literal["mushra", "ab"]
Parsed = TypeVar("Parsed", bound=Config)
REFERENCE = REAL
ANCHOR = "low_anchor"


class Screen(Config):
    """One screen of the page; its clips share prompt and training seed."""

    test: Test
    """Which test the screen belongs to."""
    prompt: int = Field(ge=0)
    """Number of the prompt."""
    text: str
    """What is said in it."""
    seed: Seed
    """Training seed of all its clips."""
    rows: dict[str, str]
    """The row behind the id of each clip."""


class Key(Config):
    """Everything that the page must not reveal."""

    format: Literal["genlab-listening-key-1"] = "genlab-listening-key-1"
    """Name and version of this file format."""
    nonce: str
    """Random text that no page carries, so that the digest cannot be guessed from the rows."""
    comparison_key: str
    """The comparison whose clips are heard."""
    arms: tuple[str, ...]
    """Names of the arms, without floors, reference and anchor."""
    screens: dict[str, Screen]
    """Screens by id."""

    @model_validator(mode="after")
    def _check_screens(self) -> "Key":
        if len(set(self.arms)) != len(self.arms):
            raise ValueError("arms: expected every arm once")
        rated = [screen.prompt for screen in self.screens.values() if screen.test == "mushra"]
        if len(set(rated)) != len(rated):
            raise ValueError("screens: expected every prompt on one screen of ratings")
        for name, screen in self.screens.items():
            rows = set(screen.rows.values())
            if screen.test == "mushra" and not rows >= {REFERENCE, *self.arms}:
                raise ValueError(f"screens.{name}.rows: expected {REFERENCE!r} and every arm")
            if screen.test == "ab" and not (
                len(rows) == len(screen.rows) == 2 and rows <= set(self.arms)
            ):
                raise ValueError(f"screens.{name}.rows: expected two of the arms")
        return self

    def serialise(self) -> bytes:
        """Return the content of the key file; its SHA-256 is what page and answers carry."""
        return self.model_dump_json(indent=1).encode()


def digest_key(content: bytes) -> str:
    """Return the SHA-256 of a key file in hex, as `sha256sum key.json` prints it."""
    return hashlib.sha256(content).hexdigest()


def draw_id() -> str:
    """Return an id that says nothing."""
    return secrets.token_hex(8)


def draw_nonce() -> str:
    """Return what keeps the digest of the key from being guessed."""
    return secrets.token_hex(32)


def write_key(path: Path, content: bytes) -> None:
    """Write the key atomically, readable by its owner alone."""
    write_whole(path, content, is_secret=True)


def read_key(path: Path) -> tuple[Key, str]:
    """Return the key and its digest.

    Raises:
        GenlabError: if there is no key, or it is damaged.
    """
    fix = "put back the key as `genlab listen` wrote it"
    content = read_content(path, fix=fix)
    if content is None:
        raise GenlabError(
            f"{path}: no key here; write the page first, with `genlab listen RUN_DIR`"
        )
    return parse(Key, content, path, fix), digest_key(content)


def parse(cls: type[Parsed], content: bytes, path: Path, fix: str) -> Parsed:
    """Return a config from JSON that was read from `path`.

    Raises:
        GenlabError: with every problem, if it is not one.
    """
    values = parse_json(content, path=path, fix=fix)
    try:
        return cls.from_dict(values)
    except ConfigError as error:
        raise GenlabError(f"{path}: {error}; {fix}") from None
