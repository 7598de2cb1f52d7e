"""The rows of a large manifest on the disk: the same clips, order, splits and hash as in memory."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlab.config import GenlabError, digest
from genlab.data import rows
from genlab.data.clip import Clip
from genlab.data.digests import digest_files, write_digests
from genlab.data.manifest import MANIFEST_NAME, Manifest
from genlab.data.rows import StoredRows

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
CLIPS = st.lists(
    st.builds(
        Clip,
        id=TEXTS,
        path=st.sampled_from(["a.flac", "sub/b.flac"]),
        text=TEXTS,
        speaker=st.sampled_from(["", "ann", "Ärger", "bob"]),
        split=st.sampled_from(["train", "valid", "test", "a_b"]),
        num_samples=st.integers(0, 50),
        licence=st.just("CC0"),
        labels=st.dictionaries(st.sampled_from(["b", "a"]), st.integers(0, 9)),
        sample_rate_hz=st.sampled_from([16_000, 44_100]),
        channels=st.sampled_from([1, 2]),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda clip: clip.id,
)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(rows, "MOST_HELD", 0)


def make_clips(count=40):
    rng = np.random.default_rng(0)
    names = [f"clip {number}" for number in rng.permutation(count)]
    return [
        Clip(name, f"{name}.flac", f"text {name}", f"s{number % 7}", split, 100 + number % 5, "CC0")
        for number, (name, split) in enumerate(zip(names, ["train", "train", "valid", "test"] * 10))
    ]


def check_same(stored, held):
    assert isinstance(stored.clips, StoredRows) and not isinstance(held.clips, StoredRows)
    assert stored.clips == held.clips and list(stored.clips) == list(held.clips)
    assert [stored.clips[i] for i in range(-1, len(held.clips) - 1)] == [
        held.clips[i] for i in range(-1, len(held.clips) - 1)
    ]
    assert stored.clips[1:7:2] == tuple(held.clips[1:7:2])
    assert stored.hash() == held.hash() and stored.duration_s == held.duration_s
    assert (stored.speakers, stored.splits, stored.texts) == (
        held.speakers,
        held.splits,
        held.texts,
    )
    assert stored.clips.formats == held.clips.formats
    for name in held.splits:
        assert list(stored.split(name)) == held.split(name)
        assert len(stored.split(name)) == len(held.split(name))
    assert list(stored.in_record_order()) == held.in_record_order()
    wanted = [*[clip.id for clip in held.clips][::-3], "none of them"]
    assert list(stored.find(wanted).items()) == list(held.find(wanted).items())
    with pytest.raises(IndexError):
        stored.clips[len(held.clips)]
    with pytest.raises(GenlabError, match="no such split"):
        stored.split("nowhere")


@settings(max_examples=30, deadline=None)
@given(CLIPS)
def test_rows_on_the_disk_are_those_in_memory(tmp_path_factory, clips):
    directory, held = tmp_path_factory.mktemp("rows"), Manifest(clips, Path("x"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "MOST_HELD", 0)
        held.save(directory)
        check_same(Manifest.load(directory), held)
        (directory / "manifest.index.npy").unlink()  # as an earlier version left it
        check_same(Manifest.load(directory), held)
    assert Manifest.load(directory).clips == held.clips


def test_the_hash_is_the_digest_of_all_rows():
    clips = make_clips()
    left_out = {"path", "f0_path", "other_path", "num_samples"}
    by_id = sorted(clips, key=lambda clip: clip.id)
    table = [{k: v for k, v in clip.to_dict().items() if k not in left_out} for clip in by_id]
    assert Manifest(clips, Path("x")).hash() == digest(table)
    assert Manifest([], Path("x")).hash() == digest([])


def test_a_small_manifest_has_no_index(tmp_path):
    Manifest(make_clips(), tmp_path).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]


def test_only_rows_that_are_wanted_are_read(few, tmp_path, monkeypatch):
    Manifest(make_clips(), tmp_path).save(tmp_path)
    read, real = [], rows.read_clip
    monkeypatch.setattr(rows, "read_clip", lambda *args: read.append(args) or real(*args))
    manifest = Manifest.load(tmp_path)
    assert manifest.hash() and manifest.speakers and manifest.splits and manifest.duration_s
    order = manifest.in_record_order()
    assert not read and order[3].split == "test" and len(read) == 1
    manifest.find(["clip 7"])
    assert len(read) <= 1 + 7  # halving 40 rows, and the row itself


def test_an_index_of_another_manifest_is_not_believed(few, tmp_path):
    held = Manifest(make_clips(), tmp_path)
    held.save(tmp_path)
    other = Manifest(make_clips()[:20], tmp_path)
    text = "".join(json.dumps(clip.to_dict(), sort_keys=True) + "\n" for clip in other.clips)
    (tmp_path / MANIFEST_NAME).write_text(text)
    check_same(Manifest.load(tmp_path), other)


@pytest.mark.parametrize("has_digests", [False, True])
def test_a_flipped_bit_changes_nothing_or_is_refused(few, tmp_path, has_digests):
    held = Manifest(make_clips(), tmp_path)
    held.save(tmp_path)
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted(names) == ["manifest.index.json", "manifest.index.npy", MANIFEST_NAME]
    if has_digests:
        write_digests(tmp_path, digest_files(tmp_path, names))
    refused, rng = 0, np.random.default_rng(0)
    for name in ["manifest.index.npy", "manifest.index.json"][: 1 + has_digests]:
        content = (tmp_path / name).read_bytes()
        for place in rng.integers(len(content), size=10):
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            (tmp_path / name).write_bytes(changed)
            try:
                check_same(Manifest.load(tmp_path), held)
            except GenlabError as error:
                assert f"{name}: damaged: " in str(error)
                refused += 1
        (tmp_path / name).write_bytes(content)
    assert refused == 10 * has_digests


def test_what_is_wrong_in_a_large_manifest_without_index_is_named(few, tmp_path):
    Manifest(make_clips(), tmp_path).save(tmp_path)
    path = tmp_path / MANIFEST_NAME
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[3]]) + "\n")
    with pytest.raises(GenlabError, match="clip ids must be unique, repeated: clip "):
        Manifest.load(tmp_path)
    path.write_text("\n".join([*lines[:5], lines[5].replace('"text"', '"txt"')]) + "\n")
    with pytest.raises(GenlabError, match=r"manifest\.jsonl: damaged manifest: field text"):
        Manifest.load(tmp_path)
