"""Conversations: two sides of equal length that take turns, from single speakers or from files in
stereo.
"""

import dataclasses

import numpy as np
import pytest
import soundfile
from bad_audio import tone
from codec_toys import LoudnessUnits, make_frozen, make_manifest

from genlab.codecs.cache import encode_corpus
from genlab.config import GenlabError
from genlab.data import dialogue
from genlab.data.corpus import Folder, build_corpus
from genlab.data.dialogue import Dialogue, arrange, build_dialogues, plan_exchanges
from genlab.data.manifest import Manifest


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Conversations over a folder of 120 clips of three speakers."""
    root = tmp_path_factory.mktemp("voices")
    for number in range(120):
        speaker = root / f"speaker{number % 3}"
        speaker.mkdir(exist_ok=True)
        soundfile.write(
            speaker / f"{number}.wav",
            tone(0.2 + 0.01 * (number % 7), frequency_hz=150 + number),
            16_000,
        )
    return Dialogue(corpus=Folder(path=str(root), test_fraction=0.2), std_gap_s=0.15)


@pytest.fixture(scope="module")
def built(config, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return build_corpus(config, cache), build_corpus(config.corpus, cache), cache


def test_arranged_turns():
    own, other = np.array([1, 2, 3], np.int16), np.array([4, 5], np.int16)
    for is_first, gap, expected in [
        (True, 1, ([1, 2, 3, 0, 0, 0], [0, 0, 0, 0, 4, 5])),
        (True, -1, ([1, 2, 3, 0], [0, 0, 4, 5])),
        (False, 2, ([0, 0, 0, 0, 1, 2, 3], [4, 5, 0, 0, 0, 0, 0])),
        (True, -2, ([1, 2, 3], [0, 4, 5])),
        (False, -5, ([1, 2, 3], [4, 5, 0])),
    ]:
        sides = arrange(own, other, is_first, gap)
        np.testing.assert_array_equal(np.stack(sides), np.array(expected))
        assert all(side.dtype == np.int16 for side in sides)


def test_every_clip_meets_another_speaker_of_its_split(built, config):
    conversations, utterances, _ = built
    spoken = {clip.id: clip for clip in utterances.clips}
    assert {clip.id for clip in conversations.clips} == set(spoken)
    for clip in conversations.clips:
        own, other = spoken[clip.id], spoken[clip.labels["other"]]
        assert other.speaker != own.speaker and other.split == own.split == clip.split
        sides = conversations.audio(clip), conversations.other_audio(clip)
        assert len(sides[0]) == len(sides[1]) == clip.num_samples
        lengths = [np.trim_zeros(side).size for side in sides]
        assert abs(lengths[0] - own.num_samples) < 3 and abs(lengths[1] - other.num_samples) < 3
        # What the labels say is what is heard: who begins, and after which gap.
        starts = [int(np.flatnonzero(side)[0]) for side in sides]
        first, second = (0, 1) if clip.labels["is_own_first"] else (1, 0)
        first_length = (own, other)[first].num_samples
        gap_s = (starts[second] - first_length) / 16_000
        assert gap_s == pytest.approx(max(clip.labels["gap_s"], -first_length / 16_000), abs=1e-3)
    gaps = [clip.labels["gap_s"] for clip in conversations.clips]
    assert np.mean(gaps) == pytest.approx(config.mean_gap_s, abs=4 * config.std_gap_s / 120**0.5)
    assert np.std(gaps) == pytest.approx(config.std_gap_s, rel=0.3) and min(gaps) < 0
    assert 35 < sum(clip.labels["is_own_first"] for clip in conversations.clips) < 85


def test_the_same_conversations_again_and_others_with_another_seed(built, config, monkeypatch):
    conversations, utterances, cache = built
    made = []
    monkeypatch.setattr(dialogue, "_write", lambda *args: made.append(args))
    again = build_corpus(config, cache)
    assert again.hash() == conversations.hash() and again.root == conversations.root and not made
    planned = plan_exchanges(config, utterances)
    others = plan_exchanges(config.model_copy(update={"seed": 1}), utterances)
    # Each of the three draws is one of the seed.
    for field in ("other", "is_own_first", "gap_samples"):
        assert [getattr(one, field) for one in planned] != [getattr(one, field) for one in others]


def test_one_speaker_has_nobody_to_talk_to(tmp_path):
    lonely = make_manifest(tmp_path, 6, speakers=("ann",))
    with pytest.raises(GenlabError, match="no split has clips of two speakers"):
        plan_exchanges(Dialogue(corpus=Folder(path="x")), lonely)


def test_stereo_files_are_two_sides(tmp_path):
    (tmp_path / "in").mkdir()
    left, right = tone(0.5), np.roll(tone(0.5, frequency_hz=330.0), 40)
    soundfile.write(tmp_path / "in" / "call.wav", np.stack([left, right], axis=1), 16_000)
    soundfile.write(tmp_path / "in" / "quiet.wav", np.stack([left, 0 * left], axis=1), 16_000)
    soundfile.write(tmp_path / "in" / "mono.wav", left, 16_000)
    manifest = build_corpus(Folder(path=str(tmp_path / "in"), two_sided=True), tmp_path / "cache")
    clips = {clip.id: clip for clip in manifest.clips}
    assert set(clips) == {"call.wav", "quiet.wav"}
    for side, read in ((left, manifest.audio), (right, manifest.other_audio)):
        np.testing.assert_allclose(read(clips["call.wav"]) / 32767, side, atol=1e-4)
    assert not manifest.other_audio(clips["quiet.wav"]).any()
    # What the other side says is part of what the store is made from.
    soundfile.write(tmp_path / "in" / "call.wav", np.stack([left, left], axis=1), 16_000)
    again = build_corpus(Folder(path=str(tmp_path / "in"), two_sided=True), tmp_path / "again")
    changed = {clip.id: clip.audio_digest for clip in again.clips}
    assert changed["quiet.wav"] == clips["quiet.wav"].audio_digest
    assert changed["call.wav"] != clips["call.wav"].audio_digest
    assert again.hash() != manifest.hash()
    soundfile.write(tmp_path / "in" / "call.wav", np.stack([left, right], axis=1), 16_000)
    with pytest.raises(GenlabError, match=r"mono.wav: 1 channel, two_sided=true expects 2"):
        build_corpus(
            Folder(path=str(tmp_path / "in"), two_sided=True, strict=True), tmp_path / "cache"
        )
    mono = build_corpus(Folder(path=str(tmp_path / "in")), tmp_path / "cache")
    assert len(mono.clips) == 3 and all(mono.other_audio(clip) is None for clip in mono.clips)
    with pytest.raises(GenlabError, match="two-sided already"):
        plan_exchanges(Dialogue(corpus=Folder(path="x")), manifest)


def test_both_sides_are_encoded_in_step(tmp_path):
    utterances = make_manifest(tmp_path / "voices", 12)
    talk = tmp_path / "talk"
    talk.mkdir()
    manifest = Manifest(build_dialogues(Dialogue(corpus=Folder(path="x")), utterances, talk), talk)
    frozen = make_frozen()
    store = encode_corpus(manifest, frozen, LoudnessUnits(), tmp_path)
    assert store.info.is_two_sided
    by_id = {clip.id: clip for clip in manifest.clips}
    for number in range(len(manifest.clips)):
        clip = store.clip(number)
        [(codes, _)] = frozen.encode([manifest.other_audio(by_id[clip.id]) / np.float32(32768)])
        np.testing.assert_array_equal(clip.other, codes)
        tokens, cond = store.example(clip, 30, 2)
        assert cond.other.shape == tokens.codes.shape
        np.testing.assert_array_equal(cond.other[: tokens.num_frames], clip.other[2:32])
    mixed = Manifest(
        [dataclasses.replace(manifest.clips[0], other_path=None), *manifest.clips[1:]], talk
    )
    with pytest.raises(GenlabError, match="it has one side, others in the corpus have two"):
        encode_corpus(mixed, frozen, LoudnessUnits(), tmp_path / "mixed")
