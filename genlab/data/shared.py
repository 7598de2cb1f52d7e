"""Finished corpora and token stores that machines share through a bucket: GENLAB_SHARED_CACHE=gs://BUCKET/PATH.

Their names hold digests of everything they are made from, so one with the right name is the right one. What the bucket
has is copied to the local cache instead of being made; what is made here is copied there by the leader. The file that
makes a directory whole is copied last, in both directions. Training reads at random, from the local copy only.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genlab import hosts
from genlab.config import GenlabError

SHARED_VARIABLE = "GENLAB_SHARED_CACHE"
SCHEME = "gs://"


def fetch(directory: Path, last: str) -> bool:
    """Copy what the bucket holds under the name of `directory` there; `last` names the file that makes it whole.

    Returns:
        Whether the bucket holds it. Without a shared cache, no.

    Raises:
        GenlabError: if the bucket cannot be read; the directory is then as unfinished as it was.
    """
    url = _shared_url(directory)
    if url is None:
        return False
    with told(url, "read"):
        files = open_bucket()
        if not files.exists(f"{url}/{last}"):
            return False
        start = len(url.removeprefix(SCHEME)) + 1
        names = [path[start:] for path in files.find(url)]
        # Beside it, because what was half copied must not look like something half made.
        fresh = directory.with_name(f".{directory.name}.fetched")
        shutil.rmtree(fresh, ignore_errors=True)
        files.get([f"{url}/{name}" for name in names], [str(fresh / name) for name in names])
        for name in _whole_last(names, last):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(fresh / name, directory / name)
        shutil.rmtree(fresh)
    return True


def share(directory: Path, last: str) -> None:
    """Copy a finished directory to the bucket, if there is a shared cache and it does not hold it.

    Raises:
        GenlabError: if the bucket cannot be written; the directory stays.
    """
    url = _shared_url(directory)
    if url is None or not hosts.is_leader():
        return
    with told(url, "written"):
        files = open_bucket()
        if files.exists(f"{url}/{last}"):
            return
        paths = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
        *names, whole = _whole_last([path.as_posix() for path in paths if not path.name.startswith(".")], last)
        files.put([str(directory / name) for name in names], [f"{url}/{name}" for name in names])
        files.put_file(str(directory / whole), f"{url}/{whole}")


def open_bucket() -> Any:
    """Return the file system of Google's buckets, which remembers nothing.

    Raises:
        GenlabError: if the library for it is not installed.
    """
    import fsspec
    from fsspec.config import conf

    # A listing that is remembered misses what TensorStore and other hosts wrote; this also holds for etils' own use.
    conf.setdefault("gcs", {})["use_listings_cache"] = False
    try:
        return fsspec.filesystem("gcs", finalize_on_close=True)
    except ImportError:
        raise GenlabError(f"{SCHEME} needs gcsfs: python -m pip install -e '.[gcs]' -c constraints.txt") from None


@contextlib.contextmanager
def told(url: str, what: str) -> Iterator[None]:
    """Turn any failure of the bucket, of which its libraries know dozens, into one line."""
    try:
        yield
    except GenlabError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise GenlabError(f"{url}: cannot be {what}: {reason:.200}; the same command goes on from here") from error


def _shared_url(directory: Path) -> str | None:
    root = os.environ.get(SHARED_VARIABLE, "").rstrip("/")
    if not root:
        return None
    if not root.removeprefix(SCHEME).strip("/") or not root.startswith(SCHEME):
        raise GenlabError(f"{SHARED_VARIABLE}={root}: expected {SCHEME}BUCKET/PATH")
    return f"{root}/{directory.name}"


def _whole_last(names: list[str], last: str) -> list[str]:
    return sorted(names, key=lambda name: (name == last, name))
