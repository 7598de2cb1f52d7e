"""The embedded corpus of sounds: five classes made by equations, so that sound has a corpus which
downloads nothing, as speech has.

In: `Sounds` (how many clips, how long, which classes). Out: rows whose labels are the class and the
parameters that each wave was made with, and the waves. Nothing is measured: the labels are true by
construction. All arithmetic is float64 and rounded to 16 bits at the end, so that the same fields
give the same bytes in every process.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import Field, JsonValue

from genlab.data.audio import SAMPLE_RATE_HZ
from genlab.data.listing import SourceRow
from genlab.data.manifest import fraction_of
from genlab.data.rendered import Rendered

ClassName = Literal["impact", "noise", "tone", "chirp", "rain"]
GAINS = (0.2, 0.8)
MODES = 8
FADE_S = 0.005
TAIL = 9.0  # decays after which an event is over: exp(-9) is below the step of 13 bits

Draw = Callable[[str], float]  # a number in [0, 1) for a name
Parameters = Mapping[str, float]


class Place(NamedTuple):
    """Where a sound is made: the time of every sample in seconds, and a source of chance."""

    time_s: Float[np.ndarray, "s"]
    chance: np.random.Generator

    @property
    def rate_hz(self) -> float:
        """Samples per second."""
        return 1.0 / (self.time_s[1] - self.time_s[0])

    @property
    def length_s(self) -> float:
        """Seconds of the whole clip."""
        return len(self.time_s) / self.rate_hz


class SoundClass(NamedTuple):
    """One kind of sound: how its parameters are drawn, and how they are heard.

    Every class has `pitch_hz` and `events_hz`, so that both can be conditions of any clip.
    """

    parameters: Callable[[Draw], dict[str, float]]
    wave: Callable[[Parameters, Place], Float[np.ndarray, "s"]]


class Sounds(Rendered):
    """Impacts, noises, tones, chirps and rain-like textures, with their class and parameters.

    The class is the speaker too, the label that every decoder can be told.
    """

    domain: ClassVar[str] = "sound"  # evaluate/domains.py: what it is measured by

    kind: Literal["sounds"] = "sounds"
    licence: str = "CC0"
    """Nobody's: the waves are made here."""
    clips: int = Field(default=500, ge=10, le=1_000_000)
    """How many clips, the classes in turn."""
    clip_s: float = Field(default=1.92, ge=0.25, le=60.0)
    """Seconds of each clip; 1.92 s are 96 frames of the codec that ships."""
    classes: tuple[ClassName, ...] = ("impact", "noise", "tone", "chirp", "rain")
    """Which kinds of sounds."""

    def rows(self) -> list[SourceRow]:
        """Return a row per clip. Clip i is the same however many there are."""
        return [self._row(number) for number in range(self.clips)]

    def wave(self, row: SourceRow) -> Float[np.ndarray, "s"]:
        """Return the wave that the labels of a row describe."""
        number = int(row.id.partition("-")[0])
        samples = round(self.clip_s * SAMPLE_RATE_HZ)
        time_s = np.arange(samples) / SAMPLE_RATE_HZ
        place = Place(time_s, np.random.default_rng((self.seed, number)))
        parameters = {name: float(value) for name, value in _numbers(row.labels).items()}
        wave = CLASSES[row.speaker].wave(parameters, place)
        # Without a ramp at its end a clip that is cut ends in a click that is no part of its class.
        ramp = np.minimum(1.0, np.arange(samples, 0, -1) / (FADE_S * SAMPLE_RATE_HZ))
        wave = wave * ramp
        return wave * (parameters["gain"] / np.abs(wave).max())

    def _row(self, number: int) -> SourceRow:
        label = self.classes[number % len(self.classes)]
        draw = partial(_draw, self.seed, number)
        parameters = CLASSES[label].parameters(draw)
        parameters["gain"] = _between(*GAINS, draw("gain"))
        # Rounded once, here: the label and the sound are made of the same number.
        labels = {name: float(f"{value:.6g}") for name, value in parameters.items()}
        return SourceRow(
            "", f"{number:06d}-{label}", speaker=label, labels={"label": label} | labels
        )


