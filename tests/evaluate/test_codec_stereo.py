"""Codecs in stereo: scores, the table and files in and out."""

import numpy as np
import pytest
import soundfile
from codec_toys import make_codec, make_wave

from genlab.cli import main
from genlab.codecs.frozen import FrozenCodec
from genlab.config import GenlabError
from genlab.evaluate.codecs import bench, score, speech_coders
from genlab.evaluate.codecs.channels import distances
from genlab.evaluate.codecs.speech_coders import Coded, code_with_opus, missing_tools
from genlab.evaluate.quality import QualityScores
from genlab.evaluate.reconstruction import mel_distance_db

SAMPLES = 16_000
MEL, SIDE = "mel_distance_db", "side_mel_distance_db"


def stereo(seed=0):
    """Return two unrelated voices, the left one louder."""
    return np.stack([make_wave(seed, SAMPLES), 0.5 * make_wave(seed + 50, SAMPLES)], axis=1)


class Quiet:
    """In the place of the networks, which have tests of their own; only hears mono."""

    def __init__(self, **_):
        pass

    def __call__(self, given):
        if isinstance(given, list):
            assert all(wave.ndim == 1 for wave in given)
            return QualityScores(*[np.ones(len(given))] * 4)
        assert given.ndim == 1
        return np.array([1.0, 0.0])


@pytest.fixture
def no_networks(monkeypatch):
    for module in (bench, score):
        monkeypatch.setattr(module, "Dnsmos", Quiet)
        monkeypatch.setattr(module, "SpeakerEncoder", Quiet)
    monkeypatch.setattr(bench.whisper, "is_installed", lambda: False)


@pytest.fixture
def folder(tmp_path):
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", stereo(number), 16_000, subtype="FLOAT")
    return tmp_path


def test_a_distance_is_the_mean_over_the_channels():
    wave = stereo()
    worse = wave + 0.05 * np.random.default_rng(0).normal(size=wave.shape) * [0, 1]
    found = distances([wave], [worse.astype(np.float32)])
    right = mel_distance_db(wave[:, 1], worse[:, 1])
    assert right > 1 and found[MEL][0] == pytest.approx(right / 2)
    # Half the difference of the channels, whatever is the same in both.
    expected = mel_distance_db((wave[:, 0] - wave[:, 1]) / 2, (worse[:, 0] - worse[:, 1]) / 2)
    assert found[SIDE][0] == pytest.approx(expected, rel=1e-3)
    assert SIDE not in distances([wave[:, 0]], [wave[:, 0]])


def test_a_codec_that_mixes_the_channels_is_caught():
    wave = stereo()
    mix = np.repeat(wave.mean(axis=1, keepdims=True), 2, axis=1)
    found = distances([wave, wave], [wave, mix])
    assert found[MEL][0] == found[SIDE][0] == 0
    assert found[MEL][1] > 2 and found[SIDE][1] > 10


def test_a_silent_channel_does_not_count():
    wave = stereo()
    wave[:, 1] = 0
    noisy = wave + np.float32([0, 0.01]) * np.random.default_rng(0).normal(size=wave.shape)
    both = np.stack([wave[:, 0], wave[:, 0]], axis=1)
    found = distances([wave, both], [noisy.astype(np.float32), both])
    assert found[MEL].tolist() == [0, 0]
    assert np.isnan(found[SIDE][1])  # the channels are the same, so there is no difference to keep


def test_the_scores_of_a_folder_are_those_of_its_channels(folder, no_networks, tmp_path):
    codec = make_codec()
    facts = score.score_folder(FrozenCodec(codec, "two", {}, channels=2), folder)
    assert facts["files"] == 2 and facts["seconds"] == 2.0
    # Two streams of 3 levels of 4 bits.
    assert facts["bitrate_bps"] == 2 * 600 and len(facts["code_entropy_bits"]) == 6
    apart = tmp_path / "apart"
    apart.mkdir()
    for path in sorted(folder.glob("*.wav")):
        wave, _ = soundfile.read(path, dtype="float32")
        for side in (0, 1):
            soundfile.write(
                apart / f"{path.stem}{side}.wav", wave[:, side], 16_000, subtype="FLOAT"
            )
    mono = score.score_folder(FrozenCodec(codec, "one", {}), apart)
    found, expected = (each["scores"][MEL]["value"] for each in (facts, mono))
    assert found == pytest.approx(expected, rel=1e-3) and found > 1
    assert facts["scores"][SIDE]["value"] > 1 and SIDE not in mono["scores"]


