"""WebDataset shards: every recording is used or listed, and no member writes anywhere."""

import io
import json
import tarfile

import pytest
import soundfile
from bad_audio import tone

from genlab.config import GenlabError
from genlab.data import folder
from genlab.data.corpus import Folder, Shards, build_corpus
from genlab.data.folder import ImportReport


def sound(number, suffix=".flac"):
    out = io.BytesIO()
    form = {".flac": "FLAC", ".wav": "WAV", ".ogg": "OGG"}[suffix]
    soundfile.write(out, tone(0.3, 16_000, 150.0 + 10 * number), 16_000, format=form)
    return out.getvalue()


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                content = b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def skipped_of(manifest):
    return {item.path: item.reason for item in ImportReport.load(manifest.root).skipped}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_with_all_that_lies_beside_them(tmp_path, form):
    for shard in range(2):
        members = []
        for number in range(6):
            key, place = f"./set/{shard}{number:05d}", 6 * shard + number
            row = {"speaker": f"s{number % 2}", "rate": 1.5, "text": f"text {place}"}
            members += [(f"{key}.flac", sound(place)), (f"{key}.json", json.dumps(row).encode())]
        write_tar(tmp_path / "in" / f"shard-{shard:06d}.tar", members, form)
    manifest = build_corpus(Shards(path=str(tmp_path / "in")), tmp_path / "cache")
    assert len(manifest.clips) == 12 and manifest.speakers == ("s0", "s1")
    clip = next(clip for clip in manifest.clips if clip.id.endswith("set/100003.flac"))
    assert clip.id == "shard-000001.tar/set/100003.flac"
    assert (clip.text, clip.speaker, clip.labels) == ("text 9", "s1", {"rate": 1.5})
    expected = soundfile.read(io.BytesIO(sound(9)), dtype="int16")[0]
    assert abs(manifest.audio(clip).astype(int) - expected).max() <= 1
    assert set(manifest.splits) == {"train", "valid", "test"}
    assert skipped_of(manifest) == {}
    made = {path.name for path in manifest.root.rglob("*") if path.is_file()}
    assert not any("recording" in name for name in made)


