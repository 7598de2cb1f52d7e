"""Waveform batches for the codec and the recogniser.

In: manifests with weights. Out: grain `MapDataset`s whose element is a pure function of (seed,
index), so a training step is a position and resuming is a number. The int16 audio of a split is
decoded once into one array in memory (115 MB per hour).

`wave_dataset` gives fixed-length crops, drawn in proportion to duration; `clips_dataset` gives
whole clips with text symbols. Augmentation is off unless an `AugmentConfig` is given; it exists to
carry a codec to voices and recordings it never saw.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import soxr
from jaxtyping import Float, Int
from pydantic import Field

from genlab.config import Config, GenlabError
from genlab.data.audio import AudioFormat, to_float
from genlab.data.manifest import Clip, Manifest
from genlab.data.text import encode_text

if TYPE_CHECKING:
    import grain

RATIO_HZ = 16_000

WeightedManifests = Sequence[tuple[Manifest, float]]


class AugmentConfig(Config):
    """Random changes per crop. Resampling moves pitch, formants and rate; the rest are recording
    conditions.
    """

    speed_probability: float = Field(default=0.5, ge=0.0, le=1.0)
    """Probability that a crop is resampled."""
    min_speed: float = Field(default=0.85, gt=0.5, le=1.0)
    """Slowest speed, relative to the original."""
    max_speed: float = Field(default=1.2, ge=1.0, lt=2.0)
    """Fastest speed, relative to the original."""
    gain_db: float = Field(default=6.0, ge=0.0, le=200)
    """Largest change of level in either direction, in dB."""
    equaliser_probability: float = Field(default=0.3, ge=0.0, le=1.0)
    """Probability that a crop is equalised."""
    equaliser_db: float = Field(default=6.0, ge=0.0, le=200)
    """Largest boost or cut of the equaliser, in dB."""
    noise_probability: float = Field(default=0.2, ge=0.0, le=1.0)
    """Probability that white noise is added."""
    min_snr_db: float = Field(default=15.0, ge=-200, le=200)
    """Lowest ratio of signal to noise, in dB."""
    max_snr_db: float = Field(default=40.0, ge=-200, le=200)
    """Highest ratio of signal to noise, in dB."""


class ClipBank:
    """The decoded audio of some clips in one int16 array, "s" or "s 2". `clips[i]` is clip number i
    of every dataset made from it.
    """

    def __init__(self, entries: Sequence[tuple[Manifest, Clip]]):
        if not entries:
            raise GenlabError("waves: no clips left to read in this split")
        self.clips = tuple(clip for _, clip in entries)
        with ThreadPoolExecutor(max_workers=2) as pool:  # libsndfile releases the GIL
            waves = list(pool.map(lambda entry: entry[0].audio(entry[1]), entries))
        self.num_samples = np.array([len(wave) for wave in waves], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.num_samples)])
        self.samples = np.concatenate(waves)

    def read(
        self, number: int, first: int = 0, count: int | None = None
    ) -> Int[np.ndarray, "s *c"]:
        """Return up to `count` samples of clip `number` from sample `first`."""
        start = self.starts[number] + first
        stop = self.starts[number + 1]
        return self.samples[start : stop if count is None else min(stop, start + count)]


def wave_dataset(
    manifests: WeightedManifests,
    *,
    split: str,
    crop_samples: int,
    seed: int,
    augment: AugmentConfig | None = None,
) -> "grain.MapDataset":
    """Return an endless dataset of random crops: element ((wave [crop_samples], num_samples),
    clip_index); waves of a stereo corpus are [crop_samples, 2].

    Args:
        manifests: each with the share of crops that comes from it.
        split: the split to read, for example "train".
        crop_samples: length of a crop; shorter clips are padded with zeros on the right.
        seed: of the order, the crop positions and the augmentation.
        augment: random changes, or none.

    Raises:
        GenlabError: if a manifest lacks the split or a weight is not positive.
    """
    import grain  # here, because it takes as long as jax, and reading a config needs no data

    if any(weight <= 0 for _, weight in manifests) or not manifests:
        raise GenlabError(
            f"waves: weights must be positive, got {[weight for _, weight in manifests]}"
        )
    bank, groups = _load_groups(manifests, split)
    draw = _DrawCrop(bank, crop_samples, augment)
    parts = []
    for number, group in enumerate(groups):
        # A clip is listed once per crop that it could fill, so every second of audio is seen
        # equally often.
        crops_per_clip = np.maximum(1, np.ceil(bank.num_samples[group] / crop_samples)).astype(
            np.int64
        )
        slots = np.repeat(group, crops_per_clip).tolist()
        part = grain.MapDataset.source(slots).seed(seed + 7919 * number).shuffle().repeat(None)
        parts.append(part.random_map(draw))
    return (
        parts[0]
        if len(parts) == 1
        else grain.MapDataset.mix(parts, [weight for _, weight in manifests])
    )


def clips_dataset(
    manifests: WeightedManifests,
    *,
    split: str,
    seed: int,
    max_samples: int | None = None,
    max_symbols: int | None = None,
    augment: AugmentConfig | None = None,
    endless: bool = True,
) -> "grain.MapDataset":
    """Return whole clips: element ((wave [max], num_samples, text_symbols [n_max], num_symbols),
    clip_index).

    Args:
        manifests: each with its share of examples; shares count only when `endless`.
        split: the split to read.
        seed: of the order and the augmentation.
        max_samples: padded length; longer clips are left out. The longest clip if absent.
        max_symbols: padded length of texts; longer texts are left out. The longest text if absent.
        augment: random changes, or none; the speed change is limited to what still fits
            `max_samples`.
        endless: shuffle and repeat for training; otherwise one pass in manifest order.

    Raises:
        GenlabError: if a manifest lacks the split or no clip fits.
    """
    import grain

    bank, groups = _load_groups(manifests, split)
    symbols = [encode_text(clip.text) for clip in bank.clips]
    num_symbols = np.array([len(text) for text in symbols])
    max_samples = int(bank.num_samples.max()) if max_samples is None else max_samples
    max_symbols = int(num_symbols.max()) if max_symbols is None else max_symbols
    fits = (bank.num_samples <= max_samples) & (num_symbols <= max_symbols)
    groups = [[number for number in group if fits[number]] for group in groups]
    if not all(groups):
        raise GenlabError(
            f"waves: no clip of a corpus fits max_samples={max_samples} and "
            f"max_symbols={max_symbols}"
        )
    # One padded shape for all: every new shape would be compiled again.
    draw = _DrawClip(bank, symbols, max_samples, max_symbols, augment)
    if not endless:
        numbers = [number for group in groups for number in group]
        return grain.MapDataset.source(numbers).seed(seed).random_map(draw)
    parts = [
        grain.MapDataset.source(group)
        # A prime apart, so that corpora of neighbouring seeds do not share an order.
        .seed(seed + 7919 * number)
        .shuffle()
        .repeat(None)
        .random_map(draw)
        for number, group in enumerate(groups)
    ]
    return (
        parts[0]
        if len(parts) == 1
        else grain.MapDataset.mix(parts, [weight for _, weight in manifests])
    )


class _DrawCrop:
    def __init__(self, bank: ClipBank, crop_samples: int, augment: AugmentConfig | None):
        self.bank, self.crop_samples, self.augment = bank, crop_samples, augment

    def __call__(self, number: int, generator: np.random.Generator) -> tuple:
        speed = _draw_speed(self.augment, generator)
        source_samples = int(np.ceil(self.crop_samples * speed))
        spare = int(self.bank.num_samples[number]) - source_samples
        first = int(generator.integers(0, spare + 1)) if spare > 0 else 0
        wave = to_float(self.bank.read(number, first, source_samples))
        wave = _augment(wave, speed, self.augment, generator)[: self.crop_samples]
        return (_pad(wave, self.crop_samples), np.int32(len(wave))), np.int32(number)


class _DrawClip:
    def __init__(
        self,
        bank: ClipBank,
        symbols: Sequence[Int[np.ndarray, "n"]],
        max_samples: int,
        max_symbols: int,
        augment: AugmentConfig | None,
    ):
        self.bank, self.symbols, self.augment = bank, symbols, augment
        self.max_samples, self.max_symbols = max_samples, max_symbols

    def __call__(self, number: int, generator: np.random.Generator) -> tuple:
        wave = to_float(self.bank.read(number))
        speed = max(_draw_speed(self.augment, generator), len(wave) / self.max_samples)
        wave = _augment(wave, speed, self.augment, generator)[: self.max_samples]
        symbols = self.symbols[number]
        args = (
            _pad(wave, self.max_samples),
            np.int32(len(wave)),
            _pad(symbols, self.max_symbols),
            np.int32(len(symbols)),
        )
        return args, np.int32(number)


def check_formats(manifests: WeightedManifests, expected: AudioFormat, fix: str) -> None:
    """Make sure that every corpus has the audio that a model hears.

    Raises:
        GenlabError: naming both formats; `fix` says what to set.
    """
    for number, (manifest, _) in enumerate(manifests):
        if manifest.audio_format != expected:
            raise GenlabError(
                f"data[{number}].corpus: its clips are {manifest.audio_format}, expected "
                f"{expected}; {fix}"
            )


def _load_groups(manifests: WeightedManifests, split: str) -> tuple[ClipBank, list[list[int]]]:
    entries: list[tuple[Manifest, Clip]] = []
    groups = []
    for manifest, _ in manifests:
        clips = manifest.split(split)
        groups.append(list(range(len(entries), len(entries) + len(clips))))
        entries += [(manifest, clip) for clip in clips]
    return ClipBank(entries), groups


def _pad(values: np.ndarray, count: int) -> np.ndarray:
    return np.pad(values, [(0, count - len(values))] + [(0, 0)] * (values.ndim - 1))


def _draw_speed(augment: AugmentConfig | None, generator: np.random.Generator) -> float:
    if augment is None or generator.random() >= augment.speed_probability:
        return 1.0
    return float(np.exp(generator.uniform(np.log(augment.min_speed), np.log(augment.max_speed))))


def _augment(
    wave: Float[np.ndarray, "s *c"],
    speed: float,
    augment: AugmentConfig | None,
    generator: np.random.Generator,
) -> Float[np.ndarray, "s2 *c"]:
    if augment is None:
        return wave
    if speed != 1.0:
        # The cheapest filter: its error is far below the other changes made here. Only the ratio
        # of the rates matters.
        wave = soxr.resample(wave, RATIO_HZ * speed, RATIO_HZ, quality="QQ")
    if generator.random() < augment.equaliser_probability:
        wave = _tilt_spectrum(wave, float(generator.uniform(-1.0, 1.0)) * augment.equaliser_db)
    wave = wave * np.float32(10.0 ** (generator.uniform(-augment.gain_db, augment.gain_db) / 20.0))
    if generator.random() < augment.noise_probability:
        wave = wave + _draw_noise(
            wave, generator.uniform(augment.min_snr_db, augment.max_snr_db), generator
        )
    # Full scale is kept by turning the crop down, which unlike clipping adds no distortion to
    # learn.
    return (wave / max(1.0, float(np.abs(wave).max(initial=0.0)))).astype(np.float32)


def _tilt_spectrum(wave: Float[np.ndarray, "s *c"], tilt_db: float) -> Float[np.ndarray, "s *c"]:
    # One zero at a real frequency: (1 + a z^-1) / (1 + a) lowers the top, (1 - a z^-1) / (1 + a)
    # lowers the bottom.
    gain = 10.0 ** (abs(tilt_db) / 20.0)
    # so that the two ends differ by exactly tilt_db
    amount = np.float32((gain - 1.0) / (gain + 1.0))
    neighbour = np.concatenate([wave[:1], wave[:-1]])
    sign = np.float32(-1.0 if tilt_db > 0 else 1.0)
    tilted = wave + sign * amount * neighbour
    return tilted / np.float32(1.0 + amount)


def _draw_noise(
    wave: Float[np.ndarray, "s *c"], snr_db: float, generator: np.random.Generator
) -> Float[np.ndarray, "s *c"]:
    noise = generator.standard_normal(wave.shape, dtype=np.float32)
    if generator.random() < 0.5:  # half of the time coloured towards low frequencies, as rooms are
        noise = noise + np.concatenate([noise[:1], noise[:-1]])
    noise_power = float(np.square(noise).mean()) + 1e-12
    wave_power = float(np.square(wave).mean())
    return noise * np.float32(np.sqrt(wave_power / noise_power * 10.0 ** (-snr_db / 10.0)))
