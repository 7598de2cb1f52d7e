"""The records of a token store whose parts stay in a bucket: each is read when it is asked for.

In: the address of a store, the names of its parts. Out: the bytes of record i, the same as from a
disk. ArrayRecord itself reads `gs://` by ranges; Google's client below it waits and asks again
after 429, 503, a connection that breaks and half an answer, for a quarter of an hour. A checksum
covers every record, so a batch is what it would have been, or later. `RecordCache` keeps records on
the disk until it is full, and then keeps what it has: passes are shuffled, and with the oldest
thrown away a record would be gone just before it is wanted again.
"""

import contextlib
import os
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genlab.config import GenlabError
from genlab.data.part_records import PartRecords
from genlab.run.in_bucket import local_bytes
from genlab.run.shared import open_bucket, told

RECORDS_NAME, PLACES_NAME = ".records", ".record_places"
# Where a record lies in `.records`; one that is not there has no bytes.
PLACES = np.dtype([("first", "<i8"), ("bytes", "<u4"), ("crc", "<u4")])
READ_THREADS = 16  # a record takes some 30 ms to come, and no processor meanwhile


class RecordCache:
    """Records on this disk, at most `most_bytes` of them; a restart finds them again.

    What a crash left half-written does not match its checksum, and counts as absent. Of several
    processes on one disk the first writes, and all read.

    Args:
        directory: of the store.
        records: of the store.
        most_bytes: when it is full.
    """

    def __init__(self, directory: Path, records: int, most_bytes: float):
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._file = os.open(directory / RECORDS_NAME, os.O_RDWR | os.O_CREAT, 0o666)
        path = directory / PLACES_NAME
        self._is_writer = _lock(self._file)
        if self._is_writer and (not path.exists() or path.stat().st_size != records * 16):
            with path.open("wb") as file:
                file.truncate(records * PLACES.itemsize)
            os.truncate(self._file, 0)
        self._places = (
            np.memmap(path, PLACES, "r+" if self._is_writer else "r", shape=(records,))
            if path.exists() and path.stat().st_size == records * PLACES.itemsize
            else np.zeros(records, PLACES)
        )

    def __del__(self):
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._file)

    def get(self, index: int) -> bytes | None:
        """Return a record, or None if it is not here whole."""
        place = self._places[index]
        content = os.pread(self._file, int(place["bytes"]), int(place["first"]))
        is_whole = len(content) == place["bytes"] and zlib.crc32(content) == place["crc"]
        return content if content and is_whole else None

    def put(self, index: int, record: bytes) -> None:
        """Keep a record, if there is room; a disk that fails or is full keeps no more."""
        with self._lock:
            first = os.fstat(self._file).st_size
            if not self._is_writer or first + len(record) > self._most_bytes:
                return
            try:
                written = os.pwrite(self._file, record, first)
            except OSError:
                written = 0
            self._is_writer = written == len(record)
            if self._is_writer:
                self._places[index] = (first, len(record), zlib.crc32(record))


class BucketRecords:
    """The records of a store in a bucket.

    Args:
        url: the store, `gs://BUCKET/PATH`.
        names: its parts, in order.
        directory: its small files on this disk, and what is kept of the records.

    Raises:
        GenlabError: if a part is missing, or the bucket cannot be read.
    """

    def __init__(self, url: str, names: Sequence[str], directory: Path):
        self._url = url
        with told(url, "read"):
            there = {path.rsplit("/", 1)[-1] for path in open_bucket().find(url)}
            # asked before: ArrayRecord waits a quarter of an hour for what does not exist
            if missing := [name for name in names if name not in there]:
                raise GenlabError(
                    f"{url}: {missing[0]} is missing ({len(missing)} of {len(names)} parts); copy "
                    "the token store there again, its dataset.json last"
                )
            self._records = PartRecords([f"{url}/{name}" for name in names])
        self._cache = RecordCache(directory, len(self._records), local_bytes())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> bytes:
        kept = self._cache.get(index)
        if kept is None:
            with told(self._url, "read"):
                kept = self._records[index]
            self._cache.put(index, kept)
        return kept


def _lock(file: int) -> bool:
    import fcntl  # Windows has none, and imports this module too

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
