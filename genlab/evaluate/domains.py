"""Domains: what a kind of audio is measured by, and what the arms can be told about it.

A corpus names its domain (`corpus.domain`), or holds one of its own. In: that corpus. Out:
`Domain`, which says what one unit of the statistics is, which conditions there are, which metrics
and controls run, which score decides, and at which rate audio is kept. Nothing below this file asks
whether audio is speech.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from genlab.data.audio import SAMPLE_RATE_HZ
from genlab.data.manifest import Spoken, speaker_key, text_key
from genlab.evaluate.energy import BARE_ENERGY, TUNED_ENERGY
from genlab.evaluate.metric import Metric
from genlab.evaluate.table import METRICS, find_metric

Condition = Literal["content", "speaker"]
"""Fields of `ConditionConfig`."""


class Deciding(NamedTuple):
    """A score that can decide a comparison if the arms are told the condition that it follows."""

    score: str
    follows: Condition | None = None
    """None of a score that needs no condition."""


class Swap(NamedTuple):
    """A control: the audio is scored against another clip's condition, which must be worse."""

    control: str
    follows: Condition
    not_told: str
    """Why it means nothing where the arms are not told the condition."""


MOST_ERRORS_ON_REAL = 0.3
"""Error rate of a recogniser on real clips from which on it is no judge of a model's."""


@dataclass(frozen=True)
class Domain:
    """One kind of audio."""

    name: str
    sample_rate_hz: int
    """Of the audio kept on disk, which metrics hear."""
    unit: str
    """What one unit of the statistics is, in one word."""
    unit_of: Callable[[Spoken], str]
    """The unit that a clip belongs to: splits are drawn by it and intervals resample it."""
    conditions: tuple[Condition, ...]
    """What arms can be told; deciding scores and controls follow these."""
    metrics: tuple[Metric, ...]
    """Rows of the table, in the order in which they are measured."""
    deciding: tuple[Deciding, ...]
    """Scores that can decide, first choice first; the last one decides where no other can."""
    leading: tuple[str, ...]
    """Scores that tables and pages show first."""
    searched: tuple[str, ...]
    """Scores that one sampled arm has by itself, which tuning and fronts go by."""
    controls: tuple[Swap, ...]

    def __post_init__(self) -> None:
        own = {metric.name for metric in self.metrics}
        named = [*(choice.score for choice in self.deciding), *self.leading, *self.searched]
        if strange := [name for name in named if find_metric(name).name not in own]:
            raise ValueError(f"domain {self.name}: {strange[0]} is none of its metrics")
        followed = [choice.follows for choice in (*self.deciding, *self.controls)]
        if strange := {*followed} - {None, *self.conditions}:
            raise ValueError(f"domain {self.name}: {strange.pop()} is none of its conditions")

    def struck(self, real: Mapping[str, float]) -> dict[str, str]:
        """Return the deciding scores that say nothing on this corpus, with the reason.

        A recogniser that mishears the real clips mishears a model's too, and its errors only count
        how much an arm makes it guess.

        Args:
            real: the scores of the prompts' real clips.
        """
        return {
            choice.score: (
                f"its recogniser mishears the real clips (error rate {real[choice.score]:.2f})"
            )
            for choice in self.deciding
            if find_metric(choice.score).needs == "audio and text"
            and real.get(choice.score, 0.0) >= MOST_ERRORS_ON_REAL
        }

    def decide(self, runs: Collection[str], told: Mapping[Condition, bool]) -> str:
        """Return the score that decides.

        Args:
            runs: the scores that every arm will have.
            told: whether the arms are told each condition, and the prompts have it.
        """
        for choice in self.deciding:
            if choice.score in runs and (choice.follows is None or told[choice.follows]):
                return choice.score
        return self.deciding[-1].score


SPEECH = Domain(
    name="speech",
    sample_rate_hz=SAMPLE_RATE_HZ,
    unit="text",
    unit_of=text_key,
    conditions=("content", "speaker"),
    metrics=METRICS,
    # What is proper and every family has; bits are bounds in some, which rank nothing. The others
    # describe, and decide only where there is no energy.
    deciding=(
        Deciding(BARE_ENERGY),
        Deciding("wer_ctc", "content"),
        Deciding("speaker_similarity", "speaker"),
        Deciding("mcd"),
    ),
    # The deciding and the best understood ones.
    leading=(
        "wer_ctc",
        "wer_grammar",
        "speaker_similarity",
        "f0_correlation",
        "dnsmos_ovrl",
        "kad",
        "bits_per_s",
        BARE_ENERGY,
        TUNED_ENERGY,
    ),
    searched=("wer_ctc", BARE_ENERGY, TUNED_ENERGY),
    controls=(
        Swap(
            "prompt_swap", "content", "condition.content='none': the arms are not told what to say"
        ),
        Swap(
            "speaker_swap", "speaker", "condition.speaker=false: the arms are not told who speaks"
        ),
    ),
)
DOMAINS: Mapping[str, Domain] = {domain.name: domain for domain in (SPEECH,)}


class HasDomain(Protocol):
    """A corpus of audio."""

    domain: ClassVar[Any]
    """The name of a domain, or a `Domain` of its own."""


def domain_of(corpus: HasDomain) -> Domain:
    """Return the domain of a corpus, whose field `unit` may make speakers the units of speech."""
    found: str | Domain = corpus.domain
    domain = found if isinstance(found, Domain) else DOMAINS[found]
    if getattr(corpus, "unit", domain.unit) == "speaker":
        return replace(domain, unit="speaker", unit_of=speaker_key)
    return domain
