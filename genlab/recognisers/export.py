"""From a trained recogniser to the files that ship: fit the units, measure both, save.

In: a model, and a manifest whose train split the units are clustered on. Out: weights, and beside
them a JSON with the scores on the held-out splits: error rates of the recogniser on clean, noisy
and shuffled audio (the last must be bad), the error rate of text read from units alone, and how far
units give the speaker away.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jiwer
import numpy as np
from jaxtyping import Float
from pydantic import JsonValue

from genlab.data.audio import to_float
from genlab.data.manifest import Clip, Manifest
from genlab.data.text import normalise_text
from genlab.recognisers.ctc import Recogniser
from genlab.recognisers.shipped import save_units
from genlab.recognisers.transcribe import FrozenRecogniser
from genlab.recognisers.units import UnitEncoder, fit_codebook, speaker_leakage

SHUFFLE_SAMPLES = 800  # pieces of 50 ms: sounds survive, words do not
Speech = Float[np.ndarray, "s"]


def export_recogniser(
    model: Recogniser,
    manifest: Manifest,
    path: str | Path,
    metadata: Mapping[str, JsonValue],
    *,
    num_units: int = 128,
    seed: int = 0,
    splits: Sequence[str] = ("valid", "test"),
) -> dict[str, JsonValue]:
    """Fit units, measure on `splits`, write `path` and its JSON, and return the JSON.

    Args:
        model: the trained recogniser.
        manifest: units are clustered on its train split.
        path: ends in `.safetensors`.
        metadata: training command, data, licences.
        num_units: U.
        seed: of the clustering and of the noise in the measurements.
        splits: measured, each with its own entry in `scores`.
    """
    recogniser = FrozenRecogniser(model, "", {})
    codebook = fit_codebook(
        recogniser, read_waves(manifest, manifest.split("train")), num_units=num_units, seed=seed
    )
    encoder = UnitEncoder(recogniser, codebook)
    scores: dict[str, JsonValue] = {
        split: {**measure(encoder, manifest, split, seed=seed)} for split in splits
    }
    told: dict[str, JsonValue] = {**metadata, "unit_seed": seed, "scores": scores}
    return save_units(path, model, codebook, told)


def measure(
    encoder: UnitEncoder, manifest: Manifest, split: str, *, seed: int = 0
) -> dict[str, float]:
    """Return error rates (1 is 100 %) and the accuracy of the speaker probe on one split."""
    clips = manifest.split(split)
    waves = read_waves(manifest, clips)
    texts = [normalise_text(clip.text) for clip in clips]
    units = encoder.encode_units(waves)
    transcribe = encoder.recogniser.transcribe
    # Noise and shuffled pieces say whether the recogniser reads sound or guesses from its language
    # model; units say what quantisation costs.
    read = {
        "": transcribe(waves),
        "_from_units": encoder.transcribe_units(units),
        "_noise_20_db": transcribe(
            _change(waves, seed, lambda wave, generator: add_white_noise(wave, 20.0, generator))
        ),
        "_noise_0_db": transcribe(
            _change(waves, seed, lambda wave, generator: add_white_noise(wave, 0.0, generator))
        ),
        "_shuffled": transcribe(_change(waves, seed, shuffle_pieces)),
    }
    scores: dict[str, float] = {
        "clips": len(clips),
        "words": sum(len(text.split()) for text in texts),
    }
    for condition, hypotheses in read.items():
        scores[f"wer{condition}"] = round(float(jiwer.wer(texts, hypotheses)), 4)
        scores[f"cer{condition}"] = round(float(jiwer.cer(texts, hypotheses)), 4)
    # A probe trained on units of the training split: units should say what is spoken and not who
    # speaks.
    seen = manifest.split("train")
    seen_units = encoder.encode_units(read_waves(manifest, seen))
    speakers = [clip.speaker for clip in [*seen, *clips]]
    is_test = [False] * len(seen) + [True] * len(clips)
    leaked = speaker_leakage([*seen_units, *units], speakers, encoder.num_units, is_test=is_test)
    scores["speaker_accuracy_from_units"] = round(leaked, 4)
    scores["speaker_accuracy_of_chance"] = round(1 / len(set(speakers)), 4)
    return scores


def read_waves(manifest: Manifest, clips: Sequence[Clip]) -> list[Speech]:
    """Return the audio of `clips` as float32."""
    return [to_float(manifest.audio(clip)) for clip in clips]


def add_white_noise(wave: Speech, snr_db: float, generator: np.random.Generator) -> Speech:
    """Return `wave` with white noise at a signal-to-noise ratio."""
    level = np.sqrt(np.mean(wave**2) * 10.0 ** (-snr_db / 10.0))
    return wave + np.float32(level) * generator.standard_normal(len(wave), dtype=np.float32)


def shuffle_pieces(wave: Speech, generator: np.random.Generator) -> Speech:
    """Return the 50 ms pieces of `wave` in a random order."""
    pieces = [
        wave[first : first + SHUFFLE_SAMPLES] for first in range(0, len(wave), SHUFFLE_SAMPLES)
    ]
    return np.concatenate([pieces[number] for number in generator.permutation(len(pieces))])


def _change(
    waves: list[Speech], seed: int, change: Callable[[Speech, np.random.Generator], Speech]
) -> list[Speech]:
    return [
        change(wave, np.random.default_rng([seed, number])) for number, wave in enumerate(waves)
    ]
