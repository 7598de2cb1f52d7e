"""What the rows of a table get of gaps that arms fill with both sides given, and of continuations
of some lengths (`genlab.evaluate.gaps`).

In: a row, trained arms or the mean latents, and the material of a comparison. Out: the row with
these scores of the prompts' clips, drawn at the bare law. An arm that was not trained to fill gaps
has a score without a value that says so.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from genlab.arms import ArmRun
from genlab.data.store import TokenClip
from genlab.decoders.hole_rule import CANNOT, describe_hole_rule, fills_its_law
from genlab.decoders.prompt_rule import continues_its_law, describe_prompt_rule
from genlab.decoders.task import BareLaw, bare_law
from genlab.evaluate.gaps import (
    CONTINUATION,
    GAP,
    SEAM,
    Span,
    name_length,
    names_of_continuations,
    names_of_gaps,
)
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.scores import Validity, clip_means
from genlab.evaluate.table import make_score
from genlab.experiment import Comparison
from genlab.fairness.lookup import fit_lookup
from genlab.forecasts.prompted import PromptedDraws
from genlab.forecasts.spans import Filled, SpanDraws, cut_span
from genlab.material import Material
from genlab.run import clock
from genlab.run.bounds import LOOKUP
from genlab.statistics.bootstrap import Estimate

WHY_CANNOT = (
    "it was not trained to fill a gap, it can only continue; decoder.infill_share=0.1 trains it"
)


class _How(NamedTuple):
    """What is said of the scores of one kind."""

    note: str
    validity: Validity


def has_spans(config: Comparison) -> bool:
    """Return whether gaps or continuations are to be scored."""
    return bool(config.evaluation.gaps_s or config.evaluation.continuations_s)


def lacks_spans(row: RowResult, config: Comparison, material: Material) -> bool:
    """Return whether a row of an earlier command lacks some of their scores."""
    evaluation = config.evaluation
    names = names_of_gaps(evaluation.gaps_s)
    names += names_of_continuations(evaluation.continuations_s)
    return bool(material.prompts) and any(name not in row.scores for name in names)


def add_spans(
    row: RowResult, config: Comparison, material: Material, arms: Sequence[ArmRun]
) -> RowResult:
    """Add the scores of gaps and continuations of one arm on all its training seeds."""
    if not has_spans(config) or not material.prompts:
        return row
    run, decoder, evaluation = arms[0].run, arms[0].run.arm.decoder, config.evaluation
    law = bare_law(decoder, run.arm.sampler, run.task(material.store))
    spans = SpanDraws(PromptedDraws(run, material.store, law.sampler), list(material.clips))
    can_fill = describe_hole_rule(decoder) != CANNOT
    found = []
    with clock.stage(clock.BARE, arms[0].name):
        for number, arm in enumerate(arms):

            def fill(span: Span, arm: ArmRun = arm, number: int = number) -> Filled:
                # Seeds draw different spans, so that draws are independent over training seeds.
                return spans(
                    arm.result.model,
                    span,
                    num_draws=evaluation.energy_draws,
                    seed=evaluation.seed + number,
                )

            found.append(_score(fill, config, material, can_fill))
    how = f"{evaluation.energy_draws} draws per clip {_name_law(law)}, "
    how += f"{spans.prompted.network_calls} network calls each"
    both, prompt = describe_hole_rule(decoder), describe_prompt_rule(decoder)
    hows = {
        GAP: _How(
            f"{how}; how it knows both sides: {both}", _kind(law, is_its_law=fills_its_law(decoder))
        ),
        CONTINUATION: _How(
            f"{how}; how it knows a prompt: {prompt}",
            _kind(law, is_its_law=continues_its_law(decoder)),
        ),
    }
    row = _with(row, found, config, material, hows)
    return row if can_fill else _with_cannot(row, config, len(arms))


def add_lookup_spans(row: RowResult, config: Comparison, material: Material) -> RowResult:
    """Add the scores of mean latents, which are one forecast for sure and see no side of a gap."""
    if not has_spans(config) or not material.prompts:
        return row
    store, clips, length = material.store, list(material.clips), config.data.num_frames
    num_frames = _lengths(clips)
    lookup = fit_lookup(store, config.condition, config.data.train_clips)

    def pad(latents: Sequence[Float[np.ndarray, "t d"]]) -> Float[np.ndarray, "n t d"]:
        found = np.zeros((len(latents), length, store.info.spec.latent_channels), np.float32)
        for number, values in enumerate(latents):
            found[number, : len(values)] = store.normalise(values)
        return found

    means = pad([lookup.predict(clip) for clip in clips])
    real = pad([clip.latents for clip in clips])

    def fill(span: Span) -> Filled:
        # Beside what is given, as an arm's draws are, so that jumps are measured alike.
        is_given = span.is_given(num_frames, length)[:, :, None]
        forecast = cut_span(np.where(is_given, real, means), num_frames, span)
        return Filled(forecast[:, None], cut_span(real, num_frames, span))

    with clock.stage(clock.BARE, LOOKUP):
        found = _score(fill, config, material, can_fill=True)
    how = _How("one prediction per clip, which sees nothing of what is given", "metric")
    return _with(row, [found], config, material, {GAP: how, CONTINUATION: how})


class _Found(NamedTuple):
    """What the clips get under one training run, by score, and what else is to be said."""

    values: Mapping[str, Float[np.ndarray, "n"]]
    jumps: Mapping[str, tuple[float, float]]
    """By score of seams: the mean jump of draws and that of what was there."""


def _score(
    fill: Callable[[Span], Filled], config: Comparison, material: Material, can_fill: bool
) -> _Found:
    evaluation, hz = config.evaluation, material.store.info.spec.frame_hz
    num_frames = _lengths(material.clips)
    nothing = np.full(len(num_frames), math.nan)
    values: dict[str, np.ndarray] = {}
    jumps: dict[str, tuple[float, float]] = {}
    for length_s in evaluation.gaps_s if can_fill else ():
        span = Span.of(length_s, hz, is_gap=True)
        gap, seam = (name_length(score, length_s) for score in (GAP, SEAM))
        if span.fits(num_frames).any():
            filled = fill(span)
            values[gap], values[seam] = filled.energy(span.frames), filled.seams()
            jumps[seam] = filled.jumps()
        else:
            values[gap] = values[seam] = nothing
    spans = {
        name_length(CONTINUATION, length_s): Span.of(length_s, hz, is_gap=False)
        for length_s in evaluation.continuations_s
    }
    values |= dict.fromkeys(spans, nothing)
    held = {name: span for name, span in spans.items() if span.fits(num_frames).any()}
    if held:
        # All lengths of the same draws, whose rest is drawn anyway.
        filled = fill(max(held.values()))
        values |= {name: filled.energy(span.frames) for name, span in held.items()}
    return _Found(values, jumps)


def _with(
    row: RowResult,
    found: Sequence[_Found],
    config: Comparison,
    material: Material,
    hows: Mapping[str, _How],
) -> RowResult:
    """Return the row with the scores of all training runs."""
    units = tuple(config.data.domain.unit_of(clip) for clip in material.clips)
    runs = tuple(np.repeat(range(len(found)), len(units)).tolist())
    scores, per_clip = dict(row.scores), dict(row.per_clip)
    for name in found[0].values:
        how = hows[CONTINUATION if name.startswith(CONTINUATION) else GAP]
        note = how.note
        if name in found[0].jumps:
            drawn, real = np.mean([one.jumps[name] for one in found], axis=0)
            note += f"; mean jump {drawn:.2f}, of the real clips {real:.2f}"
        # One value per clip and training seed: the crossed interval covers both.
        joined = np.concatenate([np.asarray(one.values[name], np.float64) for one in found])
        values = clip_means(joined, units * len(found))
        values = values._replace(runs=runs, validity=how.validity)
        scores[name] = make_score(
            name,
            values.estimate(config.evaluation.seed),
            seeds=len(found),
            validity=how.validity,
            note=note,
            covers=values.covers,
        )
        per_clip[name] = values
    return row._replace(scores=scores, per_clip=per_clip)


def _with_cannot(row: RowResult, config: Comparison, seeds: int) -> RowResult:
    """Return the row of an arm that cannot fill gaps, which says so in their place."""
    none = Estimate(math.nan, math.nan, math.nan, 0)
    cells = {
        name: make_score(name, none, seeds=seeds, validity="impossible", note=WHY_CANNOT)
        for name in names_of_gaps(config.evaluation.gaps_s)
    }
    return row._replace(scores={**row.scores, **cells})


def _kind(law: BareLaw, is_its_law: bool) -> Validity:
    """Return whether draws are of the law that was trained; of another one they may lean to either
    side (`is_proper`).
    """
    return "metric" if law.is_declared and is_its_law else "biased"


def _name_law(law: BareLaw) -> str:
    return "at the bare law" if law.is_declared else "at its own sampler: it declares no bare law"


def _lengths(clips: Sequence[TokenClip]) -> Int[np.ndarray, "n"]:
    return np.array([len(clip.units) for clip in clips], np.int32)
