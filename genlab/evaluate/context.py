"""What scoring needs beside the clips: how much is scored, the loaded networks, and real audio
measured once.

In: an `EvaluationConfig`, recognisers, and real clips that are no prompts. Out: an
`EvaluationContext`, which serves every row of a table alike.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, model_validator

from genlab.config import Config, GenlabError, Seed, added
from genlab.data.audio import SPEECH_AUDIO, AudioFormat, as_audio, hear
from genlab.evaluate.classes import FEWEST_CLIPS, ClassProbe
from genlab.evaluate.content import GrammarRecogniser
from genlab.evaluate.distribution import ReferenceSet, SpeechEmbedder, build_reference
from genlab.evaluate.pitch import PitchTrack, PitchTracker
from genlab.evaluate.quality import Dnsmos
from genlab.evaluate.sessions import single_threaded_blas
from genlab.evaluate.speaker import SpeakerEncoder
from genlab.evaluate.timbre import TimbreEmbedder

Wave = Float[np.ndarray, "_ *c"]  # one axis if mono, (samples, 2) if stereo
# principal directions: some clips have fewer windows of voice than the 256 channels of a d-vector
VOICE_CHANNELS = 32
# the endings of the scores of each space of embeddings: of speech, and of the voice alone
SPACES = ("", "_voice")
TIMBRE = "_timbre"  # the ending of the scores in the space of any audio
TIMBRE_CHANNELS = 32
SPEECH_NETWORKS: tuple[type, ...] = (SpeakerEncoder, SpeechEmbedder, PitchTracker, Dnsmos)


class EvaluationConfig(Config):
    """How much is scored. The same config must serve every row of a table."""

    dnsmos_clips: int = Field(default=16, ge=0)
    """Clips of each training seed scored by DNSMOS, spread evenly over the prompts (0.3 s each); 0
    leaves it out.
    """
    dnsmos_max_windows: int | None = Field(default=1, ge=1)
    """Windows per clip; None agrees with the reference implementation and is several times slower
    on short clips.
    """
    reference_clips: int = Field(default=160, ge=2)
    """Real clips behind the distribution distances."""
    centroid_groups: int = Field(default=4, ge=1)
    """Stretches of 3 s of real speech behind each speaker's centroid."""
    score_draws: int = Field(default=32, ge=1, le=1024)
    """Draws per clip behind the bits of a family whose likelihood has an upper bound only."""
    energy_draws: int = Field(default=4, ge=0, le=1024)
    """Continuations per clip behind the energy scores of the next block; 0 leaves them out."""
    token_prompts: Annotated[int, Field(ge=2)] | None = added(None)
    """Clips behind the scores that need no audio, bits and energies, whose first ones are the
    prompts; None, or fewer than num_prompts, takes the prompts alone.
    """
    audio_draws: Annotated[int, Field(ge=1, le=64)] = added(1)
    """Times that every training seed draws the audio of every prompt. How much a score moves from
    draw to draw is then part of its interval.
    """
    gaps_s: tuple[Annotated[float, Field(ge=0.02, le=60)], ...] = added(())
    """Seconds of gaps in the middle of the prompts' clips, which arms fill with both sides given;
    each is scored by `energy_draws` draws per clip. By default none is.
    """
    continuations_s: tuple[Annotated[float, Field(ge=0.02, le=60)], ...] = added(())
    """Seconds of continuations of the first halves of the prompts' clips, all scored on the same
    `energy_draws` draws. By default none is.
    """
    lengths_s: tuple[Annotated[float, Field(ge=0.1, le=3600)], ...] = ()
    """Seconds of longer clips whose sampling is timed too, each once per training seed."""
    threads: int = Field(default=2, ge=1, le=1024)
    """Threads that measure; they change no value."""
    processes: Annotated[int, Field(ge=1, le=1024)] = added(1)
    """Processes that measure beside the threads, from 2 on; they change no value. Each holds the
    networks once more, some 400 MB.
    """
    seed: Seed = 0
    """Seed of the resamples and draws behind intervals."""

    @model_validator(mode="after")
    def _check_draws(self) -> "EvaluationConfig":
        if self.energy_draws == 1:
            raise ValueError(
                "energy_draws=1: the score subtracts the distance of two draws; expected 0 or at "
                "least 2"
            )
        return self

    @model_validator(mode="after")
    def _check_gaps(self) -> "EvaluationConfig":
        for name, lengths_s in (("gaps_s", self.gaps_s), ("continuations_s", self.continuations_s)):
            if lengths_s and not self.energy_draws:
                raise ValueError(
                    f"{name}={list(lengths_s)}: they are scored by energy_draws draws, got 0; "
                    f"expected at least 2, or {name}=[]"
                )
            if len({round(1000 * length_s) for length_s in lengths_s}) < len(lengths_s):
                raise ValueError(
                    f"{name}={list(lengths_s)}: two are the same to a millisecond; give each once"
                )
        return self


