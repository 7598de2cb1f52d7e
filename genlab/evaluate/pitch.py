"""Pitch: does the F0 contour of generated audio follow the reference, frame by frame?

In: waveforms at 16 kHz, and a reference track (the truth stored with a rendered corpus, or the
track of the real clip). Out: per clip the Pearson correlation of log-F0 on frames voiced in both,
the share of frames whose voicing agrees, and among commonly voiced frames the share of gross errors
(more than 20 % off) and the root mean square error in semitones. No time warping: generation is
frame-aligned with its content. The tracker is swift-f0 0.3.0 (MIT, 0.13 MB of ONNX), run without
importing its package.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from genlab.data.audio import as_wave
from genlab.evaluate.sessions import find_weights, open_network, open_once
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ

HOP_SAMPLES = 256
F0_MIN_HZ, F0_MAX_HZ = 46.875, 600.0
VOICED_CONFIDENCE = 0.5
SILENCE_PEAK = 1e-3  # the network answers digital silence with random pitch
GROSS_RATIO = 1.2
MIN_VOICED_FRAMES = 8
OCTAVE_SEMITONES = 12.0


class PitchTrack(NamedTuple):
    """F0 every `hop_s` seconds, 0 on unvoiced frames; frame i is at time i * hop_s."""

    f0_hz: Float[np.ndarray, "t"]
    hop_s: float


class PitchAgreement(NamedTuple):
    """How one clip follows a reference; NaN where the reference leaves the number undefined."""

    correlation: float
    voicing_agreement: float
    gross_error: float
    rmse_semitones: float


class PitchTracker:
    """The swift-f0 network. Safe to call from several threads."""

    def __init__(self) -> None:
        self._network = open_network(find_weights("swift_f0", "model.onnx", "swift-f0==0.3.0"))

    def __reduce__(self) -> tuple[object, ...]:
        return open_once, (type(self),)

    def __call__(self, wave: Shaped[np.ndarray, "..."]) -> PitchTrack:
        """Return the F0 track of a clip."""
        wave = as_wave(wave)
        wave = np.pad(wave, (0, max(0, HOP_SAMPLES - len(wave))))
        f0_min_hz, f0_max_hz = np.asarray(F0_MIN_HZ, np.float32), np.asarray(F0_MAX_HZ, np.float32)
        f0_hz, confidence = self._network(audio=wave[None], fmin=f0_min_hz, fmax=f0_max_hz)
        frames = wave[: f0_hz.shape[1] * HOP_SAMPLES].reshape(-1, HOP_SAMPLES)
        is_voiced = (confidence[0] >= VOICED_CONFIDENCE) & (
            np.abs(frames).max(axis=1) >= SILENCE_PEAK
        )
        return PitchTrack(
            np.where(is_voiced, f0_hz[0], 0.0).astype(np.float64), HOP_SAMPLES / SAMPLE_RATE_HZ
        )


def compare_tracks(track: PitchTrack, reference: PitchTrack) -> PitchAgreement:
    """Compare on the frames of `track`, within the part that both cover.

    A reference with fewer than 8 voiced frames, or one pitch throughout, defines no correlation
    (NaN). If the reference does but the track offers too few voiced frames or one pitch only, the
    correlation is 0 (and the gross error 1, and an octave, with too few): silence must not score
    better than a wrong contour.
    """
    truth_hz = _resample_track(reference, len(track.f0_hz), track.hop_s)
    length = min(len(track.f0_hz), len(truth_hz))
    f0_hz = track.f0_hz[:length]
    truth_hz = truth_hz[:length]
    is_voiced, is_truth_voiced = f0_hz > 0, truth_hz > 0
    agreement = float((is_voiced == is_truth_voiced).mean()) if length else np.nan
    if is_truth_voiced.sum() < MIN_VOICED_FRAMES:
        return PitchAgreement(np.nan, agreement, np.nan, np.nan)
    is_both = is_voiced & is_truth_voiced
    if is_both.sum() < MIN_VOICED_FRAMES:
        has_contour = np.log(truth_hz[is_truth_voiced]).std() > 1e-6
        return PitchAgreement(0.0 if has_contour else np.nan, agreement, 1.0, OCTAVE_SEMITONES)
    ratio = f0_hz[is_both] / truth_hz[is_both]
    gross_error = float(((ratio > GROSS_RATIO) | (ratio < 1 / GROSS_RATIO)).mean())
    rmse = float(OCTAVE_SEMITONES * np.sqrt(np.mean(np.log2(ratio) ** 2)))
    return PitchAgreement(_correlate(f0_hz, truth_hz, is_both), agreement, gross_error, rmse)


def _correlate(
    f0_hz: Float[np.ndarray, "t"], truth_hz: Float[np.ndarray, "t"], is_both: Bool[np.ndarray, "t"]
) -> float:
    a, b = np.log(f0_hz[is_both]), np.log(truth_hz[is_both])
    if b.std() <= 1e-6:
        return np.nan
    if a.std() <= 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _resample_track(track: PitchTrack, num_frames: int, hop_s: float) -> Float[np.ndarray, "t"]:
    # Nearest frame: interpolating between a voiced and an unvoiced frame would invent pitches.
    index = np.rint(np.arange(num_frames) * hop_s / track.hop_s).astype(np.intp)
    return np.asarray(track.f0_hz, np.float64)[index[index < len(track.f0_hz)]]
