"""What a path that names nothing was most likely meant to name.

In: a path as somebody wrote it. Out: the ending of an error. Only names beside the path are looked
at, never what lies below them.
"""

import os
from pathlib import Path

from genlab.config.errors import meant, shorten

MOST_NAMES = 10_000  # of a folder that is compared with a slip


def near_folder(written: str) -> str:
    """Return which folder beside a path that names none was meant, "" if none is like it."""
    path = Path(written).expanduser()
    names = [name for name in _names_in(path.parent) if (path.parent / name).is_dir()]
    return meant(written, [str(Path(written).parent / name) for name in names])


def explain_missing_table(root: Path, name: str) -> str:
    """Return why the folder `root` has no table of that name, and what was meant: people write it
    from where they stand, as they do every other path.
    """
    shown = f"{shorten(name)} not found in {shorten(str(root))}"
    try:
        if os.path.isfile(name) and not name.startswith("~/"):
            inside = os.path.relpath(name, root)
            return f"{shown}: it starts at data.corpus.path, so write {inside}"
        folder = Path(name).parent
        names = [str(folder / found) for found in _names_in(root / folder)]
    except (OSError, ValueError):  # a NUL, or a name longer than the system takes
        names = []
    return f"{shown}, expected a CSV or JSONL file{meant(name, names)}"


def _names_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry, _ in zip(entries, range(MOST_NAMES))]
    except (OSError, ValueError):
        return []
