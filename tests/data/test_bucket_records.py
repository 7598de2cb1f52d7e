"""Token stores whose parts stay in a bucket that is slow, throttles, fails, sends half answers."""

import itertools
import json
import threading

import numpy as np
import pytest
from bucket_server import BUCKET, serve_bucket
from codec_toys import LoudnessUnits, make_frozen, make_manifest

from genlab.codecs import cache
from genlab.codecs.cache import encode_corpus
from genlab.config import GenlabError
from genlab.data import embedded
from genlab.data.batches import BatchSource, batch_digest
from genlab.data.bucket_records import RecordCache
from genlab.data.corpus import Embedded, build_corpus
from genlab.data.digests import check_directories
from genlab.data.part_files import part_paths
from genlab.data.store import INFO_NAME, TokenStore
from genlab.run import in_bucket, shared

HOW = (429, 503, "half", "silence", 0.2)


class Faults:
    """Fails every second of the first times that a part is asked for, in each way twice."""

    def __init__(self):
        self.is_on, self.seen = False, []
        self._lock, self._count = threading.Lock(), itertools.count()

    def __call__(self, path):
        with self._lock:
            is_over = len(self.seen) == 2 * len(HOW)
            if not self.is_on or is_over or "part-" not in path:
                return None
            number = next(self._count)
            if number % 2:
                return None
            self.seen.append(HOW[number // 2 % len(HOW)])
            return self.seen[-1]


FAULTS = Faults()


@pytest.fixture(scope="module")
def server():
    with serve_bucket(FAULTS) as environ:
        yield environ


@pytest.fixture
def url(server, tmp_path, monkeypatch):
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache, "PART_CLIPS", 4)
    monkeypatch.setattr(cache, "PART_BYTES", 0)  # three parts
    monkeypatch.setenv("GENLAB_SHARED_CACHE", f"gs://{BUCKET}/{tmp_path.name}")
    yield f"gs://{BUCKET}/{tmp_path.name}"
    FAULTS.is_on = False
    FAULTS.seen.clear()


def open_both(tmp_path, monkeypatch, local_gb="0"):
    """Return a store on this disk, and the same one read from the bucket."""
    made = make_manifest(tmp_path / "corpus", 12), make_frozen(), LoudnessUnits()
    here = encode_corpus(*made, tmp_path / "here")
    monkeypatch.setenv("GENLAB_LOCAL_GB", local_gb)
    monkeypatch.setattr(cache, "encode_part", None)
    return here, encode_corpus(*made, tmp_path / "there")


def batches(store, steps):
    source = BatchSource(
        store.dataset("train", num_frames=8, seed=3), 4, threads=store.read_threads
    )
    found = source.iterate()
    digests = [batch_digest(next(found)) for _ in range(steps)]
    found.close()
    return digests


def test_a_store_that_the_disk_may_not_hold_is_read_in_the_bucket(
    url, tmp_path, monkeypatch, capsys
):
    here, there = open_both(tmp_path, monkeypatch)
    assert f"{url}/{here.directory.name}: read there, " in capsys.readouterr().err
    assert len(part_paths(here.directory)) == 3 and not part_paths(there.directory)
    assert there.info == here.info and there.read_threads > here.read_threads
    for number in range(12):
        for ours, theirs in zip(there.clip(number), here.clip(number)):
            np.testing.assert_array_equal(ours, theirs)
    assert batches(there, 6) == batches(here, 6)
    assert there.frames(range(12)).tolist() == here.frames(range(12)).tolist()
    told = check_directories([there.directory], INFO_NAME)
    assert "all as they were written" in told[0]
    # It is found again without the variable, and a copy never becomes the source of another one.
    monkeypatch.delenv("GENLAB_SHARED_CACHE")
    assert TokenStore(there.directory).clip(5).id == here.clip(5).id
    monkeypatch.setenv("GENLAB_SHARED_CACHE", f"{url}-other")
    shared.share(there.directory, INFO_NAME)
    assert not shared.open_bucket().find(f"{url}-other")


def test_a_bucket_that_fails_changes_no_batch(url, tmp_path, monkeypatch):
    here, there = open_both(tmp_path, monkeypatch)
    FAULTS.is_on = True
    assert batches(there, 4) == batches(here, 4)
    assert set(FAULTS.seen) == set(HOW)


def test_what_was_read_is_kept_within_its_limit(url, tmp_path, monkeypatch):
    _, there = open_both(tmp_path, monkeypatch, "0.000003")  # 3 kB
    expected = [there.clip(number).id for number in range(12)]
    kept = (there.directory / ".records").stat().st_size
    assert 1000 < kept <= 3000
    asked, real = [], there._records._records
    again = TokenStore(there.directory)

    class Counted:
        def __getitem__(self, index):
            asked.append(index)
            return real[index]

    again._records._records = Counted()
    assert [again.clip(number).id for number in range(12)] == expected
    assert 0 < len(asked) < 12 and asked == sorted(set(asked))
    assert (there.directory / ".records").stat().st_size == kept


def test_kept_records_come_back_whole_or_not_at_all(tmp_path):
    kept = RecordCache(tmp_path, 5, 1000)
    assert kept.get(0) is None
    kept.put(3, b"three")
    kept.put(1, bytes(range(200)))
    reader = RecordCache(tmp_path, 5, 1000)  # another process on this disk
    reader.put(0, b"zero")
    assert (reader.get(3), reader.get(1), reader.get(0)) == (b"three", bytes(range(200)), None)
    kept.put(2, bytes(796))  # one byte more than there is room for
    assert kept.get(2) is None
    kept.put(2, bytes(795))
    assert kept.get(2) == bytes(795) and (tmp_path / ".records").stat().st_size == 1000
    content = bytearray((tmp_path / ".records").read_bytes())
    content[2] ^= 1
    (tmp_path / ".records").write_bytes(content)
    assert kept.get(3) is None and kept.get(1) == bytes(range(200))
    del kept, reader
    assert RecordCache(tmp_path, 5, 1000).get(1) == bytes(range(200))
    assert RecordCache(tmp_path, 6, 1000).get(1) is None  # of another store


def test_a_missing_part_is_named_at_once(url, tmp_path, monkeypatch):
    here, there = open_both(tmp_path, monkeypatch)
    name = part_paths(here.directory)[1].name
    shared.open_bucket().rm_file(f"{url}/{here.directory.name}/{name}")
    with pytest.raises(GenlabError, match=rf"{name} is missing \(1 of 3 parts\)"):
        TokenStore(there.directory)


def test_audio_of_a_large_corpus_is_copied_when_it_is_heard(url, tmp_path, monkeypatch):
    config = Embedded(minutes=0.3)
    built = build_corpus(config, tmp_path / "here")
    monkeypatch.setattr(embedded, "build_embedded", None)
    monkeypatch.setenv("GENLAB_LOCAL_GB", "0")
    found = build_corpus(config, tmp_path / "there")
    assert found.hash() == built.hash() and not list(found.root.rglob("*.flac"))
    clip = found.clips[1]
    assert (found.audio(clip) == built.audio(clip)).all()
    assert [path.name for path in found.root.rglob("*.flac")] == [clip.path.split("/")[-1]]
    assert "all as they were written" in check_directories([found.root], "manifest.jsonl")[0]


@pytest.mark.parametrize("value", ["much", "-1", "nan", "1e12"])
def test_the_limit_is_a_number_of_gigabytes(monkeypatch, value):
    monkeypatch.setenv("GENLAB_LOCAL_GB", value)
    with pytest.raises(GenlabError, match=f"GENLAB_LOCAL_GB={value}: expected gigabytes"):
        in_bucket.local_bytes()
    monkeypatch.setenv("GENLAB_LOCAL_GB", "2.5")
    assert in_bucket.local_bytes() == 2.5e9
    monkeypatch.delenv("GENLAB_LOCAL_GB")
    assert in_bucket.local_bytes() == 100e9


def test_a_store_that_is_made_here_after_all_is_read_here(tmp_path, monkeypatch):
    """A copy from the bucket was given up after its marker was written."""
    made = make_manifest(tmp_path / "corpus", 4), make_frozen(), LoudnessUnits()
    directory = cache.store_directory(*made, tmp_path)
    directory.mkdir()
    (directory / in_bucket.MARKER).write_text("gs://gone/store")
    store = encode_corpus(*made, tmp_path)
    assert store.clip(0).id and json.loads((directory / "digests.json").read_text())
