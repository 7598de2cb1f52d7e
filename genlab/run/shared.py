"""Finished corpora and token stores that machines share through a bucket:
GENLAB_SHARED_CACHE=gs://BUCKET/PATH.

Hosts look up each artefact by a digest of its inputs. If it is in the bucket they copy it to the
local cache; otherwise the leader builds and uploads it. The file that marks a directory as complete
is copied last, in both directions. Of what is larger than `GENLAB_LOCAL_GB` the bulk stays in the
bucket (in_bucket.py).
"""

import contextlib
import logging
import mimetypes
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from genlab.config import GenlabError
from genlab.config.shipped import install_command
from genlab.machine import hosts
from genlab.run import in_bucket
from genlab.run.names import inside
from genlab.run.stored import partial_path, write_atomically

SHARED_VARIABLE = "GENLAB_SHARED_CACHE"
SCHEME = "gs://"
UPLOADS = 16  # at a time
LARGE_UPLOADS = 2  # of more than a chunk each
CHUNK_BYTES = 32 * 2**20  # of a large object, a multiple of what Google asks for, 2 ** 18


def fetch(directory: Path, last: str) -> bool:
    """Copy what the bucket holds under the name of `directory` there; `last` names the file that
    makes it whole. Of what is too large for this disk the small files are copied.

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
        there = files.find(url, detail=True).items()
        sizes = {path[start:]: int(facts["size"]) for path, facts in there}
        total = sum(sizes.values())
        is_too_large = total > in_bucket.local_bytes()
        names = [name for name in sizes if not (is_too_large and in_bucket.is_bulky(name))]
        how = f"read there, {total / 1e9:.3g} GB" if is_too_large else "copied from there"
        print(f"{url}: {how}, {len(names):,} files here", file=sys.stderr)
        # Beside it, because what was half copied must not look like something half made.
        fresh = directory.with_name(f".{directory.name}.fetched")
        shutil.rmtree(fresh, ignore_errors=True)
        files.get([f"{url}/{name}" for name in names], [str(inside(fresh, name)) for name in names])
        directory.mkdir(parents=True, exist_ok=True)
        (directory / in_bucket.MARKER).unlink(missing_ok=True)
        if is_too_large:
            write_atomically(directory / in_bucket.MARKER, url)
        for name in _whole_last(names, last):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(fresh / name, directory / name)
        shutil.rmtree(fresh)
    return True


def fetch_file(directory: Path, name: str) -> None:
    """Copy one file of a directory whose bulk stays in the bucket, if it is not here yet.

    Raises:
        GenlabError: if the bucket cannot be read.
    """
    url, path = in_bucket.place_of(directory), directory / name
    if url is None or path.exists():
        return
    fresh = partial_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with told(f"{url}/{name}", "read"):
        open_bucket().get_file(f"{url}/{name}", str(fresh))
    os.replace(fresh, path)


def share(directory: Path, last: str) -> None:
    """Copy a finished directory to the bucket, if there is a shared cache and it does not hold it.

    Raises:
        GenlabError: if the bucket cannot be written; the directory stays.
    """
    url = _shared_url(directory)
    if url is None or not hosts.is_leader() or in_bucket.place_of(directory) is not None:
        return
    with told(url, "written"):
        files = open_bucket()
        if files.exists(f"{url}/{last}"):
            return
        paths = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
        *names, whole = _whole_last(
            [path.as_posix() for path in paths if not path.name.startswith(".")], last
        )
        print(f"{url}: copied there for other machines, {len(names):,} files", file=sys.stderr)
        # Each is held in memory while it is sent: sixteen parts of 100 MB would be too much.
        is_large = {name: (directory / name).stat().st_size > CHUNK_BYTES for name in names}
        for threads, large in ((UPLOADS, False), (LARGE_UPLOADS, True)):
            with ThreadPoolExecutor(threads) as pool:
                chosen = [name for name in names if is_large[name] == large]
                for _ in pool.map(
                    lambda name: put(files, (directory / name).read_bytes(), f"{url}/{name}"),
                    chosen,
                ):
                    pass
        put(files, (directory / whole).read_bytes(), f"{url}/{whole}")


def open_bucket() -> Any:
    """Return the file system of Google's buckets, which remembers nothing.

    Raises:
        GenlabError: if the library for it is not installed.
    """
    import fsspec
    from fsspec.config import conf

    # Its log repeats a failure with tens of lines of traceback; `told` says it in one.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # A listing that is remembered misses what TensorStore and other hosts wrote; this also holds
    # for etils' own use.
    conf.setdefault("gcs", {})["use_listings_cache"] = False
    try:
        return fsspec.filesystem("gcs", finalize_on_close=True)
    except ImportError:
        raise GenlabError(f"{SCHEME} needs gcsfs; run `{install_command('gcs')}`") from None


def put(files: Any, content: bytes, url: str) -> None:
    """Write one object; its MD5 is compared.

    gcsfs sends small objects between two lines, and a server may take a carriage return at the end
    for a part of the second line and drop it (gcsfs 2026.10.1, `simple_upload`). What is no smaller
    than a chunk is sent alone.
    """
    kind = mimetypes.guess_type(url)[0] or "application/octet-stream"
    chunk = min(max(len(content), 1), CHUNK_BYTES)
    files.pipe_file(url, content, content_type=kind, consistency="md5", chunksize=chunk)


@contextlib.contextmanager
def told(url: str, what: str) -> Iterator[None]:
    """Turn any failure of the bucket, of which its libraries know dozens, into one line."""
    try:
        yield
    except GenlabError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise GenlabError(
            f"{url}: cannot be {what}: {reason:.200}; the same command resumes"
        ) from error


def _shared_url(directory: Path) -> str | None:
    root = os.environ.get(SHARED_VARIABLE, "").rstrip("/")
    if not root:
        return None
    if not root.removeprefix(SCHEME).strip("/") or not root.startswith(SCHEME):
        raise GenlabError(f"{SHARED_VARIABLE}={root}: expected {SCHEME}BUCKET/PATH")
    return f"{root}/{directory.name}"


def _whole_last(names: list[str], last: str) -> list[str]:
    return sorted(names, key=lambda name: (name == last, name))
