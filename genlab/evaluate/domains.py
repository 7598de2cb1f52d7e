"""Domains: what a kind of audio is measured by, and what the arms can be told about it.

A corpus names its domain (`corpus.domain`), or holds one of its own. In: that corpus. Out:
`Domain`, which says what one unit of the statistics is, which conditions there are, which metrics
and controls run, which score decides, and at which rate audio is kept. Nothing below this file asks
whether audio is speech.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.data.audio import AudioFormat
from genlab.data.manifest import Spoken, speaker_key, text_key
from genlab.data.recipe import USUAL_FORMAT, DomainName
from genlab.data.units import NoUnits, Units
from genlab.evaluate.any_table import ALIGNED, CHROMA, CLASS_ACCURACY, LONG_TERM, SETS
from genlab.evaluate.energy import BARE_ENERGY, BARE_VARIOGRAM, TUNED_ENERGY
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


LEAST_RIGHT_ON_REAL = 0.5
"""Share of real clips whose class a classifier must tell to judge a model's."""
MOST_ERRORS_ON_REAL = 0.3
"""Error rate of a recogniser on real clips from which on it is no judge of a model's."""


@dataclass(frozen=True)
class Domain:
    """One kind of audio."""

    name: str
    audio: AudioFormat
    """What audio is kept as, unless the corpus says otherwise."""
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
    label: str = "speaker"
    """What a clip's label, its `speaker`, is called."""
    load_units: Callable[[], Units] = NoUnits
    """Gives the semantic units of a frame; `NoUnits` of a domain that has none."""

    @property
    def has_units(self) -> bool:
        """Whether arms can be told semantic units."""
        return self.load_units is not NoUnits

    @property
    def networks(self) -> tuple[type, ...]:
        """What its metrics need opened; nothing else is loaded."""
        return tuple(dict.fromkeys(one for metric in self.metrics for one in metric.networks))

    def has(self, name: str) -> bool:
        """Return whether a metric of this name is among its rows."""
        return any(metric.name == name for metric in self.metrics)

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
        how much an arm makes it guess; so does a classifier that cannot tell the real clips apart.

        Args:
            real: the scores of the prompts' real clips.
        """
        right = real.get(CLASS_ACCURACY.name, 1.0)
        blind = (
            {CLASS_ACCURACY.name: f"its classifier is right on {right:.0%} of the real clips alone"}
            if right < LEAST_RIGHT_ON_REAL
            else {}
        )
        return blind | {
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


def _speech_units() -> Units:
    from genlab.recognisers.shipped import load_units  # here: only speech needs it

    return load_units()


def _clip_id(clip: Spoken) -> str:
    return clip.id


SPEECH = Domain(
    name="speech",
    audio=USUAL_FORMAT["speech"],
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
        BARE_VARIOGRAM,
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
    load_units=_speech_units,
)
_TOKENS = (
    "clip_code_entropy",
    "code_entropy",
    "bits_per_s",
    BARE_ENERGY,
    BARE_VARIOGRAM,
    TUNED_ENERGY,
)
_OF_TOKENS = tuple(metric for metric in METRICS if metric.name in _TOKENS)
_CLASS_SWAP = Swap(
    "class_swap", "speaker", "condition.speaker=false: the arms are not told the class"
)
_LEADING = (
    CLASS_ACCURACY.name,
    SETS[0].name,
    "bits_per_s",
    BARE_ENERGY,
    BARE_VARIOGRAM,
    TUNED_ENERGY,
)
SOUND = Domain(
    name="sound",
    audio=USUAL_FORMAT["sound"],
    unit="clip",
    unit_of=_clip_id,
    conditions=("content", "speaker"),
    metrics=(CLASS_ACCURACY, LONG_TERM, ALIGNED, *SETS, *_OF_TOKENS),
    deciding=(
        Deciding(BARE_ENERGY),
        Deciding(CLASS_ACCURACY.name, "speaker"),
        Deciding(LONG_TERM.name),
    ),
    leading=_LEADING,
    searched=(BARE_ENERGY, TUNED_ENERGY),
    controls=(_CLASS_SWAP,),
    label="class",
)
MUSIC = Domain(
    name="music",
    audio=USUAL_FORMAT["music"],
    unit="piece",
    unit_of=text_key,  # pieces are told apart by their text, their title; without one each is alone
    conditions=("content", "speaker"),
    metrics=(CLASS_ACCURACY, CHROMA, LONG_TERM, ALIGNED, *SETS, *_OF_TOKENS),
    deciding=(
        Deciding(BARE_ENERGY),
        Deciding(CHROMA.name, "content"),
        Deciding(CLASS_ACCURACY.name, "speaker"),
        Deciding(LONG_TERM.name),
    ),
    leading=(CHROMA.name, *_LEADING),
    searched=(BARE_ENERGY, TUNED_ENERGY),
    controls=(_CLASS_SWAP,),
    label="class",
)
# Of tokens that nobody can hear: no codec is named.
CODES = Domain(
    name="codes",
    audio=USUAL_FORMAT["speech"],
    unit="text",
    unit_of=text_key,
    conditions=("content", "speaker"),
    metrics=(find_metric("bits_per_s"),),
    # Of two families it ranks only what is exact, or a bound that lies below an exact value.
    deciding=(Deciding("bits_per_s"),),
    leading=("bits_per_s",),
    searched=(),
    controls=(),
)
DOMAINS: Mapping[DomainName, Domain] = {"speech": SPEECH, "music": MUSIC, "sound": SOUND}


class HasDomain(Protocol):
    """A corpus of audio."""

    domain: ClassVar[Any]
    """The name of a domain, or a `Domain` of its own."""


def domain_of(corpus: HasDomain) -> Domain:
    """Return the domain of a corpus, whose field `unit` may make speakers the units of speech.

    Raises:
        GenlabError: if a class of the user names none that there is.
    """
    found: Any = corpus.domain
    if not isinstance(found, Domain) and found not in DOMAINS:
        raise GenlabError(
            f"data.corpus.domain: {shorten(found)}, expected {', '.join(DOMAINS)} or a Domain "
            "(genlab/evaluate/domains.py)"
        )
    domain = found if isinstance(found, Domain) else DOMAINS[found]
    if getattr(corpus, "unit", domain.unit) == "speaker":
        return replace(domain, unit="speaker", unit_of=speaker_key)
    return domain
