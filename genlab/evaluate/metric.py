"""What a metric is: one row of the table of scores (table.py), and what its measurement is given
and gives back.

In: `Clips`, the audio of one row with its prompts. Out: `Work`, whose jobs run in a pool and whose
`finish` turns their results into `Found`. Scores that come of one measurement are rows that share
the same `measure`, which runs once. A metric that has one number per clip needs no more than a
function of a wave and its prompt: `each_clip`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from genlab.data.audio import SPEECH_AUDIO, AudioFormat, hear
from genlab.data.streamed import IN_MEMORY, Streamed, each_of, sequence_of, split_up
from genlab.evaluate.context import EvaluationContext, Wanted, Wave
from genlab.evaluate.controls import Control
from genlab.evaluate.scores import (
    ClipValues,
    Covers,
    Degradation,
    Direction,
    Validity,
    clip_means,
    name_units,
)
from genlab.statistics.bootstrap import Estimate

Result = TypeVar("Result")
Needs = Literal[
    "audio", "audio and text", "audio and the real clip", "audio and real speech", "tokens"
]
Hears = Literal["16 kHz mono", "as kept"]
AS_KEPT: Hears = "as kept"
ANY_VALUE = (-math.inf, math.inf)


def spell(name: str) -> str:
    """Return a name in words: `pause_error` becomes "Pause error"."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


@dataclass(frozen=True)
class Metric:
    """One score: everything that any part of the package knows about it."""

    name: str
    """The key in results.json. Several scores of one metric append an ending, such as
    wer_RECOGNISER.
    """
    unit: str
    direction: Direction
    """Which values are better."""
    needs: Needs
    """What it is made from. What needs tokens is measured with the arm's model."""
    title: str = ""
    """For people; the name in words if it is left out."""
    range: tuple[float, float] = ANY_VALUE
    """Where the true value must lie. Unbiased distances may come out below zero, so they have no
    range.
    """
    weights: tuple[str, ...] = ()
    """The trained networks that it runs on."""
    licence: tuple[str, ...] = ()
    """Of each of `weights`, "" where there is nothing to state."""
    must_notice: tuple[Degradation, ...] = ()
    """The degradations of audit.py that it exists to notice."""
    is_of_sets: bool = False
    """It compares sets of clips and has no value per clip, so arms are not paired on it."""
    measure: "Measure | None" = None
    """Measures a row of audio; None of a metric that needs tokens."""
    fewest_real: int = 0
    """Real clips of training below which it is not measured."""
    packages: tuple[str, ...] = ()
    """Optional packages that it imports."""
    switch: str = ""
    """The field of `EvaluationConfig` that leaves it out at 0."""
    is_of_floors: bool = False
    """Only codec floors have it, whose waves are aligned with the real clips sample by sample."""
    is_bare: bool = False
    """It is measured at the bare law of a decoder, so no setting of its sampler moves it."""
    endings: tuple[str, ...] = ("",)
    """What is appended to the name where several scores of this metric are always made."""
    hears: Hears = "16 kHz mono"
    """What its measurement is given: every wave at 16 kHz with one channel, or as the corpus keeps
    it, of shape (samples, 2) if that is stereo (`Clips.audio` has the rate).
    """
    networks: tuple[type, ...] = ()
    """What must be opened for it, of context.py; nothing else is."""

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", spell(self.name))
        if len(self.weights) != len(self.licence):
            raise ValueError(f"metric {self.name}: expected a licence for each of the weights")
        if (self.needs == "tokens") != (self.measure is None):
            raise ValueError(f"metric {self.name}: expected `measure`, or needs='tokens'")

    @property
    def provenance(self) -> str:
        """The weights with their licences, empty if it needs none."""
        return "; ".join(", ".join(filter(None, pair)) for pair in zip(self.weights, self.licence))

    @property
    def score_names(self) -> tuple[str, ...]:
        """The keys in results.json that are known without a comparison."""
        return tuple(self.name + ending for ending in self.endings)


