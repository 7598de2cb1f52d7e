"""Reconstruction: how far is decoded audio from the very clip that was encoded?

In: pairs of aligned waveforms at 16 kHz. Out: per clip the mean absolute difference of log-mel
levels in dB over three resolutions, and PESQ and STOI where those packages are installed (they are
optional: PESQ builds a C extension). Only for codec floors: a generated clip is right without being
the same waveform, so these numbers say nothing about decoders.
"""

import importlib.util
import threading
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from genlab.data.audio import as_wave, as_waves
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ, mel_filters, periodic_window, power_spectrum

# FFT samples, hop samples, mel bands: fine in time, balanced, fine in frequency.
RESOLUTIONS = ((256, 64, 32), (512, 128, 64), (1024, 256, 96))
# below the loudest band of the reference; the rest is inaudible and would rule the mean
FLOOR_DB = -60.0
_GLOBAL_GENERATOR = threading.Lock()


def mel_distance_db(
    reference: Shaped[np.ndarray, "..."], decoded: Shaped[np.ndarray, "..."]
) -> float:
    """Return the multi-resolution log-mel distance of two aligned waveforms in dB, over their
    common length.
    """
    reference, decoded = as_wave(reference, "reference"), as_wave(decoded, "decoded")
    length = min(len(reference), len(decoded))
    if length < RESOLUTIONS[0][0]:
        return float("nan")
    distances = []
    for fft_samples, hop_samples, num_mels in RESOLUTIONS:
        levels = [
            _mel_power(wave[:length], fft_samples, hop_samples, num_mels)
            for wave in (reference, decoded)
        ]
        floor = max(float(levels[0].max()) * 10 ** (FLOOR_DB / 10), 1e-10)
        decibels = [10 * np.log10(np.maximum(level, floor)) for level in levels]
        distances.append(np.abs(decibels[0] - decibels[1]).mean())
    return float(np.mean(distances))


def mel_distances_db(
    references: Sequence[Shaped[np.ndarray, "..."]], decoded: Sequence[Shaped[np.ndarray, "..."]]
) -> Float[np.ndarray, "n"]:
    """Return `mel_distance_db` of each pair."""
    return np.array([mel_distance_db(a, b) for a, b in zip(references, decoded)])


def pesq_stoi(
    references: Sequence[Shaped[np.ndarray, "..."]], decoded: Sequence[Shaped[np.ndarray, "..."]]
) -> dict[str, Float[np.ndarray, "n"]]:
    """Return "pesq" (wide band), "stoi" and "estoi" per clip where installed; NaN where a clip
    cannot be scored.
    """
    references, decoded = as_waves(references, "references"), as_waves(decoded, "decoded")
    pairs = [
        (a[: len(b)].astype(np.float64), b[: len(a)].astype(np.float64))
        for a, b in zip(references, decoded)
    ]
    scores: dict[str, np.ndarray] = {}
    if importlib.util.find_spec("pesq"):
        import pesq

        on_error = pesq.PesqError.RETURN_VALUES
        values = np.array(
            [pesq.pesq(SAMPLE_RATE_HZ, a, b, "wb", on_error=on_error) for a, b in pairs], np.float64
        )
        scores["pesq"] = np.where(values > 0, values, np.nan)  # errors come back as negative codes
    if importlib.util.find_spec("pystoi"):
        import pystoi

        scores["stoi"] = np.array([pystoi.stoi(a, b, SAMPLE_RATE_HZ) for a, b in pairs])
        scores["estoi"] = np.array([_estoi(a, b) for a, b in pairs])
    return scores


def _estoi(reference: Float[np.ndarray, "s"], decoded: Float[np.ndarray, "s"]) -> float:
    """Return ESTOI of one pair, the same every time.

    pystoi adds noise of 1e-16 from numpy's global generator to avoid a division by zero. That moves
    the last digits, and clips that are nearly equal by enough to turn a verdict of the audit.
    """
    import pystoi

    with _GLOBAL_GENERATOR:
        before = np.random.get_state()  # noqa: NPY002 (the generator that pystoi draws from)
        np.random.seed(0)  # noqa: NPY002
        try:
            return float(pystoi.stoi(reference, decoded, SAMPLE_RATE_HZ, extended=True))
        finally:
            np.random.set_state(before)  # noqa: NPY002


def _mel_power(
    wave: Float[np.ndarray, "s"], fft_samples: int, hop_samples: int, num_mels: int
) -> Float[np.ndarray, "t m"]:
    power = power_spectrum(
        wave, periodic_window("hann", fft_samples), fft_samples, hop_samples, centre=True
    )
    return power @ mel_filters(fft_samples, num_mels)
