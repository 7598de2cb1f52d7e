"""Log-mel pictures: right frequencies, a fixed dB range, axes that can be read."""

import io

import numpy as np
import pytest
from PIL import Image
from wave_toys import RATE_HZ, sine

from genlab.watch.mel import (
    CEILING_DB,
    FLOOR_DB,
    NUM_COLOURS,
    NUM_MELS,
    colour_table,
    frequency_axis,
    log_mel_db,
    mel_png,
    time_axis,
)


def pixels(png: bytes) -> np.ndarray:
    """Return the palette indices of the plot without its margins:
    row 0 is the highest frequency.
    """
    picture = Image.open(io.BytesIO(png))
    assert (picture.size, picture.mode) == ((640, 320), "P")
    return np.asarray(picture)[12:284, 72:628]


@pytest.mark.parametrize("frequency_hz", [125, 500, 1000, 4000, 7000])
def test_a_sine_lights_up_at_its_tick(frequency_hz):
    # below the ceiling, so one row is the brightest
    plot = pixels(mel_png(sine(frequency_hz, level=0.05), RATE_HZ))
    row = plot[:, 200:350].mean(axis=1).argmax()
    expected = 1127 * np.log1p(frequency_hz / 700) / (1127 * np.log1p(8000 / 700))
    assert 1 - (row + 0.5) / len(plot) == pytest.approx(expected, abs=1.5 / NUM_MELS)


def test_zero_db_is_a_full_scale_sine_and_half_the_level_is_6_db_less():
    full, half = log_mel_db(sine(1000))[100].max(), log_mel_db(sine(1000, level=0.5))[100].max()
    assert -3.5 < full < 0.5
    assert full - half == pytest.approx(6.02, abs=0.01)


def test_nothing_is_normalised_per_clip():
    loud, quiet = pixels(mel_png(sine(1000, level=0.1))), pixels(mel_png(sine(1000, level=0.01)))
    step = NUM_COLOURS / (CEILING_DB - FLOOR_DB)
    assert int(loud[:, 300].max()) - int(quiet[:, 300].max()) == pytest.approx(20 * step, abs=1)


def test_silence_is_black_and_broken_samples_are_silence():
    assert pixels(mel_png(np.zeros(8000, np.float32))).max() == 0
    assert pixels(mel_png(np.array([np.nan, np.inf, -np.inf] * 999, np.float32))).max() == 0


@pytest.mark.parametrize("num_samples", [1, 2, 100, 511, 1024])
def test_short_clips_draw(num_samples):
    assert pixels(mel_png(np.full(num_samples, 0.1, np.float32))).shape == (272, 556)


def test_clips_of_a_prompt_share_the_time_axis():
    plot = pixels(mel_png(sine(1000, seconds=1.0), extent_s=2.0))
    assert (plot[:, 290:] == NUM_COLOURS).all() and not (plot[:, :270] == NUM_COLOURS).any()


def test_a_chirp_rises():
    time_s = np.arange(RATE_HZ) / RATE_HZ
    plot = pixels(mel_png(np.sin(2 * np.pi * (200 * time_s + 3000 * time_s**2)).astype(np.float32)))
    peaks = plot[:, 20:540:40].argmax(axis=0)
    assert (np.diff(peaks) < 0).all()


def test_axes_are_labelled_with_units():
    assert frequency_axis(16_000).labels == ("0.25", "0.5", "1", "2", "4", "8 kHz")
    assert frequency_axis(16_000).positions[-1] == 1.0
    assert time_axis(1.3).labels == ("0.0", "0.5", "1.0 s")
    assert time_axis(2.4).labels == ("0.0", "0.5", "1.0", "1.5", "2.0 s")
    margin = np.asarray(Image.open(io.BytesIO(mel_png(np.zeros(8000, np.float32)))))
    assert (margin[:, :70] > NUM_COLOURS).any() and (margin[290:] > NUM_COLOURS).any()


def test_the_colour_table_gets_steadily_lighter():
    table = colour_table(64) / 255
    lightness = table @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all() and lightness[0] < 0.01 and lightness[-1] > 0.9


def test_the_same_wave_gives_the_same_bytes_and_few_of_them():
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE_HZ).astype(np.float32)
    assert mel_png(noise) == mel_png(noise)
    assert len(mel_png(noise)) < 80_000
