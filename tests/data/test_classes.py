"""Speech Commands and ESC-50, on tiny directories of the layout that they are distributed in."""

from pathlib import Path

import pytest
import soundfile
from bad_audio import tone
from real_audio import real_audio

from genlab.config import GenlabError
from genlab.data.classes import split_of_speaker
from genlab.data.corpus import ESC50, SpeechCommands, build_corpus
from genlab.data.folder import ImportReport


def write_tone(path, number, sample_rate_hz=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(0.3, sample_rate_hz, 150.0 + 10 * number), sample_rate_hz)


def write_commands(root):
    """Write three words of four speakers; the lists hold out one speaker each."""
    speakers = ("0a7c2a8d", "b00dff7e", "c120e80e", "d0faf7e4")
    for number, word in enumerate(("bed", "cat", "happy")):
        for place, speaker in enumerate(speakers):
            write_tone(root / word / f"{speaker}_nohash_0.wav", 4 * number + place)
    write_tone(root / "_background_noise_" / "pink_noise.wav", 30)
    for name, speaker in (("validation", speakers[0]), ("testing", speakers[1])):
        lines = [f"{word}/{speaker}_nohash_0.wav" for word in ("bed", "cat", "happy")]
        (root / f"{name}_list.txt").write_text("\n".join(lines) + "\n")
    return speakers


def test_speech_commands_keeps_the_lists(tmp_path):
    speakers = write_commands(tmp_path / "in")
    (tmp_path / "in" / "bed" / "notes.txt").write_text("mine")
    (tmp_path / "in" / "cat" / f"{speakers[1]}_nohash_0.wav").unlink()
    manifest = build_corpus(SpeechCommands(path=str(tmp_path / "in")), tmp_path / "cache")
    splits = {clip.speaker: clip.split for clip in manifest.clips}
    assert splits == dict(zip(speakers, ("valid", "test", "train", "train")))
    clip = next(clip for clip in manifest.clips if clip.id == "happy/c120e80e_nohash_0")
    assert (clip.text, clip.licence) == ("happy", "CC BY 4.0")
    assert clip.labels == {"word": "happy", "take": 0}
    assert len(manifest.clips) == 11 and manifest.texts == ("bed", "cat", "happy")
    report = ImportReport.load(manifest.root)
    assert {item.path: item.reason for item in report.skipped} == {
        "bed/notes.txt": "name is not SPEAKER_nohash_TAKE.wav",
        f"cat/{speakers[1]}_nohash_0.wav": "named in testing_list.txt, but not there",
    }
    assert report.notes == ("1 recording of _background_noise_ not read: they are no words",)


def test_speech_commands_without_lists_follows_the_rule_of_the_authors(tmp_path):
    # The first speakers of the real testing_list.txt.
    for speaker in ("2aa787cf", "ffa76c4a", "24ad3ebe", "d7467392", "5828dfa2", "91223b83"):
        assert split_of_speaker(speaker) == "test"
    shares = [split_of_speaker(f"{number:08x}") for number in range(4_000)]
    assert [shares.count(name) / 4_000 for name in ("valid", "test")] == pytest.approx(
        [0.1, 0.1], abs=0.02
    )
    write_commands(tmp_path / "in")
    for name in ("validation", "testing"):
        (tmp_path / "in" / f"{name}_list.txt").unlink()
    config = SpeechCommands(path=str(tmp_path / "in"), words=("bed", "cat"))
    manifest = build_corpus(config, tmp_path / "cache")
    assert {clip.speaker: clip.split for clip in manifest.clips} == {
        clip.speaker: split_of_speaker(clip.speaker) for clip in manifest.clips
    }
    assert manifest.texts == ("bed", "cat")


def test_speech_commands_says_what_is_missing(tmp_path):
    write_commands(tmp_path / "in")
    with pytest.raises(GenlabError, match=r"words: 'dog' is not in .* found bed, cat, happy"):
        build_corpus(SpeechCommands(path=str(tmp_path / "in"), words=("dog",)), tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenlabError, match="does not look like SpeechCommands, expected WORD/"):
        build_corpus(SpeechCommands(path=str(tmp_path / "empty")), tmp_path / "cache")


