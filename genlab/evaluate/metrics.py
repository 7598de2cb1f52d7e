"""All audio metrics of one row: an arm, a codec floor, or real audio.

In: one waveform per prompt, the prompts, and an `EvaluationContext` (context.py) that is built once
and serves every row. Out: `RowResult`: named scores with intervals, the per-clip values behind them
for paired comparisons, the transcripts, and the swap controls. What is measured, and in which
order, is the table's to say (table.py).

Work is cut into jobs for a small thread pool: onnxruntime and numpy release the GIL, so the quality
network (half of the cost) runs beside the rest, among it pocketsphinx, which keeps the GIL. With
`evaluation.processes` jobs run in processes too (jobs.py). Scores depend on neither the number of
threads and processes nor the order of rows.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from genlab.config import GenlabError
from genlab.data.audio import as_audio
from genlab.data.streamed import Streamed
from genlab.evaluate.context import ContentMetric as ContentMetric
from genlab.evaluate.context import EvaluationConfig as EvaluationConfig
from genlab.evaluate.context import EvaluationContext, Wanted, Wave
from genlab.evaluate.context import build_context as build_context
from genlab.evaluate.context import grammar_metric as grammar_metric
from genlab.evaluate.context import require_networks as require_networks
from genlab.evaluate.controls import Control
from genlab.evaluate.jobs import run_jobs
from genlab.evaluate.metric import Clips, Found, Hears, Metric
from genlab.evaluate.scores import ClipValues, Score
from genlab.evaluate.sessions import single_threaded_blas
from genlab.evaluate.table import METRICS, make_score


class RowResult(NamedTuple):
    """The audio scores of one row, and what they were made from."""

    scores: dict[str, Score]
    per_clip: dict[str, ClipValues]
    transcripts: dict[str, list[str]]
    controls: tuple[Control, ...]


@single_threaded_blas
def score_clips(
    generated: Sequence[Wave],
    prompts: Sequence[Wanted],
    context: EvaluationContext,
    *,
    metrics: Sequence[Metric] = METRICS,
    is_reconstruction: bool = False,
    seeds: int = 1,
    draws: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RowResult:
    """Run every audio metric on one row, and leave out what the prompts do not allow.

    Prompts without text have no content errors, prompts whose speaker has no centroid no speaker
    scores; notes say how many were left out. A score that no prompt allows is absent, and its
    control not applicable.

    Args:
        generated: one waveform per prompt, in the format of the context.
        prompts: what each was asked to be, in the same order in every row, once per draw of every
            training seed.
        context: what does not depend on the row.
        metrics: rows of the table; those that need tokens are left out.
        is_reconstruction: the row is a codec floor, aligned sample by sample: adds the
            reconstruction scores.
        seeds: training seeds behind the row, whose clips follow each other in equal numbers.
        draws: times that each training seed answers each prompt, one draw after another.
        progress: told how many of how many measurements are done.

    Raises:
        GenlabError: if the numbers of clips differ, or a waveform is not finite.
    """
    waves = _check_waves(generated, prompts)
    clips = Clips(waves, prompts, context, is_reconstruction, seeds, draws)
    found = _measure(clips, metrics, progress)
    per_clip = {
        name: values._replace(runs=clips.runs, draws=clips.draw_numbers if draws > 1 else ())
        for one in found
        for name, values in one.per_clip.items()
    }
    notes = {name: note for one in found for name, note in one.notes.items()}
    # Scores of clips first, then those of sets of clips, whose interval was made where they were
    # measured.
    scores = {}
    for name, values in per_clip.items():
        estimate = values.estimate(context.config.seed)
        scores[name] = make_score(
            name,
            estimate,
            seeds=seeds,
            covers=values.covers,
            note=notes.get(name, ""),
            rows=metrics,
        )
    covers = clips.covers
    for one in found:
        for name, (estimate, validity, note) in one.of_sets.items():
            scores[name] = make_score(
                name,
                estimate,
                seeds=seeds,
                validity=validity,
                note=note,
                covers=covers,
                rows=metrics,
            )
    transcripts = {name: heard for one in found for name, heard in one.transcripts.items()}
    controls = tuple(_excuse(control, context) for one in found for control in one.controls)
    return RowResult(scores, per_clip, transcripts, controls)


def _measure(
    clips: Clips, metrics: Sequence[Metric], progress: Callable[[int, int], None]
) -> list[Found]:
    """Run each measurement of the metrics once, and return what each found, in their order."""
    # Scores of one measurement share it, so it is done once for all of them.
    kinds: set[Hears] = {metric.hears for metric in metrics}
    heard = {hears: clips.as_heard(hears) for hears in kinds}
    works = [
        measure(heard[hears])
        for measure, hears in dict.fromkeys((metric.measure, metric.hears) for metric in metrics)
        if measure is not None
    ]
    total = 1 + sum(len(work.jobs) for work in works)  # one more: what is made of their results
    progress(0, total)
    done = itertools.count(1)
    config = clips.context.config
    results = run_jobs(works, config.threads, config.processes, lambda: progress(next(done), total))
    found = [work.finish(of_work) for work, of_work in zip(works, results)]
    progress(total, total)
    return found


def _excuse(control: Control, context: EvaluationContext) -> Control:
    """Return the control, not applicable if it means nothing in this comparison."""
    reason = context.excused.get(control.control)
    return control if reason is None else control._replace(passed=False, reason=reason)


def _check_waves(generated: Sequence[Wave], prompts: Sequence[Wanted]) -> Sequence[Wave]:
    if len(generated) != len(prompts) or not prompts:
        raise GenlabError(
            f"generated: expected one clip per prompt, got {len(generated)} for {len(prompts)} "
            "prompts"
        )

    def check(number: int) -> Wave:
        name = f"generated: the clip of prompt {prompts[number].clip_id!r}"
        return np.clip(as_audio(generated[number], name), -1.0, 1.0)

    if not isinstance(generated, Streamed):
        return [check(number) for number in range(len(generated))]
    return Streamed(check, len(generated))  # checked whenever one is asked for
