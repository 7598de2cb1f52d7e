"""Where built corpora and token stores live, and who may build them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genlab.config import GenlabError
from genlab.run.shared import SHARED_VARIABLE

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
            "disk. "
            f"{SHARED_VARIABLE}=gs://BUCKET/PATH shares what is built there with other machines"
        )
    return Path(root).expanduser()


@contextmanager
def only_builder(path: Path) -> Iterator[None]:
    """Wait until no other process holds `path`. The operating system lets go of it when its holder
    dies.
    """
    with open(path, "w") as file:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
