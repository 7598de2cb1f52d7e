"""The measurements behind the table of scores, each of one row of audio.

In: `Clips`. Out: `Work` (metric.py): jobs for the pool, and what becomes of their results. Every
function here belongs to the rows of table.py that name it; what it computes with lies in the file
of the metric (pitch.py, speaker.py, ...).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from genlab.data.streamed import IN_MEMORY, Streamed, sequence_of, split_up
from genlab.data.text import has_symbols
from genlab.evaluate.cepstrum import cepstral_distortions
from genlab.evaluate.content import character_errors, word_errors
from genlab.evaluate.context import (
    SPACES,
    ContentMetric,
    EmbeddingSpace,
    Wanted,
    Wave,
    spread_evenly,
)
from genlab.evaluate.controls import Control, not_applicable, prompt_swap, speaker_swap
from genlab.evaluate.distribution import (
    FEW_VECTORS,
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
from genlab.evaluate.metric import Clips, Found, OfSets, Work, jobs_of_clips
from genlab.evaluate.pitch import PitchAgreement, PitchTracker, compare_tracks
from genlab.evaluate.quality import QualityScores
from genlab.evaluate.reconstruction import mel_distances_db, pesq_stoi
from genlab.evaluate.scores import ClipValues, Validity, clip_means
from genlab.evaluate.sessions import single_threaded_blas
from genlab.evaluate.speaker import embed_groups, group_clips, score_speakers
from genlab.run.clock import CONTROLS, stage
from genlab.statistics.bootstrap import Estimate
from genlab.statistics.crossed import estimate_over_runs

Item = TypeVar("Item")
# Clips of each set behind distances between sets, whose cost grows with the square.
SET_CLIPS = 256


def quality(clips: Clips) -> Work:
    """DNSMOS of some clips of every draw of every training seed, the same prompts of each."""
    context, per_set = clips.context, clips.per_set
    assert context.quality is not None, "a row that names Dnsmos has it opened"
    firsts = range(0, len(clips.waves), per_set)
    chosen = [
        first + i for first in firsts for i in spread_evenly(per_set, context.config.dnsmos_clips)
    ]
    network = context.quality
    size = network.batch_windows
    # As many clips per job as the network takes in one call.
    batches = [chosen[i : i + size] for i in range(0, len(chosen), size)]

    def finish(found: list[QualityScores]) -> Found:
        if not found:
            return Found()
        columns = {name: np.full(len(clips.waves), np.nan) for name in QualityScores._fields}
        for batch, scores in zip(batches, found):
            for name, values in zip(QualityScores._fields, scores):
                columns[name][batch] = values
        found_values = {
            f"dnsmos_{name}": clip_means(values, clips.clusters) for name, values in columns.items()
        }
        rated = len(chosen) // len(firsts)
        note = f"{rated} of {per_set} prompts are rated (evaluation.dnsmos_clips)"
        return Found(found_values, notes=dict.fromkeys(found_values, note * (rated < per_set)))

    jobs = sequence_of(
        lambda number: partial(network, [clips.waves[i] for i in batches[number]]), len(batches)
    )
    return Work(jobs, finish)


def pitch(clips: Clips) -> Work:
    """How the F0 of each clip follows the truth, or else that of the real clip."""

    def finish(found: list[PitchAgreement]) -> Found:
        correlation, voicing, gross, rmse = (np.array(column) for column in zip(*found))
        clusters = clips.clusters
        return Found(
            {
                "f0_correlation": clip_means(correlation, clusters),
                "voicing_agreement": clip_means(voicing, clusters),
                "f0_gross_error": clip_means(gross, clusters),
                "f0_rmse": clip_means(rmse, clusters),
            }
        )

    tracker = clips.context.tracker
    assert tracker is not None, "a row that names PitchTracker has it opened"
    return Work(jobs_of_clips(partial(_follow_pitch, tracker), clips), finish)


def _follow_pitch(tracker: PitchTracker, wave: Wave, prompt: Wanted) -> PitchAgreement:
    return compare_tracks(tracker(wave), prompt.f0 or tracker(prompt.wave))


def speaker(clips: Clips) -> Work:
    """Whose voice is heard, in groups of clips of one speaker, and the control on the voices of the
    others.
    """
    context, prompts = clips.context, clips.asked
    encoder = context.encoder
    assert encoder is not None, "a row that names SpeakerEncoder has it opened"
    # Grouped by the real clips' lengths, so that the groups are the same in every row, training
    # seed and draw.
    own = clips.prompts[: clips.per_set]
    lengths, speakers = zip(*((len(prompt.wave), prompt.speaker) for prompt in own))
    groups = group_clips(lengths, speakers)
    firsts = range(0, len(clips.waves), clips.per_set)
    groups = [[first + i for i in members] for first in firsts for members in groups]

    def finish(found: list[np.ndarray]) -> Found:
        strange = sum(prompt.speaker not in context.centroids for prompt in prompts)
        if strange == len(prompts):
            reason = "no prompted speaker has real speech apart from the prompts"
            return Found(controls=[not_applicable("speaker_swap", "speaker_similarity", reason)])
        scores = score_speakers(
            np.concatenate(found), groups, [prompt.speaker for prompt in prompts], context.centroids
        )
        groups_per_set = len(groups) // clips.sets
        clusters = tuple(int(group) % groups_per_set for group in scores.group)
        similarity = clip_means(scores.similarity[scores.group], clusters)._replace(runs=clips.runs)
        values = {"speaker_similarity": similarity}
        if len(context.centroids) > 1:  # of one speaker the nearest is always the right one
            values["speaker_accuracy"] = clip_means(scores.is_nearest[scores.group], clusters)
        reason = "their speakers have no real speech apart from the prompts"
        left_out = f"{strange} of {len(prompts)} clips are left out: {reason}; " if strange else ""
        grouped = f"groups of clips of one speaker, {groups_per_set} of {clips.per_set} clips"
        note = f"{left_out}n counts {grouped}"
        with stage(CONTROLS):
            swap = speaker_swap(similarity, scores.others[scores.group], context.config.seed)
        return Found(values, notes=dict.fromkeys(values, note), controls=[swap])

    def job(number: int) -> partial[np.ndarray]:
        waves = [clips.waves[i] for i in groups[number]]
        return partial(embed_groups, encoder, waves, [range(len(waves))])

    return Work(sequence_of(job, len(groups)), finish)


def content(clips: Clips) -> Work:
    """What each recogniser of the context hears, its errors, and the control on the texts of other
    prompts.
    """
    metrics = clips.context.content
    prompts = clips.asked
    parts = split_up(clips.waves, IN_MEMORY)

    def finish(found: list[list[str]]) -> Found:
        silent = sum(not has_symbols(prompt.text) for prompt in prompts)
        note = (
            f"{silent} of {len(prompts)} clips are left out: their prompts have no text"
            if silent
            else ""
        )
        # One part after another, and the parts of one metric follow each other.
        heard = _split([text for texts in found for text in texts], len(metrics))
        transcripts = {metric.score_name: texts for metric, texts in zip(metrics, heard)}
        values: dict[str, ClipValues] = {}
        controls = []
        for metric in metrics:
            errors, control = _content_errors(metric, transcripts[metric.score_name], clips)
            controls.append(control)
            # else no prompt has a text, and there is nothing to be wrong about
            if errors.weights.any():
                values[metric.score_name] = errors
        return Found(
            values, notes=dict.fromkeys(values, note), controls=controls, transcripts=transcripts
        )

    def job(number: int) -> partial[list[str]]:
        metric, part = divmod(number, len(parts))
        return partial(_transcribe, metrics[metric], list(parts[part]))

    jobs = sequence_of(job, len(metrics) * len(parts))
    return Work(jobs, finish, is_long=True)


def _transcribe(metric: ContentMetric, waves: Sequence[Wave]) -> list[str]:
    return list(metric.transcribe(waves))


def _content_errors(
    metric: ContentMetric, transcripts: list[str], clips: Clips
) -> tuple[ClipValues, Control]:
    count = word_errors if metric.level == "word" else character_errors
    texts = [prompt.text for prompt in clips.asked]
    seed = clips.context.config.seed
    with stage(CONTROLS):
        control = prompt_swap(
            metric.score_name, transcripts, texts, clips.clusters, count, seed, clips.runs
        )
    return ClipValues(*count(transcripts, texts), clips.clusters), control


def reconstruction(clips: Clips) -> Work:
    """Distances between aligned waves, of codec floors only."""
    if not clips.is_reconstruction:
        return Work()

    def finish(found: list[dict[str, np.ndarray]]) -> Found:
        return Found(
            {
                name: clip_means(np.concatenate([part[name] for part in found]), clips.clusters)
                for name in found[0]
            }
        )

    return Work(_jobs_of_pairs(_reconstruct, clips), finish)


def _reconstruct(originals: Sequence[Wave], waves: Sequence[Wave]) -> dict[str, np.ndarray]:
    return {
        "mel_distance": mel_distances_db(originals, waves),
        **pesq_stoi(originals, waves),
    }


def distortion(clips: Clips) -> Work:
    """Mel-cepstral distortion against the real clips, warped in time."""

    def finish(found: list[np.ndarray]) -> Found:
        return Found({"mcd": clip_means(np.concatenate(found), clips.clusters)})

    return Work(_jobs_of_pairs(cepstral_distortions, clips), finish)


def _jobs_of_pairs(
    function: Callable[[Sequence[Wave], Sequence[Wave]], Item], clips: Clips
) -> Sequence[partial[Item]]:
    """Return jobs on the real and the generated clips: one, and of many clips one for each part."""
    numbers = range(len(clips.waves))
    size = IN_MEMORY if isinstance(clips.waves, Streamed) else len(numbers)
    parts = [numbers[first : first + size] for first in numbers[::size]]

    def job(number: int) -> partial[Item]:
        originals = [clips.prompts[i].wave for i in parts[number]]
        return partial(function, originals, [clips.waves[i] for i in parts[number]])

    return sequence_of(job, len(parts))


def codes(clips: Clips) -> Work:
    """The entropy of the audio's codes, of each clip and of the whole set."""

    def finish(found: list[None]) -> Found:
        if not clips.codes:
            return Found()
        entries = 1 + max((int(clip.max()) for clip in clips.codes), default=0)
        seed = clips.context.config.seed
        of_sets = [
            {"code_entropy": code_entropy(own, entries, seed=seed)}
            for own in _split(clips.codes, clips.sets)
        ]
        per_clip = {"clip_code_entropy": clip_means(clip_entropies(clips.codes), clips.clusters)}
        return Found(per_clip, _over_sets(of_sets, clips))

    return Work((), finish)


