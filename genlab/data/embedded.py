"""The embedded corpus: speech rendered on the spot, so the quick start downloads nothing.

In: `Embedded` (minutes, seed, speakers). Out: FLAC clips at 16 kHz, the true F0 of each as .npy,
and rows of a manifest.

hibari-tts 0.2.1 (Apache-2.0, weights inside the wheel) predicts, per 12.5 ms, the parts of a
spectrum: harmonic level and phase, noise level, free-phase level and phase, and F0. Eight
parametric speakers are made by changing these parts before the waveform exists: F0 scale, formant
scale (a warp of the frequency axis) and tilt. They are one voice transformed, not eight people.
Prosody labels (rate, pitch range, final contour, gain) are exact because they are applied, not
measured.

The plan follows from the seed alone, without the network, so every machine gets the same rows.
Rendering goes in shards; an interrupted build keeps its finished shards.
"""

import dataclasses
import json
import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from genlab.config import Config, GenlabError, Seed, added
from genlab.data.audio import SAMPLE_RATE_HZ, resample, to_int16, write_flac
from genlab.data.grammar import SENTENCES, draw_kind, draw_text
from genlab.data.manifest import F0_HOP_SAMPLES, Clip, Manifest, assign_splits, fraction_of
from genlab.data.recipe import Recipe
from genlab.data.shards import Progress, run_shards
from genlab.machine.onnx import open_session

RECIPE_VERSION = 1  # part of the cache key: raise it when the rendering changes
LICENCE = "Apache-2.0"
RATES = (0.85, 1.0, 1.2)
PITCH_RANGES = (0.4, 1.0, 1.6)
FINAL_CONTOURS_ST = (-4.0, 0.0, 7.0)
GAINS = (0.35, 0.7)
CONTOUR_FRAMES = 24
UTTERANCES_PER_SHARD = 16


class Voice(NamedTuple):
    """A parametric speaker: factors on F0 and on the formant frequencies, and the tilt of the
    spectrum.
    """

    f0_scale: float
    formant_scale: float
    tilt_db_per_octave: float


VOICES = {
    "s0": Voice(1.00, 1.000, 0.0),
    "s1": Voice(0.52, 0.825, -2.0),
    "s2": Voice(0.58, 0.880, 2.0),
    "s3": Voice(0.66, 0.935, -3.0),
    "s4": Voice(0.82, 0.965, 3.0),
    "s5": Voice(0.94, 1.050, -3.0),
    "s6": Voice(1.15, 1.095, 2.0),
    "s7": Voice(1.28, 1.140, -2.0),
}


class Embedded(Config):
    """The embedded corpus, rendered on the spot. Its speakers are s0 to s7."""

    domain: ClassVar[str] = "speech"  # evaluate/domains.py: what it is measured by
    recognisers: ClassVar[tuple[str, ...]] = ("ctc", "grammar")

    kind: Literal["embedded"] = "embedded"
    minutes: float = Field(default=30.0, gt=0.0, le=6000.0)
    """Minutes of audio, rounded up to whole texts."""
    seed: Seed = 0
    """Seed of texts, voices and splits."""
    speakers: int = Field(default=8, ge=1, le=len(VOICES))
    """Number of speakers."""
    speakers_per_text: int = Field(default=2, ge=1, le=len(VOICES))
    """Speakers who say each text."""
    valid_fraction: float = Field(default=0.08, ge=0.0, lt=0.5)
    """Share of texts held out for validation."""
    test_fraction: float = Field(default=0.10, ge=0.0, lt=0.5)
    """Share of texts held out for the test."""
    pair_fraction: float = Field(default=0.03, ge=0.0, lt=0.5)
    """Share of pairs of a speaker and a training text held out as split test_pair."""
    held_out_speakers: tuple[str, ...] = ()
    """Speakers whose clips are all in split test_speaker."""
    developed: tuple[Seed, ...] = added(())
    """Seeds of embedded corpora that something was developed on: none of the texts that they hold
    out, with these shares, is held out here.
    """

    @property
    def made_of(self) -> None:
        """No other corpus."""

    def recipe(self, source: Manifest | None) -> Recipe:
        """Return how the corpus is made."""
        inputs = {"config": self.lean_dict(), "version": RECIPE_VERSION}
        return Recipe(inputs, lambda directory, progress: build_embedded(self, directory, progress))


