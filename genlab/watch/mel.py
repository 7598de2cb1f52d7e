"""Log-mel pictures of waves, as PNG bytes with a frequency axis in kHz and a time axis in seconds.

In: one wave, mono or stereo. Out: a picture of 640 x 320 pixels, to be shown at 320 x 160. The dB
range, the filters and (when the caller passes `extent_s`) the time axis are fixed, so two pictures
may be compared by eye: 0 dB is a full-scale sine, and nothing is normalised per clip. The colours
are magma (van der Walt & Smith, 2015), computed from a polynomial fit. Of a stereo wave the mean
power of both channels is drawn, up to the Nyquist frequency of its rate. The report, TensorBoard
and `genlab sample` show the same bytes. Drawn with Pillow; nothing here imports jax.
"""

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from genlab.data.audio import as_audio

FLOOR_DB = -85.0
CEILING_DB = -15.0
NUM_MELS = 96
NUM_COLOURS = 64  # more cannot be distinguished here, and the file would double

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 12, 12, 36  # margins of the plot, in pixels
# of the picture's width, for a playhead
PLOT_START = _LEFT / _WIDTH
PLOT_SHARE = (_WIDTH - _LEFT - _RIGHT) / _WIDTH
_FONT_SIZE = 22
_FFT_SAMPLES = 1024
_PLATE = np.array([16, 14, 24])
_INK = np.array([222, 220, 230])
_NUM_INKS = 8
_TICKS_KHZ = (0.25, 0.5, 1, 2, 4, 8, 16)

# Coefficients of t^0 .. t^6 for red, green and blue: a least-squares fit of magma.
_MAGMA = np.array(
    [
        [-0.002136485, -0.000749655, -0.005386128],
        [0.251660541, 0.677523244, 2.494026599],
        [8.353717279, -3.577719515, 0.314467903],
        [-27.668733086, 14.264730781, -13.649213188],
        [52.176139812, -27.943606072, 12.944169442],
        [-50.768525365, 29.046582821, 4.234152994],
        [18.655705066, -11.489773520, -5.601961509],
    ]
)


class Axis(NamedTuple):
    """Where ticks fall, in 0..1 along the axis, and what they say."""

    positions: tuple[float, ...]
    labels: tuple[str, ...]