def distances(clips: Clips) -> Work:
    """Distances between the set of clips and real speech, and how far the clips spread, in the
    spaces of speech and of the voice.
    """
    return distances_in([space for space in clips.context.spaces if space.suffix in SPACES], clips)


def distances_in(spaces: Sequence[EmbeddingSpace], clips: Clips) -> Work:
    """Distances between the set of clips and the real ones in spaces of embeddings, and the
    diversity in the first of them.
    """
    chosen = spread_evenly(clips.per_set, SET_CLIPS)
    # The same prompts of every set.
    taken = [first + i for first in range(0, len(clips.waves), clips.per_set) for i in chosen]
    note = ""
    if len(chosen) < clips.per_set:
        note = f"{len(chosen)} of {clips.per_set} clips of each set, spread evenly"

    def finish(found: list[np.ndarray]) -> Found:
        if not spaces:
            return Found()
        of_space = _split(found, len(spaces))
        of_sets: dict[str, OfSets] = {}
        with ThreadPoolExecutor(clips.context.config.threads) as pool:
            for scores in pool.map(
                lambda space, own: _distances_of(space, own, clips), spaces, of_space
            ):
                of_sets |= scores
        sets = [_diversity(spaces[0], own, clips) for own in _split(of_space[0], clips.sets)]
        of_sets |= _over_sets(sets, clips)
        if note:
            of_sets = {
                name: one._replace(note="; ".join(filter(None, (one.note, note))))
                for name, one in of_sets.items()
            }
        return Found(of_sets=of_sets)

    def job(number: int) -> partial[np.ndarray]:
        space, place = divmod(number, len(taken))
        return partial(spaces[space].embed, clips.waves[taken[place]])

    return Work(sequence_of(job, len(spaces) * len(taken)), finish)


