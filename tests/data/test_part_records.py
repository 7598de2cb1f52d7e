"""Records of several parts, read one at a time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from genlab.data import part_records
from genlab.data.part_files import read_records, write_part
from genlab.data.part_records import PartRecords
from genlab.data.record import TokenClip

SIZES = (3, 1, 5)


@pytest.fixture
def parts(tmp_path):
    paths = []
    for part, size in enumerate(SIZES):
        latents = np.zeros((2, 0), np.float32)
        clips = (
            TokenClip(f"{part}.{n}", "", "s", "", np.full((2, 4), n), latents, np.ones(2, np.int32))
            for n in range(size)
        )
        paths.append(tmp_path / f"part-{part:05d}.array_record")
        write_part(paths[-1], clips)
    return paths


def test_every_record_of_every_part_is_found(parts):
    expected = [record for path in parts for record in read_records(path)]
    records = PartRecords([*map(str, parts)])
    assert len(records) == sum(SIZES) and len({*expected}) == sum(SIZES)
    order = [7, 0, 8, 3, 2, 4, 1, 6, 5, 0]
    assert [records[number] for number in order] == [expected[number] for number in order]
    for number in (-1, sum(SIZES)):
        with pytest.raises(IndexError, match=f"record {number}: expected 0 to 8"):
            records[number]


def test_threads_read_what_one_reads(parts):
    expected = [record for path in parts for record in read_records(path)]
    records = PartRecords([*map(str, parts)])
    order = np.random.default_rng(0).integers(0, sum(SIZES), 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(records.__getitem__, order)] == [expected[n] for n in order]


def test_a_record_is_asked_for_as_a_range_and_a_part_is_opened_when_it_is_read(parts, monkeypatch):
    """A list of positions costs the reader a list per chunk of its file."""
    asked, opened, open_part = [], [], part_records._open

    class Spy:
        def __init__(self, path):
            self.reader = open_part(path)
            opened.append(path)

        def read(self, *positions):
            asked.append(positions)
            return self.reader.read(*positions)

    records = PartRecords([*map(str, parts)])
    monkeypatch.setattr(part_records, "_open", Spy)
    assert records[5] and records[4] and records[3]
    assert asked == [(1, 2), (0, 1), (0, 1)] and opened == [str(parts[2]), str(parts[1])]


def test_a_part_that_is_cut_off_or_missing_is_said(parts):
    parts[1].write_bytes(parts[1].read_bytes()[:40])
    with pytest.raises(RuntimeError):
        PartRecords([*map(str, parts)])
    parts[1].unlink()
    with pytest.raises(RuntimeError):
        PartRecords([*map(str, parts)])
