"""Mel-cepstral distortion: how far is the spectral envelope from that of the real clip, after time
warping?

In: pairs of waveforms at 16 kHz that say the same. Out: dB per pair. MFCCs 1 to 12 of librosa (80
mel bands, 25 ms windows every 10 ms) are aligned by dynamic time warping; the distortion is the
root mean square difference of the two envelopes that the coefficients describe,

    MCD = mean over the path of sqrt(sum_k (C_k - C'_k)^2 / bands)
    C: orthonormal cosine transform of levels in dB.

Where we differ from Kubichek (1993) and the WORLD or SPTK mel-cepstra of other papers: the envelope
is that of a mel filter bank, so values are comparable within this table only. Coefficient 0, the
level, is left out, as there.
"""

from collections.abc import Sequence

import librosa
import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float, Shaped

from genlab.data.audio import as_waves
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ

BANDS, COEFFICIENTS = 80, 13
WINDOW_SAMPLES, HOP_SAMPLES, FFT_SAMPLES = 400, 160, 512
FLOOR_DB = 60.0  # below the loudest band: what lies deeper is inaudible and would rule the mean


def cepstral_distortions(
    references: Sequence[Shaped[np.ndarray, "..."]], generated: Sequence[Shaped[np.ndarray, "..."]]
) -> Float[np.ndarray, "n"]:
    """Return the distortion of each pair in dB, NaN where one of them is silent or shorter than a
    window.
    """
    return np.array([_distortion(a, b) for a, b in zip(references, generated)])


def _distortion(
    reference: Shaped[np.ndarray, "..."], generated: Shaped[np.ndarray, "..."]
) -> float:
    pair = as_waves((reference, generated), "(reference, generated)")
    if min(len(wave) for wave in pair) < FFT_SAMPLES or not all(wave.any() for wave in pair):
        return np.nan
    ours, theirs = (_cepstra(wave) for wave in pair)
    cost, path = librosa.sequence.dtw(C=scipy.spatial.distance.cdist(ours, theirs) / np.sqrt(BANDS))
    return float(cost[-1, -1] / len(path))


def _cepstra(wave: Float[np.ndarray, "s"]) -> Float[np.ndarray, "t c"]:
    power = librosa.feature.melspectrogram(
        y=wave,
        sr=SAMPLE_RATE_HZ,
        n_fft=FFT_SAMPLES,
        win_length=WINDOW_SAMPLES,
        hop_length=HOP_SAMPLES,
        n_mels=BANDS,
    )
    levels = librosa.power_to_db(power, ref=np.max, top_db=FLOOR_DB)
    return librosa.feature.mfcc(S=levels, n_mfcc=COEFFICIENTS, norm="ortho")[1:].T
