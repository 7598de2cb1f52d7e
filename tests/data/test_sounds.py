"""The embedded sounds: what the labels state is what the waves have, and bytes repeat."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.data.corpus import Sounds, build_corpus
from genlab.data.sounds import CLASSES

RATE_HZ = 16_000
CONFIG = Sounds(clips=60, clip_s=1.0)
OF_CLASS = {
    label: [row for row in CONFIG.rows() if row.speaker == label] for label in CONFIG.classes
}
DIGEST = """
import hashlib
from genlab.data.audio import to_int16
from genlab.data.corpus import Sounds
config = Sounds(clips=60, clip_s=1.0)
waves = b"".join(bytes(to_int16(config.wave(row))) for row in config.rows()[:20])
print(hashlib.sha256(waves).hexdigest())
"""


def spectrum(wave):
    """Return frequencies and power."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    return np.fft.rfftfreq(len(wave), 1 / RATE_HZ), power


def peak_hz(wave):
    frequencies, power = spectrum(wave)
    return frequencies[power.argmax()]


def test_every_class_is_there_with_pitch_and_events():
    assert set(CLASSES) == set(CONFIG.classes) == set(OF_CLASS)
    for label, rows in OF_CLASS.items():
        assert len(rows) == 12 and all(row.labels["label"] == label for row in rows)
        for row in rows:
            assert {"pitch_hz", "events_hz", "gain"} <= row.labels.keys() and row.text == ""
            wave = CONFIG.wave(row)
            assert len(wave) == RATE_HZ and np.abs(wave).max() == pytest.approx(row.labels["gain"])


def test_a_tone_has_its_pitch():
    """The power within the vibrato of the pitch, against that half an octave beside it."""
    for row in OF_CLASS["tone"]:
        frequencies, power = spectrum(CONFIG.wave(row))
        octaves = np.abs(np.log2(np.maximum(frequencies, 1) / row.labels["pitch_hz"]))
        assert power[octaves < 0.12].sum() > 1_000 * power[np.abs(octaves - 0.5) < 0.2].sum()


def test_an_impact_decays_as_fast_as_it_says():
    # Below this rate the first blow rings long enough before the second.
    rows = [row for row in OF_CLASS["impact"] if row.labels["events_hz"] < 2.0]
    compared = 0
    for row in rows:
        decay_s, pitch_hz = row.labels["decay_s"], row.labels["pitch_hz"]
        # Its lowest mode alone, which is the last to ring, at two times a decay apart.
        time_s = np.arange(RATE_HZ) / RATE_HZ
        turned = CONFIG.wave(row) * np.exp(-2j * np.pi * pitch_hz * row_factor(row) * time_s)
        period = round(RATE_HZ / pitch_hz)
        first = round(2.0 * decay_s * RATE_HZ)
        window = 2 * period
        levels = [
            np.abs(turned[start : start + window].sum())
            for start in (first, first + round(decay_s * RATE_HZ))
        ]
        if first + decay_s * RATE_HZ + window < RATE_HZ / row.labels["events_hz"]:
            assert math.log(levels[0] / levels[1]) == pytest.approx(1.0, abs=0.25), row
            compared += 1
    assert compared > 3


def row_factor(row):
    return math.sqrt(1.0 + row.labels["stiffness"])


def test_a_chirp_goes_from_pitch_to_end():
    for row in OF_CLASS["chirp"]:
        wave = CONFIG.wave(row)
        period = int(RATE_HZ / row.labels["events_hz"])
        # In the first sixteenth and in the last one the sweep has gone a sixteenth of its octaves.
        part = period // 8
        octaves = math.log2(row.labels["end_hz"] / row.labels["pitch_hz"])
        begin = row.labels["pitch_hz"] * 2 ** (octaves / 16)
        end = row.labels["end_hz"] * 2 ** (-octaves / 16)
        if period <= len(wave):
            assert abs(math.log2(peak_hz(wave[:part]) / begin)) < 0.25, row
            assert abs(math.log2(peak_hz(wave[period - part : period]) / end)) < 0.25, row


def test_a_noise_lies_in_its_band():
    compared = 0
    for row in OF_CLASS["noise"]:
        frequencies, power = spectrum(CONFIG.wave(row))
        octaves = np.log2(np.maximum(frequencies, 20) / row.labels["pitch_hz"])
        # Levels are Gaussian in octaves with `width_octaves`: power has 1 / sqrt(2) of that. Equal
        # octaves hold more bins the higher they lie, so every bin counts by its octaves.
        weight = power / np.maximum(frequencies, 20)
        mean = (weight * octaves).sum() / weight.sum()
        width = math.sqrt((weight * (octaves - mean) ** 2).sum() / weight.sum())
        width_octaves = row.labels["width_octaves"]
        if row.labels["pitch_hz"] * 2 ** (2 * width_octaves) < RATE_HZ / 2:
            assert abs(mean) < 0.2 and width == pytest.approx(width_octaves / 2**0.5, rel=0.25)
            compared += 1
    assert compared > 3


def test_rain_has_as_many_drops_as_it_says():
    """Seconds of many clips together: a Poisson count deviates by its square root."""
    config = Sounds(clips=120, clip_s=2.0, classes=("rain",), seed=3)
    expected = found = 0.0
    for row in config.rows():
        # Sparse and short drops only, whose onsets are apart.
        if row.labels["events_hz"] > 30 or row.labels["decay_s"] > 0.003:
            continue
        wave = np.abs(config.wave(row))
        loud = np.flatnonzero(wave > 0.03 * wave.max())
        found += 1 + (np.diff(loud) > 4 * row.labels["decay_s"] * RATE_HZ).sum()
        expected += 2.0 * row.labels["events_hz"]
    assert expected > 100 and found == pytest.approx(expected, rel=0.25)


def test_bytes_repeat_in_another_process():
    runs = [
        subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    digests = {run.stdout.strip() for run in runs}
    assert len(digests) == 1 and len(digests.pop()) == hashlib.sha256().digest_size * 2
    longer = Sounds(clips=70, clip_s=1.0)
    assert longer.rows()[:60] == CONFIG.rows()
    assert (longer.wave(longer.rows()[7]) == CONFIG.wave(CONFIG.rows()[7])).all()
    assert Sounds(clips=60, seed=1).rows() != Sounds(clips=60).rows()


def test_they_are_a_corpus(tmp_path):
    manifest = build_corpus(Sounds(clips=60, clip_s=0.25), tmp_path)
    assert {clip.licence for clip in manifest.clips} == {"CC0"}
    assert set(manifest.splits) == {"train", "valid", "test"}
    assert manifest.speakers == tuple(sorted(CONFIG.classes))
    assert all(clip.num_samples == 4_000 for clip in manifest.clips)
    with pytest.raises(GenlabError, match="classes"):
        Sounds().override(['classes=["thunder"]'])