class Utterance(NamedTuple):
    """One network call: a text at a rate, and the clips made from it."""

    text: str
    rate: float
    clips: tuple[Clip, ...]


def plan_utterances(config: Embedded) -> list[Utterance]:
    """Return every clip to render, with labels and split; its duration is an estimate until it is
    rendered.
    """
    speakers = list(VOICES)[: config.speakers]
    wanted_samples = config.minutes * 60 * SAMPLE_RATE_HZ
    utterances: list[Utterance] = []
    seen: set[str] = set()
    while wanted_samples > 0:
        number = len(utterances)
        text, kind = _draw_unseen(config.seed, number, seen)
        seen.add(text)
        rate = _pick(RATES, config.seed, number, "rate")
        # Ordered by a hash instead of drawn in turn, so that clip i is the same however long the
        # corpus is.
        order = sorted(speakers, key=lambda name: fraction_of(config.seed, number, "order", name))
        clips = [
            _plan_clip(config, number, text, kind, rate, name)
            for name in sorted(order[: config.speakers_per_text])
        ]
        utterances.append(Utterance(text, rate, tuple(clips)))
        wanted_samples -= sum(clip.num_samples for clip in clips)
    # Splits are assigned to all clips at once, because all clips of a text belong to one split.
    planned = [clip for utterance in utterances for clip in utterance.clips]
    placed = iter(
        assign_splits(
            planned,
            seed=config.seed,
            valid_fraction=config.valid_fraction,
            test_fraction=config.test_fraction,
            pair_fraction=config.pair_fraction,
            held_out_speakers=config.held_out_speakers,
            train_texts=(*SENTENCES, *_find_seen(config, planned)),
        )
    )
    return [
        utterance._replace(clips=tuple(next(placed) for _ in utterance.clips))
        for utterance in utterances
    ]


def _find_seen(config: Embedded, planned: Sequence[Clip]) -> set[str]:
    """Return the texts of planned clips that corpora of the `developed` seeds hold out.

    Whether a text is held out follows from the seed and the text, not from the length of a corpus.
    """
    return {
        clip.text
        for seed in config.developed
        for clip in assign_splits(
            planned,
            seed=seed,
            valid_fraction=config.valid_fraction,
            test_fraction=config.test_fraction,
            train_texts=SENTENCES,
        )
        if clip.split in ("valid", "test")
    }


