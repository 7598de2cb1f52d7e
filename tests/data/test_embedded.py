import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from genlab.config import ConfigError, GenlabError
from genlab.data.corpus import Embedded, build_corpus
from genlab.data.embedded import (
    GAINS,
    VOICES,
    _draw_unseen,
    plan_utterances,
    predict_parts,
    render_clip,
)
from genlab.data.grammar import (
    ADVERBS,
    COLOURS,
    KIND_SHARES,
    OBJECTS,
    SENTENCES,
    VERBS,
    VOCABULARY,
    draw_kind,
    draw_text,
    grammar_jsgf,
)
from genlab.data.manifest import F0_HOP_SAMPLES

TINY = Embedded(minutes=0.25)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return build_corpus(TINY, tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def plan():
    return [clip for utterance in plan_utterances(Embedded()) for clip in utterance.clips]


def test_grammar_covers_every_text_and_word(plan):
    jsgf = grammar_jsgf()
    words = {word for clip in plan for word in clip.text.split()}
    assert words == set(VOCABULARY)
    assert all(word in jsgf for word in VOCABULARY)
    kinds = [clip.labels["kind"] for clip in plan]
    for kind, share in KIND_SHARES.items():
        assert abs(kinds.count(kind) / len(kinds) - share) < 0.06
    digits = {clip.text for clip in plan if clip.labels["kind"] == "digits"}
    assert {len(text.split()) for text in digits} == {2, 3, 4}


def test_recogniser_accepts_exactly_the_grammar(tmp_path):
    pocketsphinx = pytest.importorskip("pocketsphinx")
    path = tmp_path / "genlab.gram"
    path.write_text(grammar_jsgf(), encoding="utf-8")
    # Every word must be in the recogniser's dictionary, or loading fails.
    decoder = pocketsphinx.Decoder(jsgf=str(path), loglevel="FATAL")
    assert decoder.current_search() is not None
    assert all(decoder.lookup_word(word) for word in VOCABULARY)


def test_drawing_reaches_both_ends():
    assert draw_kind(0.0) == "digits" and draw_kind(0.9999999) == "sentence"
    assert draw_text("digits", lambda name: 0.0) == "zero zero"
    assert draw_text("digits", lambda name: 0.999) == "nine nine nine nine"
    assert draw_text("sentence", lambda name: 0.999) == SENTENCES[-1]


def test_plan_of_thirty_minutes(plan):
    train_words = {word for clip in plan if clip.split == "train" for word in clip.text.split()}
    texts = {
        split: {clip.text for clip in plan if clip.split == split}
        for split in ("train", "valid", "test")
    }
    assert train_words == set(VOCABULARY)
    assert (
        not texts["train"] & (texts["valid"] | texts["test"]) and not texts["valid"] & texts["test"]
    )
    assert min(len(texts["valid"]), len(texts["test"])) >= 25
    assert set(SENTENCES) <= texts["train"]
    for split in ("train", "valid", "test", "test_pair"):
        assert {clip.speaker for clip in plan if clip.split == split} == set(VOICES)
    total_s = sum(clip.duration_s for clip in plan)
    assert abs(total_s - 1800) < 10


def test_speaker_disjoint_split():
    clips = [
        c
        for u in plan_utterances(Embedded(minutes=3, held_out_speakers=("s2", "s6")))
        for c in u.clips
    ]
    assert {clip.speaker for clip in clips if clip.split == "test_speaker"} == {"s2", "s6"}
    assert not {"s2", "s6"} & {clip.speaker for clip in clips if clip.split != "test_speaker"}


def test_texts_of_development_are_not_held_out_again():
    def held(**values):
        clips = [clip for u in plan_utterances(Embedded(**values)) for clip in u.clips]
        return {clip.text for clip in clips if clip.split in ("valid", "test")}, clips

    seen, _ = held(minutes=30)
    # a longer corpus holds out the same texts and more, so its seed stands for both
    assert seen < held(minutes=60)[0]
    other, clips = held(minutes=30, seed=1)
    fresh, again = held(minutes=30, seed=1, developed=(0,))
    assert other & seen and fresh < other and not fresh & held(minutes=120)[0]
    assert [clip.id for clip in clips] == [clip.id for clip in again]
    # the field came later: a corpus without it is the one that was built before
    assert "developed" not in Embedded(minutes=30).recipe(None).inputs["config"]


def test_same_plan_in_another_process(manifest):
    script = (
        "import json; from genlab.data.embedded import *; from genlab.data.manifest import "
        "Manifest;clips = [c for u in plan_utterances(Embedded(minutes=0.25)) for c in "
        "u.clips];print(json.dumps([Manifest(clips, Path('.')).hash(), len(clips)]))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == [manifest.hash(), len(manifest.clips)]


def test_rendering_repeats_and_seeds_differ(manifest, tmp_path):
    again = build_corpus(TINY, tmp_path)
    assert again.clips == manifest.clips
    for clip in manifest.clips:
        assert np.array_equal(manifest.audio(clip), again.audio(clip))
    other = [c for u in plan_utterances(Embedded(minutes=0.25, seed=1)) for c in u.clips]
    assert [c.text for c in other] != [c.text for c in manifest.clips]


def test_audio_is_speech_at_the_labelled_level(manifest):
    for clip in manifest.clips:
        wave = manifest.audio(clip)
        assert len(wave) == clip.num_samples
        assert clip.labels["gain"] in GAINS
        assert np.abs(wave).max() == round(clip.labels["gain"] * 32767)
        assert clip.licence == "Apache-2.0" and (manifest.root / clip.path).suffix == ".flac"


def test_f0_truth_is_aligned_and_follows_the_audio(manifest):
    ratios = []
    for clip in manifest.clips:
        f0_hz, wave = manifest.f0_hz(clip), manifest.audio(clip).astype(np.float64)
        assert f0_hz.dtype == np.float32 and len(f0_hz) == -(-clip.num_samples // F0_HOP_SAMPLES)
        is_voiced = f0_hz > 0
        assert 0.3 < is_voiced.mean() < 0.95
        assert (f0_hz[is_voiced] > 40).all() and (f0_hz[is_voiced] < 700).all()
        for frame in np.flatnonzero(is_voiced)[4:-4:8]:
            period = measure_period(wave, frame, f0_hz[frame])
            if period is not None:
                ratios.append(16_000 / period / f0_hz[frame])
    assert len(ratios) > 40
    assert np.mean(np.abs(np.array(ratios) - 1) < 0.06) > 0.9


def measure_period(wave, frame, f0_hz):
    """Autocorrelation peak within half an octave of the label, in periodic frames."""
    middle, half = frame * F0_HOP_SAMPLES + F0_HOP_SAMPLES // 2, 400
    if middle < 2 * half or middle + 2 * half > len(wave):
        return None
    window = wave[middle - half : middle + half]
    lags = np.arange(int(16_000 / f0_hz / 1.41), int(16_000 / f0_hz * 1.41) + 1)
    scores = [
        np.corrcoef(window, wave[middle - half + lag : middle + half + lag])[0, 1] for lag in lags
    ]
    return lags[int(np.argmax(scores))] if max(scores) > 0.7 else None


def test_labels_move_pitch_as_asked(manifest):
    clip = manifest.clips[0]
    parts = predict_parts("take the blue ball again", 1.0)

    def tracks(name, values):
        for value in values:
            labels = clip.labels | {"pitch_range": 1.0, "final_contour_st": 0.0} | {name: value}
            f0_hz = render_clip(parts, dataclasses.replace(clip, labels=labels, speaker="s0"), 0)[1]
            yield np.log2(f0_hz[f0_hz > 0]) * 12

    spreads = [track.std() for track in tracks("pitch_range", (0.4, 1.0, 1.6))]
    assert spreads[0] < 0.5 * spreads[1] and spreads[2] > 1.5 * spreads[1]
    fall, flat, rise = (track[-1] for track in tracks("final_contour_st", (-4.0, 0.0, 7.0)))
    assert fall - flat == pytest.approx(-4, abs=0.01) and rise - flat == pytest.approx(7, abs=0.01)


def test_speakers_differ_in_pitch_as_specified(manifest):
    parts = predict_parts("seven two nine", 1.0)
    clip = manifest.clips[0]
    labels = clip.labels | {"pitch_range": 1.0, "final_contour_st": 0.0}
    medians = {}
    for speaker in VOICES:
        f0_hz = render_clip(parts, dataclasses.replace(clip, labels=labels, speaker=speaker), 0)[1]
        medians[speaker] = np.median(f0_hz[f0_hz > 0])
    for speaker, voice in VOICES.items():
        assert medians[speaker] / medians["s0"] == pytest.approx(voice.f0_scale, rel=0.02)


def test_long_corpus_repeats_texts_instead_of_failing():
    every = {
        f"{v} the {c} {o} {a}" for v in VERBS for c in COLOURS for o in OBJECTS for a in ADVERBS
    }
    assert len(every) == 900
    drawn = [_draw_unseen(0, number, every) for number in range(60)]
    commands = {text for text, kind in drawn if kind == "command"}
    assert commands and commands <= every


def test_bad_values_are_refused():
    with pytest.raises(ConfigError, match="minutes"):
        Embedded.from_dict({"minutes": 0})
    with pytest.raises(GenlabError, match="held_out_speakers"):
        plan_utterances(Embedded(minutes=0.25, held_out_speakers=("s9",)))
