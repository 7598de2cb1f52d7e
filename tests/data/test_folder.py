import csv
import json
import os
import sys

import numpy as np
import pytest
import soundfile
from bad_audio import tone, write_bad_files, write_good_files

from genlab.config import ConfigError, GenlabError
from genlab.data.corpus import Folder, build_corpus
from genlab.data.folder import ImportReport


def write_table(path, rows, **options):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **options)
        writer.writerows([["path", "text", "speaker", "split", "licence", "mood"], *rows])


def write_tones(folder, count, speaker="amy"):
    (folder / speaker).mkdir(parents=True)
    for number in range(count):
        soundfile.write(folder / speaker / f"{number}.wav", tone(frequency_hz=200.0 + number), 16_000)
    return [[f"{speaker}/{number}.wav", f"Text {number}, please.", "", "", "", "calm"] for number in range(count)]


def test_tree_without_a_manifest(tmp_path, capsys):
    good, bad = write_good_files(tmp_path / "in" / "amy"), write_bad_files(tmp_path / "in" / "bob")
    (tmp_path / "in" / "notes.txt").write_text("x")
    soundfile.write(tmp_path / "in" / ".hidden.wav", tone(), 16_000)
    manifest = build_corpus(Folder(path=str(tmp_path / "in"), licence="CC0"), tmp_path / "cache")
    assert {clip.id for clip in manifest.clips} == {f"amy/{name}" for name in good}
    assert {clip.speaker for clip in manifest.clips} == {"amy", "päth with späce"}
    assert all(clip.text == "" and clip.licence == "CC0" and len(clip.audio_digest) == 10 for clip in manifest.clips)
    for clip in manifest.clips:
        assert soundfile.info(manifest.root / clip.path).samplerate == 16_000
        assert len(manifest.audio(clip)) == clip.num_samples
    report = ImportReport.load(manifest.root)
    reasons = {item.path: item.reason for item in report.skipped}
    assert set(reasons) == {f"bob/{name}" for name in bad}
    assert all(part in reasons[f"bob/{name}"] for name, part in bad.items())
    assert report.used == len(good) and report.notes == ("1 other files ignored (.txt)",)
    printed = capsys.readouterr()
    assert printed.out == "" and "8 channels" in printed.err and "bob/nan.wav" in printed.err
    build_corpus(Folder(path=str(tmp_path / "in"), licence="CC0"), tmp_path / "cache")
    assert "bob/nan.wav" in capsys.readouterr().err  # not silent the second time either


def test_strict_refuses_and_lists(tmp_path):
    write_good_files(tmp_path / "in")
    bad = write_bad_files(tmp_path / "in")
    for _ in range(2):
        with pytest.raises(GenlabError, match="strict=true") as caught:
            build_corpus(Folder(path=str(tmp_path / "in"), strict=True), tmp_path / "cache")
        assert all(name in str(caught.value) for name in bad)
    for name in bad:
        (tmp_path / "in" / name).unlink()
    assert build_corpus(Folder(path=str(tmp_path / "in"), strict=True), tmp_path / "cache").clips


def test_nothing_usable_is_an_error(tmp_path):
    write_bad_files(tmp_path / "in")
    with pytest.raises(GenlabError, match="no usable audio file"):
        build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenlabError, match="no usable audio file"):
        build_corpus(Folder(path=str(tmp_path / "empty")), tmp_path / "cache")
    with pytest.raises(GenlabError, match=r"path: .* is not a directory"):
        build_corpus(Folder(path=str(tmp_path / "nowhere")), tmp_path / "cache")
    with pytest.raises(ConfigError, match="did you mean 'strict'"):
        Folder.from_dict({"path": "x", "strikt": True})


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_manifest(tmp_path, delimiter):
    rows = write_tones(tmp_path / "in", 4)
    rows[0][2:5] = ["Zoë", "test", "CC BY 4.0"]
    rows[1][3] = "dev"
    write_table(tmp_path / "in" / "list.csv", rows, delimiter=delimiter)
    manifest = build_corpus(Folder(path=str(tmp_path / "in"), manifest="list.csv"), tmp_path / "cache")
    clip = next(clip for clip in manifest.clips if clip.id == "amy/0.wav")
    assert (clip.text, clip.speaker, clip.split, clip.licence) == ("Text 0, please.", "Zoë", "test", "CC BY 4.0")
    assert clip.labels == {"mood": "calm"}
    assert {c.id: c.split for c in manifest.clips}["amy/1.wav"] == "valid"
    assert {c.speaker for c in manifest.clips} == {"Zoë", "amy"}


