"""Somebody's tokens with further columns: kept, described, and told to decoders by name."""

import json
import os
import tarfile

import numpy as np
import pytest
from own_toys import make_clips, npy, write_arrays, write_index, write_spec

from genlab.cli import main
from genlab.config import GenlabError
from genlab.data.own.labels import describe_labels, labels_of, read_labels
from genlab.data.own.row import Facts
from genlab.data.own.shards import add_member
from genlab.data.own.source import TokenFiles
from genlab.decoders.parts import Label, Numbers
from genlab.decoders.told.curves import Curve
from genlab.decoders.told.labels import Labels
from genlab.decoders.told.symbols import Utf8
from genlab.decoders.told.vectors import Vector
from genlab.experiment import TokenData

CLIPS = make_clips(10)


def labels_for(number):
    """Return what the toy says of a clip, so that every value can be computed again."""
    return {
        "style": ("flute", "oboe")[number % 2],
        "mood": {"calm": 0.25, "glad": 0.75},
        "tempo": 60 + 10 * number,
        "clap": [number / 8, 1.0, -1.0],
        "f0": f"f0/{number}.npy",
        "Ort": "Zürich" if number else "東京",
    }


def write_index_of(folder):
    write_arrays(folder, CLIPS)
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    write_index(folder, [row | labels_for(number) for number, row in enumerate(rows)])


def write_tar_of(folder):
    write_spec(folder)
    with tarfile.open(folder / "shard-0.tar", "w") as archive:
        for number, (facts, codes) in enumerate(CLIPS):
            about = facts._asdict() | labels_for(number)
            add_member(archive, f"{facts.id}.json", json.dumps(about).encode())
            add_member(archive, f"{facts.id}.npy", npy(codes))


