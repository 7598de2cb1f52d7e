"""Datasets on a disk and Parquet files, as the datasets library writes them; every row is used or
listed.
"""

import io
import json

import pytest
import soundfile
from bad_audio import tone

from genlab.config import GenlabError
from genlab.data import hf_dataset
from genlab.data.corpus import HFDataset, build_corpus
from genlab.data.folder import ImportReport

pa = pytest.importorskip("pyarrow", reason="the extra arrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {
    "info": {
        "features": {
            "audio": {"sampling_rate": 16000, "_type": "Audio"},
            "genre": {"names": ["folk", "jazz"], "_type": "ClassLabel"},
        }
    }
}


def sound(number, form="FLAC"):
    out = io.BytesIO()
    soundfile.write(out, tone(0.3, 16_000, 150.0 + 10 * number), 16_000, format=form)
    return out.getvalue()


def table_of(numbers, **columns):
    """Return rows with audio, a text and a class; `columns` replace or add."""
    values = {
        "audio": pa.array([{"bytes": sound(n), "path": f"{n}.flac"} for n in numbers], AUDIO),
        "text": [f"text {n}" for n in numbers],
        "genre": pa.array([n % 2 for n in numbers], pa.int64()),
        **columns,
    }
    table = pa.table({name: value for name, value in values.items() if value is not None})
    return table.replace_schema_metadata({"huggingface": json.dumps(FEATURES)})


def save_to_disk(folder, table, split="train", shards=2):
    """Write a folder as `datasets.Dataset.save_to_disk` does: streams, and state.json."""
    folder.mkdir(parents=True)
    files = []
    for number in range(shards):
        name = f"data-{number:05d}-of-{shards:05d}.arrow"
        length = -(-len(table) // shards)
        with pa.OSFile(str(folder / name), "wb") as sink:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table.slice(number * length, length), max_chunksize=2)
        files.append({"filename": name})
    state = {"_data_files": files, "_split": split, "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def skipped_of(manifest):
    return {item.path: item.reason for item in ImportReport.load(manifest.root).skipped}


def test_a_saved_dataset_with_splits(tmp_path):
    for split, start in (("train", 0), ("validation", 5), ("test", 10)):
        save_to_disk(tmp_path / "in" / split, table_of(range(start, start + 5)), split)
    splits = {"splits": ["train", "validation", "test"]}
    (tmp_path / "in" / "dataset_dict.json").write_text(json.dumps(splits))
    manifest = build_corpus(HFDataset(path=str(tmp_path / "in")), tmp_path / "cache")
    assert {clip.text: clip.split for clip in manifest.clips} == {
        f"text {n}": ("train", "valid", "test")[n // 5] for n in range(15)
    }
    assert manifest.speakers == ("folk", "jazz")  # the class, by its name
    for clip in manifest.clips:
        number = int(clip.text.split()[1])
        assert clip.labels == {"genre": ("folk", "jazz")[number % 2]}
        expected = soundfile.read(io.BytesIO(sound(number)), dtype="int16")[0]
        assert abs(manifest.audio(clip).astype(int) - expected).max() <= 1
    assert skipped_of(manifest) == {}
    alone = build_corpus(HFDataset(path=str(tmp_path / "in" / "test")), tmp_path / "cache")
    assert {clip.split for clip in alone.clips} == {"test"} and len(alone.clips) == 5


@pytest.mark.parametrize("kind", [AUDIO, pa.binary(), pa.large_binary()])
def test_parquet_with_groups_and_a_speaker(tmp_path, kind):
    audio = [{"bytes": sound(n, "WAV"), "path": None} for n in range(12)]
    cells = audio if kind is AUDIO else [cell["bytes"] for cell in audio]
    more = {"speaker_id": [n % 3 for n in range(12)], "bpm": [90.0 + n for n in range(12)]}
    table = table_of(range(12), audio=pa.array(cells, kind), genre=None, **more)
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "train-00000-of-00001.parquet", row_group_size=5)
    for path in (tmp_path / "in", tmp_path / "in" / "train-00000-of-00001.parquet"):
        manifest = build_corpus(HFDataset(path=str(path)), tmp_path / "cache")
        assert len(manifest.clips) == 12 and manifest.speakers == ("0", "1", "2")
        assert set(manifest.splits) == {"train"}
        for clip in manifest.clips:
            number = int(clip.text.split()[1])
            assert clip.labels == {"bpm": 90.0 + number}
            assert clip.id == f"train-00000-of-00001.parquet/row {number}"
            expected = soundfile.read(io.BytesIO(sound(number)), dtype="int16")[0]
            assert abs(manifest.audio(clip).astype(int) - expected).max() <= 1


def test_what_cannot_be_used_is_listed(tmp_path):
    cells = [{"bytes": sound(n), "path": None} for n in range(8)]
    cells[1] = {"bytes": None, "path": "/etc/passwd"}
    cells[2] = {"bytes": b"no audio", "path": None}
    cells[3] = None
    cells[4] = {"bytes": sound(4)[:300], "path": None}
    nan = float("nan")
    table = table_of(
        range(8),
        audio=pa.array(cells, AUDIO),
        genre=pa.array([0, 1, 1, 1, 1, -1, 7, 1], pa.int64()),
        picture=[b"png"] * 8,
        level=[nan] * 8,
    )
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    (tmp_path / "in" / "b.parquet").write_bytes(b"PAR1 nothing")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "in" / "c.parquet")
    manifest = build_corpus(HFDataset(path=str(tmp_path / "in")), tmp_path / "cache")
    assert sorted(clip.text for clip in manifest.clips) == [f"text {n}" for n in (0, 5, 6, 7)]
    assert all("level" not in clip.labels for clip in manifest.clips)
    assert {clip.text: clip.speaker for clip in manifest.clips}["text 5"] == ""
    found = skipped_of(manifest)
    nothing = "no bytes in it: only the name of a file, or nothing"
    assert found["a.parquet/row 1"] == found["a.parquet/row 3"] == nothing
    assert found["a.parquet/row 2"] == "the bytes are not WAV, FLAC, OGG or MP3"
    assert {*found} == {f"a.parquet/row {n}" for n in (1, 2, 3, 4)} | {"b.parquet", "c.parquet"}
    assert found["b.parquet"].startswith("not readable: ArrowInvalid")
    assert found["c.parquet"] == "no column 'audio', found x; set data.corpus.audio=NAME"
    notes = ImportReport.load(manifest.root).notes
    assert "column picture not read: its values are bytes" in notes


