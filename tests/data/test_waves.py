import hashlib
import subprocess
import sys

import grain
import numpy as np
import pytest
import soundfile

from genlab.config import GenlabError
from genlab.data.audio import to_float
from genlab.data.corpus import Embedded, Folder, build_corpus
from genlab.data.text import decode_text, normalise_text
from genlab.data.waves import (
    AugmentConfig,
    _augment,
    _tilt_spectrum,
    clips_dataset,
    wave_dataset,
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return build_corpus(Embedded(minutes=0.4), tmp_path_factory.mktemp("waves"))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Two clips, one ten times as long as the other, so that provenance and duration weighting
    show.
    """
    root = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    rows = ["path,text,speaker,split"]
    for name, seconds in (("long", 10.0), ("short", 1.0)):
        soundfile.write(
            root / f"{name}.wav", generator.uniform(-0.5, 0.5, int(seconds * 16_000)), 16_000
        )
        rows.append(f"{name}.wav,{name} words,{name},train")
    (root / "m.csv").write_text("\n".join(rows))
    return build_corpus(Folder(path=str(root), manifest="m.csv"), root / "cache")


def digest(dataset, count=40):
    sha = hashlib.sha256()
    for index in range(count):
        (wave, num_samples), clip_index = dataset[index]
        sha.update(wave.tobytes() + bytes([num_samples % 251, clip_index % 251]))
    return sha.hexdigest()


@pytest.mark.parametrize("augment", [None, AugmentConfig()])
def test_element_is_a_function_of_seed_and_index(manifest, augment):
    def make(seed):
        return wave_dataset(
            [(manifest, 1.0)], split="train", crop_samples=9_600, seed=seed, augment=augment
        )

    first, again = make(3), make(3)
    order = np.random.default_rng(0).permutation(50)
    for index in order:  # any order of access, any instance
        (a, n), clip = first[int(index)]
        (b, m), other = again[int(index)]
        assert np.array_equal(a, b) and (n, clip) == (m, other)
    assert digest(first) == digest(make(3)) != digest(make(4))
    assert not np.array_equal(first[0][0][0], first[len(manifest.clips) * 10][0][0])


def test_same_elements_in_another_process(manifest):
    script = (
        "import hashlib, sys; from pathlib import Path; from genlab.data.waves import *;m = "
        f"Manifest.load(Path({str(manifest.root)!r}));ds = wave_dataset([(m, 1.0)], "
        "split='train', crop_samples=8000, seed=5, "
        "augment=AugmentConfig());print(hashlib.sha256(b''.join(ds[i][0][0].tobytes() for i in "
        "range(20))).hexdigest())"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()
    dataset = wave_dataset(
        [(manifest, 1.0)], split="train", crop_samples=8_000, seed=5, augment=AugmentConfig()
    )
    assert (
        hashlib.sha256(b"".join(dataset[i][0][0].tobytes() for i in range(20))).hexdigest() == out
    )


def test_crops_come_from_their_clip(manifest):
    clips = manifest.split("train")
    dataset = wave_dataset([(manifest, 1.0)], split="train", crop_samples=24_000, seed=0)
    starts = set()
    for index in range(30):
        (wave, num_samples), number = dataset[index]
        assert wave.shape == (24_000,) and wave.dtype == np.float32
        assert num_samples.dtype == np.int32 and number.dtype == np.int32
        whole = to_float(manifest.audio(clips[number]))
        assert num_samples == min(24_000, len(whole)) and not wave[num_samples:].any()
        if num_samples == 24_000:
            windows = np.lib.stride_tricks.sliding_window_view(whole, 24_000)
            starts.add(int(np.flatnonzero((windows[:, :200] == wave[:200]).all(axis=1))[0]))
        else:
            assert np.array_equal(wave[:num_samples], whole)
    assert len(starts) > 3


def test_seconds_are_drawn_evenly(noise):
    dataset = wave_dataset([(noise, 1.0)], split="train", crop_samples=16_000, seed=0)
    numbers = [int(dataset[index][1]) for index in range(1_100)]
    assert numbers.count(0) == 1_000 and numbers.count(1) == 100


def test_weights_mix_corpora(manifest, noise):
    dataset = wave_dataset(
        [(manifest, 3.0), (noise, 1.0)], split="train", crop_samples=8_000, seed=0
    )
    boundary = len(manifest.split("train"))
    share = np.mean([int(dataset[index][1]) >= boundary for index in range(400)])
    assert abs(share - 0.25) < 0.01
    with pytest.raises(GenlabError, match="weights must be positive"):
        wave_dataset([(manifest, 0.0)], split="train", crop_samples=8_000, seed=0)
    with pytest.raises(GenlabError, match="split 'nope'"):
        wave_dataset([(manifest, 1.0)], split="nope", crop_samples=8_000, seed=0)


def test_batches_and_resume_by_position(manifest):
    dataset = wave_dataset([(manifest, 1.0)], split="train", crop_samples=8_000, seed=1)
    iterator = iter(
        grain.experimental.ElasticIterator(dataset, 4, grain.sharding.ShardByJaxProcess())
    )
    batches = [next(iterator) for _ in range(3)]
    for step, ((waves, num_samples), numbers) in enumerate(batches):
        assert waves.shape == (4, 8_000) and num_samples.shape == numbers.shape == (4,)
        for row in range(4):
            (wave, _), number = dataset[4 * step + row]
            assert np.array_equal(waves[row], wave) and numbers[row] == number


def test_clips_carry_their_text(manifest):
    dataset = clips_dataset([(manifest, 1.0)], split="train", seed=0, endless=False)
    clips = manifest.split("train")
    assert len(dataset) == len(clips)
    longest = max(clip.num_samples for clip in clips)
    for index, clip in enumerate(clips):
        (wave, num_samples, symbols, num_symbols), number = dataset[index]
        assert number == index and wave.shape == (longest,) and num_samples == clip.num_samples
        assert (
            np.array_equal(wave[:num_samples], to_float(manifest.audio(clip)))
            and not wave[num_samples:].any()
        )
        assert symbols.dtype == np.int32 and not symbols[num_symbols:].any()
        assert decode_text(symbols[:num_symbols]) == normalise_text(clip.text)


def test_clips_that_do_not_fit_are_left_out(manifest):
    limit = sorted(clip.num_samples for clip in manifest.split("train"))[
        len(manifest.split("train")) // 2
    ]
    dataset = clips_dataset(
        [(manifest, 1.0)], split="train", seed=0, max_samples=limit, max_symbols=60, endless=False
    )
    expected = [clip.id for clip in manifest.split("train") if clip.num_samples <= limit]
    assert [manifest.split("train")[dataset[i][1]].id for i in range(len(dataset))] == expected
    with pytest.raises(GenlabError, match="max_samples=10"):
        clips_dataset([(manifest, 1.0)], split="train", seed=0, max_samples=10)
    endless = clips_dataset(
        [(manifest, 1.0)], split="train", seed=0, augment=AugmentConfig(speed_probability=1.0)
    )
    for index in range(60):
        (wave, num_samples, _, _), _ = endless[index]
        assert 0 < num_samples <= len(wave) and np.abs(wave).max() <= 1.0


def measure_tone_hz(wave):
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return np.argmax(spectrum) * 16_000 / len(wave)


def test_augmentation_does_what_it_says():
    time_s = np.arange(16_000) / 16_000
    wave = (0.2 * np.sin(2 * np.pi * 500 * time_s)).astype(np.float32)
    off = AugmentConfig(
        speed_probability=0, gain_db=0, equaliser_probability=0, noise_probability=0
    )
    generator = np.random.default_rng(0)
    assert np.array_equal(_augment(wave, 1.0, off, generator), wave)
    faster = _augment(wave, 1.2, off, generator)
    assert abs(len(faster) - 16_000 / 1.2) < 3 and abs(measure_tone_hz(faster) - 600) < 3
    noisy = off.model_copy(
        update={"noise_probability": 1.0, "min_snr_db": 20.0, "max_snr_db": 20.0}
    )
    added = _augment(wave, 1.0, noisy, generator) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(added**2)) == pytest.approx(20, abs=0.3)
    louder = [
        np.abs(_augment(wave, 1.0, off.model_copy(update={"gain_db": 6.0}), generator)).max()
        for _ in range(50)
    ]
    assert 0.09 < min(louder) < 0.13 and 0.3 < max(louder) < 0.41
    assert (
        np.abs(_augment(wave * 5, 1.0, off.model_copy(update={"gain_db": 6.0}), generator)).max()
        <= 1.0
    )


@pytest.mark.parametrize("tilt_db", [-6.0, 6.0])
def test_tilt_is_exact_between_the_ends(tilt_db):
    impulse = np.zeros(512, np.float32)
    impulse[10] = 1.0
    levels_db = 20 * np.log10(np.abs(np.fft.rfft(_tilt_spectrum(impulse, tilt_db))))
    assert levels_db[-1] - levels_db[0] == pytest.approx(tilt_db, abs=0.01)
    assert max(levels_db) == pytest.approx(0, abs=0.01)
