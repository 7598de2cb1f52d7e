"""All audio metrics of one row of the table: an arm, a codec floor, or real audio.

In: one waveform per prompt, the prompts, and an `EvaluationContext` (loaded networks, speaker
centroids, reference embeddings) that is built once and serves every row. Out: `RowResult`: named
scores with intervals, the per-clip values behind them for paired comparisons, the transcripts, and
the swap controls.

Work is cut into jobs for a small thread pool: onnxruntime and numpy release the GIL, so the quality
network (half of the cost) runs beside the rest, among it pocketsphinx, which keeps the GIL. Scores
depend on neither the number of threads nor the order of rows.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, model_validator

from genlab.config import Config, GenlabError, Seed
from genlab.data.text import has_symbols
from genlab.evaluate.cepstrum import cepstral_distortions
from genlab.evaluate.comparisons import Control, not_applicable, prompt_swap, speaker_swap
from genlab.evaluate.content import GrammarRecogniser, character_errors, word_errors
from genlab.evaluate.distribution import (
    FEW_VECTORS,
    ReferenceSet,
    SpeechEmbedder,
    build_reference,
    count_vectors,
    frechet_infinity,
    kernel_distance,
)
from genlab.evaluate.diversity import (
    NEIGHBOURS,
    clip_entropies,
    code_entropy,
    coverage_density,
    relative_spread,
)
from genlab.evaluate.pitch import PitchAgreement, PitchTrack, PitchTracker, compare_tracks
from genlab.evaluate.quality import Dnsmos, QualityScores
from genlab.evaluate.reconstruction import mel_distances_db, pesq_stoi
from genlab.evaluate.scores import ClipValues, Covers, Score, Validity, clip_means, make_score
from genlab.evaluate.sessions import single_threaded_blas
from genlab.evaluate.speaker import SpeakerEncoder, embed_groups, group_clips, score_speakers
from genlab.statistics.bootstrap import Estimate
from genlab.statistics.crossed import estimate_over_runs

Wave = Float[np.ndarray, "_"]
Item = TypeVar("Item")
# principal directions: some clips have fewer windows of voice than the 256 channels of a d-vector
VOICE_CHANNELS = 32


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
    """Continuations per clip behind the energy score of the next block; 0 leaves it out."""
    lengths_s: tuple[Annotated[float, Field(ge=0.1, le=3600)], ...] = ()
    """Seconds of longer clips whose sampling is timed too, each once per training seed."""
    threads: int = Field(default=2, ge=1, le=1024)
    seed: Seed = 0

    @model_validator(mode="after")
    def _check_draws(self) -> "EvaluationConfig":
        if self.energy_draws == 1:
            raise ValueError(
                "energy_draws=1: the score subtracts the distance of two draws; expected 0 or at "
                "least 2"
            )
        return self


class Prompt(NamedTuple):
    """What was asked for: prompts with one clip_id are one unit of the statistics."""

    clip_id: str
    text: str
    speaker: str
    wave: Wave
    """The real clip, at 16 kHz."""
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
    """Everything that does not depend on the row."""

    config: EvaluationConfig
    content: tuple[ContentMetric, ...]
    encoder: SpeakerEncoder
    centroids: dict[str, Float[np.ndarray, "256"]]
    spaces: tuple[EmbeddingSpace, ...]
    tracker: PitchTracker
    quality: Dnsmos
    encode: Callable[[Sequence[Wave]], Sequence[Int[np.ndarray, "_ k"]]] | None = None
    excused: Mapping[str, str] = field(default_factory=dict)
    """Controls that mean nothing here, each with the reason: arms cannot follow a condition that
    they do not get.
    """


class RowResult(NamedTuple):
    """The audio scores of one row, and what they were made from."""

    scores: dict[str, Score]
    per_clip: dict[str, ClipValues]
    transcripts: dict[str, list[str]]
    controls: tuple[Control, ...]


def grammar_metric(jsgf: str, vocabulary: Sequence[str]) -> ContentMetric:
    """Return the word error rate of the grammar recogniser, named wer_grammar."""
    recogniser = GrammarRecogniser(jsgf, vocabulary)
    return ContentMetric(
        "grammar", "word", lambda waves: [recogniser.transcribe(wave) for wave in waves]
    )


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
) -> EvaluationContext:
    """Load the networks and measure real speech once.

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

    Raises:
        GenlabError: if a package is missing.
    """
    if len(waves) != len(speakers):
        raise GenlabError(
            f"speakers: expected one per real clip, got {len(speakers)} for {len(waves)} clips"
        )
    encoder, embedder = SpeakerEncoder(), SpeechEmbedder()
    voiced = [*zip(speakers, waves), *more_voices]
    chosen = _spread(len(waves), config.reference_clips)
    with ThreadPoolExecutor(config.threads) as pool:
        by_speaker = [
            pool.submit(_speaker_centroid, encoder, voiced, name, config.centroid_groups)
            for name in sorted({name for name, _ in voiced})
        ]
        heard = list(pool.map(lambda i: embedder(waves[i]), chosen))
        voices = list(pool.map(lambda i: encoder.windows(waves[i]), chosen))
        centroids = {name: vector for job in by_speaker for name, vector in job.result().items()}
    spaces = ()
    if len(chosen) > 1:
        spaces = (
            EmbeddingSpace("", embedder, build_reference(heard)),
            EmbeddingSpace("_voice", encoder.windows, build_reference(voices, VOICE_CHANNELS)),
        )
    return EvaluationContext(
        config,
        tuple(content),
        encoder,
        centroids,
        spaces,
        PitchTracker(),
        Dnsmos(config.dnsmos_max_windows),
        encode,
        excused or {},
    )


def require_networks() -> None:
    """Open every network that scoring needs, so that a missing package stops a command before
    anything is trained.

    Raises:
        GenlabError: naming the package and how to install it.
    """
    for network in (SpeakerEncoder, SpeechEmbedder, PitchTracker, Dnsmos):
        network()


@single_threaded_blas
def score_clips(
    generated: Sequence[Wave],
    prompts: Sequence[Prompt],
    context: EvaluationContext,
    *,
    is_reconstruction: bool = False,
    seeds: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RowResult:
    """Run every audio metric on one row, and leave out what the prompts do not allow.

    Prompts without text have no content errors, prompts whose speaker has no centroid no speaker
    scores; notes say how many were left out. A score that no prompt allows is absent, and its
    control not applicable.

    Args:
        generated: one waveform per prompt at 16 kHz.
        prompts: what each was asked to be, in the same order in every row, once per training seed.
        context: what does not depend on the row.
        is_reconstruction: the row is a codec floor, aligned sample by sample: adds the
            reconstruction scores.
        seeds: training seeds behind the row, whose clips follow each other in equal numbers.
        progress: told how many of how many measurements are done.

    Raises:
        GenlabError: if the numbers of clips differ, or a waveform is not finite.
    """
    waves = _check_waves(generated, prompts)
    notes = _left_out(prompts, context)
    with ThreadPoolExecutor(context.config.threads) as pool:
        jobs = _submit_jobs(pool, waves, prompts, context, is_reconstruction, seeds)
        total = 1 + jobs.wait(progress)  # one more: the distances of whole sets, below
        clusters = tuple(prompt.clip_id for prompt in prompts)
        runs = tuple(np.repeat(range(seeds), len(prompts) // seeds).tolist())
        per_clip = _quality_values(jobs, len(prompts), clusters)
        per_clip |= _pitch_values([job.result() for job in jobs.pitch], clusters)
        speaker_values, controls = _speaker_values(jobs, prompts, context, runs)
        per_clip |= speaker_values
        transcripts = {
            metric.score_name: job.result() for metric, job in zip(context.content, jobs.content)
        }
        for metric in context.content:
            values, control = _content_values(
                metric, transcripts[metric.score_name], prompts, context, runs
            )
            controls.append(control)
            # else no prompt has a text, and there is nothing to be wrong about
            if values.weights.any():
                per_clip[metric.score_name] = values
        if jobs.reconstruction is not None:
            per_clip |= {
                name: clip_means(values, clusters)
                for name, values in jobs.reconstruction.result().items()
            }
        per_clip["mcd"] = clip_means(jobs.distortions.result(), clusters)
        codes = [] if context.encode is None else context.encode(waves)
        per_clip |= (
            {"clip_code_entropy": clip_means(clip_entropies(codes), clusters)} if codes else {}
        )
        embeddings = {
            space.suffix: [job.result() for job in jobs.embeddings[space.suffix]]
            for space in context.spaces
        }
        seed = context.config.seed
        per_clip = {name: values._replace(runs=runs) for name, values in per_clip.items()}
        scores = {}
        for name, values in per_clip.items():
            note = notes.get(name.split("_")[0], "")
            scores[name] = make_score(
                name, values.estimate(seed), seeds=seeds, covers=values.covers, note=note
            )
        for found in pool.map(
            lambda s: _distribution_scores(s, embeddings[s.suffix], seed, seeds), context.spaces
        ):
            scores |= found
    scores |= _diversity_scores(embeddings.get("", []), codes, context, seeds)
    progress(total, total)
    return RowResult(
        scores, per_clip, transcripts, tuple(_excuse(control, context) for control in controls)
    )


def _excuse(control: Control, context: EvaluationContext) -> Control:
    """Return the control, not applicable if it means nothing in this comparison."""
    reason = context.excused.get(control.control)
    return control if reason is None else control._replace(passed=False, reason=reason)


def _left_out(prompts: Sequence[Prompt], context: EvaluationContext) -> dict[str, str]:
    """Return by the first word of a score's name what to say
    about the prompts that it leaves out.
    """
    silent = sum(not has_symbols(prompt.text) for prompt in prompts)
    strange = sum(prompt.speaker not in context.centroids for prompt in prompts)
    total = len(prompts)
    notes: dict[str, str] = {}
    if silent:
        notes |= dict.fromkeys(
            ("wer", "cer"), f"{silent} of {total} clips are left out: their prompts have no text"
        )
    if strange:
        reason = "their speakers have no real speech apart from the prompts"
        notes["speaker"] = f"{strange} of {total} clips are left out: {reason}"
    return notes


class _Jobs(NamedTuple):
    quality: list[tuple[list[int], Future[QualityScores]]]
    groups: list[list[int]]
    speaker: list[Future[np.ndarray]]
    content: list[Future[list[str]]]
    embeddings: dict[str, list[Future[np.ndarray]]]
    distortions: Future[np.ndarray]
    pitch: list[Future[PitchAgreement]]
    reconstruction: Future[dict[str, np.ndarray]] | None

    def futures(self) -> list[Future[Any]]:
        """Return every job of the row."""
        jobs: list[Future[Any]] = [job for _, job in self.quality]
        jobs += [
            *self.speaker,
            *self.content,
            *(job for space in self.embeddings.values() for job in space),
        ]
        jobs += [self.distortions, *self.pitch]
        return jobs if self.reconstruction is None else [*jobs, self.reconstruction]

    def wait(self, progress: Callable[[int, int], None]) -> int:
        """Wait for every job, telling how many of one more than all are done, and return how many
        there are.
        """
        futures = self.futures()
        progress(0, len(futures) + 1)
        for done, _ in enumerate(as_completed(futures), start=1):
            progress(done, len(futures) + 1)
        return len(futures)


def _submit_jobs(
    pool: ThreadPoolExecutor,
    waves: Sequence[Wave],
    prompts: Sequence[Prompt],
    context: EvaluationContext,
    is_reconstruction: bool,
    seeds: int,
) -> _Jobs:
    # Every training seed is scored on the same prompts and groups of prompts, otherwise the two
    # could not be separated.
    per_seed = len(waves) // seeds
    offsets = range(0, len(waves), per_seed)
    # The longest jobs go first, so that the threads finish together.
    chosen = [
        first + i for first in offsets for i in _spread(per_seed, context.config.dnsmos_clips)
    ]
    batches = [
        chosen[i : i + context.quality.batch_windows]
        for i in range(0, len(chosen), context.quality.batch_windows)
    ]
    content = [
        pool.submit(lambda m=metric: list(m.transcribe(waves))) for metric in context.content
    ]
    quality = [
        (batch, pool.submit(context.quality, [waves[i] for i in batch])) for batch in batches
    ]
    # Grouped by the real clips' lengths, so that the groups are the same in every row.
    own = prompts[:per_seed]
    groups = group_clips([len(prompt.wave) for prompt in own], [prompt.speaker for prompt in own])
    groups = [[first + i for i in members] for first in offsets for members in groups]
    speaker = [pool.submit(embed_groups, context.encoder, waves, [members]) for members in groups]
    embeddings = {
        space.suffix: [pool.submit(space.embed, wave) for wave in waves] for space in context.spaces
    }
    distortions = pool.submit(cepstral_distortions, [prompt.wave for prompt in prompts], waves)
    pitch = [
        pool.submit(_follow_pitch, context.tracker, wave, prompt)
        for wave, prompt in zip(waves, prompts)
    ]
    reconstruction = pool.submit(_reconstruct, waves, prompts) if is_reconstruction else None
    return _Jobs(quality, groups, speaker, content, embeddings, distortions, pitch, reconstruction)


def _check_waves(generated: Sequence[Wave], prompts: Sequence[Prompt]) -> list[Wave]:
    if len(generated) != len(prompts) or not prompts:
        raise GenlabError(
            f"generated: expected one clip per prompt, got {len(generated)} for {len(prompts)} "
            "prompts"
        )
    waves = [np.asarray(wave, np.float32) for wave in generated]
    for wave, prompt in zip(waves, prompts):
        if wave.ndim != 1 or not np.isfinite(wave).all():
            raise GenlabError(
                f"generated: the clip of prompt {prompt.clip_id!r} has shape {wave.shape} and "
                f"{int((~np.isfinite(wave)).sum())} samples that are not finite; expected finite "
                "mono samples"
            )
    return [np.clip(wave, -1.0, 1.0) for wave in waves]


def _follow_pitch(tracker: PitchTracker, wave: Wave, prompt: Prompt) -> PitchAgreement:
    return compare_tracks(tracker(wave), prompt.f0 or tracker(prompt.wave))


def _reconstruct(waves: Sequence[Wave], prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    originals = [prompt.wave for prompt in prompts]
    return {"mel_distance": mel_distances_db(originals, waves), **pesq_stoi(originals, waves)}


def _speaker_centroid(
    encoder: SpeakerEncoder, voiced: Sequence[tuple[str, Wave]], name: str, max_groups: int
) -> dict[str, np.ndarray]:
    mine = [wave for speaker, wave in voiced if speaker == name]
    return encoder.centroids(mine, [name] * len(mine), max_groups)


def _quality_values(
    jobs: _Jobs, num_clips: int, clusters: tuple[object, ...]
) -> dict[str, ClipValues]:
    if not jobs.quality:
        return {}
    columns = {name: np.full(num_clips, np.nan) for name in QualityScores._fields}
    for batch, job in jobs.quality:
        for name, values in zip(QualityScores._fields, job.result()):
            columns[name][batch] = values
    return {f"dnsmos_{name}": clip_means(values, clusters) for name, values in columns.items()}


def _pitch_values(
    agreements: Sequence[PitchAgreement], clusters: tuple[object, ...]
) -> dict[str, ClipValues]:
    correlation, voicing, gross, rmse = (np.array(column) for column in zip(*agreements))
    return {
        "f0_correlation": clip_means(correlation, clusters),
        "voicing_agreement": clip_means(voicing, clusters),
        "f0_gross_error": clip_means(gross, clusters),
        "f0_rmse": clip_means(rmse, clusters),
    }


def _speaker_values(
    jobs: _Jobs, prompts: Sequence[Prompt], context: EvaluationContext, runs: tuple[int, ...]
) -> tuple[dict[str, ClipValues], list[Control]]:
    embeddings = np.concatenate([job.result() for job in jobs.speaker])
    if not any(prompt.speaker in context.centroids for prompt in prompts):
        reason = "no prompted speaker has real speech apart from the prompts"
        return {}, [not_applicable("speaker_swap", "speaker_similarity", reason)]
    scores = score_speakers(
        embeddings, jobs.groups, [prompt.speaker for prompt in prompts], context.centroids
    )
    groups_per_seed = len(jobs.groups) // len(set(runs))
    clusters = tuple(int(group) % groups_per_seed for group in scores.group)
    similarity = clip_means(scores.similarity[scores.group], clusters)._replace(runs=runs)
    values = {"speaker_similarity": similarity}
    if len(context.centroids) > 1:  # of one speaker the nearest is always the right one
        values["speaker_accuracy"] = clip_means(scores.is_nearest[scores.group], clusters)
    return values, [speaker_swap(similarity, scores.others[scores.group], context.config.seed)]


def _content_values(
    metric: ContentMetric,
    transcripts: list[str],
    prompts: Sequence[Prompt],
    context: EvaluationContext,
    runs: tuple[int, ...],
) -> tuple[ClipValues, Control]:
    count = word_errors if metric.level == "word" else character_errors
    texts = [prompt.text for prompt in prompts]
    clusters = tuple(prompt.clip_id for prompt in prompts)
    control = prompt_swap(
        metric.score_name, transcripts, texts, clusters, count, context.config.seed, runs
    )
    return ClipValues(*count(transcripts, texts), clusters), control


@single_threaded_blas
def _distribution_scores(
    space: EmbeddingSpace, embeddings: list[np.ndarray], seed: int, seeds: int
) -> dict[str, Score]:
    reference = space.reference
    num_vectors = min(
        len(reference.vectors), *(count_vectors(own) for own in _split(embeddings, seeds))
    )
    is_few = num_vectors < FEW_VECTORS
    note = (
        f"extrapolated from {num_vectors} vectors a side, unstable below {FEW_VECTORS}"
        if is_few
        else ""
    )
    validity: Validity = "biased" if is_few else "metric"

    def measure(own: list[np.ndarray]) -> dict[str, Estimate]:
        kad = kernel_distance(own, reference, seed=seed)
        return {"kad": kad, "frechet": frechet_infinity(own, reference, seed=seed)}

    found = _set_scores(list(map(measure, _split(embeddings, seeds))))
    found["frechet"] = found["frechet"]._replace(validity=validity, note=note)
    return {f"{name}{space.suffix}": score for name, score in found.items()}


def _diversity_scores(
    embeddings: list[np.ndarray],
    codes: Sequence[np.ndarray],
    context: EvaluationContext,
    seeds: int,
) -> dict[str, Score]:
    seed = context.config.seed
    entries = 1 + max((int(clip.max()) for clip in codes), default=0)
    found: list[dict[str, Estimate]] = []
    for own, own_codes in zip(_split(embeddings, seeds), _split(codes, seeds)):
        scores: dict[str, Estimate] = {}
        if context.spaces:
            reference = context.spaces[0].reference
            real = reference.clip_means
            clips = np.stack([reference.project(vectors).mean(axis=0) for vectors in own])
            if len(real) > NEIGHBOURS:
                scores["coverage"], scores["density"] = coverage_density(clips, real, seed=seed)
            scores["spread"] = relative_spread(clips, real, seed=seed)
        if own_codes:
            scores["code_entropy"] = code_entropy(own_codes, entries, seed=seed)
        found.append(scores)
    return _set_scores(found)


def _set_scores(runs: list[dict[str, Estimate]]) -> dict[str, Score]:
    """Return the scores of a row's sets of clips, one set for each training run."""
    covers: Covers = "prompts" if len(runs) == 1 else "prompts and training seeds"
    estimates = {name: estimate_over_runs([run[name] for run in runs]) for name in runs[0]}
    return {
        name: make_score(name, found, seeds=len(runs), covers=covers)
        for name, found in estimates.items()
    }


def _split(items: Sequence[Item], seeds: int) -> list[list[Item]]:
    """Return what belongs to each training run; the runs follow each other."""
    per_seed = len(items) // seeds
    return [list(items[run * per_seed : (run + 1) * per_seed]) for run in range(seeds)]


def _spread(length: int, wanted: int) -> list[int]:
    return sorted(set(np.linspace(0, length - 1, min(length, wanted)).round().astype(int).tolist()))
