"""Speech that the tests render themselves, and the ways to spoil it."""

from collections.abc import Callable

import numpy as np
import pytest

from genlab.data.embedded import Embedded, plan_utterances, predict_parts, render_clip
from genlab.data.grammar import VOCABULARY, grammar_jsgf
from genlab.data.manifest import F0_HOP_SAMPLES
from genlab.evaluate.metrics import Wanted, grammar_metric
from genlab.evaluate.pitch import PitchTrack
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ


@pytest.fixture(scope="session")
def speech() -> list[Wanted]:
    """About 50 clips of 4 speakers, text by text, with their true F0."""
    prompts = []
    for utterance in plan_utterances(Embedded(minutes=1.1, speakers=4, seed=3)):
        parts = predict_parts(utterance.text, utterance.rate)
        for clip in utterance.clips:
            samples, f0_hz = render_clip(parts, clip, seed=3)
            track = PitchTrack(f0_hz, F0_HOP_SAMPLES / SAMPLE_RATE_HZ)
            wave = samples.astype(np.float32) / 32768
            prompts.append(Wanted(clip.id, clip.text, clip.speaker, wave, track))
    return prompts


@pytest.fixture(scope="session")
def grammar():
    return grammar_metric(grammar_jsgf(), VOCABULARY)


def add_noise(wave: np.ndarray, snr_db: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(len(wave)).astype(np.float32)
    return wave + noise * np.float32(np.sqrt(np.square(wave).mean() / 10 ** (snr_db / 10)))


def low_pass(wave: np.ndarray, cutoff_hz: float = 1000.0) -> np.ndarray:
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE_HZ) > cutoff_hz] = 0
    return np.fft.irfft(spectrum, len(wave)).astype(np.float32)


def shuffle_time(wave: np.ndarray, piece_samples: int = 800, seed: int = 0) -> np.ndarray:
    pieces = wave[: len(wave) // piece_samples * piece_samples].reshape(-1, piece_samples)
    return np.random.default_rng(seed).permutation(pieces).ravel()


@pytest.fixture(scope="session")
def degrade() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    return {
        "noise_10db": lambda wave: add_noise(wave, 10),
        "noise_0db": lambda wave: add_noise(wave, 0),
        "low_pass": low_pass,
        "shuffle": shuffle_time,
    }