def _draw(seed: int, number: int, name: str) -> float:
    return fraction_of("sound", seed, number, name)


def _numbers(labels: Mapping[str, JsonValue]) -> dict[str, float]:
    return {name: value for name, value in labels.items() if isinstance(value, float)}


def _between(low: float, high: float, place: float) -> float:
    return low + (high - low) * place


def _octaves(low: float, high: float, place: float) -> float:
    """Return a number between two others, equally likely in every octave."""
    return low * (high / low) ** place


def _impact_parameters(draw: Draw) -> dict[str, float]:
    return {
        "pitch_hz": _octaves(80.0, 1_200.0, draw("pitch")),
        "decay_s": _octaves(0.03, 0.3, draw("decay")),
        "stiffness": _between(0.0, 0.05, draw("stiffness")),
        "events_hz": _octaves(0.6, 4.0, draw("events")),
    }


def _impact(parameters: Parameters, place: Place) -> Float[np.ndarray, "s"]:
    """Return blows on a stiff string: modes f k sqrt(1 + B k^2), the higher the sooner gone."""
    wave = np.zeros_like(place.time_s)
    for start_s in np.arange(0.0, place.length_s, 1.0 / parameters["events_hz"]):
        since_s = place.time_s - start_s
        is_on = since_s >= 0.0
        since_s = since_s[is_on]
        for mode in range(1, MODES + 1):
            frequency_hz = mode * math.sqrt(1.0 + parameters["stiffness"] * mode**2)
            frequency_hz *= parameters["pitch_hz"]
            # A mode above the Nyquist frequency would come back as another pitch.
            if frequency_hz >= 0.45 * place.rate_hz:
                break
            decay = np.exp(-since_s * mode / parameters["decay_s"])
            wave[is_on] += decay * np.sin(2 * np.pi * frequency_hz * since_s) / mode
    return wave


def _noise_parameters(draw: Draw) -> dict[str, float]:
    return {
        "pitch_hz": _octaves(300.0, 5_000.0, draw("pitch")),
        "width_octaves": _octaves(0.2, 1.5, draw("width")),
        "events_hz": _octaves(0.5, 8.0, draw("events")),
        "depth": _between(0.0, 0.9, draw("depth")),
    }


def _noise(parameters: Parameters, place: Place) -> Float[np.ndarray, "s"]:
    """Return noise in a band that is Gaussian in octaves, and swells `events_hz` times a second."""
    white = np.fft.rfft(place.chance.random(len(place.time_s)) - 0.5)
    frequency_hz = np.fft.rfftfreq(len(place.time_s), 1.0 / place.rate_hz)
    octaves = np.log2(np.maximum(frequency_hz, 1.0) / parameters["pitch_hz"])
    band = np.exp(-0.5 * (octaves / parameters["width_octaves"]) ** 2)
    swell = 1.0 - np.cos(2 * np.pi * parameters["events_hz"] * place.time_s)
    level = 1.0 - parameters["depth"] * (1.0 - 0.5 * swell)
    return level * np.fft.irfft(white * band, len(place.time_s))


def _tone_parameters(draw: Draw) -> dict[str, float]:
    return {
        "pitch_hz": _octaves(100.0, 1_000.0, draw("pitch")),
        "brightness": _between(0.3, 0.9, draw("brightness")),
        "events_hz": _between(3.0, 7.0, draw("events")),
        "vibrato_st": _between(0.0, 1.0, draw("vibrato")),
    }


