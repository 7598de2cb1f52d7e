import numpy as np
import pytest

from genlab.evaluate.pitch import PitchTrack, PitchTracker, compare_tracks
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ


@pytest.fixture(scope="module")
def tracker() -> PitchTracker:
    return PitchTracker()


def glide(start_hz: float, end_hz: float, duration_s: float = 1.0) -> tuple[np.ndarray, PitchTrack]:
    """A harmonic glide and its exact track."""
    times = np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    f0_hz = start_hz * (end_hz / start_hz) ** (times / duration_s)
    phase = 2 * np.pi * np.cumsum(f0_hz) / SAMPLE_RATE_HZ
    wave = sum(np.sin(k * phase) / k for k in range(1, 12)).astype(np.float32) * 0.2
    return wave, PitchTrack(f0_hz[::160], 0.01)


def test_tracker_finds_a_known_glide(tracker):
    wave, truth = glide(110, 220)
    agreement = compare_tracks(tracker(wave), truth)
    assert agreement.correlation > 0.99
    assert agreement.voicing_agreement > 0.9
    assert agreement.gross_error < 0.05


def test_a_falling_contour_does_not_follow_a_rising_one(tracker):
    agreement = compare_tracks(tracker(glide(220, 110)[0]), glide(110, 220)[1])
    assert agreement.correlation < -0.9
    assert agreement.gross_error > 0.5


def test_rendered_speech_agrees_with_its_true_track_and_spoilt_speech_less(
    tracker, speech, degrade
):
    def mean_agreement(spoil):
        rows = [compare_tracks(tracker(spoil(prompt.wave)), prompt.f0) for prompt in speech[::2]]
        return np.nanmean(np.array(rows), axis=0)

    clean, shuffled = mean_agreement(lambda wave: wave), mean_agreement(degrade["shuffle"])
    assert clean[0] > 0.95
    assert clean[1] > 0.85
    assert clean[2] < 0.05
    assert shuffled[0] < 0.4
    assert shuffled[1] < clean[1] - 0.2
    assert shuffled[2] > clean[2] + 0.2


def test_silence_scores_zero_rather_than_being_left_out(tracker):
    agreement = compare_tracks(tracker(np.zeros(16000, np.float32)), glide(110, 220)[1])
    assert agreement.correlation == 0
    assert agreement.gross_error == 1
    assert agreement.voicing_agreement < 0.1


def test_an_unvoiced_reference_defines_no_correlation(tracker):
    agreement = compare_tracks(tracker(glide(110, 220)[0]), PitchTrack(np.zeros(100), 0.01))
    assert np.isnan(agreement.correlation)
    assert np.isnan(agreement.gross_error)


def test_noise_has_no_pitch(tracker):
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    assert (tracker(noise).f0_hz > 0).mean() < 0.1
