"""Read the answers of listeners, and take nothing on trust: they come back as files that anyone may
have edited.

In: answer files and the key. Out: `Answers` that are complete, belong to this key, and come from
different listeners.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from genlab.config import Config, ConfigError, GenlabError
from genlab.listen.key import Key, Screen, parse
from genlab.run.stored import read_content

NO_DIFFERENCE = "no difference"
_FIX = "use the file as the page saved it"


class HeardClip(Config):
    """One clip of a screen, in the order shown."""

    id: str
    """The id under which the page showed the clip."""
    plays: int = Field(ge=1)
    """How often it was played; every clip must be heard."""
    rating: int | None = Field(default=None, ge=0, le=100)
    """From 0 to 100; None in a pair."""


class AnsweredScreen(Config):
    """One screen."""

    screen: str
    """Id of the screen."""
    seconds: float = Field(ge=0, allow_inf_nan=False)
    """Time spent on it."""
    reference_plays: int = Field(ge=0)
    """How often the reference was played."""
    choice: str = ""
    """In a pair, the id of the better clip or `NO_DIFFERENCE`; empty where clips are rated."""
    clips: tuple[HeardClip, ...]
    """The clips in the order shown."""


class Answers(Config):
    """One listener's answers to the whole test, in the order of the screens shown."""

    format: Literal["genlab-listening-answers-1"]
    """Name and version of this file format."""
    key_sha256: str
    """Digest of the key, which ties answers to their page."""
    listener: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")
    """Name that the listener chose."""
    screens: tuple[AnsweredScreen, ...]
    """Every screen, in the order shown."""


def read_answers(paths: Sequence[Path], key: Key, digest: str) -> list[Answers]:
    """Return everyone's answers.

    Raises:
        GenlabError: naming the first file that is damaged, incomplete, of another page, or there
            twice.
    """
    found: list[Answers] = []
    by_listener: dict[str, Path] = {}
    by_content: dict[str, Path] = {}
    for path in paths:
        content = read_content(path, fix=_FIX)
        if content is None:
            raise GenlabError(f"{path}: no such file; give the answers as the page saved them")
        # A copy under a second name would count one listener twice.
        digest_of_file = hashlib.sha256(content).hexdigest()
        if digest_of_file in by_content:
            raise GenlabError(
                f"{path}: the same answers as {by_content[digest_of_file]}; give every file once"
            )
        by_content[digest_of_file] = path
        try:
            answers = parse(Answers, content, path, _FIX)
            check_answers(answers, key, digest)
        except ConfigError as error:
            raise GenlabError(f"{path}: {error}; {_FIX}") from None
        # Different contents under one name: an interrupted and a repeated test, of which a person
        # must choose.
        if answers.listener in by_listener:
            raise GenlabError(
                f"{path}: listener={answers.listener!r} is also in "
                f"{by_listener[answers.listener]}: expected one file "
                "per listener; keep the one that counts"
            )
        by_listener[answers.listener] = path
        found.append(answers)
    return found


def check_answers(answers: Answers, key: Key, digest: str) -> None:
    """Hold one listener's answers against the key.

    Raises:
        ConfigError: if they are not complete answers to its page.
    """
    if answers.key_sha256 != digest:
        raise ConfigError(
            f"key_sha256={answers.key_sha256:.12}...: expected {digest:.12}..., the digest of "
            "key.json: these are answers to another page, or the key was changed"
        )
    names = [screen.screen for screen in answers.screens]
    if missing := [name for name in key.screens if name not in names]:
        raise ConfigError(
            f"screens: {len(missing)} of {len(key.screens)} missing, the first is {missing[0]!r}"
        )
    if len(names) != len(key.screens):
        raise ConfigError(
            f"screens: {len(names)} of them, expected each of the {len(key.screens)} of the key "
            "once"
        )
    for number, answered in enumerate(answers.screens):
        _check_screen(f"screens.{number}", answered, key.screens[answered.screen])


def _check_screen(field: str, answered: AnsweredScreen, screen: Screen) -> None:
    ids = [clip.id for clip in answered.clips]
    if sorted(ids) != sorted(screen.rows):
        raise ConfigError(
            f"{field}.clips: {len(ids)} clips, expected each of the {len(screen.rows)} of the key "
            "once"
        )
    if screen.test == "ab":
        if answered.choice not in (*ids, NO_DIFFERENCE):
            raise ConfigError(
                f"{field}.choice={answered.choice!r}: expected one of the two clips or "
                f"{NO_DIFFERENCE!r}"
            )
        return
    for number, clip in enumerate(answered.clips):
        if clip.rating is None:
            raise ConfigError(f"{field}.clips.{number}.rating: missing, expected 0 to 100")
