"""Clips in noise: the ratio of powers is exact, and no noise of training is heard in the test."""

import numpy as np
import pytest
import soundfile
from bad_audio import tone

from genlab.config import GenlabError
from genlab.data.audio import to_float
from genlab.data.corpus import Folder, Mixtures, Sounds, build_corpus, find_corpora
from genlab.data.dialogue import Dialogue
from genlab.data.mixtures import mix


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """A folder of 60 clips of three speakers."""
    root = tmp_path_factory.mktemp("voices")
    for number in range(60):
        speaker = root / f"speaker{number % 3}"
        speaker.mkdir(exist_ok=True)
        wave = tone(0.2 + 0.01 * (number % 7), frequency_hz=150 + number)
        soundfile.write(speaker / f"{number}.wav", wave, 16_000)
    return Folder(path=str(root), test_fraction=0.2, valid_fraction=0.1)


def snr_db(clean, mixed):
    return 10 * np.log10(np.sum(clean**2) / np.sum((mixed - clean) ** 2))


@pytest.mark.parametrize("wanted_db", [-20.0, 0.0, 13.5])
@pytest.mark.parametrize("length", [400, 1_000, 3_000])
def test_the_ratio_is_exact(wanted_db, length):
    rng = np.random.default_rng(0)
    target, noise = rng.normal(size=1_000) * 0.3, rng.normal(size=length)
    clean, mixed = mix(target.astype(np.float32), noise.astype(np.float32), wanted_db, 0.5)
    assert snr_db(clean, mixed) == pytest.approx(wanted_db, abs=1e-6)
    assert max(np.abs(clean).max(), np.abs(mixed).max()) <= 0.99 + 1e-9
    # What lies over it is the part in the middle, or the whole noise again and again.
    over = (mixed - clean) / np.abs(mixed - clean).max()
    first = 1_000 if length == 3_000 else 0
    part = np.resize(noise[first : first + 1_000], 1_000)
    np.testing.assert_allclose(over, part / np.abs(part).max(), atol=1e-6)


def test_a_pause_is_no_noise():
    noise = np.zeros(5_000, np.float32)
    noise[4_000] = 1.0
    clean, mixed = mix(np.ones(100, np.float32) * 0.1, noise, 0.0, 0.0)
    assert snr_db(clean, mixed) == pytest.approx(0.0, abs=1e-6)


def test_sounds_lie_over_speech(targets, tmp_path):
    config = Mixtures(corpus=targets, noise=Sounds(clips=40, clip_s=0.25), low_snr_db=0)
    assert find_corpora(config, tmp_path) == find_corpora(targets, tmp_path) + find_corpora(
        config.noise, tmp_path
    )
    manifest = build_corpus(config, tmp_path)
    spoken = {clip.id: clip for clip in build_corpus(targets, tmp_path).clips}
    noises = {clip.id: clip for clip in build_corpus(config.noise, tmp_path).clips}
    assert len(manifest.clips) == 60 and set(spoken) == {clip.id for clip in manifest.clips}
    for clip in manifest.clips:
        noise = noises[clip.labels["noise"]]
        assert clip.split == spoken[clip.id].split == noise.split
        assert (clip.speaker, clip.text) == (spoken[clip.id].speaker, spoken[clip.id].text)
        assert clip.licence == "unknown and CC0" and clip.audio_digest
        clean, mixed = to_float(manifest.audio(clip)), to_float(manifest.other_audio(clip))
        assert len(clean) == len(mixed) == clip.num_samples == spoken[clip.id].num_samples
        assert 0.0 <= clip.labels["snr_db"] <= 15.0
        assert snr_db(clean, mixed) == pytest.approx(clip.labels["snr_db"], abs=0.05)
    assert len({clip.labels["snr_db"] for clip in manifest.clips}) > 50
    assert find_corpora(config, tmp_path)[-1] == manifest.root
    again = build_corpus(config, tmp_path / "elsewhere")
    assert again.hash() == manifest.hash()
    assert config.domain == targets.domain


def test_without_noises_another_speaker_is_heard(targets, tmp_path):
    manifest = build_corpus(Mixtures(corpus=targets), tmp_path)
    speaker_of = {clip.id: clip for clip in build_corpus(targets, tmp_path).clips}
    for clip in manifest.clips:
        other = speaker_of[clip.labels["noise"]]
        assert other.speaker != clip.speaker and other.split == clip.split
    assert len({clip.labels["noise"] for clip in manifest.clips}) > 20


def test_what_cannot_be_mixed_is_refused(targets, tmp_path):
    with pytest.raises(GenlabError, match=r"low_snr_db=20 is above high_snr_db=15"):
        Mixtures(corpus=targets).override(["low_snr_db=20"])
    alone = targets.override([f"path={targets.path}/speaker0"])
    with pytest.raises(
        GenlabError, match=r"data\.corpus\.corpus: nothing can lie over clip .*anot"
    ):
        build_corpus(Mixtures(corpus=alone), tmp_path)
    untested = Mixtures(corpus=targets, noise=Sounds(clips=10, clip_s=0.25, test_fraction=0.0))
    with pytest.raises(GenlabError, match=r"data\.corpus\.noise: nothing can lie over .*'test'"):
        build_corpus(untested, tmp_path)
    two_sided = Dialogue(corpus=targets)
    with pytest.raises(GenlabError, match="kind"):
        Mixtures(corpus=targets).override([f"corpus.kind={two_sided.kind}"])
