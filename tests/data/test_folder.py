import csv
import json
import os
import shutil
import sys

import numpy as np
import pytest
import soundfile
from bad_audio import tone, write_bad_files, write_good_files

from genlab.config import ConfigError, GenlabError
from genlab.data.corpus import Folder, build_corpus
from genlab.data.folder import ImportReport
from genlab.data.manifest import overlap_of_splits


def write_table(path, rows, **options):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **options)
        writer.writerows([["path", "text", "speaker", "split", "licence", "mood"], *rows])


def write_tones(folder, count, speaker="amy"):
    (folder / speaker).mkdir(parents=True)
    for number in range(count):
        soundfile.write(
            folder / speaker / f"{number}.wav", tone(frequency_hz=200.0 + number), 16_000
        )
    return [
        [f"{speaker}/{number}.wav", f"Text {number}, please.", "", "", "", "calm"]
        for number in range(count)
    ]


def test_tree_without_a_manifest(tmp_path, capsys):
    good, bad = write_good_files(tmp_path / "in" / "amy"), write_bad_files(tmp_path / "in" / "bob")
    (tmp_path / "in" / "notes.txt").write_text("x")
    soundfile.write(tmp_path / "in" / ".hidden.wav", tone(), 16_000)
    manifest = build_corpus(Folder(path=str(tmp_path / "in"), licence="CC0"), tmp_path / "cache")
    assert {clip.id for clip in manifest.clips} == {f"amy/{name}" for name in good}
    assert {clip.speaker for clip in manifest.clips} == {"amy", "päth with späce"}
    assert all(
        clip.text == "" and clip.licence == "CC0" and len(clip.audio_digest) == 10
        for clip in manifest.clips
    )
    for clip in manifest.clips:
        assert soundfile.info(manifest.root / clip.path).samplerate == 16_000
        assert len(manifest.audio(clip)) == clip.num_samples
    report = ImportReport.load(manifest.root)
    reasons = {item.path: item.reason for item in report.skipped}
    assert set(reasons) == {f"bob/{name}" for name in bad}
    assert all(part in reasons[f"bob/{name}"] for name, part in bad.items())
    assert report.used == len(good) and report.notes == (
        "1 hidden file or folder not read (for example .hidden.wav): the name begins with a dot",
        "1 other file ignored (.txt)",
    )
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
        assert " skipped; " in str(caught.value)  # one line, and still a list
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
    manifest = build_corpus(
        Folder(path=str(tmp_path / "in"), manifest="list.csv"), tmp_path / "cache"
    )
    clip = next(clip for clip in manifest.clips if clip.id == "amy/0.wav")
    assert (clip.text, clip.speaker, clip.split, clip.licence) == (
        "Text 0, please.",
        "Zoë",
        "test",
        "CC BY 4.0",
    )
    assert clip.labels == {"mood": "calm"}
    assert {c.id: c.split for c in manifest.clips}["amy/1.wav"] == "valid"
    assert {c.speaker for c in manifest.clips} == {"Zoë", "amy"}


def test_manifest_lines_that_cannot_be_used_are_listed(tmp_path):
    rows = write_tones(tmp_path / "in", 4)
    rows += [
        ["amy/9.wav", *rows[0][1:]],
        ["", *rows[0][1:]],
        rows[0],
        ["amy/3.wav", "a", "b", "c d", "", ""],
    ]
    write_table(tmp_path / "in" / "list.csv", rows[:3] + rows[4:])
    with open(tmp_path / "in" / "list.csv", "a") as file:
        file.write("amy/3.wav,a,b,,,d,e,f\n")
    manifest = build_corpus(
        Folder(path=str(tmp_path / "in"), manifest="list.csv"), tmp_path / "cache"
    )
    assert len(manifest.clips) == 3
    text = ImportReport.load(manifest.root).summary()
    for part in (
        "file not found",
        "field path is empty",
        "listed twice",
        "split 'c d'",
        "more fields than the header",
    ):
        assert part in text, text


def test_jsonl_manifest(tmp_path):
    write_tones(tmp_path / "in", 3)
    lines = [
        json.dumps({"path": f"amy/{n}.wav", "text": f"t {n}", "speaker": "s", "take": n})
        for n in range(3)
    ]
    (tmp_path / "in" / "m.jsonl").write_text(
        "\n".join([*lines, "", "{broken", "[1]"]), encoding="utf-8-sig"
    )
    manifest = build_corpus(
        Folder(path=str(tmp_path / "in"), manifest="m.jsonl"), tmp_path / "cache"
    )
    assert [(c.text, c.speaker, c.labels) for c in manifest.clips] == [
        (f"t {n}", "s", {"take": n}) for n in range(3)
    ]
    report = ImportReport.load(manifest.root)
    assert [item.path for item in report.skipped] == ["m.jsonl line 5", "m.jsonl line 6"]


