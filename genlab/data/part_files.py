"""The part files of a token store: written whole, joined to a size that suits a bucket, listed in
order.

In: clips, or part files that hold few of them. Out: `part-NNNNN.array_record`, or
`part-NNNNN-MMMMM.array_record` of the pieces from NNNNN to MMMMM. Encoding writes pieces of a few
clips, so that an interruption costs little; one file for every 128 clips is a burden in a store of
millions, where opening, listing and copying them is what takes the time. A record keeps its bytes.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from genlab.data.digests import FileDigest, digest_file
from genlab.data.record import TokenClip, pack_clip

PART_SUFFIX = ".array_record"
PART_BYTES = 100 * 2**20  # from which on a part takes no more pieces
RECORDS_AT_ONCE = 256


def write_part(path: Path, clips: Iterable[TokenClip]) -> FileDigest:
    """Write one part file and return its digest; it appears under its name only when it is
    complete.
    """
    return _write_records(path, map(pack_clip, clips))


def join_parts(pieces: Sequence[Path], path: Path) -> FileDigest:
    """Write the records of pieces into one part file, in their order, and return its digest."""
    return _write_records(path, (record for piece in pieces for record in read_records(piece)))


def read_records(path: Path) -> Iterator[bytes]:
    """Yield every record of a part file, a few of them in memory at a time.

    Raises:
        RuntimeError: if the file is damaged.
    """
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        total = reader.num_records()
        for first in range(0, total, RECORDS_AT_ONCE):
            yield from reader.read(first, min(first + RECORDS_AT_ONCE, total))
    finally:
        reader.close()


def part_paths(directory: Path) -> list[Path]:
    """Return the part files in record order."""
    return sorted(directory.glob(f"part-*{PART_SUFFIX}"), key=part_order)


def part_order(path: Path) -> tuple[int, str]:
    """Return what part files are sorted by: 100000 follows 99999."""
    found = re.match(r"part-(\d+)", path.name)
    return int(found[1]) if found else 0, path.name


def _write_records(path: Path, records: Iterable[bytes]) -> FileDigest:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    temporary = path.with_suffix(".tmp")
    # group_size:1 is what makes random access fast: the default reads 256 records to return one.
    writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    written = digest_file(temporary)
    os.replace(temporary, path)
    return written
