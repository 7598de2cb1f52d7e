"""One clip of somebody's tokens, before it is believed.

In: what a row of an index says, and an array. Out: `Facts` and codes "t k", or an error that names
the file and the row. Files come from other people's pipelines and from strangers, so ids, texts,
splits, types, ranges and sizes are all checked here, for every format alike.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int, Shaped
from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.data.listing import find_broken_text
from genlab.data.own.spec import OwnSpec
from genlab.data.table import SPLIT_ALIASES

FIX = "correct that row"
NOBODY = "unknown"  # speaks where no row says who does
MOST_CHARS = {"id": 200, "speaker": 200, "split": 40, "text": 100_000}
MOST_FRAMES = 2**24  # of one clip
MOST_ROWS = 2**31
_SPLIT = re.compile(r"[a-z][a-z0-9_]*")


class Facts(NamedTuple):
    """What is known of a clip beside its codes. An empty split is drawn later."""

    id: str
    text: str = ""
    speaker: str = NOBODY
    split: str = ""


class Row(NamedTuple):
    """One clip as a file has it: `read` gives its array, until the next row is asked for."""

    facts: Facts
    where: str
    """The file and the row, for errors."""
    read: Callable[[], Shaped[np.ndarray, "..."]]
    labels: Mapping[str, JsonValue] = MappingProxyType({})
    """What else the row says, for named conditions (labels.py)."""


class Layout(Protocol):
    """One way to keep tokens in a directory."""

    @property
    def files(self) -> list[Path]:
        """All files that are read, in a fixed order."""
        ...

    def rows(self) -> Iterator[Row]:
        """Yield every clip, in a fixed order.

        Raises:
            GenlabError: naming the file and the row that is wrong.
        """
        ...


def parse_facts(values: Mapping[str, object], where: str) -> Facts:
    """Return what a row says of its clip; columns of other names are left alone.

    Raises:
        GenlabError: if a value is missing, is no text, or is one that nothing can be done with.
    """
    found = {}
    for name in Facts._fields:
        value = values.get(name)
        # A number is a fine name, and half of all tables have them.
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > MOST_CHARS[name]:
            raise GenlabError(
                f"{where}: {name}={shorten(value)}: expected text of at most "
                f"{MOST_CHARS[name]} characters; {FIX}"
            )
        if problem := find_broken_text(value):
            raise GenlabError(f"{where}: {name} {problem}; {FIX}")
        found[name] = value
    if not found.get("id"):
        raise GenlabError(f"{where}: id: expected a text of its own for every clip; {FIX}")
    split = found.get("split", "").strip().lower()
    split = SPLIT_ALIASES.get(split) or split
    found["split"] = split
    if split and not _SPLIT.fullmatch(split):
        raise GenlabError(
            f"{where}: split={shorten(split)}: expected train, valid, test or another word of "
            f"letters; {FIX}"
        )
    return Facts(**found)


def check_codes(
    values: Shaped[np.ndarray, "..."], spec: OwnSpec, where: str
) -> Int[np.ndarray, "t k"]:
    """Return the codes of a clip as int32.

    Raises:
        GenlabError: if they are no whole numbers "t k", or outside 0 to entries - 1.
    """
    if values.dtype.kind not in "iu":
        raise GenlabError(
            f"{where}: codes of type {values.dtype}, expected whole numbers such as int16; {FIX}"
        )
    shape = list(values.shape)
    if values.ndim != 2 or shape[1] != spec.codebooks or not 1 <= shape[0] <= MOST_FRAMES:
        turned = values.ndim == 2 and shape[0] == spec.codebooks
        raise GenlabError(
            f"{where}: codes of shape {shape}, expected [frames, {spec.codebooks}], as codebooks "
            f"in tokens.json says; {'transpose them' if turned else FIX}"
        )
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= spec.entries:
        frame, level = np.argwhere((values < 0) | (values >= spec.entries))[0]
        raise GenlabError(
            f"{where}: code {values[frame, level]} at frame {frame}, codebook {level}: expected 0 "
            f"to {spec.entries - 1}, as entries in tokens.json says; correct its codes"
        )
    return np.asarray(values, np.int32)
