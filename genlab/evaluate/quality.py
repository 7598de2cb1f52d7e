"""DNSMOS: predicted mean opinion scores of speech quality without a reference.

In: waveforms at 16 kHz. Out: per clip the four numbers OVRL (overall), SIG (speech), BAK
(background) of P.835 (Reddy, Gopal, Cutler, "DNSMOS P.835", ICASSP 2022) and P808 (Reddy et al.,
ICASSP 2021), each about 1 (bad) to 5 (excellent). The networks are those of the speechmos wheel;
its code is not imported (it wants requests and pandas), but the numbers agree with it to four
decimals when `max_windows` is None. DNSMOS hardly reacts to a low-pass filter and likes reversed
speech: never report it without a content score.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from genlab.data.audio import as_waves
from genlab.evaluate.sessions import find_weights, open_network, open_once
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ, mel_filters, periodic_window, power_spectrum

WINDOW_SAMPLES = int(9.01 * SAMPLE_RATE_HZ)
P808_SAMPLES = WINDOW_SAMPLES - 160
# odd on purpose: the network was trained on mel bins at multiples of 16000/321 Hz
P808_FFT_SAMPLES = 321
P808_MELS = 120

# Calibration of the P.835 outputs (SIG, BAK, OVRL) to listeners' ratings, highest power first.
CALIBRATION = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)


class QualityScores(NamedTuple):
    """Mean opinion scores per clip, about 1 to 5."""

    ovrl: Float[np.ndarray, "n"]
    sig: Float[np.ndarray, "n"]
    bak: Float[np.ndarray, "n"]
    p808: Float[np.ndarray, "n"]


class Dnsmos:
    """The two DNSMOS networks. Safe to call from several threads.

    Args:
        max_windows: score only so many 9.01 s windows of a clip. A short clip is tiled to fill a
            window, so its further windows are shifted copies of the first: 1 is several times
            faster and moves the score by up to 0.06. None scores all of them, as the reference
            implementation does.
        batch_windows: windows in one network call.
    """

    def __init__(self, max_windows: int | None = None, batch_windows: int = 2):
        self.max_windows = max_windows
        self.batch_windows = batch_windows
        self._p835 = open_network(find_weights("speechmos", "dnsmos_models/sig_bak_ovr.onnx"))
        self._p808 = open_network(find_weights("speechmos", "dnsmos_models/model_v8.onnx"))

    def __reduce__(self) -> tuple[object, ...]:
        return open_once, (type(self), self.max_windows, self.batch_windows)

    def __call__(self, waves: Sequence[Shaped[np.ndarray, "..."]]) -> QualityScores:
        """Score each clip: the mean over its windows.

        Raises:
            GenlabError: naming the wave that is not mono, finite and float or int16.
        """
        windows = [_clip_windows(wave, self.max_windows) for wave in as_waves(waves)]
        owner = np.repeat(np.arange(len(waves)), [len(one) for one in windows])
        if not len(owner):
            return QualityScores(*(np.zeros(0) for _ in QualityScores._fields))
        stacked = np.concatenate(windows)
        scores = np.concatenate(
            [
                self._score_windows(stacked[i : i + self.batch_windows])
                for i in range(0, len(owner), self.batch_windows)
            ]
        )
        counts = np.bincount(owner, minlength=len(waves))
        return QualityScores(
            *(np.bincount(owner, column, len(waves)) / counts for column in scores.T)
        )

    def _score_windows(self, windows: Float[np.ndarray, "w s"]) -> Float[np.ndarray, "w 4"]:
        raw = self._p835(input_1=windows)[0].astype(np.float64)
        sig, bak, ovrl = (np.polyval(powers, raw[:, i]) for i, powers in enumerate(CALIBRATION))
        p808 = self._p808(input_1=_p808_features(windows))[0][:, 0]
        return np.stack([ovrl, sig, bak, p808], axis=1)


def _clip_windows(
    wave: Float[np.ndarray, "s"], max_windows: int | None
) -> Float[np.ndarray, "w p"]:
    """Tile a clip by doubling until it fills a window, then cut windows one second apart."""
    wave = np.clip(wave, -1.0, 1.0)
    if not len(wave):
        wave = np.zeros(1, np.float32)
    while len(wave) < WINDOW_SAMPLES:
        wave = np.concatenate([wave, wave])
    windows = []
    for i in range(int(len(wave) // SAMPLE_RATE_HZ - 9.01) + 1):
        # The reference computes the end in floating point and drops a window that comes out one
        # sample short.
        window = wave[i * SAMPLE_RATE_HZ : int((i + 9.01) * SAMPLE_RATE_HZ)]
        if len(window) == WINDOW_SAMPLES:
            windows.append(window)
    return np.stack(windows[:max_windows])


def _p808_features(windows: Float[np.ndarray, "w s"]) -> Float[np.ndarray, "w t m"]:
    window = periodic_window("hann", P808_FFT_SAMPLES)
    power = power_spectrum(windows[:, :P808_SAMPLES], window, P808_FFT_SAMPLES, 160, centre=True)
    mel = power @ mel_filters(P808_FFT_SAMPLES, P808_MELS)
    decibels = 10 * np.log10(np.maximum(mel, 1e-10))
    decibels -= np.maximum(10 * np.log10(mel.max(axis=(1, 2), keepdims=True).clip(1e-10)), -100.0)
    decibels = np.maximum(decibels, decibels.max(axis=(1, 2), keepdims=True) - 80.0)
    return ((decibels + 40) / 40).astype(np.float32)