def _tone(parameters: Parameters, place: Place) -> Float[np.ndarray, "s"]:
    """Return harmonics b^(k-1) of a pitch with vibrato."""
    rate = 2 * np.pi * parameters["events_hz"]
    # The phase is the integral of the frequency, whose deviation is small: f (1 + d sin rt).
    deviation = 2.0 ** (parameters["vibrato_st"] / 12.0) - 1.0
    phase = place.time_s - deviation * (np.cos(rate * place.time_s) - 1.0) / rate
    phase *= 2 * np.pi * parameters["pitch_hz"]
    highest_hz = 0.45 * place.rate_hz
    harmonics = range(1, int(highest_hz / (parameters["pitch_hz"] * (1.0 + deviation))) + 1)
    wave = np.zeros_like(place.time_s)
    for harmonic in harmonics:
        level = parameters["brightness"] ** (harmonic - 1)
        if level < 1e-4:
            break
        wave += level * np.sin(harmonic * phase)
    return wave * np.minimum(1.0, place.time_s / FADE_S)


def _chirp_parameters(draw: Draw) -> dict[str, float]:
    pitch_hz = _octaves(300.0, 3_000.0, draw("pitch"))
    octaves = _between(0.4, 1.3, draw("octaves")) * (1.0 if draw("up") < 0.5 else -1.0)
    return {
        "pitch_hz": pitch_hz,
        "end_hz": pitch_hz * 2.0**octaves,
        "events_hz": _octaves(0.6, 6.0, draw("events")),
    }


def _chirp(parameters: Parameters, place: Place) -> Float[np.ndarray, "s"]:
    """Return sweeps from `pitch_hz` to `end_hz`, equally many octaves in every second of them."""
    period_s = 1.0 / parameters["events_hz"]
    within_s = np.mod(place.time_s, period_s)
    growth = math.log(parameters["end_hz"] / parameters["pitch_hz"]) / period_s
    phase = 2 * np.pi * parameters["pitch_hz"] * np.expm1(growth * within_s) / growth
    # Every sweep begins and ends at silence, or their borders would click.
    edge = np.minimum(within_s, period_s - within_s) / FADE_S
    return np.sin(phase) * np.minimum(1.0, edge)


def _rain_parameters(draw: Draw) -> dict[str, float]:
    return {
        "pitch_hz": _octaves(800.0, 4_000.0, draw("pitch")),
        "decay_s": _octaves(0.001, 0.01, draw("decay")),
        "events_hz": _octaves(8.0, 200.0, draw("events")),
    }


def _rain(parameters: Parameters, place: Place) -> Float[np.ndarray, "s"]:
    """Return drops at the times of a Poisson process, each a short decaying sine."""
    wave = np.zeros_like(place.time_s)
    start_s = 0.0
    while True:
        gap, pitch, level = place.chance.random(3)
        start_s -= math.log(1.0 - gap) / parameters["events_hz"]
        if start_s >= place.length_s:
            # A texture without a drop would be silence, which is no clip.
            return wave if wave.any() else _drop(parameters, place, wave, 0.0, 0.5, 0.5)
        _drop(parameters, place, wave, start_s, pitch, level)


def _drop(
    parameters: Parameters,
    place: Place,
    wave: Float[np.ndarray, "s"],
    start_s: float,
    pitch: float,
    level: float,
) -> Float[np.ndarray, "s"]:
    """Add a drop within half an octave of the pitch, and return the wave."""
    first = math.ceil(start_s * place.rate_hz)
    last = first + math.ceil(TAIL * parameters["decay_s"] * place.rate_hz)
    since_s = place.time_s[first:last] - start_s
    frequency_hz = parameters["pitch_hz"] * 2.0 ** (pitch - 0.5)
    decay = np.exp(-since_s / parameters["decay_s"])
    wave[first:last] += (0.1 + level) * decay * np.sin(2 * np.pi * frequency_hz * since_s)
    return wave


CLASSES: Mapping[str, SoundClass] = {
    "impact": SoundClass(_impact_parameters, _impact),
    "noise": SoundClass(_noise_parameters, _noise),
    "tone": SoundClass(_tone_parameters, _tone),
    "chirp": SoundClass(_chirp_parameters, _chirp),
    "rain": SoundClass(_rain_parameters, _rain),
}