def test_unusable_manifests(tmp_path):
    write_tones(tmp_path / "in", 1)
    (tmp_path / "in" / "a.csv").write_text("file,text\nx.wav,hello\n")
    (tmp_path / "in" / "b.csv").write_bytes("path,text\nx.wav,\xff\n".encode("latin-1"))
    for name, part in (
        ("a.csv", "no column 'path', found file, text"),
        ("b.csv", "not UTF-8"),
        ("c.csv", "not found"),
    ):
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
    assert [i.reason for i in ImportReport.load(manifest.root).skipped] == [
        "its text also occurs in split 'test'"
    ]
    kept = build_corpus(
        Folder(path=str(tmp_path / "in"), manifest="m.csv", shared_texts=True), tmp_path / "cache"
    )
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
def test_other_recordings_of_the_same_names_lengths_and_times_are_another_corpus(tmp_path):
    # As two versions of a data set are, or a clean and a noisy one, that were packed alike.
    found = []
    for number, name in enumerate(("clean", "noisy")):
        folder = tmp_path / name
        folder.mkdir()
        for clip in range(4):
            tone = np.random.default_rng(9 * number + clip).normal(0, 0.1, 8000)
            soundfile.write(folder / f"{clip}.wav", tone, 16_000)
            os.utime(folder / f"{clip}.wav", (0, 0))
        found.append(build_corpus(Folder(path=str(folder)), tmp_path / "cache"))
    assert found[0].root != found[1].root and found[0].hash() != found[1].hash()


def test_file_name_that_is_not_text(tmp_path):
    write_tones(tmp_path / "in", 2)
    os.rename(
        tmp_path / "in" / "amy" / "1.wav", os.fsencode(tmp_path / "in" / "amy") + b"/\xff1.wav"
    )
    manifest = build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache")
    assert len(manifest.clips) == 2
    json.dumps([clip.id for clip in manifest.clips], ensure_ascii=False).encode("utf-8")


def report_of(manifest):
    return {item.path: item.reason for item in ImportReport.load(manifest.root).skipped}


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_linked_folders_are_followed_once(tmp_path):
    write_tones(tmp_path / "in", 2, "amy")
    write_tones(tmp_path / "elsewhere", 3, "bob")
    soundfile.write(tmp_path / "elsewhere" / "bob" / "2.wav", tone(0.7), 16_000)
    (tmp_path / "elsewhere" / "bob" / "0.wav").unlink()
    (tmp_path / "elsewhere" / "bob" / "1.wav").unlink()
    os.symlink(tmp_path / "elsewhere" / "bob", tmp_path / "in" / "bob")
    os.symlink(tmp_path / "elsewhere" / "bob", tmp_path / "in" / "bob again")
    os.symlink(tmp_path / "in" / "amy", tmp_path / "in" / "a link to amy")
    os.symlink(tmp_path / "in", tmp_path / "in" / "amy" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "in" / "broken")
    os.symlink(tmp_path / "in" / "amy" / "0.wav", tmp_path / "in" / "twice.wav")
    os.mkfifo(tmp_path / "in" / "pipe.wav")
    manifest = build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache")
    assert {clip.id for clip in manifest.clips} == {"twice.wav", "amy/1.wav", "bob/2.wav"}
    assert set(manifest.speakers) == {"in", "amy", "bob"}
    reasons = report_of(manifest)
    assert reasons["pipe.wav"] == "not a regular file"
    assert (
        reasons["amy/0.wav"]
        == "listed twice, the first is used: it is the same file as 'twice.wav'"
    )
    notes = "; ".join(ImportReport.load(manifest.root).notes)
    for name in ("bob again", "a link to amy", "amy/loop"):
        assert f"{name}: a link to a folder that is listed anyway" in notes


def test_the_name_of_the_current_folder_is_a_speaker(tmp_path, monkeypatch):
    write_tones(tmp_path / "in", 2, "amy")
    monkeypatch.chdir(tmp_path / "in" / "amy")
    manifest = build_corpus(Folder(path="."), tmp_path / "cache")
    assert manifest.speakers == ("amy",)
    for path in ("", "  "):
        with pytest.raises(
            GenlabError, match="is empty, expected the folder that holds the corpus"
        ):
            build_corpus(Folder(path=path), tmp_path / "cache")
    with pytest.raises(GenlabError, match="is not a directory"):
        build_corpus(Folder(path="~nobody_of_that_name/x"), tmp_path / "cache")


def test_built_corpora_inside_the_folder_are_not_recordings(tmp_path):
    write_tones(tmp_path / "in", 2, "amy")
    config = Folder(path=str(tmp_path / "in"))
    first = build_corpus(config, tmp_path / "in" / "cache")
    again = build_corpus(config, tmp_path / "in" / "cache")
    assert again.root == first.root and len(again.clips) == 2


def write_split_table(folder, rows):
    lines = ["path,text,split", *(",".join(row) for row in rows)]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")


