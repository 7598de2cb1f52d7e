"""Somebody's tokens as a token store: every format gives the same clips, and what is wrong is
refused in one line that names the file and the row.
"""

import json
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from own_toys import (
    SPEC,
    make_clips,
    npy,
    write_arrays,
    write_index,
    write_records,
    write_spec,
    write_tars,
)

from genlab.config import GenlabError
from genlab.data.own.row import Facts
from genlab.data.own.source import TokenFiles
from genlab.data.own.statistics import inspect_tokens

CLIPS = make_clips()
WRITERS = {
    "npz": lambda folder: write_arrays(folder, CLIPS),
    "npy": lambda folder: write_arrays(folder, CLIPS, kind="npy"),
    "one long npy": lambda folder: write_arrays(folder, CLIPS, kind="long"),
    "tar": lambda folder: write_tars(folder, CLIPS),
    "array record": lambda folder: write_records(folder, CLIPS),
}


def all_clips(store):
    return {store.clip(number).id: store.clip(number) for number in range(store.num_clips)}


def refusal(folder, cache):
    """Return the one line by which the tokens are refused."""
    with pytest.raises(GenlabError) as refused:
        TokenFiles(folder).open(cache)
    text = str(refused.value)
    assert "\n" not in text and len(text) < 600 + 2 * len(str(folder))
    return text


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_clips_that_were_written(tmp_path, kind):
    store = TokenFiles(WRITERS[kind](tmp_path / "tokens")).open(tmp_path / "cache")
    found = all_clips(store)
    assert len(found) == len(CLIPS)
    for facts, codes in CLIPS:
        clip = found[facts.id]
        np.testing.assert_array_equal(clip.codes, codes)
        assert (clip.text, clip.speaker) == (facts.text, facts.speaker)
        assert clip.latents.shape == (len(codes), 0) and set(clip.units.tolist()) == {1}
    info = store.info
    assert {name: split.clips for name, split in info.splits.items()} == {
        "train": 12,
        "valid": 4,
        "test": 4,
    }
    for name, split in info.splits.items():
        numbers = range(split.first, split.first + split.clips)
        ids = {store.clip(number).id for number in numbers}
        assert ids == {facts.id for facts, _ in CLIPS if facts.split == name}
    frames = sum(len(codes) for facts, codes in CLIPS if facts.split == "train")
    assert info.splits["train"].seconds == pytest.approx(frames * 1920 / 24_000)
    assert info.spec.frame_hz == 12.5 and info.spec.latent_channels == 0
    # The content decides what a run is bound to, and not the format.
    npz = TokenFiles(WRITERS["npz"](tmp_path / "npz")).open(tmp_path / "cache")
    assert npz.info.manifest_hash == info.manifest_hash


def test_an_import_is_made_once_and_again_when_the_tokens_change(tmp_path):
    folder = WRITERS["npy"](tmp_path / "tokens")
    first = TokenFiles(folder).open(tmp_path / "cache")
    written = first.directory / "dataset.json"
    before = written.stat().st_mtime_ns
    assert TokenFiles(folder).open(tmp_path / "cache").directory == first.directory
    assert written.stat().st_mtime_ns == before
    facts, codes = CLIPS[0]
    np.save(folder / f"{facts.id}.npy", (codes + 1) % 16)
    os.utime(folder / f"{facts.id}.npy", ns=(before + 10**9, before + 10**9))
    again = TokenFiles(folder).open(tmp_path / "cache")
    assert again.directory != first.directory
    assert again.info.manifest_hash != first.info.manifest_hash


def test_examples_have_codes_and_no_latents(tmp_path):
    store = TokenFiles(WRITERS["npz"](tmp_path / "tokens")).open(tmp_path / "cache")
    clip = store.clip(0)
    tokens, cond = store.example(clip, 32)
    assert tokens.latents is None and tokens.codes.shape == (32, 3)
    assert int(tokens.num_frames) == len(clip.codes)
    assert store.code_vectors.shape == (3, 16, 0)
    assert int(cond.speaker) == store.info.speakers.index(clip.speaker)


def test_parts_of_a_split_follow_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr("genlab.data.own.source.PART_BYTES", 600)
    store = TokenFiles(WRITERS["npz"](tmp_path / "tokens")).open(tmp_path / "cache")
    names = sorted(path.name for path in store.directory.iterdir() if path.suffix != ".lock")
    assert len([name for name in names if name.startswith("part-")]) > 5
    assert not [name for name in names if name.startswith("new-")]
    assert {facts.id for facts, _ in CLIPS} == set(all_clips(store))
    test = store.info.splits["test"]
    ids = {store.clip(number).id for number in range(test.first, test.first + test.clips)}
    assert ids == {facts.id for facts, _ in CLIPS if facts.split == "test"}


