"""Frames, power spectra and mel filters in numpy, exactly as the evaluators' front ends were
trained on.

In: one waveform `"s"` or a batch `"b s"` at 16 kHz. Out: `"... t f"` power spectra, and filter
banks `"f m"`. The mel filters are librosa's (Slaney scale, area-normalised), taken from librosa
itself so that they agree to the last bit.
"""

import functools

import numpy as np
from jaxtyping import Float

from genlab.data.audio import SAMPLE_RATE_HZ as SAMPLE_RATE_HZ


def cut_frames(
    wave: Float[np.ndarray, "*b s"], frame_samples: int, hop_samples: int
) -> Float[np.ndarray, "*b t f"]:
    """Return overlapping frames as a read-only view; a tail shorter than a frame is dropped."""
    return np.lib.stride_tricks.sliding_window_view(wave, frame_samples, axis=-1)[
        ..., ::hop_samples, :
    ]


def power_spectrum(
    wave: Float[np.ndarray, "*b s"],
    window: Float[np.ndarray, "w"],
    fft_samples: int,
    hop_samples: int,
    *,
    centre: bool,
) -> Float[np.ndarray, "*b t f"]:
    """Return |STFT|^2 with the window centred in an FFT of `fft_samples` (librosa's layout).

    With `centre`, half an FFT of zeros is put at both ends, so that frame i is centred on sample i
    * hop.
    """
    left = (fft_samples - len(window)) // 2
    padded_window = np.zeros(fft_samples, np.float32)
    padded_window[left : left + len(window)] = window
    if centre:
        widths = [(0, 0)] * (wave.ndim - 1) + [(fft_samples // 2, fft_samples // 2)]
        wave = np.pad(wave, widths)
    spectrum = np.fft.rfft(cut_frames(wave, fft_samples, hop_samples) * padded_window, axis=-1)
    return (spectrum.real**2 + spectrum.imag**2).astype(np.float32)


@functools.cache
def mel_filters(fft_samples: int, num_mels: int) -> Float[np.ndarray, "f m"]:
    """Return the Slaney mel filter bank for 16 kHz, from 0 to 8 kHz."""
    import librosa.filters  # here, because it takes a second that quality scores need not wait for

    return np.ascontiguousarray(
        librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=fft_samples, n_mels=num_mels).T
    )


@functools.cache
def periodic_window(name: str, num_samples: int) -> Float[np.ndarray, "w"]:
    """Return a periodic (not symmetric) window: "hann" or "hamming"."""
    import librosa.filters

    return librosa.filters.get_window(name, num_samples, fftbins=True).astype(np.float32)