def build_embedded(
    config: Embedded, directory: Path, progress: Progress | None = None
) -> list[Clip]:
    """Render the corpus into `directory`, going on where an interrupted build stopped, and return
    its clips.
    """
    utterances = plan_utterances(config)
    for name in ("audio", "f0"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    lengths = run_shards(
        utterances,
        lambda utterance: _render_utterance(utterance, directory, config.seed),
        directory / "shards",
        items_per_shard=UTTERANCES_PER_SHARD,
        stage="render corpus",
        progress=progress,
    )
    return [
        dataclasses.replace(clip, num_samples=num_samples)
        for utterance, counts in zip(utterances, lengths)
        for clip, num_samples in zip(utterance.clips, counts)
    ]


def _draw_unseen(seed: int, number: int, seen: set[str]) -> tuple[str, str]:
    kind = draw_kind(fraction_of(seed, number, "kind"))
    text = ""
    for attempt in range(8):  # a long corpus exhausts the 900 commands: then texts repeat
        text = draw_text(
            kind, lambda name, attempt=attempt: fraction_of(seed, number, attempt, name)
        )
        if kind == "sentence" or text not in seen:
            break
    return text, kind


def _plan_clip(
    config: Embedded, number: int, text: str, kind: str, rate: float, speaker: str
) -> Clip:
    def pick(options: tuple[float, ...], name: str) -> float:
        return _pick(options, config.seed, number, speaker, name)

    labels = {
        "kind": kind,
        "rate": rate,
        "pitch_range": pick(PITCH_RANGES, "pitch_range"),
        "final_contour_st": pick(FINAL_CONTOURS_ST, "final_contour_st"),
        "gain": pick(GAINS, "gain"),
    }
    # `split` stays empty and the length an estimate: both are known only once all clips are.
    clip_id = f"{number:05d}-{speaker}"
    return Clip(
        id=clip_id,
        path=f"audio/{clip_id}.flac",
        text=text,
        speaker=speaker,
        split="",
        licence=LICENCE,
        labels=labels,
        num_samples=round(_estimate_duration_s(text, rate) * SAMPLE_RATE_HZ),
        f0_path=f"f0/{clip_id}.npy",
    )


def _estimate_duration_s(text: str, rate: float) -> float:
    # Least squares over 1,300 rendered clips; it only decides how many clips make the wanted
    # minutes.
    return (0.487 + 0.0371 * len(text)) / rate


def _pick(options: tuple[float, ...], *key: object) -> float:
    return options[int(fraction_of(*key) * len(options))]


def _render_utterance(utterance: Utterance, directory: Path, seed: int) -> list[int]:
    parts = predict_parts(utterance.text, utterance.rate)
    lengths = []
    for clip in utterance.clips:
        wave, f0_hz = render_clip(parts, clip, seed)
        write_flac(directory / clip.path, wave)
        np.save(directory / str(clip.f0_path), f0_hz)
        lengths.append(len(wave))
    return lengths


class Parts(NamedTuple):
    """What the network predicts per 12.5 ms frame: log levels and phases of 601 bins, and F0."""

    harmonic_log: Float[np.ndarray, "bins t"]
    harmonic_phase: Float[np.ndarray, "bins t"]
    noise_log: Float[np.ndarray, "bins t"]
    free_log: Float[np.ndarray, "bins t"]
    free_phase: Float[np.ndarray, "bins t"]
    f0_hz: Float[np.ndarray, "t"]


@lru_cache(maxsize=1)
def _load_voice() -> tuple[Any, Any, dict[str, int]]:
    spec = find_spec("hibari")
    if spec is None or spec.origin is None:
        raise GenlabError(
            "embedded corpus: package 'hibari-tts' is not installed, it speaks the clips; "
            "run `python -m pip install hibari-tts==0.2.1`"
        )
    from hibari.g2p import G2P

    assets = Path(spec.origin).parent / "assets"
    session = open_session(assets / "hibari.onnx")  # one thread: parallel over shards instead
    return (
        session,
        G2P(british=False),
        json.loads((assets / "vocab.json").read_text(encoding="utf-8")),
    )


_loading = threading.Lock()


def predict_parts(text: str, rate: float) -> Parts:
    """Run the network once for `text` at speaking rate `rate`."""
    with _loading:  # the grapheme-to-phoneme rules are not known to be thread-safe
        session, to_phonemes, vocabulary = _load_voice()
        phonemes = to_phonemes(text)
    ids = [0, *(vocabulary[symbol] for symbol in phonemes if symbol in vocabulary), 0]
    out = session.run(
        None, {"ids": np.array([ids], np.int64), "speed": np.array([rate], np.float32)}
    )
    return Parts(*(part[0] for part in out))


def render_clip(
    parts: Parts, clip: Clip, seed: int
) -> tuple[Int[np.ndarray, "s"], Float[np.ndarray, "t"]]:
    """Return the 16 kHz samples of `clip` and its true F0 in Hz per `F0_HOP_SAMPLES` (0 where
    unvoiced).
    """
    from hibari import dsp

    voice = VOICES[clip.speaker]
    is_voiced = _find_voiced(parts)
    f0_hz = _shape_f0(parts.f0_hz, is_voiced, voice, clip.labels)
    harmonic_log, noise_log, free_log, free_phase = _shape_spectrum(parts, voice)
    # Harmonic phases belong to the original F0; at another one they only add roughness.
    phase = parts.harmonic_phase if voice.f0_scale == 1.0 else np.zeros_like(parts.harmonic_phase)
    generator = np.random.default_rng(int(fraction_of("noise", seed, clip.id) * 2**53))
    wave = dsp.synth(harmonic_log, phase, noise_log, free_log, free_phase, f0_hz, generator)
    wave = resample(wave, dsp.SR, SAMPLE_RATE_HZ)
    first, last = _find_speech(wave, len(f0_hz))
    wave = wave[first * F0_HOP_SAMPLES : last * F0_HOP_SAMPLES]
    wave = wave * (clip.labels["gain"] / np.abs(wave).max())
    return to_int16(wave), np.where(is_voiced, f0_hz, 0.0)[first:last].astype(np.float32)


def _find_voiced(parts: Parts) -> Bool[np.ndarray, "t"]:
    # The raw F0 is positive in silent tails; a frame also needs harmonics within 40 dB of the
    # loudest.
    level_db = 10.0 * np.log10(np.exp(2.0 * parts.harmonic_log).sum(axis=0) + 1e-20)
    return (parts.f0_hz > 40.0) & (level_db > level_db.max() - 40.0)


def _shape_f0(
    f0_hz: Float[np.ndarray, "t"],
    is_voiced: Bool[np.ndarray, "t"],
    voice: Voice,
    labels: dict[str, Any],
) -> Float[np.ndarray, "t"]:
    log_f0 = np.log(np.maximum(f0_hz, 1.0))
    centre = log_f0[is_voiced].mean() if is_voiced.any() else 0.0
    shaped = centre + (log_f0 - centre) * labels["pitch_range"] + math.log(voice.f0_scale)
    frames = np.flatnonzero(is_voiced)[-CONTOUR_FRAMES:]
    if len(frames):
        semitones = np.interp(
            np.arange(len(f0_hz)), frames, np.linspace(0.0, labels["final_contour_st"], len(frames))
        )
        shaped = shaped + semitones * (math.log(2.0) / 12.0)
    return np.where(f0_hz > 40.0, np.exp(shaped), 0.0).astype(np.float32)


def _shape_spectrum(parts: Parts, voice: Voice) -> tuple[Float[np.ndarray, "bins t"], ...]:
    num_bins = len(parts.harmonic_log)
    source = np.minimum(np.arange(num_bins) / voice.formant_scale, num_bins - 1.001)
    low = source.astype(np.intp)
    upper = (source - low).astype(np.float32)[:, None]
    octaves = np.log2(
        np.maximum(np.arange(num_bins), 1) * (12_000.0 / (num_bins - 1)) / 1_000.0
    ).clip(-2.0, 2.0)
    tilt_log = (voice.tilt_db_per_octave * octaves * (math.log(10.0) / 20.0)).astype(np.float32)[
        :, None
    ]

    def warp(levels: Float[np.ndarray, "bins t"]) -> Float[np.ndarray, "bins t"]:
        return levels[low] * (1.0 - upper) + levels[low + 1] * upper + tilt_log

    # Harmonics lie f0_scale times as dense, so each carries f0_scale of the power.
    harmonic_log = warp(parts.harmonic_log) + np.float32(0.5 * math.log(voice.f0_scale))
    nearest = np.rint(source).astype(np.intp)  # phases wrap: they are picked, not interpolated
    return harmonic_log, warp(parts.noise_log), warp(parts.free_log), parts.free_phase[nearest]


def _find_speech(wave: Float[np.ndarray, "s"], num_frames: int) -> tuple[int, int]:
    # In whole F0 frames, so that the F0 truth stays aligned: 50 ms before and 100 ms after the last
    # 1 % of the peak.
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
    first = max(0, int(loud[0]) // F0_HOP_SAMPLES - 4)
    return first, min(num_frames, int(loud[-1]) // F0_HOP_SAMPLES + 9)