def write_esc50(root):
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(20):
        fold, label = number % 5 + 1, ("dog", "rain", "clock_tick", "cow")[number // 5]
        name = f"{fold}-{100 + number}-A-{number // 5}.wav"
        write_tone(root / "audio" / name, number, 44_100)
        is_esc10 = label in ("dog", "rain", "clock_tick")
        lines.append(f"{name},{fold},{number // 5},{label},{is_esc10},{100 + number},A")
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")


def test_esc50_divides_by_fold_and_calls_the_class_a_speaker(tmp_path):
    root = tmp_path / "in" / "ESC-50-master"
    write_esc50(root)
    write_tone(root / "audio" / "stray.wav", 30)
    with open(root / "meta" / "esc50.csv", "a") as file:
        file.write("1-999-A-0.wav,1,0,dog,True,999,A\n6-1-A-0.wav,6,0,dog,True,1,A\nbroken\n")
    manifest = build_corpus(ESC50(path=str(tmp_path / "in")), tmp_path / "cache")
    assert {clip.labels["fold"]: clip.split for clip in manifest.clips} == {
        1: "train",
        2: "train",
        3: "train",
        4: "valid",
        5: "test",
    }
    assert manifest.speakers == ("clock_tick", "cow", "dog", "rain") and manifest.texts == ("",)
    clip = next(clip for clip in manifest.clips if clip.id == "1-100-A-0")
    assert clip.labels == {"label": "dog", "fold": 1, "source": "100", "take": "A"}
    # ESC-50 is published at 44.1 kHz, and kept so.
    assert clip.speaker == "dog" and clip.num_samples == 13_230
    assert {clip.speaker: clip.licence for clip in manifest.clips} == {
        "dog": "CC BY 3.0",
        "rain": "CC BY 3.0",
        "clock_tick": "CC BY 3.0",
        "cow": "CC BY-NC 3.0",
    }
    skipped = {item.path: item.reason for item in ImportReport.load(manifest.root).skipped}
    assert skipped == {
        "ESC-50-master/audio/1-999-A-0.wav": "file not found",
        "6-1-A-0.wav": "fold '6': expected 1 to 5",
        "meta/esc50.csv line 24": "expected the columns filename, fold, category, esc10, "
        "src_file, take",
        "ESC-50-master/audio/stray.wav": "not in meta/esc50.csv",
    }


def test_esc10_is_the_freer_half(tmp_path):
    write_esc50(tmp_path / "in")
    config = ESC50(path=str(tmp_path / "in"), esc10=True, valid_fold=1, test_fold=2)
    manifest = build_corpus(config, tmp_path / "cache")
    assert manifest.speakers == ("clock_tick", "dog", "rain")
    assert {clip.licence for clip in manifest.clips} == {"CC BY 3.0"}
    assert {clip.labels["fold"] for clip in manifest.split("test")} == {2}
    with pytest.raises(GenlabError, match="valid_fold=2 and test_fold=2: expected two different"):
        build_corpus(config.override(["valid_fold=2"]), tmp_path / "cache")
    with pytest.raises(GenlabError, match=r"does not look like ESC50, expected meta/esc50\.csv"):
        build_corpus(ESC50(path=str(tmp_path / "in" / "audio")), tmp_path / "cache")


def test_real_words_in_their_layout(tmp_path):
    table = real_audio("speech_commands_3") / "metadata.csv"
    names = [line.split(",")[0] for line in table.read_text().splitlines()[1:61]]
    for name in names:
        word, speaker, take = Path(name).stem.split("_")
        target = tmp_path / "in" / word / f"{speaker}_nohash_{take}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        samples, rate_hz = soundfile.read(table.parent / name)
        soundfile.write(target, samples, rate_hz)
    manifest = build_corpus(SpeechCommands(path=str(tmp_path / "in")), tmp_path / "cache")
    assert len(manifest.clips) == 60 and ImportReport.load(manifest.root).skipped == ()
    assert all(4_000 < clip.num_samples <= 16_000 for clip in manifest.clips)
    assert {(clip.labels["word"], clip.speaker) for clip in manifest.clips} == {
        tuple(Path(name).stem.split("_")[:2]) for name in names
    }