def test_manifest_lines_that_cannot_be_used_are_listed(tmp_path):
    rows = write_tones(tmp_path / "in", 4)
    rows += [["amy/9.wav", *rows[0][1:]], ["", *rows[0][1:]], rows[0], ["amy/3.wav", "a", "b", "c d", "", ""]]
    write_table(tmp_path / "in" / "list.csv", rows[:3] + rows[4:])
    with open(tmp_path / "in" / "list.csv", "a") as file:
        file.write("amy/3.wav,a,b,,,d,e,f\n")
    manifest = build_corpus(Folder(path=str(tmp_path / "in"), manifest="list.csv"), tmp_path / "cache")
    assert len(manifest.clips) == 3
    text = ImportReport.load(manifest.root).summary()
    for part in ("file not found", "field path is empty", "listed twice", "split 'c d'", "more fields than the header"):
        assert part in text, text


def test_jsonl_manifest(tmp_path):
    write_tones(tmp_path / "in", 3)
    lines = [json.dumps({"path": f"amy/{n}.wav", "text": f"t {n}", "speaker": "s", "take": n}) for n in range(3)]
    (tmp_path / "in" / "m.jsonl").write_text("\n".join([*lines, "", "{broken", "[1]"]), encoding="utf-8-sig")
    manifest = build_corpus(Folder(path=str(tmp_path / "in"), manifest="m.jsonl"), tmp_path / "cache")
    assert [(c.text, c.speaker, c.labels) for c in manifest.clips] == [(f"t {n}", "s", {"take": n}) for n in range(3)]
    report = ImportReport.load(manifest.root)
    assert [item.path for item in report.skipped] == ["m.jsonl line 5", "m.jsonl line 6"]


def test_unusable_manifests(tmp_path):
    write_tones(tmp_path / "in", 1)
    (tmp_path / "in" / "a.csv").write_text("file,text\nx.wav,hello\n")
    (tmp_path / "in" / "b.csv").write_bytes("path,text\nx.wav,\xff\n".encode("latin-1"))
    for name, part in (("a.csv", "no column 'path', found file, text"), ("b.csv", "not UTF-8"), ("c.csv", "not found")):
        with pytest.raises(GenlabError, match=part):
            build_corpus(Folder(path=str(tmp_path / "in"), manifest=name), tmp_path / "cache")


def test_given_splits_may_not_share_texts(tmp_path):
    rows = write_tones(tmp_path / "in", 6)
    for row, split in zip(rows, ["train", "train", "train", "test", "valid", "train"]):
        row[3] = split
    rows[5][1] = rows[3][1].upper()
    write_table(tmp_path / "in" / "m.csv", rows)
    manifest = build_corpus(Folder(path=str(tmp_path / "in"), manifest="m.csv"), tmp_path / "cache")
    assert len(manifest.split("train")) == 3
    assert [i.reason for i in ImportReport.load(manifest.root).skipped] == ["its text also occurs in split 'test'"]
    kept = build_corpus(Folder(path=str(tmp_path / "in"), manifest="m.csv", shared_texts=True), tmp_path / "cache")
    assert len(kept.split("train")) == 4
    for row in rows:
        row[1] = "same"
    write_table(tmp_path / "in" / "same.csv", rows)
    with pytest.raises(GenlabError, match="shared_texts"):
        build_corpus(Folder(path=str(tmp_path / "in"), manifest="same.csv"), tmp_path / "cache")


def test_cache_follows_the_files_and_not_their_place(tmp_path):
    write_tones(tmp_path / "in", 3)
    first = build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache")
    (tmp_path / "moved").mkdir()
    (tmp_path / "in").rename(tmp_path / "moved" / "in")
    again = build_corpus(Folder(path=str(tmp_path / "moved" / "in")), tmp_path / "cache")
    assert again.root == first.root
    soundfile.write(tmp_path / "moved" / "in" / "amy" / "0.wav", tone(0.7), 16_000)
    changed = build_corpus(Folder(path=str(tmp_path / "moved" / "in")), tmp_path / "cache")
    assert changed.root != first.root and changed.hash() != first.hash()
    assert np.isclose(max(clip.duration_s for clip in changed.clips), 0.7)


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="file names must be text there")
def test_file_name_that_is_not_text(tmp_path):
    write_tones(tmp_path / "in", 2)
    os.rename(tmp_path / "in" / "amy" / "1.wav", os.fsencode(tmp_path / "in" / "amy") + b"/\xff1.wav")
    manifest = build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache")
    assert len(manifest.clips) == 2
    json.dumps([clip.id for clip in manifest.clips], ensure_ascii=False).encode("utf-8")
