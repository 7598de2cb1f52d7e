"""Where built corpora and token stores live, who may build them, and who may write into a
directory.
"""

import contextlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from genlab.config import GenlabError
from genlab.machine.stopping import is_disk_full
from genlab.run.shared import SHARED_VARIABLE
from genlab.run.stored import remove_leftovers

CACHE_VARIABLE = "GENLAB_CACHE"


def cache_root() -> Path:
    """Return the directory for built corpora and token stores: $GENLAB_CACHE, else `.genlab_cache`
    here.

    Raises:
        GenlabError: if it is not on a disk.
    """
    root = os.environ.get(CACHE_VARIABLE) or ".genlab_cache"
    if "://" in root:
        raise GenlabError(
            f"{CACHE_VARIABLE}={root}: stores are read at random; name a directory on a local "
            f"disk. {SHARED_VARIABLE}=gs://BUCKET/PATH shares what is built there with other "
            "machines"
        )
    return Path(root).expanduser()


@contextmanager
def only_builder(path: Path) -> Iterator[None]:
    """Wait until no other process holds `path` in the cache, whose folders are made first.

    Raises:
        GenlabError: if nothing can be written there.
    """
    with writing_to_cache():
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # never emptied: it may be somebody's own
        _lock(file.fileno())
    with file:
        yield


@contextmanager
def writing_to_cache() -> Iterator[None]:
    """Name the variable that moves the cache where something cannot be written to it; a full disk
    stays one.

    Raises:
        GenlabError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise GenlabError(
            f"{CACHE_VARIABLE}={cache_root()}: cannot be written ({error.strerror}); set "
            f"{CACHE_VARIABLE} to a folder that can"
        ) from None


@contextmanager
def only_writer(directory: Path, skip: Collection[str] = ()) -> Iterator[None]:
    """Wait until no other process writes into `directory`, and remove what killed ones left there
    half-written.

    Folders named in `skip` are not entered. Where a directory cannot be locked, as on some network
    disks, nothing is removed: what a process on another machine is about to finish looks just like
    what a dead one left.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            number = os.open(directory, os.O_RDONLY)  # itself: a file of ours would lie in the way
            stack.callback(os.close, number)
            _lock(number)
            remove_leftovers(directory, skip)
        yield


def _lock(number: int) -> None:
    """Wait for the open file `number`. The operating system lets go of it when its holder dies."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(number, msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(number, fcntl.LOCK_EX)