def test_a_recording_is_in_one_split_only(tmp_path):
    folder = tmp_path / "in" / "amy"
    write_tones(tmp_path / "in", 6)
    shutil.copy(folder / "1.wav", folder / "copy.wav")
    samples, rate = soundfile.read(folder / "3.wav", dtype="int16")
    soundfile.write(folder / "other format.flac", samples, rate)
    rows = [
        ("amy/0.wav", "a", "train"),
        ("amy/./0.wav", "b", "test"),
        ("amy/1.wav", "c", "train"),
        ("amy/copy.wav", "d", "test"),
        ("amy/2.wav", "e", "train"),
        ("amy/3.wav", "f", "validation"),
        ("amy/other format.flac", "g", "test"),
        ("amy/4.wav", "h", "test"),
        ("amy/5.wav", "i", "valid"),
    ]
    write_split_table(tmp_path / "in", rows)
    config = Folder(path=str(tmp_path / "in"), manifest="m.csv")
    manifest = build_corpus(config, tmp_path / "cache")
    assert overlap_of_splits(manifest.clips) == []
    assert {clip.id: clip.split for clip in manifest.clips} == {
        "amy/0.wav": "train",
        "amy/2.wav": "train",
        "amy/copy.wav": "test",
        "amy/other format.flac": "test",
        "amy/4.wav": "test",
        "amy/5.wav": "valid",
    }
    first = "listed twice, the first is used: it is the same file as 'amy/0.wav' in split 'train'"
    assert report_of(manifest) == {
        "amy/./0.wav": first,
        "amy/1.wav": "same recording as 'amy/copy.wav' in split 'test': not used in 'train'",
        "amy/3.wav": "same recording as 'amy/other format.flac' in split 'test': "
        "not used in 'valid'",
    }
    with pytest.raises(GenlabError, match="strict=true") as caught:
        build_corpus(config.override(["strict=true"]), tmp_path / "cache")
    assert "amy/copy.wav" in str(caught.value)


def test_drawn_copies_stay_together(tmp_path):
    write_tones(tmp_path / "in", 20)
    for number in range(20):
        source = tmp_path / "in" / "amy" / f"{number}.wav"
        shutil.copy(source, source.with_name(f"copy {number}.wav"))
    config = Folder(path=str(tmp_path / "in"), test_fraction=0.3, valid_fraction=0.3, strict=True)
    manifest = build_corpus(config, tmp_path / "cache")
    assert len(manifest.clips) == 40 and set(manifest.splits) == {"train", "valid", "test"}
    assert overlap_of_splits(manifest.clips) == []
    assert ImportReport.load(manifest.root).copies == 20


def test_parts_of_one_file(tmp_path):
    (tmp_path / "in").mkdir()
    wave = np.random.default_rng(0).normal(0, 0.1, 64_000)
    soundfile.write(tmp_path / "in" / "long.wav", wave, 16_000)
    rows = [
        {"audio_filepath": "long.wav", "text": "a", "offset": 0, "duration": 1.0, "split": "train"},
        {
            "audio_filepath": "long.wav",
            "text": "b",
            "offset": 1.0,
            "duration": 1.0,
            "split": "train",
        },
        {
            "audio_filepath": "./long.wav",
            "text": "c",
            "offset": 1.5,
            "duration": 1.0,
            "split": "test",
        },
        {"audio_filepath": "long.wav", "text": "d", "offset": 3.0, "split": "valid"},
        {
            "audio_filepath": "long.wav",
            "text": "e",
            "offset": 3.5,
            "duration": 1.0,
            "split": "valid",
        },
    ]
    (tmp_path / "in" / "m.json").write_text("\n".join(map(json.dumps, rows)))
    config = Folder(path=str(tmp_path / "in"), manifest="m.json", max_clip_s=1.2)
    manifest = build_corpus(config, tmp_path / "cache")
    found = {clip.id: clip for clip in manifest.clips}
    assert set(found) == {"long.wav", "./long.wav@1.5+1", "long.wav@3"}
    for name, first in (("long.wav", 0), ("./long.wav@1.5+1", 24_000), ("long.wav@3", 48_000)):
        samples = manifest.audio(found[name])
        wanted = np.round(wave[first : first + 16_000] * 32_767)
        assert len(samples) == 16_000 and np.abs(samples - wanted).max() <= 2
        assert found[name].labels == {}
    assert report_of(manifest) == {
        "long.wav": "offset + duration, 4.5 s, is beyond its end, 4.000 s",
        "long.wav@1+1": "same recording as './long.wav@1.5+1' in split 'test': not used in 'train'",
    }
    notes = ImportReport.load(manifest.root).notes
    assert "rows that begin at an offset within their file: 4" in notes
    assert "files that the manifest's duration cuts short: 1" in notes


def test_one_damaged_file_does_not_stop_an_import(tmp_path):
    write_tones(tmp_path / "in", 3)
    data = bytearray((tmp_path / "in" / "amy" / "0.wav").read_bytes())
    for number, place in enumerate(range(0, 44, 2)):
        damaged = bytearray(data)
        damaged[place : place + 4] = b"\xff\xfe\xfd\x7f"
        (tmp_path / "in" / f"damaged {number}.wav").write_bytes(damaged)
    manifest = build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache")
    found = {clip.id for clip in manifest.clips} | set(report_of(manifest))
    assert len(manifest.clips) >= 3 and len(found) == 25