def test_splits_are_drawn_by_text_where_none_is_given(tmp_path):
    clips = [
        (facts._replace(split="", text=f"text {chr(97 + number // 2)}"), codes)
        for number, (facts, codes) in enumerate(make_clips(40))
    ]
    store = TokenFiles(write_arrays(tmp_path / "tokens", clips)).open(tmp_path / "cache")
    texts = {name: set(store.texts(name)) for name in store.info.splits}
    assert set(texts) == {"train", "valid", "test"}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["valid"]
    assert len(texts["train"]) > 10


def test_copies_whose_split_is_drawn_stay_together(tmp_path):
    same = make_clips(1)[0][1]
    clips = [
        (Facts(f"c{number}"), same if number % 2 else codes)
        for number, (_, codes) in enumerate(make_clips(60))
    ]
    store = TokenFiles(write_arrays(tmp_path / "tokens", clips)).open(tmp_path / "cache")
    places = {
        name
        for name, split in store.info.splits.items()
        for number in range(split.first, split.first + split.clips)
        if np.array_equal(store.clip(number).codes, same)
    }
    assert len(places) == 1 and len(store.info.splits) > 1


def test_code_vectors_are_kept(tmp_path):
    folder = write_arrays(tmp_path / "tokens", CLIPS, code_vectors="v.npy", latent_channels=4)
    vectors = np.random.default_rng(0).normal(size=(3, 16, 4)).astype(np.float32)
    np.save(folder / "v.npy", vectors)
    own = TokenFiles(folder)
    np.testing.assert_array_equal(own.code_vectors, vectors)
    np.testing.assert_array_equal(
        np.load(own.open(tmp_path / "cache").directory / "code_vectors.npy"), vectors
    )
    told = inspect_tokens(TokenFiles(folder)).columns
    assert told[0] == "  code vectors: every entry adds 4 channels to the latents"
    np.save(folder / "v.npy", vectors[:, :, :3])
    for read in (
        lambda: TokenFiles(folder).code_vectors,
        lambda: inspect_tokens(TokenFiles(folder)),
    ):
        with pytest.raises(
            GenlabError, match=r"v\.npy': expected \[3, 16, 4\] values, got \[3, 16, 3\]"
        ):
            read()


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


