"""Chorales: excerpts hold what the score says, and what is rendered has those pitches."""

import importlib.util

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.data import chorales
from genlab.data.chorales import Note, Score, cut_excerpts, find_soundfont, render, require_packages
from genlab.data.corpus import Chorales, build_corpus

SCORE = Score(
    work="bwv1",
    key="C major",
    meter="4/4",
    quarters=9.0,
    notes=[Note(0.0, 3.0, 60, 3), Note(3.0, 2.0, 72, 0), Note(4.0, 1.5, 64, 1)],
    chords=[(0.0, "C", "I"), (3.0, "F", "IV"), (6.0, "G", "V")],
)


def soundfont():
    """Return the soundfont of this machine, or skip."""
    try:
        found = find_soundfont()
        require_packages()
    except GenlabError as error:
        pytest.skip(str(error))
    return found


def test_excerpts_cut_what_crosses_their_borders():
    first, second = cut_excerpts(SCORE, 4, 9, "train")
    assert (first.id, first.speaker, first.split) == ("bwv1-000", "strings", "train")
    assert first.labels["bpm"] == 84 and first.labels["instrument"] == "strings"
    beat_s = 60 / 84
    assert first.labels["notes"] == [
        [0.0, round(3 * beat_s, 4), 60, 3],
        [round(3 * beat_s, 4), round(beat_s, 4), 72, 0],
    ]
    assert second.labels["notes"] == [
        [0.0, round(beat_s, 4), 72, 0],
        [0.0, round(1.5 * beat_s, 4), 64, 1],
    ]
    assert first.labels["chords"] == [[0.0, "C", "I"], [round(3 * beat_s, 4), "F", "IV"]]
    assert second.labels["chords"] == [[0.0, "F", "IV"], [round(2 * beat_s, 4), "G", "V"]]
    assert second.labels["beats_s"] == [round(n * beat_s, 4) for n in range(4)]
    assert second.labels["seconds"] == round(4 * beat_s + 0.3, 4)


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("GENLAB_SOUNDFONT", raising=False)
    monkeypatch.setattr(chorales, "SOUNDFONTS", ())
    with pytest.raises(GenlabError, match=r"apt-get install musescore-general-soundfont-small"):
        find_soundfont()
    with pytest.raises(GenlabError, match=r"data\.corpus\.soundfont: '.*none\.sf2' is no file"):
        find_soundfont(str(tmp_path / "none.sf2"))
    (tmp_path / "my.sf2").write_bytes(b"")
    monkeypatch.setenv("GENLAB_SOUNDFONT", str(tmp_path / "my.sf2"))
    assert find_soundfont() == tmp_path / "my.sf2"
    for missing, told in (("music21", "music"), ("tinysoundfont", "--no-deps tinysoundfont")):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, lost=missing: None if name == lost else True
        )
        with pytest.raises(GenlabError, match=f"package '{missing}' is not installed.*{told}"):
            build_corpus(Chorales(), tmp_path)


def test_a_note_has_its_pitch_and_bytes_repeat():
    font = soundfont()
    first = render(font, [[0.0, 0.9, 69, 0]], chorales.ENSEMBLES["organ"], 1.0)
    assert len(first) == 16_000 and np.abs(first).max() == pytest.approx(0.5)
    power = np.abs(np.fft.rfft(first[:14_000] * np.hanning(14_000)))
    harmonic = np.fft.rfftfreq(14_000, 1 / 16_000)[power.argmax()] / 440.0
    assert harmonic == pytest.approx(round(harmonic), rel=0.03) and round(harmonic) in (1, 2, 4)
    render(font, [[0.0, 0.9, 50, 1]], chorales.ENSEMBLES["piano"], 1.0)
    again = render(font, [[0.0, 0.9, 69, 0]], chorales.ENSEMBLES["organ"], 1.0)
    assert (first == again).all()


def test_they_are_a_corpus(tmp_path):
    soundfont()
    manifest = build_corpus(Chorales(pieces=3, beats=8), tmp_path)
    split_of = {}
    for clip in manifest.clips:
        split_of.setdefault(clip.labels["piece"], set()).add(clip.split)
    assert sorted(map(sorted, split_of.values())) == [["test"], ["train"], ["valid"]]
    assert all(clip.speaker == clip.labels["instrument"] for clip in manifest.clips)
    assert manifest.speakers == ("choir", "organ", "strings") and len(manifest.clips) > 10
