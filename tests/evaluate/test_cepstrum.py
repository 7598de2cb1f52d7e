"""Mel-cepstral distortion: zero for the same sound, blind to level and tempo, and a known value for
a known filter.
"""

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal

from genlab.evaluate.cepstrum import cepstral_distortions


def distortion(a, b):
    return cepstral_distortions([a], [b])[0]


def test_the_same_sound_has_none_whatever_its_level(speech):
    wave = speech[0].wave
    assert distortion(wave, wave) == 0
    assert distortion(wave, 0.25 * wave) < 0.05
    pause = np.concatenate([wave[:8000], wave[7920:8000], wave[8000:]])  # 5 ms said twice
    assert distortion(wave, pause) < 0.5 * distortion(wave, speech[1].wave)


def test_a_tilt_costs_its_own_size():
    """White noise through a first-order shelf: the envelope moves by a known curve."""
    noise = np.random.default_rng(0).normal(0, 0.1, 64_000).astype(np.float32)
    found = distortion(noise, scipy.signal.lfilter([1.0, -0.6], [1.0], noise).astype(np.float32))
    frequencies = librosa.mel_frequencies(n_mels=82, fmax=8000)[1:-1]
    curve = 20 * np.log10(np.abs(scipy.signal.freqz([1.0, -0.6], worN=frequencies, fs=16_000)[1]))
    expected = np.linalg.norm(scipy.fft.dct(curve, norm="ortho")[1:13]) / 80**0.5
    assert found == pytest.approx(expected, rel=0.1)


def test_degradations_are_ranked(speech, degrade):
    waves = [prompt.wave for prompt in speech]
    clean, noisy, noisier, shuffled = (
        cepstral_distortions(waves, [spoil(wave) for wave in waves]).mean()
        for spoil in (
            lambda wave: 0.5 * wave,
            degrade["noise_10db"],
            degrade["noise_0db"],
            degrade["shuffle"],
        )
    )
    assert clean < noisy < noisier and shuffled > clean


def test_silence_and_scraps_have_no_value(speech):
    wave = speech[0].wave
    assert np.isnan(
        cepstral_distortions([wave, wave], [np.zeros(16_000, np.float32), wave[:100]])
    ).all()