def test_the_table_has_all_coders_in_stereo(folder, no_networks, monkeypatch):
    def halve(wave, **_):
        assert wave.shape == (SAMPLES, 2)
        return Coded(wave / 2, 6000 * len(wave) / 16_000, 0.1, 0.2)

    monkeypatch.setattr(bench, "code_with_opus", halve)
    monkeypatch.setattr(bench, "code_with_codec2", halve)
    tiny = FrozenCodec(make_codec(), "two", {}, channels=2)
    rows = {row.name: row for row in bench.bench_folder({"tiny": (tiny, [6, 0])}, folder)}
    assert rows["tiny, 6 levels"].rate_bps == pytest.approx(1200, rel=0.02)
    assert all(len(row.values[SIDE]) == 2 for row in rows.values())
    assert rows["original"].values[SIDE].max() == rows["original"].values[MEL].max() == 0
    # Half the level is 20 log10 2 = 6.02 dB in every band, less where the floor is reached.
    halved = rows["Opus 6 kbit/s, default"].values
    assert 4 < halved[SIDE].mean() < 6.03 and 4 < halved[MEL].mean() < 6.03
    assert "mel distance of the channels' difference" in bench.to_markdown(list(rows.values()))
    one = FrozenCodec(make_codec(), "one", {})
    with pytest.raises(GenlabError, match=r"codec one: gives 16000 Hz mono, scores need .* stereo"):
        bench.bench_folder({"two": (tiny, [1]), "one": (one, [1])}, folder)


def test_codec2_codes_the_channels_one_by_one(monkeypatch):
    seen = []

    def run(tool, mode, source, target):
        content = np.fromfile(source, "<i2")
        if tool == "c2enc":
            seen.append(np.abs(content).max())
        content.tofile(target)
        return 0.5, ""

    monkeypatch.setattr(speech_coders, "_run", run)
    wave = stereo()
    coded = speech_coders.code_with_codec2(wave, 3200)
    assert coded.wave.shape == wave.shape and (coded.encode_s, coded.decode_s) == (1.0, 1.0)
    assert len(seen) == 2 and seen[0] > 1.5 * seen[1]
    for side in (0, 1):
        assert np.corrcoef(coded.wave[:, side], wave[:, side])[0, 1] > 0.9
    assert coded.bits == 2 * 16 * (8000 + 320)


@pytest.mark.skipif(bool(missing_tools()), reason=f"not installed: {missing_tools()}")
def test_opus_keeps_the_channels_apart():
    wave = np.stack([make_wave(3, 32_000), np.zeros(32_000, np.float32)], axis=1)
    coded = code_with_opus(wave, 48)
    assert coded.wave.shape == wave.shape
    assert np.corrcoef(coded.wave[:, 0], wave[:, 0])[0, 1] > 0.9
    assert np.abs(coded.wave[:, 1]).max() < 0.1 * np.abs(wave[:, 0]).max()


@pytest.mark.parametrize(("flags", "channels"), [([], 2), (["--channels", "1"], 1)])
def test_a_file_keeps_its_channels(tmp_path, capsys, flags, channels):
    wave = stereo()
    soundfile.write(tmp_path / "in.wav", wave, 16_000)
    paths = [str(tmp_path / name) for name in ("in.wav", "out.wav")]
    assert main(["codec", "roundtrip", *paths, "--codec", "mulaw", *flags]) == 0
    told = capsys.readouterr().out
    # 16,000 codes of 8 bits a second and channel.
    assert f"16000 Hz {'stereo' if channels == 2 else 'mono'}, 16000 frames" in told
    assert f"{128 * channels}.00 kbit/s" in told
    heard, _ = soundfile.read(tmp_path / "out.wav", always_2d=True)
    expected = wave if channels == 2 else wave.mean(axis=1, keepdims=True)
    assert heard.shape == expected.shape
    # mu-law of 8 bits errs by a few per cent of a sample
    np.testing.assert_allclose(heard, expected, atol=0.02)