# What is wrong with one row of index.jsonl, and what the refusal says of it.
ROWS = {
    "..": ({"file": "../codes.npz"}, "index.jsonl:2: file: '../codes.npz': leads out of"),
    "absolute": ({"file": "/etc/passwd"}, "index.jsonl:2: file: '/etc/passwd': leads out of"),
    "no file": ({"file": "none.npy"}, "index.jsonl:2: file: no none.npy"),
    "no name": ({"file": 3}, "index.jsonl:2: file=3: expected the name"),
    "other suffix": ({"file": "tokens.json"}, "expected a .npy or .npz"),
    "no such key": ({"key": "nothing"}, "index.jsonl:2: codes.npz has no array 'nothing'"),
    "key": ({"key": 7}, "index.jsonl:2: key=7: expected the name of an array"),
    "same id": ({"id": "clip000", "key": "clip001"}, "index.jsonl:2: id='clip000': clip 1 has it"),
    "no id": ({"id": ""}, "index.jsonl:2: id: expected a text of its own"),
    "id": ({"id": ["a"]}, "index.jsonl:2: id=['a']: expected text"),
    "long id": ({"id": "x" * 300}, "index.jsonl:2: id='xxx"),
    "NUL": ({"text": "a\0b"}, "index.jsonl:2: text holds a NUL"),
    "surrogate": ('{"id": "b", "file": "codes.npz", "text": "\\ud800"}', "index.jsonl:2: damaged"),
    "split": ({"split": "../x"}, "index.jsonl:2: split='../x': expected train, valid, test"),
    "first": ({"first": -1}, "index.jsonl:2: first=-1: expected a whole number"),
    "NaN": ('{"id": "b", "file": "codes.npz", "first": NaN}', "index.jsonl:2: damaged"),
    "float": ({"frames": 1.5}, "index.jsonl:2: frames=1.5: expected a whole number"),
    "bool": ({"frames": True}, "index.jsonl:2: frames=True: expected a whole number"),
    "huge": ({"frames": 10**12}, "index.jsonl:2: first=0, frames=1000000000000: codes"),
    "absurd": ({"frames": 10**400}, "index.jsonl:2: damaged"),
    "too many": ({"frames": 100_000}, "index.jsonl:2: first=0, frames=100000: codes.npz has 25"),
    "none": ({"frames": 0}, "index.jsonl:2: first=0, frames=0"),
    "no JSON": ("{", "index.jsonl:2: damaged: expected JSON"),
    "a list": ("[1]", "index.jsonl:2: expected a JSON object, got list"),
    "deep": ("[" * 100_000, "index.jsonl:2: damaged"),
    "long": (json.dumps({"id": "b", "text": "x" * 2**20}), "index.jsonl:2: a row of more than"),
    "twice": ('{"id": "b", "id": "c"}', "index.jsonl:2: damaged: field id: expected once"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_wrong_row_is_refused_by_file_and_row(tmp_path, kind):
    wrong, said = ROWS[kind]
    folder = write_arrays(tmp_path / "tokens", CLIPS[:3])
    rows = [{**facts._asdict(), "file": "codes.npz"} for facts, _ in CLIPS[:3]]
    rows[1] = wrong if isinstance(wrong, str) else {**rows[1], **wrong}
    write_index(folder, rows)
    assert said in refusal(folder, tmp_path / "cache")


# What is wrong with the codes of one clip.
CODES = {
    "negative": (lambda codes: codes * 0 - 1, "code -1 at frame 0, codebook 0: expected 0 to 15"),
    "large": (lambda codes: codes * 0 + 16, "code 16 at frame 0, codebook 0: expected 0 to 15"),
    "64 bits": (
        lambda codes: codes.astype(np.int64) + 2**40,
        "at frame 0, codebook 0: expected 0 to 15",
    ),
    "unsigned": (lambda codes: codes.astype(np.uint64) + 2**63, "expected 0 to 15"),
    "floats": (lambda codes: codes.astype(np.float32), "codes of type float32"),
    "NaN": (lambda codes: codes * np.float32("nan"), "codes of type float32"),
    "bools": (lambda codes: codes > 3, "codes of type bool"),
    "turned": (lambda codes: codes[:9].T, "shape [3, 9], expected [frames, 3], as codebooks in"),
    "four levels": (lambda codes: np.pad(codes, [(0, 0), (0, 1)]), "expected [frames, 3]"),
    "flat": (lambda codes: codes[:, 0], "expected [frames, 3]"),
    "empty": (lambda codes: codes[:0], "shape [0, 3]"),
}


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("writer", [write_arrays, write_tars])
def test_wrong_codes_are_refused(tmp_path, kind, writer):
    change, said = CODES[kind]
    clips = [*CLIPS[:2], (CLIPS[2][0], change(CLIPS[2][1])), CLIPS[3]]
    text = refusal(writer(tmp_path / "tokens", clips), tmp_path / "cache")
    assert said in text and ("index.jsonl:3" in text or "shard-0000.tar: 'clip002'" in text)


def test_nothing_is_unpickled_and_no_archive_is_believed(tmp_path):
    bomb = Bomb(tmp_path / "exploded")
    objects = npy(np.array([bomb], object))
    huge = npy(np.zeros((3, 3), np.int16)).replace(b"(3, 3), ", b"(3000000000000, 3), ")
    for number, content in enumerate([objects, pickle.dumps(bomb), huge, b"", objects[:20]]):
        folder = write_spec(tmp_path / str(number))
        write_index(folder, [{"id": "a", "file": "a.npy"}, {"id": "b", "file": "b.npz"}])
        (folder / "a.npy").write_bytes(content)
        assert "index.jsonl:1" in refusal(folder, tmp_path / "cache")
        np.save(folder / "a.npy", CLIPS[0][1])
        with zipfile.ZipFile(folder / "b.npz", "w") as archive:
            archive.writestr("b.npy", content)
        assert "index.jsonl:2" in refusal(folder, tmp_path / "cache")
        (folder / "b.npz").write_bytes(content)
        assert "index.jsonl:2" in refusal(folder, tmp_path / "cache")
        shards = write_spec(tmp_path / f"tar{number}")
        with tarfile.open(shards / "s.tar", "w") as archive:
            member = tarfile.TarInfo("a.npy")
            member.size = len(content)
            archive.addfile(member, __import__("io").BytesIO(content))
        assert "s.tar: 'a'" in refusal(shards, tmp_path / "cache")
    assert not bomb.path.exists()


def test_a_member_beyond_the_limit_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("genlab.data.own.arrays.MOST_MEMBER", 1000)
    folder = write_spec(tmp_path / "tokens")
    np.savez_compressed(folder / "codes.npz", a=np.zeros((10**5, 3), np.int16))
    write_index(folder, [{"id": "a", "file": "codes.npz"}])
    assert "array 'a' of 600128 bytes, expected at most 1000" in refusal(folder, tmp_path / "cache")


def test_links_and_paths_of_a_tar_are_refused(tmp_path):
    for number, (name, kind) in enumerate(
        [("../a.npy", tarfile.REGTYPE), ("/a.npy", tarfile.REGTYPE), ("a.npy", tarfile.SYMTYPE)]
    ):
        folder = write_spec(tmp_path / str(number))
        with tarfile.open(folder / "s.tar", "w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        assert f"s.tar: '{name}': expected a plain file" in refusal(folder, tmp_path / "cache")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_half_a_shard_is_refused(tmp_path, share):
    for writer in (write_tars, write_records):
        folder = writer(tmp_path / writer.__name__, CLIPS)
        path = sorted(folder.glob("*.*r*"))[0]
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        assert path.name in refusal(folder, tmp_path / "cache")


def test_a_record_whose_header_lies_is_refused(tmp_path):
    from array_record.python import array_record_module

    for number, (frames, said) in enumerate(
        [(10**30, "frames=10"), (-1, "frames=-1"), (True, "frames=True"), (2, "frames=2")]
    ):
        folder = write_spec(tmp_path / str(number))
        header = json.dumps({"id": "a", "frames": frames}).encode()
        record = len(header).to_bytes(4, "little") + header + CLIPS[0][1].tobytes()
        writer = array_record_module.ArrayRecordWriter(str(folder / "a.array_record"), "")
        writer.write(record)
        writer.close()
        text = refusal(folder, tmp_path / "cache")
        assert said in text and "a.array_record: record 0" in text


# What is wrong with tokens.json.
SPECS = {
    "missing": ({"entries": None}, "field entries: expected a value"),
    "no rate": ({"sample_rate_hz": 0}, "field sample_rate_hz"),
    "NaN": ({"frame_hz": float("nan")}, "field 'frame_hz': expected a finite number"),
    "other rate": ({"frame_hz": 50}, "frame_hz=50: expected sample_rate_hz / hop_samples = 12.5"),
    "too many": ({"entries": 10**6}, "field entries"),
    "a text": ({"codebooks": "8"}, "field codebooks"),
    "unknown": ({"colour": 1}, "field colour: expected no such field"),
    "channels": ({"latent_channels": 4}, "latent_channels=4"),
    "vectors": ({"code_vectors": "../v.npy"}, "leads out of"),
    "no vectors": ({"code_vectors": "v.npy"}, "code_vectors='v.npy': expected a .npy file"),
}


@pytest.mark.parametrize("kind", SPECS)
def test_a_wrong_spec_is_refused(tmp_path, kind):
    more, said = SPECS[kind]
    folder = write_arrays(tmp_path / "tokens", CLIPS[:3], **more)
    assert said in refusal(folder, tmp_path / "cache")


def test_a_directory_that_holds_no_tokens_is_refused(tmp_path):
    assert "no such directory" in refusal(tmp_path / "none", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "empty: no tokens.json" in refusal(tmp_path / "empty", tmp_path)
    folder = write_spec(tmp_path / "spec")
    assert "none of them here; expected index.jsonl" in refusal(folder, tmp_path)
    write_tars(folder, CLIPS[:2])
    write_arrays(folder, CLIPS[:2])
    assert "index.jsonl and .tar files here" in refusal(folder, tmp_path)
    write_index(write_spec(tmp_path / "rowless"), [])
    assert "rowless: no clips" in refusal(tmp_path / "rowless", tmp_path)


@pytest.mark.parametrize(
    ("one", "other"), [("train", "test"), ("valid", "test"), ("test", "valid")]
)
def test_the_same_codes_in_two_splits_are_refused(tmp_path, one, other):
    codes = CLIPS[0][1]
    clips = [(Facts("a", split=one), codes), (Facts("b", split=other), codes)]
    text = refusal(write_arrays(tmp_path / "tokens", clips), tmp_path / "cache")
    assert f"index.jsonl:2: split {other} has the very codes of clip 'a' in split {one}" in text


def test_a_flipped_byte_of_the_store_is_refused(tmp_path):
    store = TokenFiles(WRITERS["npz"](tmp_path / "tokens")).open(tmp_path / "cache")
    info = store.directory / "dataset.json"
    info.write_text(info.read_text().replace('"entries": 16', '"entries": 17'))
    assert "dataset.json" in refusal(tmp_path / "tokens", tmp_path / "cache")


def test_a_named_pipe_is_no_array(tmp_path):
    folder = write_spec(tmp_path / "tokens")
    os.mkfifo(folder / "a.npy")
    write_index(folder, [{"id": "a", "file": "a.npy"}])
    assert "no a.npy" in refusal(folder, tmp_path / "cache")


def test_the_toys_say_what_the_specs_are_about():
    assert SPEC["sample_rate_hz"] / SPEC["hop_samples"] == 12.5
