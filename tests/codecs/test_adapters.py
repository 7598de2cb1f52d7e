"""A codec of another rate under a corpus at 44.1 or 48 kHz: no delay, no change of level within its
band, nothing above it.

A codec of 2**15 values a sample is nearly no codec, so what is left is the adapter.
"""

import functools

import numpy as np
import pytest

from genlab.codecs.frozen import FrozenCodec
from genlab.codecs.mulaw import MuLawConfig

RATES = [
    (44_100, 16_000),
    (44_100, 24_000),
    (44_100, 48_000),
    (48_000, 16_000),
    (48_000, 24_000),
    (48_000, 44_100),
]
SAMPLES = 24_000
MAX_DELAY = 0.02  # samples of the corpus
MAX_DB = 0.1


@functools.cache
def adapted_codec(wave_hz, codec_hz):
    codec = MuLawConfig(sample_rate_hz=codec_hz, entries=2**15).build()
    return FrozenCodec(codec, "", {}, wave_hz)


def through(wave, wave_hz, codec_hz):
    """Return what comes back, from codes and from latents."""
    adapted = adapted_codec(wave_hz, codec_hz)
    [(codes, latents)] = adapted.encode([wave.astype(np.float32)])
    assert len(codes) == len(latents) and abs(len(codes) - len(wave) * codec_hz / wave_hz) <= 1
    for heard in (adapted.decode_codes([codes])[0], adapted.decode_latents([latents])[0]):
        assert abs(len(heard) - len(wave)) <= 4
        yield np.pad(heard, (0, max(0, len(wave) - len(heard))))[: len(wave)]


def tone_of(wave, hz, rate_hz):
    """Return the complex amplitude of a sine in a wave, away from its ends."""
    own = slice(len(wave) // 8, -len(wave) // 8)
    window = np.hanning(len(wave[own]))
    place = np.arange(len(wave))[own]
    return 2 * np.sum(window * wave[own] * np.exp(-2j * np.pi * hz * place / rate_hz)) / sum(window)


@pytest.mark.parametrize(("wave_hz", "codec_hz"), RATES)
def test_tones_keep_their_level_and_their_place(wave_hz, codec_hz):
    # From the bottom of what is heard to 85 % of the band that both rates hold.
    nyquist_hz = min(wave_hz, codec_hz) / 2
    tones = np.array([60, 440, 1000, 3000, 0.6 * nyquist_hz, 0.85 * nyquist_hz])
    time_s = np.arange(SAMPLES) / wave_hz
    wave = 0.15 * np.sin(2 * np.pi * tones[:, None] * time_s).sum(axis=0)
    for heard in through(wave, wave_hz, codec_hz):
        for hz in tones:
            before, after = tone_of(wave, hz, wave_hz), tone_of(heard, hz, wave_hz)
            assert abs(abs(before) - 0.15) < 1e-3
            assert abs(20 * np.log10(abs(after) / abs(before))) < MAX_DB, hz
            if hz < 4000:  # higher up, a period is too few samples for the angle to say more
                delay = -np.angle(after / before) / (2 * np.pi * hz) * wave_hz
                assert abs(delay) < MAX_DELAY, hz


@pytest.mark.parametrize(("wave_hz", "codec_hz"), RATES)
def test_impulses_come_back_where_they_were(wave_hz, codec_hz):
    places = [1000, 5003, 9001]
    wave = np.zeros(SAMPLES)
    wave[places] = 0.5
    for heard in through(wave, wave_hz, codec_hz):
        for place in places:
            near = heard[place - 400 : place + 401]
            # The spectrum of an impulse turns by its delay; its slope is measured within the band.
            turns = np.angle(np.fft.rfft(np.fft.ifftshift(near)))
            hz = np.arange(len(turns)) * wave_hz / len(near)
            band = (hz > 50) & (hz < 0.8 * min(wave_hz, codec_hz) / 2)
            slope = np.polyfit(2 * np.pi * hz[band] / wave_hz, np.unwrap(turns[band]), 1)[0]
            assert abs(slope) < MAX_DELAY
            if codec_hz >= 44_100:
                assert np.abs(near).argmax() == 400


def test_what_the_codec_cannot_hold_is_not_folded_down():
    time_s = np.arange(SAMPLES) / 48_000
    wave = 0.5 * np.sin(2 * np.pi * 11_000 * time_s)
    for heard in through(wave, 48_000, 16_000):
        # 11 kHz would come back at 5 kHz.
        assert abs(tone_of(heard, 5_000, 48_000)) < 1e-3 * 0.5
        assert np.sqrt(np.mean(heard[3000:-3000] ** 2)) < 1e-3
