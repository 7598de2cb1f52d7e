"""Conversations made from clips of single speakers: two sides of audio that take turns.

In: `Dialogue`, which names a corpus of single utterances. Out: one clip per utterance, with the
utterance on its own side and an utterance of another speaker of the same split on the other side,
before it or after it. Both sides are as long as the conversation and silent where their speaker
does not speak, as in a call recorded in two channels. The gap between the turns is drawn from a
normal distribution around 200 ms; a negative one is an overlap. That is where the transitions of
real conversations lie (Levinson & Torreira 2015, doi 10.3389/fpsyg.2015.00731).

Who replies, who begins, and when, follows from the seed and the ids of the clips. What is said on
the two sides has nothing to do with each other: such a corpus can teach when to speak, not what to
answer.
"""

import hashlib
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Int
from pydantic import Field, JsonValue

from genlab.config import Config, GenlabError, Seed
from genlab.data.audio import SAMPLE_RATE_HZ, SPEECH_AUDIO, write_flac
from genlab.data.manifest import Clip, Manifest, fraction_of
from genlab.data.recipe import Corpus, Recipe
from genlab.data.shards import Progress, run_shards
from genlab.data.utterances import AnyUtterances


class Dialogue(Config):
    """Two-sided conversations of two turns, one for each clip of `corpus`."""

    domain: ClassVar[str] = "speech"  # evaluate/domains.py: what it is measured by

    kind: Literal["dialogue"] = "dialogue"
    corpus: AnyUtterances
    """The clips that conversations are made of."""
    seed: Seed = 0
    """Seed of the partners, the order of turns and the gaps."""
    mean_gap_s: float = Field(default=0.2, ge=-1.0, le=5.0)
    """Mean silence between the turns, in seconds; a negative one makes them overlap."""
    std_gap_s: float = Field(default=0.2, ge=0.0, le=2.0)
    """Standard deviation of that silence, in seconds."""

    @property
    def made_of(self) -> Corpus:
        """The corpus of single utterances."""
        return self.corpus

    def recipe(self, source: Manifest | None) -> Recipe:
        """Return how the conversations are made of the utterances in `source`."""
        assert source is not None, "build_corpus gives the manifest of made_of"
        if source.audio_format != SPEECH_AUDIO:
            raise GenlabError(
                f"corpus.corpus: its clips are {source.audio_format}, but dialogues are made of "
                f"{SPEECH_AUDIO}; leave out its sample_rate_hz and channels"
            )
        settings = {key: value for key, value in self.to_dict().items() if key != "corpus"}
        inputs = {"config": settings, "utterances": source.hash()}
        return Recipe(
            inputs, lambda directory, progress: build_dialogues(self, source, directory, progress)
        )


class Exchange(NamedTuple):
    """Two turns. `gap_samples` lie between the end of the first and the begin of the second one."""

    own: Clip
    other: Clip
    is_own_first: bool
    gap_samples: int


def plan_exchanges(config: Dialogue, utterances: Manifest) -> list[Exchange]:
    """Return a conversation for every clip that has a partner: another speaker in the same split.

    Raises:
        GenlabError: if the corpus is two-sided already, or no split has two speakers.
    """
    if any(clip.other_path for clip in utterances.clips):
        raise GenlabError("data.corpus.corpus: it is two-sided already; use it as data.corpus")
    planned = []
    for name in utterances.splits:
        clips = sorted(utterances.split(name), key=lambda clip: clip.id)
        for own in clips:
            others = [clip for clip in clips if clip.speaker != own.speaker]
            if not others:
                continue
            other = others[int(fraction_of("partner", config.seed, own.id) * len(others))]
            # Never 0 or 1, whose quantiles are infinite.
            place = 0.0005 + 0.999 * fraction_of("gap", config.seed, own.id)
            gap_s = config.mean_gap_s + config.std_gap_s * float(scipy.special.ndtri(place))
            is_first = fraction_of("first", config.seed, own.id) < 0.5
            planned.append(Exchange(own, other, is_first, round(gap_s * SAMPLE_RATE_HZ)))
    if not planned:
        raise GenlabError(
            "data.corpus.corpus: no split has clips of two speakers, a conversation needs two; "
            "use a corpus with more"
        )
    return planned


def build_dialogues(
    config: Dialogue, utterances: Manifest, directory: Path, progress: Progress | None = None
) -> list[Clip]:
    """Write both sides of every conversation to `directory`, going on where an interrupted build
    stopped.
    """
    planned = plan_exchanges(config, utterances)
    (directory / "audio").mkdir(parents=True, exist_ok=True)
    results = run_shards(
        list(enumerate(planned)),
        lambda item: _write(utterances, item[1], directory / f"audio/{item[0]:06d}.flac"),
        directory / "shards",
        items_per_shard=64,
        stage="arrange dialogues",
        progress=progress,
    )
    return [
        Clip(
            id=exchange.own.id,
            path=f"audio/{number:06d}.flac",
            text=exchange.own.text,
            speaker=exchange.own.speaker,
            split=exchange.own.split,
            num_samples=result["num_samples"],
            licence=exchange.own.licence,
            labels=exchange.own.labels
            | {
                "other": exchange.other.id,
                "is_own_first": exchange.is_own_first,
                "gap_s": round(exchange.gap_samples / SAMPLE_RATE_HZ, 4),
            },
            # Rendered audio may differ between machines, so it has no digest, and neither has what
            # is made of it.
            audio_digest=result["digest"] if exchange.own.audio_digest else "",
            other_path=f"audio/{number:06d}.other.flac",
        )
        for number, (exchange, result) in enumerate(zip(planned, results))
    ]


def arrange(
    own: Int[np.ndarray, "a"], other: Int[np.ndarray, "b"], is_own_first: bool, gap_samples: int
) -> tuple[Int[np.ndarray, "s"], Int[np.ndarray, "s"]]:
    """Return both sides of the conversation. The second turn never begins before the first one."""
    first, second = (own, other) if is_own_first else (other, own)
    start = max(0, len(first) + gap_samples)
    sides = np.zeros((2, max(len(first), start + len(second))), np.int16)
    sides[0, : len(first)] = first
    sides[1, start : start + len(second)] = second
    return (sides[0], sides[1]) if is_own_first else (sides[1], sides[0])


def _write(utterances: Manifest, exchange: Exchange, target: Path) -> dict[str, JsonValue]:
    own, other, is_own_first, gap_samples = exchange
    sides = arrange(utterances.audio(own), utterances.audio(other), is_own_first, gap_samples)
    for side, path in zip(sides, (target, target.with_suffix(".other.flac"))):
        write_flac(path, side)
    return {
        "num_samples": len(sides[0]),
        "digest": hashlib.sha256(b"".join(map(bytes, sides))).hexdigest()[:10],
    }