def test_a_state_that_names_files_elsewhere(tmp_path):
    save_to_disk(tmp_path / "in", table_of(range(4)), shards=1)
    save_to_disk(tmp_path / "other", table_of(range(4, 8)), shards=1)
    state = json.loads((tmp_path / "in" / "state.json").read_text())
    elsewhere = str(tmp_path / "other" / "data-00000-of-00001.arrow")
    state["_data_files"] += [{"filename": elsewhere}, {"filename": "../other/x.arrow"}]
    (tmp_path / "in" / "state.json").write_text(json.dumps(state))
    manifest = build_corpus(HFDataset(path=str(tmp_path / "in")), tmp_path / "cache")
    assert sorted(clip.text for clip in manifest.clips) == [f"text {n}" for n in range(4)]
    assert set(skipped_of(manifest).values()) == {"leads out of the dataset"}


def test_what_is_no_dataset(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    config = HFDataset(path=str(tmp_path / "in"))
    with pytest.raises(GenlabError, match="does not look like HFDataset, expected a folder that"):
        build_corpus(config, tmp_path / "cache")
    pq.write_table(table_of(range(3)), tmp_path / "in" / "a.parquet")
    with pytest.raises(GenlabError, match=r"no column 'wave', found audio; set data\.corpus"):
        build_corpus(config.override(["audio=wave"]), tmp_path / "cache")
    with pytest.raises(GenlabError, match="column 'text' is string, expected bytes"):
        build_corpus(config.override(["audio=text"]), tmp_path / "cache")
    monkeypatch.setattr(hf_dataset, "MAX_GROUP_BYTES", 10)
    with pytest.raises(GenlabError, match="at most 10 accepted: write it again with fewer rows"):
        build_corpus(config, tmp_path / "cache")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(GenlabError, match=r"'pyarrow' is not installed.*\[arrow\]"):
        build_corpus(config, tmp_path / "cache")
