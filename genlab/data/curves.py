"""Curves that are measured in the audio of a clip, one row per frame of its tokens.

In: a clip (`ClipFacts`), mono or stereo. Out: "t c" in the units of `CHANNELS`. Every frame is seen
through a Hann window that is centred on it, so a curve is in step with the tokens at any rate.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

from genlab.data.valued import ClipFacts

Measured = Literal["loudness", "f0", "chroma"]
CHANNELS: dict[str, int] = {"loudness": 1, "f0": 2, "chroma": 12}
FLOOR_DB = -60.0  # quieter is as good as silent
WINDOW_S = {"loudness": 0.025, "f0": 0.064, "chroma": 0.186}
F0_RANGE_HZ = (50.0, 800.0)
F0_REFERENCE_HZ = 100.0
VOICED = 0.6  # autocorrelation at the period, over that at lag 0
CHROMA_RANGE_HZ = (60.0, 4000.0)
C0_HZ = 16.351597831287414  # 440 Hz * 2 ** (-57 / 12), so that class 0 is C


def measure(name: Measured, clip: ClipFacts) -> Float[np.ndarray, "t c"]:
    """Return one of the curves of a clip."""
    wave = clip.wave()
    mono = wave if wave.ndim == 1 else wave.mean(axis=1)
    rate_hz = clip.row.sample_rate_hz
    frames = _frames(mono.astype(np.float64), clip.num_frames, round(WINDOW_S[name] * rate_hz))
    curves = {"loudness": _loudness, "f0": _f0, "chroma": _chroma}
    return curves[name](frames, rate_hz).astype(np.float32)


def _frames(wave: Float[np.ndarray, "s"], num_frames: int, window: int) -> Float[np.ndarray, "t w"]:
    middles = ((np.arange(num_frames) + 0.5) * len(wave) / max(num_frames, 1)).astype(int)
    padded = np.pad(wave, window)
    places = middles[:, None] + window - window // 2 + np.arange(window)[None, :]
    return padded[places]


def _loudness(frames: Float[np.ndarray, "t w"], rate_hz: int) -> Float[np.ndarray, "t 1"]:
    level_db = 10 * np.log10(np.maximum(np.square(frames).mean(axis=1), 1e-12))
    return (1 - np.maximum(level_db, FLOOR_DB) / FLOOR_DB)[:, None]


def _f0(frames: Float[np.ndarray, "t w"], rate_hz: int) -> Float[np.ndarray, "t 2"]:
    """Return octaves above 100 Hz and whether a frame is voiced, by the autocorrelation of a
    windowed frame over that of the window (Boersma 1993, eq. 9).
    """
    window = np.hanning(frames.shape[1])
    size = 1 << (2 * frames.shape[1] - 1).bit_length()

    def correlate(values: Float[np.ndarray, "t w"]) -> Float[np.ndarray, "t l"]:
        power = np.square(np.abs(np.fft.rfft(values, size, axis=1)))
        found = np.fft.irfft(power, axis=1)
        return found / np.maximum(found[:, :1], 1e-12)

    centred = (frames - frames.mean(axis=1, keepdims=True)) * window
    lags = np.arange(int(rate_hz / F0_RANGE_HZ[1]), int(rate_hz / F0_RANGE_HZ[0]) + 1)
    lags = lags[lags < frames.shape[1] // 2]
    found = correlate(centred)[:, lags] / correlate(window[None])[:, lags]
    # Every multiple of the period fits as well; a small cost per octave prefers the shortest.
    best = (found - 0.02 * np.log2(lags / lags[0])[None, :]).argmax(axis=1)
    strength = np.take_along_axis(found, best[:, None], axis=1)[:, 0]
    is_loud = np.sqrt(np.square(frames).mean(axis=1)) > 10 ** (FLOOR_DB / 20)
    is_voiced = (strength > VOICED) & is_loud
    octaves = np.log2(rate_hz / lags[best] / F0_REFERENCE_HZ)
    return np.stack([np.where(is_voiced, octaves, 0), is_voiced], axis=1)


def _chroma(frames: Float[np.ndarray, "t w"], rate_hz: int) -> Float[np.ndarray, "t 12"]:
    size = 1 << (2 * frames.shape[1] - 1).bit_length()
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]), size, axis=1)))
    hz = np.fft.rfftfreq(size, 1 / rate_hz)
    is_pitch = (hz >= CHROMA_RANGE_HZ[0]) & (hz <= CHROMA_RANGE_HZ[1])
    classes = np.round(12 * np.log2(hz[is_pitch] / C0_HZ)).astype(int) % 12
    shares = power[:, is_pitch] @ np.eye(12)[classes]
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