def mel_png(
    wave: Shaped[np.ndarray, "..."], sample_rate_hz: int = 16_000, *, extent_s: float | None = None
) -> bytes:
    """Draw the log-mel picture of `wave`.

    Args:
        wave: mono or stereo audio; samples that are not finite are drawn as silence.
        sample_rate_hz: its rate.
        extent_s: length of the time axis; the clip's own length if None. A longer clip is cut and a
            shorter one leaves the rest of the plate empty, so that the clips of one prompt can
            share an axis.

    Returns:
        PNG bytes with a small palette.

    Raises:
        GenlabError: if it is not one wave, see `data.audio.as_audio`.
    """
    levels = log_mel_db(wave, sample_rate_hz)
    clip_s = max(len(wave), 1) / sample_rate_hz
    extent_s = extent_s or clip_s
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    times_s = (np.arange(width) + 0.5) / width * extent_s
    columns = np.minimum(times_s / clip_s * len(levels), len(levels) - 1).astype(int)
    rows = ((np.arange(height)[::-1] + 0.5) / height * NUM_MELS).astype(int)
    shade = np.clip((levels - FLOOR_DB) / (CEILING_DB - FLOOR_DB), 0.0, 1.0)
    pixels = np.round(shade * (NUM_COLOURS - 1)).astype(np.uint8)[columns][:, rows].T
    pixels[:, times_s > clip_s] = NUM_COLOURS  # the plate's own colour

    # Colour indices: magma first, then a ramp from plate to ink, which keeps the lettering smooth
    # without full colour.
    canvas = np.full((_HEIGHT, _WIDTH), NUM_COLOURS, np.uint8)
    lettering = np.round(
        _axes(frequency_axis(sample_rate_hz), time_axis(extent_s)) / 255 * (_NUM_INKS - 1)
    )
    canvas += lettering.astype(np.uint8)
    canvas[_TOP : _TOP + height, _LEFT : _LEFT + width] = pixels
    ramp = np.linspace(_PLATE, _INK, _NUM_INKS)
    picture = Image.fromarray(canvas)
    picture.putpalette(np.concatenate([colour_table(NUM_COLOURS), ramp]).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def grid_png(
    cells: Mapping[str, Mapping[str, Float[np.ndarray, "s"]]], sample_rate_hz: int = 16_000
) -> bytes:
    """Draw the log-mel pictures of many waves of one prompt at half size, on one time axis.

    Args:
        cells: per row, the wave of each column; a row that lacks a column leaves its place empty.
        sample_rate_hz: of all waves.
    """
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    longest_s = (
        max((len(wave) for row in cells.values() for wave in row.values()), default=1)
        / sample_rate_hz
    )
    width = _WIDTH // 2
    height = _HEIGHT // 2
    left = 200
    top = 30
    page = Image.new(
        "RGB", (left + width * len(columns), top + height * len(cells)), tuple(_PLATE.tolist())
    )
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(_FONT_SIZE - 6)
    ink = tuple(_INK.tolist())
    for x, column in enumerate(columns):
        draw.text(
            (left + x * width + width // 2, top // 2), column, fill=ink, font=font, anchor="mm"
        )
    for y, (name, row) in enumerate(cells.items()):
        draw.text((12, top + y * height + height // 2), name, fill=ink, font=font, anchor="lm")
        for column, wave in row.items():
            # One extent for all cells, so that equal times line up.
            picture = Image.open(
                io.BytesIO(mel_png(wave, sample_rate_hz, extent_s=longest_s))
            ).convert("RGB")
            page.paste(
                picture.resize((width, height)),
                (left + columns.index(column) * width, top + y * height),
            )
    buffer = io.BytesIO()
    page.quantize(NUM_COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def log_mel_db(
    wave: Shaped[np.ndarray, "..."], sample_rate_hz: int = 16_000
) -> Float[np.ndarray, "t m"]:
    """Return mel power in dB relative to a full-scale sine: 32 ms Hann windows, one every 5 ms."""
    samples = np.nan_to_num(as_audio(wave, is_finite=False), posinf=0.0, neginf=0.0)
    if samples.ndim == 2:
        # Power, not waves, is averaged: what is in opposite phase would vanish.
        decibels = [log_mel_db(samples[:, side], sample_rate_hz) for side in (0, 1)]
        return 10 * np.log10(sum(10 ** (levels / 10) for levels in decibels) / 2)
    window_samples = min(_FFT_SAMPLES, round(0.032 * sample_rate_hz))
    window = np.hanning(window_samples + 1)[:-1].astype(np.float32)
    padded = np.pad(samples, (window_samples // 2, window_samples))
    hop_samples = max(1, sample_rate_hz // 200)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window_samples)[
        : len(samples) + 1 : hop_samples
    ]
    power = np.abs(np.fft.rfft(frames * window, _FFT_SAMPLES)) ** 2
    # By Parseval, the bins around a full-scale sine add up to fft * energy of the window / 4.
    full_scale = _FFT_SAMPLES * float(np.sum(window**2)) / 4
    return 10 * np.log10(
        np.maximum(power @ _mel_filters(sample_rate_hz).T / full_scale, 1e-12)
    ).astype(np.float32)


def colour_table(count: int = 256) -> UInt8[np.ndarray, "c 3"]:
    """Return `count` colours from dark to light, evenly spaced along magma."""
    powers = np.linspace(0.0, 1.0, count)[:, None] ** np.arange(len(_MAGMA))
    return np.round(np.clip(powers @ _MAGMA, 0.0, 1.0) * 255).astype(np.uint8)


def frequency_axis(sample_rate_hz: int) -> Axis:
    """Return round frequencies up to the Nyquist frequency, placed on the mel scale; the highest
    carries the unit.
    """
    ticks_khz = [khz for khz in _TICKS_KHZ if khz * 2000 <= sample_rate_hz]
    positions = [_hz_to_mel(khz * 1000) / _hz_to_mel(sample_rate_hz / 2) for khz in ticks_khz]
    labels = [f"{khz:g}" for khz in ticks_khz]
    return Axis(
        tuple(float(position) for position in positions), (*labels[:-1], f"{labels[-1]} kHz")
    )


def time_axis(extent_s: float) -> Axis:
    """Return up to six round times from 0 to `extent_s`; the last carries the unit."""
    steps_s = [base * 10.0**power for power in range(-6, 6) for base in (1, 2, 5)]
    step_s = next((step for step in steps_s if extent_s / step <= 5.5), steps_s[-1])
    ticks_s = [index * step_s for index in range(int(extent_s / step_s + 1e-6) + 1)]
    decimals = max(0, -int(np.floor(np.log10(step_s) + 1e-9)))
    labels = [f"{tick:.{decimals}f}" for tick in ticks_s]
    return Axis(tuple(tick / extent_s for tick in ticks_s), (*labels[:-1], f"{labels[-1]} s"))


def _axes(frequency: Axis, time: Axis) -> UInt8[np.ndarray, "y x"]:
    """Draw ticks and labels in the margins: 0 is plate, 255 is ink."""
    page = Image.new("L", (_WIDTH, _HEIGHT), 0)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(_FONT_SIZE)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for position, label in zip(frequency.positions, frequency.labels):
        y = bottom - position * (bottom - _TOP)
        draw.line([(_LEFT - 7, y), (_LEFT - 1, y)], fill=150, width=2)
        middle = min(max(y, _FONT_SIZE * 0.55), bottom - _FONT_SIZE * 0.4)
        draw.text((_LEFT - 11, middle), label, fill=255, font=font, anchor="rm")
    for position, label in zip(time.positions, time.labels):
        x = _LEFT + position * (right - _LEFT)
        draw.line([(x, bottom), (x, bottom + 6)], fill=150, width=2)
        half = draw.textlength(label, font=font) / 2
        draw.text((min(x, _WIDTH - 4 - half), _HEIGHT - 4), label, fill=255, font=font, anchor="ms")
    return np.asarray(page)


@lru_cache(maxsize=4)
def _mel_filters(sample_rate_hz: int) -> Float[np.ndarray, "m f"]:
    """Return triangles of peak 1, evenly spaced in mel from 0 to the Nyquist frequency."""
    bins_mel = _hz_to_mel(np.fft.rfftfreq(_FFT_SAMPLES, 1 / sample_rate_hz))
    spacing_mel = _hz_to_mel(sample_rate_hz / 2) / NUM_MELS
    centres_mel = (np.arange(NUM_MELS) + 0.5) * spacing_mel
    # Low triangles may fall between two bins: none is narrower than the distance of its
    # neighbouring bins.
    width_mel = np.maximum(spacing_mel, np.interp(centres_mel, bins_mel[1:], np.diff(bins_mel)))
    return np.maximum(0.0, 1 - np.abs(bins_mel[None] - centres_mel[:, None]) / width_mel[:, None])


def _hz_to_mel(frequency_hz: np.ndarray | float) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(frequency_hz) / 700.0)