class Wanted(NamedTuple):
    """What an arm was asked for: prompts with one clip_id are one unit of the statistics."""

    clip_id: str
    text: str
    speaker: str
    wave: Wave
    """The real clip, in the format of the corpus."""
    f0: PitchTrack | None = None
    """The true F0, if the corpus knows it; else the real clip is tracked."""


class ContentMetric(NamedTuple):
    """A recogniser in the table; its score is named wer_NAME (words) or cer_NAME (characters)."""

    name: str
    level: Literal["word", "character"]
    transcribe: Callable[[Sequence[Wave]], Sequence[str]]

    @property
    def score_name(self) -> str:
        """The key in results.json."""
        return f"{'wer' if self.level == 'word' else 'cer'}_{self.name}"


class EmbeddingSpace(NamedTuple):
    """Vectors of windows of a clip, and those of real speech. The name of a score ends with that of
    its space.
    """

    suffix: str
    embed: Callable[[Wave], Float[np.ndarray, "_ d"]]
    reference: ReferenceSet


@dataclass(frozen=True)
class EvaluationContext:
    """Everything that does not depend on the row; a network that no metric names is None."""

    config: EvaluationConfig
    content: tuple[ContentMetric, ...]
    encoder: SpeakerEncoder | None
    centroids: dict[str, Float[np.ndarray, "256"]]
    spaces: tuple[EmbeddingSpace, ...]
    tracker: PitchTracker | None
    quality: Dnsmos | None
    encode: Callable[[Sequence[Wave]], Sequence[Int[np.ndarray, "_ k"]]] | None = None
    excused: Mapping[str, str] = field(default_factory=dict)
    """Controls that mean nothing here, each with the reason: arms cannot follow a condition that
    they do not get.
    """
    audio: AudioFormat = SPEECH_AUDIO
    """Rate and channels of the waves of every row."""
    probe: ClassProbe | None = None
    """Tells classes of sound apart; None without two classes, and where nothing asks."""


def grammar_metric(jsgf: str, vocabulary: Sequence[str]) -> ContentMetric:
    """Return the word error rate of the grammar recogniser, named wer_grammar."""
    recogniser = GrammarRecogniser(jsgf, vocabulary)
    return ContentMetric("grammar", "word", recogniser.transcribe_all)


