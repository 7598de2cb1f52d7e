"""Curves that are measured in the audio, of tones whose truth is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.data.curves import measure
from genlab.data.words import read_array, read_weights, repeat_codes, resample

NAMES = ("anna", "ben", "carla")


def clip_of(wave, rate_hz, num_frames):
    row = SimpleNamespace(sample_rate_hz=rate_hz)
    return SimpleNamespace(row=row, num_frames=num_frames, wave=lambda: np.asarray(wave))


def tone(hz, rate_hz, seconds=1.0, partials=4):
    t = np.arange(round(rate_hz * seconds)) / rate_hz
    return sum(0.3 / k * np.sin(2 * np.pi * hz * k * t) for k in range(1, partials + 1))


@pytest.mark.parametrize(("hz", "rate_hz"), [(100, 16_000), (220, 16_000), (330, 44_100)])
def test_f0_is_that_of_the_tone_and_none_of_silence_and_noise(hz, rate_hz):
    quiet = np.zeros(rate_hz // 2)
    noise = 0.1 * np.random.default_rng(0).normal(size=rate_hz // 2)
    wave = np.concatenate([tone(hz, rate_hz), quiet, noise])
    found = measure("f0", clip_of(wave, rate_hz, 100))
    inside = found[3:47]
    assert (inside[:, 1] == 1).all()
    np.testing.assert_allclose(inside[:, 0], np.log2(hz / 100), atol=0.03)
    assert (found[53:72] == 0).all() and found[78:, 1].mean() < 0.1


def test_loudness_falls_by_its_decibels_and_stereo_is_heard_as_its_mean():
    rate_hz = 16_000
    wave = np.concatenate([np.full(rate_hz, 1.0), np.full(rate_hz, 0.1), np.zeros(rate_hz)])
    found = measure("loudness", clip_of(wave, rate_hz, 30))[:, 0]
    np.testing.assert_allclose(found[[5, 15, 25]], [1.0, 1 - 20 / 60, 0.0], atol=1e-5)
    stereo = measure("loudness", clip_of(np.stack([wave, wave], axis=1), rate_hz, 30))
    np.testing.assert_allclose(stereo[:, 0], found, atol=1e-6)


def test_chroma_names_the_pitch_classes():
    rate_hz = 22_050
    chord = sum(tone(hz, rate_hz, partials=1) for hz in (261.63, 329.63, 392.0))  # C, E, G
    found = measure("chroma", clip_of(chord, rate_hz, 20))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert sorted(np.argsort(found[10])[-3:].tolist()) == [0, 4, 7]
    assert found[10, [0, 4, 7]].sum() > 0.9


def test_curves_and_codes_of_any_rate_are_read_at_the_middle_of_frames():
    ramp = np.arange(100.0)[:, None]
    np.testing.assert_allclose(resample(ramp, 10)[:, 0], np.arange(10) * 10 + 4.5)
    np.testing.assert_allclose(resample(ramp, 100), ramp)
    np.testing.assert_allclose(resample(np.array([[3.0]]), 4), 3.0)
    codes = np.array([[0, 9], [1, 8]])
    assert repeat_codes(codes, 4)[:, 0].tolist() == [0, 0, 1, 1]
    assert repeat_codes(np.repeat(codes, 3, axis=0), 2).tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("found", "weights"),
    [
        ("ben", [0, 1, 0]),
        ("anna:0.7,ben:0.3", [0.7, 0.3, 0]),
        ("anna:.25, carla:.75", [0.25, 0, 0.75]),
        (["anna", "ben"], [0.5, 0.5, 0]),
        ({"carla": 1.0}, [0, 0, 1]),
    ],
)
def test_weights_of_names(found, weights):
    np.testing.assert_allclose(read_weights(found, NAMES), weights, atol=1e-6)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("bne", "'bne': not a known name; did you mean 'ben'?"),
        ("anna:0.7,ben:0.7", r"the weights sum to 1.4, expected 1; for example anna:0.5,ben:0.5"),
        ("anna,ben", "several names need a weight each, for example anna:0.5,ben:0.5"),
        ("anna:0.5,anna:0.5", "'anna' stands there twice"),
        ("anna:2,ben:-1", "weight 2 of 'anna', expected 0 to 1"),
        ("", "'': not a known name"),
    ],
)
def test_what_are_no_weights_is_told_in_one_line(found, told):
    with pytest.raises(GenlabError, match=told) as error:
        read_weights(found, NAMES)
    assert "\n" not in str(error.value)


def test_files_of_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    (tmp_path / "a.txt").write_text("1\n2\n")
    np.save(tmp_path / "a.npy", np.arange(3))
    assert read_array(tmp_path / "a.csv").tolist() == [[1, 2], [3, 4]]
    assert read_array(tmp_path / "a.txt").tolist() == [1, 2]
    assert read_array(tmp_path / "a.npy").tolist() == [0, 1, 2]
    np.save(tmp_path / "nan.npy", np.array([np.nan]))
    np.save(tmp_path / "object.npy", np.array([{}]))
    (tmp_path / "words.csv").write_text("a,b\n")
    for name, told in (
        ("missing.npy", "no such file"),
        ("a.wav", r"expected the path of a .npy, .csv or .txt"),
        ("nan.npy", "1 numbers that are not finite"),
        ("object.npy", "cannot be read"),
        ("words.csv", "cannot be read"),
    ):
        with pytest.raises(GenlabError, match=told) as error:
            read_array(tmp_path / name)
        assert "\n" not in str(error.value)
