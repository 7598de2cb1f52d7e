"""What the rows of a table get of forecasts: the energies of arms and of the baselines.

In: rows, trained arms, and the material of a comparison. Out: the rows with the scores of the block
after each clip's middle, and the rows of the baselines that forecast that block alone. All are
scored on the same clips by the same estimators (`genlab.evaluate.blocks`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from genlab.arms import ArmRun
from genlab.data.store import TokenClip
from genlab.decoders.prompt_rule import continues_its_law, describe_prompt_rule
from genlab.decoders.task import bare_law
from genlab.evaluate.blocks import Blocks
from genlab.evaluate.controls import Control, prefix_swap
from genlab.evaluate.energy import BARE_ENERGY, BARE_VARIOGRAM, BLOCK_S, TUNED_ENERGY
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import load_row, save_row
from genlab.evaluate.scores import ClipValues, Score, clip_means
from genlab.evaluate.table import make_score
from genlab.experiment import Comparison
from genlab.forecasts.draws import BlockEnergy
from genlab.forecasts.dressed import (
    choose_residual_clips,
    cut_blocks,
    draw_climatology,
    dress,
    look_up_blocks,
)
from genlab.forecasts.swap import swap_partners
from genlab.material import Material
from genlab.prompts import choose_scored
from genlab.run import clock
from genlab.run.bounds import (
    CLIMATOLOGY,
    DRESSED_BASELINES,
    LOOKUP,
    LOOKUP_RESIDUALS,
    REGRESSION,
    REGRESSION_RESIDUALS,
    DressedBaseline,
)
from genlab.run.status import check_held

AFTER = f"the next {BLOCK_S:g} s after its middle"
Values = Mapping[str, Float[np.ndarray, "n"]]
Scored = dict[str, tuple[Score, ClipValues]]


def is_scored(config: Comparison, material: Material) -> bool:
    """Return whether energies are wanted and there is audio to continue."""
    return bool(config.evaluation.energy_draws and material.prompts)


def add_lookup(row: RowResult, config: Comparison, material: Material) -> RowResult:
    """Add the scores of mean latents, which are one forecast for sure: the energy is a distance."""
    if not config.evaluation.energy_draws:
        return row
    clips = choose_scored(material.store, config)
    with clock.stage(clock.BARE, LOOKUP):
        forecast = look_up_blocks(material.store, config, clips)
        found = Blocks(forecast[:, None], _truth(material, clips)).scores()
        note = f"one prediction per clip, {AFTER}"
        return _with(row, _summarise_both([found], config, material, clips, note))


def add_energies(
    row: RowResult, config: Comparison, material: Material, arms: Sequence[ArmRun]
) -> RowResult:
    """Add the scores of the block that follows the first half of each clip: at the bare law, where
    they are proper, and the energy at the arm's own sampler too, which says what is heard.
    """
    if not is_scored(config, material):
        return row
    run = arms[0].run
    own = run.arm.sampler
    law = bare_law(run.arm.decoder, own, run.task(material.store))
    how = "at the bare law" if law.is_declared else "at its own sampler: it declares no bare law"
    is_conditional = continues_its_law(run.arm.decoder)
    if not is_conditional:
        how += f"; how it knows a prompt: {describe_prompt_rule(run.arm.decoder)}"
    clips = choose_scored(material.store, config)
    with clock.stage(clock.BARE, arms[0].name):
        # One program serves all training seeds, and the control.
        energy = BlockEnergy(run, material.store, clips, law.sampler)
        found, note = _draw_values(config, arms, energy, how)
        bare = _summarise_both(found, config, material, clips, note)
        if arms[0].name != REGRESSION:
            swap = _swap_prefixes(config, arms, energy, bare[BARE_ENERGY][1])
            # A row that is scored again, for what it lacks, has the control already.
            others = [other for other in row.controls if other.control != swap.control]
            row = row._replace(controls=(*others, swap))
    tuned = bare.pop(TUNED_ENERGY)
    if own != law.sampler:  # else it draws the same continuations
        with clock.stage(clock.TUNED, arms[0].name):
            heard = _heard(clips, material)
            energy = BlockEnergy(run, material.store, heard, own)
            found, note = _draw_values(config, arms, energy, "at its own sampler")
            tuned = _summarise(found, config, heard, note)[BARE_ENERGY]
    if not (law.is_declared and is_conditional):
        # Of another law than the one that was trained, so it decides nothing (`is_proper`).
        bare = {
            name: (score._replace(validity="biased"), values._replace(validity="biased"))
            for name, (score, values) in bare.items()
        }
    return _with(row, {**bare, TUNED_ENERGY: tuned})


def dress_rows(
    config: Comparison, material: Material, regressions: Sequence[ArmRun], folder: Path
) -> dict[str, RowResult]:
    """Return the baselines that forecast a block and have a spread; `folder` keeps them.

    Args:
        config: the comparison.
        material: its clips.
        regressions: the baseline that is trained, on every training seed; none if there is none.
        folder: of the rows.
    """
    if not is_scored(config, material):
        return {}
    makers: dict[DressedBaseline, Callable[[], RowResult | None]] = {
        CLIMATOLOGY: lambda: _climatology(config, material),
        LOOKUP_RESIDUALS: lambda: _dressed_lookup(config, material),
    }
    if regressions:
        makers[REGRESSION_RESIDUALS] = lambda: _dressed_regression(config, material, regressions)
    found: dict[str, RowResult] = {}
    for name in DRESSED_BASELINES:
        if name not in config.measured_baselines or name not in makers:
            continue
        path = folder / f"{name}.json"
        row = load_row(path, ())
        if row is None or BARE_VARIOGRAM not in row.scores:
            with clock.stage(clock.BASELINE, name):
                row = makers[name]()
            if row is None:  # too few clips: the report says that it is missing
                continue
            check_held(path)
            save_row(path, row)
        else:
            clock.done_before(clock.BASELINE, name)
        found[name] = row
    return found


def _climatology(config: Comparison, material: Material) -> RowResult | None:
    evaluation, clips = config.evaluation, choose_scored(material.store, config)
    blocks = draw_climatology(
        material.store,
        config,
        _truth(material, clips),
        num_draws=evaluation.energy_draws,
        seed=evaluation.seed,
    )
    if blocks is None:
        return None
    note = f"{blocks.draws.shape[1]} blocks of training clips per clip, against {AFTER}"
    return _row_of([blocks], config, material, clips, note)


def _dressed_lookup(config: Comparison, material: Material) -> RowResult | None:
    clips = choose_scored(material.store, config)
    others = choose_residual_clips(material.store, config)
    forecast = look_up_blocks(material.store, config, [*clips, *others])
    ours, theirs = forecast[: len(clips)], forecast[len(clips) :]
    parts = (ours, _truth(material, clips), _truth(material, others) - theirs)
    return _dress([parts], config, material, clips)


def _dressed_regression(
    config: Comparison, material: Material, arms: Sequence[ArmRun]
) -> RowResult | None:
    clips = choose_scored(material.store, config)
    others = choose_residual_clips(material.store, config)
    if not others:
        return None
    sampler = arms[0].run.arm.sampler
    of_clips, of_others = (
        BlockEnergy(arms[0].run, material.store, chosen, sampler) for chosen in (clips, others)
    )
    by_run = []
    for arm in arms:
        ours, theirs = (
            draw.draw(arm.result.model, num_draws=1, seed=config.evaluation.seed)
            for draw in (of_clips, of_others)
        )
        by_run.append((ours.draws[:, 0], ours.truth, theirs.truth - theirs.draws[:, 0]))
    return _dress(by_run, config, material, clips)


def _dress(
    by_run: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    config: Comparison,
    material: Material,
    clips: Sequence[TokenClip],
) -> RowResult | None:
    """Return the row of forecasts, real blocks and errors, one of each per training run."""
    evaluation = config.evaluation
    dressed = [
        dress(*parts, num_draws=evaluation.energy_draws, seed=evaluation.seed + number)
        for number, parts in enumerate(by_run)
    ]
    found = [blocks for blocks in dressed if blocks is not None]
    if len(found) < len(dressed):
        return None
    note = (
        f"{found[0].draws.shape[1]} draws per clip, each the prediction plus what it missed in one "
        f"of {len(by_run[0][2])} validation clips, {AFTER}"
    )
    return _row_of(found, config, material, clips, note)


def _row_of(
    by_run: Sequence[Blocks],
    config: Comparison,
    material: Material,
    clips: Sequence[TokenClip],
    note: str,
) -> RowResult:
    found = [blocks.scores() for blocks in by_run]
    empty = RowResult({}, {}, {}, ())
    return _with(empty, _summarise_both(found, config, material, clips, note))


def _draw_values(
    config: Comparison, arms: Sequence[ArmRun], energy: BlockEnergy, how: str
) -> tuple[list[Values], str]:
    """Return what an arm's clips get at one sampler, for every training seed, and a note."""
    num_draws, seed = config.evaluation.energy_draws, config.evaluation.seed
    found: list[Values] = [
        # Seeds draw different continuations, so that draws are independent over training seeds.
        energy.scores(arm.result.model, num_draws=num_draws, seed=seed + number)
        for number, arm in enumerate(arms)
    ]
    note = (
        f"{num_draws} continuations per clip, {AFTER}, {how}, {energy.network_calls} network calls "
        "each"
    )
    return found, note


