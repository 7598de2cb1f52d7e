"""Whose a file or a run directory is, before anything is written there: genlab's own, new, or
somebody else's.

In: the file or directory that a command is about to write. Out: nothing, or a refusal that names
one file.

- A file is replaced only if what is in it says that genlab wrote it for this purpose. One that
  cannot say so, such as audio or a compiled program, is never replaced.
- A directory that genlab did not make may hold anything, but nothing of a name that genlab would
  write: `--out` may name a project with a report.md and a `lock` of its own.
- A link inside a run directory that leads out of it is refused: run directories get passed around,
  and what is written, moved or tidied up behind the link is not in the run directory.
"""

import os
import re
from collections.abc import Set
from pathlib import Path

from genlab.config.errors import GenlabError, shorten
from genlab.run.stored import DamagedError, parse_json, read_content, remove_leftovers_of

WRITTEN = (
    *(
        "arms",
        "bad_checkpoints",
        "batch_hashes.txt",
        "checkpoints",
        "code.json",
        "config.json",
        "floors",
    ),
    *("ledger.json", "lock", "outputs.json", "outputs.partial", "pareto.json", "previews"),
    *("rates", "rates.json"),
    *("report.html", "report.md", "results.json", "rows", "samples", "samples.json", "scores.csv"),
    *("status.json", "training.partial", "tuning.html", "tuning.json", "tuning_config.json"),
    "wall.json",
)
LONGEST_PLACE = 3400  # bytes of 4,096: names of arms, checkpoints and their parts follow
LONGEST_LOCK = 1000  # bytes: a process and a host


def refuse_to_replace(path: Path, is_ours: bool = False) -> None:
    """Refuse to write the file `path` if there is one, unless `is_ours`; call it before what the
    file costs.

    A link counts as what is there, wherever it leads. What a process that was killed left of the
    file half-written is removed.

    Raises:
        GenlabError: naming it, also if nothing can be written where it would be.
    """
    what = ""
    if os.path.islink(path):
        what = "is a link"
    elif path.is_dir():
        what = "is a directory"
    elif os.path.lexists(path) and not (is_ours and path.is_file()):
        what = "already exists, and genlab did not make it or cannot tell"
    if what:
        raise GenlabError(f"{path}: {what}; name another file, or move it away")
    # A folder that is missing is made by some commands; it lies in the first that is there.
    folder = next((place for place in path.absolute().parents if os.path.lexists(place)), path)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        what = "may not be written to" if folder.is_dir() else "is no folder"
        raise GenlabError(f"{path}: {folder} {what}; name a file in another folder")
    remove_leftovers_of(path)


def says(path: Path, names: Set[str]) -> bool:
    """Return whether `path` is JSON with all of these fields, which is how genlab knows its own."""
    return names <= _names_in(path)


def check_is_ours(run_dir: Path) -> None:
    """Refuse to write into `run_dir` if that would touch what is not genlab's; call it before any
    change.

    Raises:
        GenlabError: naming what would be touched.
    """
    if len(os.fsencode(run_dir.absolute())) > LONGEST_PLACE:
        raise GenlabError(
            f"{shorten(str(run_dir))}: a path of more than {LONGEST_PLACE} bytes, below which the "
            "system takes no more names; use a shorter --out"
        )
    check_has_no_way_out(run_dir)
    if is_ours(run_dir):
        return
    for name in WRITTEN:
        if os.path.lexists(run_dir / name) and not _is_empty_lock(run_dir / name):
            raise GenlabError(
                f"{run_dir / name}: already exists, and genlab did not make it; use another --out"
            )


def is_ours(run_dir: Path) -> bool:
    """Return whether genlab has begun to write here: by the lock, or by what every run says of
    itself.
    """
    return _is_lock(run_dir / "lock") or any(
        says(run_dir / name, wanted)
        for name, wanted in (
            ("config.json", {"kind"}),
            ("status.json", {"state", "heartbeat"}),
            ("tuning_config.json", {"arms", "seed", "prompts"}),
        )
    )


def check_has_no_way_out(directory: Path) -> None:
    """Refuse a directory in which a link leads out of it; what it is itself reached by does not
    matter.

    Raises:
        GenlabError: naming the link.
    """
    root = os.path.realpath(directory)
    for place, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = os.path.join(place, name)
            if os.path.islink(path) and not _is_inside(path, root):
                shown = directory / os.path.relpath(path, root)
                raise GenlabError(
                    f"{shown}: a link to {shorten(os.readlink(path))}, out of {directory}, where "
                    "nothing is written or deleted; put what it leads to in its place, or remove "
                    "it"
                )


def _is_inside(path: str, root: str) -> bool:
    found = os.path.realpath(path)
    return found == root or found.startswith(root + os.sep)


def _is_lock(path: Path) -> bool:
    try:
        content = read_content(path, fix="", max_bytes=LONGEST_LOCK)
    except DamagedError:
        return False
    return content is not None and re.fullmatch(rb"\d+ on \S+\n", content) is not None


def _is_empty_lock(path: Path) -> bool:
    """Return whether this may be the lock of a process that was killed before it wrote into it."""
    return path.name == "lock" and path.is_file() and not path.stat().st_size


def _names_in(path: Path) -> set[str]:
    try:
        values = parse_json(read_content(path, fix="") or b"", path=path, fix="", may_be_nan=True)
    except DamagedError:
        return set()
    return set(values) if isinstance(values, dict) else set()