@single_threaded_blas
def build_context(
    config: EvaluationConfig,
    content: Sequence[ContentMetric],
    waves: Sequence[Wave],
    speakers: Sequence[str],
    encode: Callable[[Sequence[Wave]], Sequence[Int[np.ndarray, "_ k"]]] | None = None,
    *,
    more_voices: Sequence[tuple[str, Wave]] = (),
    excused: Mapping[str, str] | None = None,
    audio: AudioFormat = SPEECH_AUDIO,
    networks: Collection[type] = SPEECH_NETWORKS,
) -> EvaluationContext:
    """Load the networks and measure real audio once.

    With fewer than two real clips there are no distances between sets of clips.

    Args:
        config: how much is scored.
        content: the recognisers.
        waves: real clips, none of them the original of a prompt. A speaker without any has no
            speaker scores.
        speakers: the speaker of each.
        encode: gives the codes of waves; without it the entropy of codes is left out.
        more_voices: speaker and real clip of voices that `waves` lack; they serve the centroids
            alone.
        excused: see `EvaluationContext`.
        audio: rate and channels of all waves.
        networks: what the metrics name (`Metric.networks`); nothing else is loaded.

    Raises:
        GenlabError: if a package is missing.
    """
    if len(waves) != len(speakers):
        raise GenlabError(
            f"speakers: expected one per real clip, got {len(speakers)} for {len(waves)} clips"
        )
    kept = [as_audio(wave, f"waves[{number}]") for number, wave in enumerate(waves)]
    waves = [hear(wave, audio, SPEECH_AUDIO) for wave in kept]
    encoder = SpeakerEncoder() if SpeakerEncoder in networks else None
    voiced = [(name, hear(wave, audio, SPEECH_AUDIO)) for name, wave in more_voices]
    voiced = [*zip(speakers, waves), *voiced]
    chosen = spread_evenly(len(waves), config.reference_clips)
    embedders: list[tuple[str, Callable[[Wave], np.ndarray], Sequence[Wave], int | None]] = []
    if SpeechEmbedder in networks:
        embedders.append((SPACES[0], SpeechEmbedder(), waves, None))
    if SpeechEmbedder in networks and encoder is not None:
        embedders.append((SPACES[1], encoder.windows, waves, VOICE_CHANNELS))
    if TimbreEmbedder in networks:
        timbre = partial(TimbreEmbedder(), rate_hz=audio.sample_rate_hz)
        embedders.append((TIMBRE, timbre, kept, TIMBRE_CHANNELS))
    # onnxruntime and numpy work outside the GIL, so threads share one copy of each network.
    with ThreadPoolExecutor(config.threads) as pool:
        by_speaker = [
            pool.submit(_speaker_centroid, encoder, voiced, name, config.centroid_groups)
            for name in sorted({name for name, _ in voiced})
            if encoder is not None
        ]
        vectors = [
            list(pool.map(embed, [heard[i] for i in chosen])) for _, embed, heard, _ in embedders
        ]
        centroids = {name: vector for job in by_speaker for name, vector in job.result().items()}
    spaces = ()
    if len(chosen) > 1:
        spaces = tuple(
            EmbeddingSpace(suffix, embed, build_reference(found, channels))
            for (suffix, embed, _, channels), found in zip(embedders, vectors)
        )
    probe = None
    if ClassProbe in networks and has_classes([speakers[i] for i in chosen]):
        probe = ClassProbe(vectors[-1], [speakers[i] for i in chosen])
    return EvaluationContext(
        config,
        tuple(content),
        encoder,
        centroids,
        spaces,
        PitchTracker() if PitchTracker in networks else None,
        Dnsmos(config.dnsmos_max_windows) if Dnsmos in networks else None,
        encode,
        excused or {},
        audio,
        probe,
    )


def has_classes(labels: Sequence[str]) -> bool:
    """Return whether clips with these labels have two classes that a probe can tell apart."""
    return sum(count >= FEWEST_CLIPS for count in Counter(labels).values()) > 1


def require_networks(networks: Collection[type] = SPEECH_NETWORKS) -> None:
    """Open every network that scoring needs, so that a missing package stops a command before
    anything is trained.

    Raises:
        GenlabError: naming the package and how to install it.
    """
    for network in networks:
        if network in SPEECH_NETWORKS:  # what is not, is fitted to the corpus or needs no file
            network()


def _speaker_centroid(
    encoder: SpeakerEncoder, voiced: Sequence[tuple[str, Wave]], name: str, max_groups: int
) -> dict[str, np.ndarray]:
    mine = [wave for speaker, wave in voiced if speaker == name]
    return encoder.centroids(mine, [name] * len(mine), max_groups)


def spread_evenly(length: int, wanted: int) -> list[int]:
    """Return at most `wanted` places among `length`, as far apart as they go."""
    return sorted(set(np.linspace(0, length - 1, min(length, wanted)).round().astype(int).tolist()))
