import pytest
import soundfile
from bad_audio import tone

from genlab.config import GenlabError
from genlab.data.corpus import FSDD, VCTK, LibriSpeech, LJSpeech, build_corpus
from genlab.data.folder import ImportReport


def write_tone(path, number, sample_rate_hz=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(0.3, sample_rate_hz, 150.0 + 10 * number), sample_rate_hz)


def write_librispeech(root, subsets):
    number = 0
    for subset in subsets:
        for speaker, chapter in (("103", "1240"), ("26", "495")):
            speaker = f"{speaker}{len(subset)}"
            folder = root / "LibriSpeech" / subset / speaker / chapter
            lines = []
            for index in range(3):
                name = f"{speaker}-{chapter}-{index:04d}"
                write_tone(folder / f"{name}.flac", number)
                lines.append(f"{name} CHAPTER {subset.upper()} SENTENCE {index} O'ER {speaker}")
                number += 1
            (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text(
        "; comment\n10315 | F | train-clean-100 | 25.03 | A Name\n"
    )


def test_librispeech_official_split(tmp_path):
    write_librispeech(tmp_path / "in", ("train-clean-100", "dev-clean", "test-other"))
    folder = tmp_path / "in" / "LibriSpeech" / "train-clean-100" / "10315" / "1240"
    write_tone(folder / "10315-1240-0009.flac", 9)
    (folder / "10315-1240-0000.flac").unlink()
    manifest = build_corpus(LibriSpeech(path=str(tmp_path / "in")), tmp_path / "cache")
    assert {c.labels["subset"]: c.split for c in manifest.clips} == {
        "train-clean-100": "train",
        "dev-clean": "valid",
        "test-other": "test",
    }
    clip = next(c for c in manifest.clips if c.id == "10315-1240-0001")
    assert clip.text == "CHAPTER TRAIN-CLEAN-100 SENTENCE 1 O'ER 10315"
    assert (clip.speaker, clip.licence, clip.labels["gender"]) == ("10315", "CC BY 4.0", "F")
    assert len(manifest.clips) == 17
    reasons = sorted(item.reason for item in ImportReport.load(manifest.root).skipped)
    assert reasons == ["file not found", "no transcript"]


def test_librispeech_one_subset_is_divided_by_text(tmp_path):
    write_librispeech(tmp_path / "in", ("train-clean-100", "dev-clean"))
    config = LibriSpeech(path=str(tmp_path / "in" / "LibriSpeech"), subsets=("dev-clean",))
    manifest = build_corpus(config, tmp_path / "cache")
    assert set(manifest.splits) == {"train", "valid", "test"} and len(manifest.clips) == 6
    with pytest.raises(GenlabError, match="subsets: 'train-nope'"):
        build_corpus(config.override(['subsets=["train-nope"]']), tmp_path / "cache")


def test_ljspeech(tmp_path):
    root = tmp_path / "LJSpeech-1.1"
    for number in range(5):
        write_tone(root / "wavs" / f"LJ001-000{number}.wav", number, 22_050)
    lines = [f'LJ001-000{n}|He said "{n}"|He said "{n} shillings"' for n in range(4)]
    (root / "metadata.csv").write_text("\n".join([*lines, "garbage"]), encoding="utf-8")
    manifest = build_corpus(LJSpeech(path=str(tmp_path)), tmp_path / "cache")
    assert [c.text for c in manifest.clips] == [f'He said "{n} shillings"' for n in range(4)]
    assert manifest.speakers == ("LJ",) and all(c.num_samples == 4_800 for c in manifest.clips)
    skipped = {item.path: item.reason for item in ImportReport.load(manifest.root).skipped}
    assert skipped == {
        "metadata.csv line 5": "expected ID|TEXT|NORMALISED TEXT",
        "LJSpeech-1.1/wavs/LJ001-0004.wav": "no transcript",
    }


def write_vctk_texts(root, skip):
    for speaker in ("p225", "p226"):
        for number in range(1, 5):
            if (speaker, number) != skip:
                path = root / "txt" / speaker / f"{speaker}_{number:03d}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"Please call Stella {number}.\n")


def test_vctk_092(tmp_path):
    root = tmp_path / "VCTK"
    for speaker in ("p225", "p226"):
        for number in range(1, 5):
            for microphone in ("mic1", "mic2"):
                path = (
                    root
                    / "wav48_silence_trimmed"
                    / speaker
                    / f"{speaker}_{number:03d}_{microphone}.flac"
                )
                write_tone(path, number, 48_000)
    write_vctk_texts(root, skip=("p226", 4))
    manifest = build_corpus(VCTK(path=str(root)), tmp_path / "cache")
    assert {c.id for c in manifest.clips} == {f"p225_00{n}" for n in (1, 2, 3, 4)} | {
        f"p226_00{n}" for n in (1, 2, 3)
    }
    by_text = {}
    for clip in manifest.clips:
        by_text.setdefault(clip.text, set()).add(clip.split)
    assert all(len(splits) == 1 for splits in by_text.values()) and len(by_text) == 4
    assert (
        ImportReport.load(manifest.root).skipped[0].reason == "no transcript txt/p226/p226_004.txt"
    )
    held = build_corpus(
        VCTK(path=str(root), microphone="mic2", held_out_speakers=("p226",)), tmp_path / "cache"
    )
    assert {c.speaker for c in held.split("test_speaker")} == {"p226"}
    assert "p226" not in {c.speaker for c in held.clips if c.split != "test_speaker"}


def test_vctk_080(tmp_path):
    root = tmp_path / "VCTK-Corpus"
    for speaker in ("p225", "p226"):
        for number in range(1, 5):
            write_tone(root / "wav48" / speaker / f"{speaker}_{number:03d}.wav", number, 48_000)
    write_vctk_texts(root, skip=None)
    manifest = build_corpus(VCTK(path=str(tmp_path)), tmp_path / "cache")
    assert len(manifest.clips) == 8 and manifest.speakers == ("p225", "p226")


def test_fsdd(tmp_path):
    for digit in (0, 7):
        for speaker in ("jackson", "george_b"):
            for index in range(10):
                write_tone(
                    tmp_path / "in" / "recordings" / f"{digit}_{speaker}_{index}.wav",
                    index + 20 * digit,
                    8_000,
                )
    write_tone(tmp_path / "in" / "recordings" / "x_jackson.wav", 0)
    manifest = build_corpus(FSDD(path=str(tmp_path / "in")), tmp_path / "cache")
    assert manifest.texts == ("seven", "zero") and manifest.speakers == ("george_b", "jackson")
    assert {s: len(manifest.split(s)) for s in manifest.splits} == {
        "test": 20,
        "train": 8,
        "valid": 12,
    }
    assert all((c.labels["index"] < 5) == (c.split == "test") for c in manifest.clips)
    assert (
        ImportReport.load(manifest.root).skipped[0].reason == "name is not DIGIT_SPEAKER_INDEX.wav"
    )


@pytest.mark.parametrize("config", [LibriSpeech, LJSpeech, VCTK, FSDD])
def test_wrong_directory_is_named(tmp_path, config):
    write_tone(tmp_path / "in" / "a" / "b.wav", 0)
    with pytest.raises(GenlabError, match=f"does not look like {config.__name__}, expected"):
        build_corpus(config(path=str(tmp_path / "in")), tmp_path / "cache")


def test_transcripts_that_cannot_be_read_cost_themselves_only(tmp_path):
    root = tmp_path / "VCTK-Corpus"
    for number in range(1, 5):
        write_tone(root / "wav48" / "p225" / f"p225_{number:03d}.wav", number)
    texts = root / "txt" / "p225"
    texts.mkdir(parents=True)
    (texts / "p225_001.txt").write_bytes(b"caf\xe9\n")
    (texts / "p225_002.txt").mkdir()
    (texts / "p225_003.txt").write_text("one\u2028line")
    (texts / "p225_004.txt").write_text("two\nlines")
    manifest = build_corpus(VCTK(path=str(tmp_path)), tmp_path / "cache")
    assert {clip.id: clip.text for clip in manifest.clips} == {
        "p225_003": "one\u2028line",
        "p225_004": "two lines",
    }
    assert {item.path: item.reason for item in ImportReport.load(manifest.root).skipped} == {
        "VCTK-Corpus/txt/p225/p225_002.txt": "cannot be read: a folder",
        "VCTK-Corpus/wav48/p225/p225_001.wav": "its text is not UTF-8 text: save the file as UTF-8",
    }