def _heard(clips: Sequence[TokenClip], material: Material) -> Sequence[TokenClip]:
    """Return the clips on which the energy at the own sampler is measured: the prompts, which are
    heard and come first; all clips where none of the prompts is long enough.
    """
    prompts = clips[: len(material.prompts)]
    is_whole = ~np.isnan(_truth(material, prompts)).any(axis=(1, 2))
    return prompts if is_whole.any() else clips


def _summarise_both(
    found: Sequence[Values],
    config: Comparison,
    material: Material,
    clips: Sequence[TokenClip],
    note: str,
) -> Scored:
    """Return every score of a row, and beside them the energy of the clips that are heard: of draws
    that no sampler moves it is the same one, of fewer clips.
    """
    heard = _heard(clips, material)
    of_heard = [{BARE_ENERGY: values[BARE_ENERGY][: len(heard)]} for values in found]
    tuned = _summarise(of_heard, config, heard, note)[BARE_ENERGY]
    return {**_summarise(found, config, clips, note), TUNED_ENERGY: tuned}


def _swap_prefixes(
    config: Comparison, arms: Sequence[ArmRun], energy: BlockEnergy, own: ClipValues
) -> Control:
    """Return the control that the energy rises when other clips' beginnings are heard.

    `own` are the values of an arm after the own beginnings, one training seed after the other.
    """
    num_draws, seed = config.evaluation.energy_draws, config.evaluation.seed
    heard = swap_partners(energy.clips, [config.data.domain.unit_of(clip) for clip in energy.clips])
    swapped = [
        energy.energy_after(arm.result.model, heard, num_draws=num_draws, seed=seed + number)
        for number, arm in enumerate(arms)
    ]
    return prefix_swap(BARE_ENERGY, own, np.concatenate(swapped), seed)


def _summarise(
    found: Sequence[Values], config: Comparison, clips: Sequence[TokenClip], note: str
) -> Scored:
    """Return every score of a row; `found` has the values of each training run."""
    units = tuple(config.data.domain.unit_of(clip) for clip in clips)
    # One value per clip and training seed: the crossed interval covers both.
    runs = tuple(np.repeat(range(len(found)), len(clips)).tolist())
    scored: Scored = {}
    for name in found[0]:
        joined = np.concatenate([np.asarray(values[name], np.float64) for values in found])
        values = clip_means(joined, units * len(found))._replace(runs=runs)
        estimate = values.estimate(config.evaluation.seed)
        score = make_score(name, estimate, seeds=len(found), note=note, covers=values.covers)
        scored[name] = score, values
    return scored


def _with(row: RowResult, scored: Scored) -> RowResult:
    return row._replace(
        scores={**row.scores, **{name: score for name, (score, _) in scored.items()}},
        per_clip={**row.per_clip, **{name: values for name, (_, values) in scored.items()}},
    )


def _truth(material: Material, clips: Sequence[TokenClip]) -> Float[np.ndarray, "n f d"]:
    return cut_blocks([clip.latents for clip in clips], material.store)