@single_threaded_blas
def _distances_of(
    space: EmbeddingSpace, embeddings: list[np.ndarray], clips: Clips
) -> dict[str, OfSets]:
    reference = space.reference
    seed = clips.context.config.seed
    sets = _split(embeddings, clips.sets)
    num_vectors = min(len(reference.vectors), *(count_vectors(own) for own in sets))
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

    found = _over_sets(list(map(measure, sets)), clips)
    found["frechet"] = found["frechet"]._replace(validity=validity, note=note)
    return {f"{name}{space.suffix}": score for name, score in found.items()}


def _diversity(
    space: EmbeddingSpace, embeddings: list[np.ndarray], clips: Clips
) -> dict[str, Estimate]:
    """Return the scores of one set of clips in a space."""
    reference = space.reference
    seed = clips.context.config.seed
    real = reference.clip_means
    own = np.stack([reference.project(vectors).mean(axis=0) for vectors in embeddings])
    scores: dict[str, Estimate] = {}
    if len(real) > NEIGHBOURS:
        scores["coverage"], scores["density"] = coverage_density(own, real, seed=seed)
    scores["spread"] = relative_spread(own, real, seed=seed)
    return {f"{name}{space.suffix}": score for name, score in scores.items()}


def _over_sets(sets: list[dict[str, Estimate]], clips: Clips) -> dict[str, OfSets]:
    """Return the scores of a row's sets of clips, one set for each draw of each training run."""
    by_run = _split(sets, clips.seeds)
    return {
        name: OfSets(estimate_over_runs([[drawn[name] for drawn in run] for run in by_run]))
        for name in sets[0]
    }


def _split(items: Sequence[Item], parts: int) -> list[list[Item]]:
    """Return what belongs to each training run, or draw of one; they follow each other."""
    size = len(items) // parts if parts else 0
    return [list(items[part * size : (part + 1) * size]) for part in range(parts)]