def test_text_and_class_files_and_splits_of_names(tmp_path):
    for split, start in (("train", 0), ("val", 4), ("test", 8)):
        members = []
        for number in range(start, start + 4):
            members += [
                (f"{number}.wav", sound(number, ".wav")),
                (f"{number}.txt", f"word {number}".encode()),
                (f"{number}.cls", str(number % 3).encode()),
            ]
        write_tar(tmp_path / "in" / f"{split}-000.tar", members)
    manifest = build_corpus(Shards(path=str(tmp_path / "in")), tmp_path / "cache")
    assert {clip.text: clip.split for clip in manifest.clips} == {
        f"word {n}": ("train", "valid", "test")[n // 4] for n in range(12)
    }
    assert manifest.speakers == ("0", "1", "2")
    assert {clip.labels["label"] for clip in manifest.clips} == {"0", "1", "2"}
    assert ImportReport.load(manifest.root).notes == (
        "splits are taken from the names of 3 archives",
    )
    alone = build_corpus(Shards(path=str(tmp_path / "in/train-000.tar")), tmp_path / "cache")
    assert len(alone.clips) == 4 and set(alone.splits) == {"train"}


def test_what_cannot_be_used_is_listed_and_writes_nowhere(tmp_path):
    good = [(f"{number}.flac", sound(number)) for number in range(6)]
    evil = str(tmp_path / "evil.flac")
    write_tar(
        tmp_path / "in" / "a.tar",
        [
            *good,
            (evil, sound(20)),
            ("../evil.flac", sound(21)),
            ("link.flac", (tarfile.SYMTYPE, "/etc/passwd")),
            ("noise.flac", b"no audio"),
            ("odd.wav", sound(22)),
            ("stereo.mix.flac", sound(23)),
            ("stereo.voice.flac", sound(24)),
            ("0.json", b"{"),
            ("1.json", b"[1]"),
            ("2.json", json.dumps({"text": "x", "path": "/etc/passwd"}).encode()),
            ("3.txt", b"\xff\xfe"),
            ("lonely.json", b"{}"),
            ("4.jpg", b"..."),
            ("5.flac", sound(25)),
        ],
    )
    cut = tmp_path / "in" / "b.tar"
    write_tar(cut, [("b0.flac", sound(30)), ("b1.flac", sound(31))])
    cut.write_bytes(cut.read_bytes()[: 512 * 2 + len(sound(30)) + 600])
    (tmp_path / "in" / "c.tar").write_bytes(b"no archive at all" * 100)
    (tmp_path / "in" / "d.tar.gz").write_bytes(b"\x1f\x8b")
    manifest = build_corpus(Shards(path=str(tmp_path / "in")), tmp_path / "cache")
    assert {clip.id for clip in manifest.clips} == {
        *(f"a.tar/{n}.flac" for n in (2, 4, 5)),
        *("a.tar/stereo.mix.flac", "b.tar/b0.flac"),
    }
    [renamed] = [clip for clip in manifest.clips if clip.text == "x"]
    assert renamed.labels == {"source_path": "/etc/passwd"}
    found = skipped_of(manifest)
    leads = "its name leads out of the archive"
    assert {name: reason[:60] for name, reason in found.items()} == {
        f"a.tar/{evil}": leads,
        "a.tar/../evil.flac": leads,
        "a.tar/link.flac": "a link, not a file",
        "a.tar/noise.flac": "not readable as audio: Format not recognised",
        "a.tar/odd.wav": "wrong extension: the content is FLAC, not .wav",
        "a.tar/stereo.voice.flac": "a second recording of sample 'stereo.mix.flac'",
        "a.tar/0.flac": found["a.tar/0.flac"][:60],
        "a.tar/1.flac": "1.json: not a JSON object",
        "a.tar/3.flac": found["a.tar/3.flac"][:60],
        "a.tar/lonely.json": "no recording of that name",
        "a.tar/5.flac": "listed twice, the first is used",
        "b.tar": found["b.tar"][:60],
        "b.tar/b1.flac": "the archive is cut short within it",
        "c.tar": found["c.tar"][:60],
        "d.tar.gz": "compressed: decompress it, shards are plain .tar archives",
    }
    assert found["a.tar/0.flac"].startswith("0.json: not JSON")
    assert "is not UTF-8" in found["a.tar/3.flac"]
    assert found["b.tar"].startswith("cut short") and "no tar archive" in found["c.tar"]
    assert "1 member ignored (.jpg)" in ImportReport.load(manifest.root).notes
    assert not list(tmp_path.rglob("evil.flac"))
    with pytest.raises(GenlabError, match="refused because strict=true"):
        build_corpus(Shards(path=str(tmp_path / "in"), strict=True), tmp_path / "cache")


def test_a_changed_archive_is_another_corpus(tmp_path):
    write_tar(tmp_path / "in" / "a.tar", [(f"{n}.flac", sound(n)) for n in range(4)])
    config = Shards(path=str(tmp_path / "in"))
    first = build_corpus(config, tmp_path / "cache")
    assert build_corpus(config, tmp_path / "cache").root == first.root
    write_tar(tmp_path / "in" / "a.tar", [(f"{n}.flac", sound(n + 9)) for n in range(4)])
    assert build_corpus(config, tmp_path / "cache").root != first.root


def test_a_member_cut_short_is_skipped(tmp_path, monkeypatch):
    """The archive shrinks between the listing and the import."""
    write_tar(tmp_path / "in" / "a.tar", [(f"{n}.flac", sound(n)) for n in range(4)])
    config, real = Shards(path=str(tmp_path / "in")), folder._convert

    def shrink(config, root, row, target):
        if row.path.endswith("3.flac"):
            (tmp_path / "in" / "a.tar").write_bytes(b"")
        return real(config, root, row, target)

    monkeypatch.setattr(folder, "_convert", shrink)
    manifest = build_corpus(config, tmp_path / "cache")
    assert skipped_of(manifest)["a.tar/3.flac"] in (
        "the archive has no such member any more",
        "the archive is cut short within it",
    )


def test_what_is_no_shards(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(GenlabError, match="does not look like Shards"):
        build_corpus(Shards(path=str(tmp_path / "in")), tmp_path / "cache")
    write_tar(tmp_path / "in" / "a.tar", [("a.jpg", b"1")])
    with pytest.raises(GenlabError, match="does not look like Shards"):
        build_corpus(Shards(path=str(tmp_path / "in")), tmp_path / "cache")
    with pytest.raises(GenlabError, match="is not a directory"):
        build_corpus(Folder(path=str(tmp_path / "in/a.tar")), tmp_path / "cache")
