"""A published corpus in a folder of the user: downloaded, checked, unpacked, whole or not there.

In: a `Source` (sources.py) and a folder that is not there yet. Out: the folder, with fetched.json,
which states where it is from and its licence. Until all of it is right it is FOLDER.partial: a
fetch that was stopped, even by kill -9, continues there, and what an archive unpacked before that
is unpacked again.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from typing_extensions import TypedDict

from genlab.config import GenlabError, digest
from genlab.config.errors import shorten
from genlab.data.download import WAIT_S, download
from genlab.data.sources import Source
from genlab.data.unpack import unpack
from genlab.machine.stopping import EXIT_DISK_FULL
from genlab.run.cache import cache_root, only_builder
from genlab.run.files import write_json
from genlab.run.stored import read_stored

FETCHED_NAME = "fetched.json"
CONTENT, DOWNLOADS = "content", "downloads"
MEGABYTE = 10**6
UNPACKED_RATIO = 1.5  # of recordings in a compressed archive, roughly

Progress = Callable[[str, int, int], None]


class Fetched(TypedDict):
    """Where a folder is from."""

    name: str
    title: str
    licence: str
    attribution: str
    page: str
    source: str
    files: dict[str, str]


class NoRoomError(GenlabError):
    """The disk is too small."""

    exit_code = EXIT_DISK_FULL


def fetch(
    name: str,
    source: Source,
    folder: Path,
    progress: Progress | None = None,
    *,
    wait_s: float = WAIT_S,
) -> Fetched:
    """Put a published corpus into `folder`, unless it is there already, and return where it is
    from.

    Args:
        name: that of the corpus, for reports.
        source: its addresses, checksums and licence.
        folder: must not exist, be empty, or hold this corpus.
        progress: called with a stage, and with megabytes done and in total.
        wait_s: seconds before a second attempt at a connection.

    Raises:
        GenlabError: if the folder holds something else, a checksum is wrong, or an archive is
            hostile; nothing of that is in the folder then.
    """
    folder = Path(os.path.abspath(folder.expanduser()))
    # Not in the user's folder: a lock outlives the command, and may be of no use to anyone there.
    with only_builder(cache_root() / f".fetch-{digest(str(folder))}.lock"):
        partial = folder.with_name(f"{folder.name}.partial")
        wanted = _describe(name, source)
        if _is_there(folder, wanted):
            if _is_ours(partial, wanted):
                shutil.rmtree(partial)
            return wanted
        _claim(partial, wanted, folder)
        _require_room(source, partial)
        archives = _download_all(source, partial / DOWNLOADS, progress, wait_s)
        content = partial / CONTENT
        _unpack_all(archives, content, progress)
        if source.folder and not (content / source.folder).is_dir():
            raise GenlabError(
                f"{name}: its archives hold no folder {source.folder!r}; the publisher has changed "
                "them"
            )
        write_json(content / FETCHED_NAME, wanted)
        # An empty folder that the user made is replaced; anything else was refused.
        os.replace(content, folder)
        shutil.rmtree(partial)
        return wanted


def _describe(name: str, source: Source) -> Fetched:
    return {
        "name": name,
        "title": source.title,
        "licence": source.licence,
        "attribution": source.attribution,
        "page": source.page,
        "source": source.digest(),
        "files": {file.url: file.checksum.digits for file in source.files},
    }


def _is_ours(folder: Path, wanted: Fetched) -> bool:
    """Return whether a folder holds this corpus, or what of it came so far."""
    if not (folder / FETCHED_NAME).is_file():
        return False
    fix = f"delete {folder} and fetch it again"
    return read_stored(folder / FETCHED_NAME, Fetched, fix=fix) == wanted


def _is_there(folder: Path, wanted: Fetched) -> bool:
    """Return whether the corpus is there; refuse a folder that holds something else."""
    if not os.path.lexists(folder):
        return False
    if not folder.is_dir() or folder.is_symlink():
        raise GenlabError(f"{folder}: not a folder; name one that is new")
    if _is_ours(folder, wanted):
        return True
    if any(folder.iterdir()):
        raise GenlabError(
            f"{folder}: holds something else; name a folder that is new or empty, or the one that "
            f"holds {wanted['name']}"
        )
    return False


def _claim(partial: Path, wanted: Fetched, folder: Path) -> None:
    """Make the place of a fetch that is under way, or find that it is there already."""
    if os.path.lexists(partial):
        if _is_ours(partial, wanted):
            return
        raise GenlabError(
            f"{partial}: holds something else than an unfinished fetch of {wanted['name']}; delete "
            f"it, or name another folder than {shorten(folder.name)}"
        )
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise GenlabError(f"{partial}: cannot be made ({error.strerror})") from None
    write_json(partial / FETCHED_NAME, wanted)


def _require_room(source: Source, partial: Path) -> None:
    """Refuse before the first byte what will not fit; sizes that are not known are not guessed."""
    known = sum(file.bytes or 0 for file in source.files)
    came = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    needed = int(known * (1 + UNPACKED_RATIO)) - came
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise NoRoomError(
            f"{partial}: {free / 1e9:.1f} GB are free, archives and what is in them need about "
            f"{needed / 1e9:.1f} GB more; free some space, or name a folder on another disk"
        )


def _download_all(
    source: Source, downloads: Path, progress: Progress | None, wait_s: float
) -> list[Path]:
    """Return the archives, all of them whole."""
    downloads.mkdir(exist_ok=True)
    paths = []
    for number, file in enumerate(source.files):
        # Two publishers may call their archives alike.
        path = downloads / f"{number}-{file.name}"
        total = (file.bytes or 0) // MEGABYTE + 1

        def told(done: int, stage: str = f"fetch {file.name}", total: int = total) -> None:
            if progress is not None:
                progress(stage, done // MEGABYTE, max(total, done // MEGABYTE))

        download(file.url, path, file.checksum, progress=told, wait_s=wait_s)
        told(path.stat().st_size)
        paths.append(path)
    return paths


def _unpack_all(archives: list[Path], content: Path, progress: Progress | None) -> None:
    """Unpack the archives into one folder, without what an interrupted attempt left there."""
    shutil.rmtree(content, ignore_errors=True)
    for archive in archives:
        size = archive.stat().st_size // MEGABYTE + 1

        def told(done: int, stage: str = f"unpack {archive.name}", size: int = size) -> None:
            if progress is not None:
                progress(stage, done // MEGABYTE, max(size, done // MEGABYTE))

        unpack(archive, content, progress=told)