@dataclass(frozen=True)
class Clips:
    """One row that is being scored: waves, as the metric hears them, and what each was asked to
    be.
    """

    waves: Sequence[Wave]
    prompts: Sequence[Wanted]
    """As many as waves, in the same order in every row, once per draw of every training seed."""
    context: EvaluationContext
    is_reconstruction: bool = False
    """Waves are aligned with the real clips sample by sample."""
    seeds: int = 1
    """Training seeds behind the row, whose clips follow each other in equal numbers."""
    draws: int = 1
    """Times that every training seed answers every prompt; the draws of a seed follow each other.
    """
    kept: "Clips | None" = None
    """The same clips as the corpus keeps them, where these were made from others."""

    @property
    def audio(self) -> AudioFormat:
        """Rate and channels of the waves, and of those of the prompts."""
        return self.context.audio if self.kept is None else SPEECH_AUDIO

    def as_heard(self, hears: Hears) -> "Clips":
        """Return the clips as a metric hears them: the one place where audio is resampled for
        metrics.
        """
        source = self.context.audio
        if hears == AS_KEPT or source == SPEECH_AUDIO:
            return self
        waves = each_of(lambda wave: hear(wave, source, SPEECH_AUDIO), self.waves)
        prompts = each_of(
            lambda prompt: prompt._replace(wave=hear(prompt.wave, source, SPEECH_AUDIO)),
            self.prompts,
        )
        return dataclasses.replace(self, waves=waves, prompts=prompts, kept=self)

    @functools.cached_property
    def asked(self) -> Sequence[Wanted]:
        """What each clip was asked to be; of many without the real audio, which is not kept."""
        if not isinstance(self.prompts, Streamed):
            return self.prompts
        nothing = np.zeros(0, np.float32)
        return [prompt._replace(wave=nothing, f0=None) for prompt in self.prompts]

    @property
    def clusters(self) -> tuple[str, ...]:
        """The unit of statistics that each clip belongs to."""
        return tuple(prompt.clip_id for prompt in self.asked)

    @property
    def runs(self) -> tuple[int, ...]:
        """The training run behind each clip."""
        return tuple(np.repeat(range(self.seeds), self.draws * self.per_set).tolist())

    @property
    def draw_numbers(self) -> tuple[int, ...]:
        """Which of the draws of its prompt and training seed each clip is."""
        of_seed = np.repeat(range(self.draws), self.per_set)
        return tuple(np.tile(of_seed, self.seeds).tolist())

    @property
    def covers(self) -> Covers:
        """What an interval over the clips covers."""
        return name_units(self.seeds, self.draws)

    @property
    def sets(self) -> int:
        """Times that all prompts are answered, which makes as many sets of clips."""
        return self.seeds * self.draws

    @property
    def per_set(self) -> int:
        """Clips of one draw of one training seed: one for each prompt."""
        return len(self.waves) // self.sets

    @functools.cached_property
    def codes(self) -> Sequence[Int[np.ndarray, "_ k"]]:
        """What the codec makes of each wave, `[frames, codebooks]`; empty if no codec was given."""
        waves = self.waves if self.kept is None else self.kept.waves
        if self.context.encode is None:
            return []
        return [codes for part in split_up(waves, IN_MEMORY) for codes in self.context.encode(part)]


class OfSets(NamedTuple):
    """A score that a set of clips has as a whole, over all training seeds."""

    estimate: Estimate
    validity: Validity = "metric"
    note: str = ""


@dataclass(frozen=True)
class Found:
    """What a measurement found on one row, by the names of its scores; what no prompt allows is
    absent.
    """

    per_clip: Mapping[str, ClipValues] = field(default_factory=dict)
    of_sets: Mapping[str, OfSets] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    """Of the scores in `per_clip`."""
    controls: Sequence[Control] = ()
    transcripts: Mapping[str, list[str]] = field(default_factory=dict)


def _nothing(results: list[Any]) -> Found:
    return Found()


class Work(NamedTuple):
    """The measurement of one row, to be done: `jobs` in any order on any thread or in any process,
    then `finish` on their results.
    """

    jobs: Sequence[Callable[[], Any]] = ()
    finish: Callable[[list[Any]], Found] = _nothing
    is_long: bool = False
    """One of its jobs takes as long as many others, so it starts before them."""


Measure = Callable[[Clips], Work]


def jobs_of_clips(
    function: Callable[[Wave, Wanted], Result], clips: Clips
) -> Sequence[Callable[[], Result]]:
    """Return a job for each clip, `function` of its wave and its prompt; of many clips, a job is
    made when it is about to run.
    """

    def job(number: int) -> Callable[[], Result]:
        return functools.partial(function, clips.waves[number], clips.prompts[number])

    return sequence_of(job, len(clips.waves))


def each_clip(name: str, function: Callable[[Wave, Wanted], float]) -> Measure:
    """Return the measurement of one number per clip: `function` of a wave and its prompt, NaN where
    undefined.
    """

    def measure(clips: Clips) -> Work:
        jobs = jobs_of_clips(function, clips)
        clusters = clips.clusters
        return Work(
            jobs, lambda found: Found({name: clip_means(np.array(found, np.float64), clusters)})
        )

    return measure