def write_record_of(folder):
    import struct

    from array_record.python import array_record_module

    write_spec(folder)
    path = str(folder / "a.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    for number, (facts, codes) in enumerate(CLIPS):
        about = {**facts._asdict(), "frames": len(codes), **labels_for(number)}
        header = json.dumps(about).encode()
        body = codes.astype("<i2").tobytes()
        writer.write(struct.pack("<I", len(header)) + header + body)
    writer.close()


def write_table_of(folder):
    reason = "the extra arrow is not installed"
    pyarrow = pytest.importorskip("pyarrow", reason=reason)
    parquet = pytest.importorskip("pyarrow.parquet", reason=reason)
    write_spec(folder)
    rows = [
        facts._asdict() | {"codes": codes.tolist(), "taken": b"\x00"} | labels_for(number)
        for number, (facts, codes) in enumerate(CLIPS)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "a.parquet")


WRITERS = {
    "numpy": write_index_of,
    "tar": write_tar_of,
    "record": write_record_of,
    "table": write_table_of,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_keeps_the_columns_that_were_written(tmp_path, kind):
    (tmp_path / "tokens").mkdir()
    WRITERS[kind](tmp_path / "tokens")
    store = TokenFiles(tmp_path / "tokens").open(tmp_path / "cache")
    found = read_labels(store.directory)
    assert found == {facts.id: labels_for(number) for number, (facts, _) in enumerate(CLIPS)}
    # What the tokens are known by does not change, so runs on them stay what they were.
    plain = TokenFiles(write_arrays(tmp_path / "plain", CLIPS)).open(tmp_path / "cache")
    assert plain.info.manifest_hash == store.info.manifest_hash
    assert read_labels(plain.directory) == {}


def test_decoders_are_told_the_columns(tmp_path):
    folder = tmp_path / "tokens"
    write_index_of(folder)
    (folder / "f0").mkdir()
    for number in range(10):  # two points: a straight line over the clip
        np.save(folder / "f0" / f"{number}.npy", np.array([0.0, number]))
    parts = (
        Label(name="style", column="style", names=("oboe", "flute")),
        Labels(name="mood", column="mood", names=("glad", "calm")),
        Numbers(name="tempo", columns=("tempo",), mean=100.0, deviation=20.0),
        Vector(name="clap", column="clap", channels=3),
        Curve(name="f0", column="f0", folder=str(folder)),
        Utf8(name="said"),
    )
    data = TokenData(tokens=str(folder), num_frames=32)
    store = data.open(parts=parts)
    for index in range(store.num_clips):
        clip = store.clip(index)
        number = next(n for n, (facts, _) in enumerate(CLIPS) if facts.id == clip.id)
        told = {part.name: part.value for part in clip.parts}
        assert told["style"] == 1 - number % 2
        np.testing.assert_allclose(told["mood"], [0.75, 0.25])
        np.testing.assert_allclose(told["tempo"], [(10 * number - 40) / 20], rtol=1e-6)
        np.testing.assert_allclose(told["clap"], [number / 8, 1, -1])
        frames = len(clip.codes)
        line = np.clip(2 * (np.arange(frames) + 0.5) / frames - 0.5, 0, 1) * number
        np.testing.assert_allclose(told["f0"][:, 0], line, atol=1e-5)
        assert told["said"][1 : 1 + len(clip.text)].tolist() == [2 + x for x in clip.text.encode()]
        assert store.example(clip, 32)[1].parts["f0"].shape == (32, 1)
    # A run is bound to the columns it was told: with another tempo it is another corpus.
    again = data.open(parts=parts)
    assert again.info.manifest_hash == store.info.manifest_hash != data.open().info.manifest_hash
    index = folder / "index.jsonl"
    index.write_text(index.read_text().replace('"tempo": 60,', '"tempo": 61,'))
    os.utime(index, (2e9, 2e9))
    assert data.open(parts=parts).info.manifest_hash != store.info.manifest_hash


def test_what_a_clip_lacks_is_told_in_one_line(tmp_path):
    folder = tmp_path / "tokens"
    write_index_of(folder)
    data = TokenData(tokens=str(folder), num_frames=32)
    with pytest.raises(GenlabError, match=r"no column 'stile', expected one of .*style"):
        data.open(parts=(Label(name="stile", column="stile", names=("oboe",)),))
    with pytest.raises(GenlabError, match=r"condition 'style' of clip .*not in names \(oboe\)"):
        data.open(parts=(Label(name="style", column="style", names=("oboe",)),))
    with pytest.raises(
        GenlabError, match=r"condition 'f0' .*data.codec=null: tokens have no audio"
    ):
        data.open(parts=(Curve(name="f0", measured="f0"),))


def test_the_import_says_what_can_be_told(tmp_path, capsys):
    folder = tmp_path / "tokens"
    write_index_of(folder)
    lines = (folder / "index.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    del rows[3]["style"]
    write_index(folder, rows)
    told = [
        "column style: 2 names (flute, oboe): label, labels, utf8 or phonemes; 1 clip of 10 ",
        "column mood: mappings: labels, if names have weights",
        "column tempo: numbers 60 to 150: numbers or label",
        "column clap: lists of 3: vector, curve, sequence or codes, or labels if they hold names",
        "column f0: 10 files: curve, vector, sequence or codes",
    ]
    for words in (["import", str(folder)], ["check", str(folder)]):
        assert main(["data", *words]) == 0
        out = capsys.readouterr().out
        for line in told:
            assert line in out
    assert main(["data", "import", str(write_arrays(tmp_path / "plain", CLIPS))]) == 0
    assert "no columns beside text, speaker and split" in capsys.readouterr().out


def test_only_what_json_holds_is_a_label():
    values = {
        "id": "a", "file": "a.npy", "frames": 3, "none": None, "raw": b"x", "far": float("inf"),
        "huge": 2**70, "deep": [[[[1]]]], "torn\udcff": 1, "ok": [[1, 2]], "torn": "\udcff",
    }  # fmt: skip
    assert labels_of(values, Facts._fields, "row") == {"ok": [[1, 2]]}
    with pytest.raises(GenlabError, match=r"row: 257 columns, expected at most 256"):
        labels_of({f"c{n}": n for n in range(257)}, Facts._fields, "row")
    assert describe_labels([{"x": 1}, {"x": "a"}], 2) == [
        "  column x: values of several types (int, str): no condition reads them all"
    ]
