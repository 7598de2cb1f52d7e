"""An embedding of windows of any audio that no network made: the moments of their mel spectrum.

In: waves at their own rate, mono or stereo. Out: one vector per window of 1 s, every 0.5 s: of each
of 48 mel bands up to the Nyquist frequency the mean level in dB, its deviation, and its mean change
from frame to frame, so that what sounds, how much it moves and how fast are all in it. Stereo adds
the level of the side below that of the mid in 8 groups of bands. Distances between sets of clips
(distribution.py) need vectors of a space where real clips lie apart; these are the statistics of
sound textures (McDermott and Simoncelli 2011, section "Texture model") without their correlations.
"""

import functools

import numpy as np
from jaxtyping import Float, Shaped

from genlab.data.audio import as_audio
from genlab.evaluate.spectrum import periodic_window, power_spectrum

BANDS = 48
SIDE_GROUPS = 8
WINDOW_S, STRIDE_S = 1.0, 0.5
FRAME_S = 0.046
FLOOR_DB = -80.0  # of a full-scale sine: what is below is not heard, and would rule the mean


class TimbreEmbedder:
    """The moments of windows; there is nothing to load. Safe to call from threads."""

    def __call__(self, wave: Shaped[np.ndarray, "..."], rate_hz: int) -> Float[np.ndarray, "m d"]:
        """Return the vectors of one clip; a clip shorter than a window has one.

        Args:
            wave: shape (samples,) or (samples, 2).
            rate_hz: its sample rate.
        """
        wave = as_audio(wave)
        mid = wave if wave.ndim == 1 else wave.mean(axis=1, dtype=np.float32)
        levels = mel_levels(mid, rate_hz)
        side = None
        if wave.ndim == 2:
            side = mel_levels((wave[:, 0] - wave[:, 1]) / 2, rate_hz) - levels
        frame_hz = len(levels) / max(len(wave) / rate_hz, 1e-9)
        size, stride = (max(2, round(seconds * frame_hz)) for seconds in (WINDOW_S, STRIDE_S))
        starts = range(0, max(1, len(levels) - size + 1), stride)
        return np.stack([_moments(levels, side, slice(start, start + size)) for start in starts])


def mel_levels(wave: Float[np.ndarray, "s"], rate_hz: int) -> Float[np.ndarray, "t m"]:
    """Return the level of each band in dB, at least `FLOOR_DB`; a frame of 46 ms every 23 ms.

    Args:
        wave: mono.
        rate_hz: its sample rate; the bands end at half of it.
    """
    size = 2 ** round(np.log2(FRAME_S * rate_hz))
    window = periodic_window("hann", size)
    padded = np.pad(wave, (0, max(0, size - len(wave))))
    power = power_spectrum(padded, window, size, size // 2, centre=False)
    # By Parseval a full-scale sine has a quarter of this in the bins around it.
    full_scale = size * float(np.sum(window**2)) / 4
    levels = 10 * np.log10(np.maximum(power @ _bands(rate_hz, size) / full_scale, 1e-12))
    return np.maximum(levels, FLOOR_DB)


def _moments(
    levels: Float[np.ndarray, "t m"], side: Float[np.ndarray, "t m"] | None, window: slice
) -> Float[np.ndarray, "d"]:
    seen = levels[window]
    change = np.abs(np.diff(seen, axis=0)).mean(axis=0) if len(seen) > 1 else np.zeros(BANDS)
    parts = [seen.mean(axis=0), seen.std(axis=0), change]
    if side is not None:
        parts.append(side[window].mean(axis=0).reshape(SIDE_GROUPS, -1).mean(axis=1))
    return np.concatenate(parts).astype(np.float64)


@functools.cache
def _bands(rate_hz: int, fft_samples: int) -> Float[np.ndarray, "f m"]:
    """Return triangles of peak 1 on Slaney's mel scale from 0 to the Nyquist frequency."""
    import librosa.filters  # here, because it takes a second that reading a config need not wait

    filters = librosa.filters.mel(sr=rate_hz, n_fft=fft_samples, n_mels=BANDS, norm=None)
    return np.ascontiguousarray(filters.T)
