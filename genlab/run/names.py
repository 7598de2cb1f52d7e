"""Texts from elsewhere as names of files: no id and no listing leads out of a directory.

In: the id of a clip, which for recordings is the path in somebody's table, or a name that a bucket
lists. Out: a name of letters, digits, `_` and `-`, or a path that is inside a directory.
"""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from genlab.config import digest
from genlab.config.errors import GenlabError, shorten

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_KEPT = 60  # characters of a text that is no name by itself
# Windows opens devices under these names, with any extension.
_DEVICES = re.compile(r"(?i)con|prn|aux|nul|com\d|lpt\d")


def file_stem(text: str) -> str:
    """Return the name of a file, without extension, for `text`.

    It is the text itself if that is a name. Different texts have different names: what is not kept
    as it is ends in a digest of the whole.
    """
    if _PLAIN.fullmatch(text) and not _DEVICES.fullmatch(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[-_KEPT:].strip("_")
    return f"{readable or 'clip'}-{digest(text)}"


def inside(directory: Path, name: str) -> Path:
    """Return the path of `name` below `directory`.

    Raises:
        GenlabError: if it would lie elsewhere.
    """
    path = PurePosixPath(name)
    is_below = path.parts and not path.is_absolute() and ".." not in path.parts and "\0" not in name
    if not is_below or PureWindowsPath(name).drive or "\\" in name:
        raise GenlabError(f"{shorten(name)}: leads out of {directory}; expected a path inside it")
    return directory / path
