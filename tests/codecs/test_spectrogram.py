import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.signal

from genlab.evaluate.spectrum import periodic_window
from genlab.nets.spectrogram import (
    frame_wave,
    hann_window,
    istft,
    mel_filters,
    overlap_add,
    stft,
)


@pytest.mark.parametrize(
    ("hop", "overlap", "num_frames"), [(32, 2, 7), (80, 4, 9), (160, 4, 12), (160, 2, 1)]
)
def test_istft_inverts_stft(hop, overlap, num_frames):
    wave = np.random.default_rng(hop).uniform(-1, 1, (2, num_frames * hop)).astype(np.float32)
    spectrum = stft(jnp.asarray(wave), overlap * hop, hop)
    assert spectrum.shape == (2, num_frames, overlap * hop // 2 + 1)
    again = np.asarray(istft(spectrum, overlap * hop, hop))
    assert again.shape == wave.shape
    # At both ends the window is small, and what little of a sample it let through is divided by it
    # again.
    squares = np.tile(hann_window(overlap * hop) ** 2, (1, num_frames, 1))
    summed = np.asarray(overlap_add(jnp.asarray(squares), hop))
    is_heard = summed[0] > 1e-2
    np.testing.assert_allclose(again[:, is_heard], wave[:, is_heard], atol=2e-4)
    assert is_heard.mean() > 0.9


def test_the_codec_window_is_inverted_to_the_ends():
    wave = np.random.default_rng(0).uniform(-1, 1, (1, 20 * 160)).astype(np.float32)
    np.testing.assert_allclose(istft(stft(jnp.asarray(wave), 640, 160), 640, 160), wave, atol=1e-4)


def test_frames_align_with_tokens():
    # A click in the middle of hop 5 is loudest in frame 5.
    wave = np.zeros((1, 10 * 160), np.float32)
    wave[0, 5 * 160 + 80] = 1
    energy = np.abs(np.asarray(stft(jnp.asarray(wave), 640, 160))).sum(axis=-1)[0]
    assert energy.argmax() == 5
    np.testing.assert_allclose(energy[5 - 1], energy[5 + 1], rtol=1e-3)


def test_overlap_add_counts_every_frame_that_covers_a_sample():
    wave = np.random.default_rng(1).standard_normal((2, 12 * 64)).astype(np.float32)
    summed = overlap_add(frame_wave(jnp.asarray(wave), 256, 64), 64)
    np.testing.assert_allclose(summed[:, 128:-128], 4 * wave[:, 128:-128], rtol=1e-5, atol=1e-5)


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiples of the hop 160"):
        frame_wave(jnp.zeros((1, 161)), 640, 160)
    with pytest.raises(ValueError, match="window 600"):
        frame_wave(jnp.zeros((1, 320)), 600, 160)


@pytest.mark.parametrize(
    ("window", "mels"),
    [(128, 10), (256, 24), (512, 40), (512, 48), (1024, 80), (1024, 96), (2048, 160), (321, 120)],
)
def test_mel_filters_are_librosas(window, mels):
    wanted = librosa.filters.mel(sr=16_000, n_fft=window, n_mels=mels).T
    np.testing.assert_allclose(mel_filters(16_000, window, mels), wanted, atol=2e-7)


def test_mel_filters_stop_at_the_highest_frequency():
    wanted = librosa.filters.mel(sr=24_000, n_fft=1024, n_mels=40, fmax=7000.0).T
    np.testing.assert_allclose(mel_filters(24_000, 1024, 40, 7000.0), wanted, atol=2e-7)


@pytest.mark.parametrize("name", ["hann", "hamming"])
def test_windows_are_scipys(name):
    for num_samples in (321, 400, 512):
        wanted = scipy.signal.get_window(name, num_samples, fftbins=True)
        np.testing.assert_allclose(periodic_window(name, num_samples), wanted, atol=1e-7)
