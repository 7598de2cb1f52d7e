"""The records of part files, one at a time, whatever the number of records.

In: the paths of ArrayRecord files, on a disk or in a bucket. Out: `PartRecords`, which answers like
a list of bytes.

array_record's own data source asks its reader for a list of positions, for which the reader makes a
list per chunk of the file: at 100,000 records to a file that takes 40 times as long as reading. A
range of one record costs the same everywhere.
"""

import bisect
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

THREADS = 16  # that ask parts for their number of records: in a bucket each waits for an answer
# Records are read in any order, so nothing behind one of them is worth having.
OPTIONS, BUFFER_BYTES = "readahead_buffer_size:0", 32_768


class PartRecords:
    """Records of parts, numbered through. Threads may read at the same time.

    Args:
        paths: the parts in order, each with one record to a chunk.

    Raises:
        RuntimeError: if a part is damaged or missing; `[index]` raises it for a damaged record.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = tuple(paths)
        self._lock = threading.Lock()
        # A reader keeps its file's index, so there is one for a part only once it is read from.
        self._readers: list[array_record_module.ArrayRecordReader | None] = [None] * len(paths)
        with ThreadPoolExecutor(THREADS) as pool:
            self._ends = [*itertools.accumulate(pool.map(_count, paths))]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index}: expected 0 to {len(self) - 1}")
        part = bisect.bisect_right(self._ends, index)
        place = index - (self._ends[part - 1] if part else 0)
        [record] = self._reader(part).read(place, place + 1)
        return record

    def _reader(self, part: int) -> "array_record_module.ArrayRecordReader":
        reader = self._readers[part]
        if reader is None:
            with self._lock:
                reader = self._readers[part] or _open(self._paths[part])
                self._readers[part] = reader
        return reader


def _open(path: str) -> "array_record_module.ArrayRecordReader":
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    return array_record_module.ArrayRecordReader(
        path, options=OPTIONS, file_reader_buffer_size=BUFFER_BYTES
    )


def _count(path: str) -> int:
    reader = _open(path)
    try:
        return reader.num_records()
    finally:
        reader.close()
