"""Scores of every row of a comparison: bits, energies and metrics of audio, each once, and the
audit of the metrics.

In: the material of a comparison, trained arms and their samples. Out: one `RowResult` per row (real
audio, codec floors, arms), kept in rows/NAME.json. The energy of the next block scores sampled
codes as the latents they represent, twice: drawn from the bare law, which is a proper score of what
was trained, and with the arm's own sampler, which describes what is heard.
"""

import operator
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from genlab.arms import ArmRun, by_name
from genlab.config import digest
from genlab.data.grammar import VOCABULARY, grammar_jsgf
from genlab.data.streamed import each_of, join_all
from genlab.evaluate.audit import audit_metrics
from genlab.evaluate.energy import BARE_ENERGY, BARE_VARIOGRAM, TUNED_ENERGY
from genlab.evaluate.energy_audit import audit_blocks
from genlab.evaluate.entries import AuditEntry
from genlab.evaluate.likelihood import can_score, score_bits
from genlab.evaluate.metrics import (
    ContentMetric,
    EvaluationContext,
    RowResult,
    build_context,
    grammar_metric,
    score_clips,
)
from genlab.evaluate.rows import load_row, save_row
from genlab.experiment import Comparison
from genlab.fairness.counts import score_counts
from genlab.forecasts.gaps import add_lookup_spans, add_spans, lacks_spans
from genlab.forecasts.rows import add_energies, add_lookup, dress_rows
from genlab.material import Material, decode_row, floor_waves, gather, lookup_latents
from genlab.preflight import excuses, find_reference, networks_of, recognisers
from genlab.prompts import choose_scored, choose_unscored, num_scored, real_blocks
from genlab.recognisers.shipped import load_recogniser
from genlab.report.inputs import read_audit as read_stored_audit
from genlab.run import clock
from genlab.run.bounds import COUNTED_BASELINES, FLOORS, LOOKUP, REAL, REGRESSION, CountedBaseline
from genlab.run.cache import cache_root, writing_to_cache
from genlab.run.files import write_json
from genlab.run.status import check_held
from genlab.watch.progress import Progress

AUDIT = "smoothing, scores of blocks"  # what audits hold that those of earlier versions lack


def audit(
    config: Comparison, progress: Progress, material: Material | None = None
) -> dict[str, AuditEntry]:
    """Audit every metric of audio on the prompts' real clips and the energy on what follows in
    them, once per corpus, prompts and evaluation.
    """
    config.data.require_codec()
    material = gather(config, progress) if material is None else material
    path = _audit_path(config, material)
    if not path.exists():
        with clock.stage(clock.AUDIT, ""):
            found = audit_metrics(
                material.prompts,
                evaluation_context(config, material),
                progress,
                metrics=config.all_metrics,
            )
            entries = {name: one.to_dict() for name, one in found.items()}
            entries |= _audit_energies(config, material)
        with writing_to_cache():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, entries)
    return read_audit(config, material)


def _audit_energies(config: Comparison, material: Material) -> dict[str, AuditEntry]:
    """Return the audit of the energies on what follows in the scored clips; it takes a second."""
    if not config.evaluation.energy_draws or not material.prompts:
        return {}
    blocks = real_blocks(material.store, config)
    if len(blocks) < 2:
        return {}
    found = audit_blocks(blocks, material.codec.spec.frame_hz, config.evaluation.seed)
    entries = {name: audit.to_dict() for name, audit in found.items()}
    return {**entries, TUNED_ENERGY: entries[BARE_ENERGY]}


def read_audit(config: Comparison, material: Material) -> dict[str, AuditEntry]:
    """Return the audit of this corpus, prompts and evaluation; if none was made, that of the
    energies, which costs next to nothing.
    """
    stored = read_stored_audit(_audit_path(config, material))
    if stored:
        clock.done_before(clock.AUDIT, "")  # unless it was now
        return stored
    with clock.stage(clock.AUDIT, ""):
        return _audit_energies(config, material)


def _audit_path(config: Comparison, material: Material) -> Path:
    clips = [clip.id for clip in material.clips]
    own = [metric.digest() for metric in config.metrics]
    key = digest(
        [
            material.manifest.hash(),
            material.codec.fingerprint,
            clips,
            config.evaluation.to_dict(),
            AUDIT,
            *([own] if own else []),
        ]
    )
    return cache_root() / "audits" / f"{key}.json"


def score_rows(
    config: Comparison,
    material: Material,
    arms: Sequence[ArmRun],
    out: Path,
    progress: Progress,
) -> dict[str, RowResult]:
    """Score real audio, both codec floors, the baselines and every arm, each once; `out` keeps the
    rows. The baseline that is trained is one of `arms`.
    """
    by_seed = by_name(arms)
    means = lookup_latents(config, material)
    waves = _waves_of_rows(material, by_seed, means)
    rows: dict[str, RowResult] = {}
    own = [metric.digest() for metric in config.metrics]
    context: EvaluationContext | None = None
    for done, (name, row_waves) in enumerate(waves.items()):
        progress("score", done, len(waves))
        path = out / "rows" / f"{name}.json"
        # A row on disk is whole: rows are scored for minutes, and an interrupted command resumes
        # with the next one.
        row = load_row(path, own)
        runs = by_seed.get(name, [])  # none: real audio, or a floor
        if row is None:
            with clock.stage(clock.METRICS, name):
                # Loaded for the first row that is missing; with none missing no network is loaded.
                if material.prompts:
                    context = context or evaluation_context(config, material)
                row = _hear(row_waves, config, material, name, len(runs), context, progress)
            if runs:
                progress(f"score {name}: bits, energy", 0, 2)
                row = _add_bits(row, config, material, runs)
                progress(f"score {name}: bits, energy", 1, 2)
                row = add_energies(row, config, material, runs)
                row = add_spans(row, config, material, runs)
                progress(f"score {name}: bits, energy", 2, 2)
            if name == LOOKUP:
                row = add_lookup(row, config, material)
                row = add_lookup_spans(row, config, material)
            check_held(path)
            save_row(path, row, own)
        else:
            _tell_done(name, row)
            again = _complete(row, config, material, name, runs)
            if again is not row:
                check_held(path)
                row = again
                save_row(path, row, own)
        rows[name] = row
    progress("score", len(waves), len(waves))
    dressed = dress_rows(config, material, by_seed.get(REGRESSION, ()), out / "rows")
    return {**rows, **dressed, **_count_rows(config, material, out / "rows")}


def _hear(
    waves: Sequence[Float[np.ndarray, "s *c"]],
    config: Comparison,
    material: Material,
    name: str,
    num_runs: int,
    context: EvaluationContext | None,
    progress: Progress,
) -> RowResult:
    """Return the scores of a row's audio, which is of `num_runs` training seeds, or of none."""
    if context is None:  # nothing can be heard
        return RowResult({}, {}, {}, ())
    seeds = max(1, num_runs)
    draws = len(waves) // (len(material.prompts) * seeds)
    return score_clips(
        waves,
        join_all([material.prompts] * (seeds * draws)),
        context,
        metrics=config.all_metrics,
        is_reconstruction=name in FLOORS,
        seeds=seeds,
        draws=draws,
        progress=partial(progress, f"score {name}"),
    )


def _complete(
    row: RowResult, config: Comparison, material: Material, name: str, runs: Sequence[ArmRun]
) -> RowResult:
    """Return a row with the scores of a block that earlier versions lack, or the very same one."""
    if name == LOOKUP and BARE_ENERGY in row.scores and BARE_VARIOGRAM not in row.scores:
        row = add_lookup(row, config, material)
    if runs and TUNED_ENERGY in row.scores and BARE_VARIOGRAM not in row.scores:
        row = add_energies(row, config, material, runs)  # the same draws, and what they lack
    if name == LOOKUP and lacks_spans(row, config, material):
        row = add_lookup_spans(row, config, material)
    if runs and lacks_spans(row, config, material):
        row = add_spans(row, config, material, runs)
    return row


def _tell_done(name: str, row: RowResult) -> None:
    """Tell the clock what an earlier command scored."""
    clock.done_before(clock.METRICS, name)
    if "bits_per_s" in row.scores:
        clock.done_before(clock.BITS, name)
    if BARE_ENERGY in row.scores:
        clock.done_before(clock.BARE, name)
    tuned = row.scores.get(TUNED_ENERGY)
    if tuned and tuned.value != row.scores.get(BARE_ENERGY, tuned).value:  # drawn by itself
        clock.done_before(clock.TUNED, name)


def _count_rows(config: Comparison, material: Material, folder: Path) -> dict[str, RowResult]:
    """Return the baselines that have bits alone, which take no wave; `folder` keeps them."""
    measured = config.measured_baselines
    wanted: list[CountedBaseline] = [name for name in COUNTED_BASELINES if name in measured]
    kept: dict[CountedBaseline, RowResult | None] = {
        name: load_row(folder / f"{name}.json", ()) for name in wanted
    }
    # All three come of one count, and each is kept by itself, as the rows of the arms are.
    missing: list[CountedBaseline] = [name for name in wanted if kept[name] is None]
    if missing:
        # As many as are scored: a bigram that is weighted by two clips would be easy to beat.
        unscored = choose_unscored(
            material.store, config.data, config.prompts_split, num_scored(config)
        )
        clips = choose_scored(material.store, config)
        with clock.stage(clock.BASELINE, "counts"):
            made = score_counts(
                material.store,
                clips,
                tuple(config.data.domain.unit_of(clip) for clip in clips),
                unscored=unscored,
                train_clips=config.data.train_clips,
                seed=config.evaluation.seed,
            )
        for name in missing:
            check_held(folder / f"{name}.json")
            save_row(folder / f"{name}.json", made[name])
            kept[name] = made[name]
    elif wanted:
        clock.done_before(clock.BASELINE, "counts")
    return {str(name): row for name, row in kept.items() if row is not None}


def _waves_of_rows(
    material: Material, by_seed: Mapping[str, Sequence[ArmRun]], means: Sequence[np.ndarray]
) -> dict[str, Sequence[Float[np.ndarray, "s *c"]]]:
    """Return the audio of every row: of an arm, seeds follow each other, in them draws, in them
    prompts. `means` are the mean latents of the prompts, if they are a row.
    """
    waves: dict[str, Sequence[np.ndarray]] = {}
    if material.prompts:
        waves[REAL] = each_of(operator.attrgetter("wave"), material.prompts)
    with clock.stage(clock.SAMPLE, REAL):
        waves |= floor_waves(material)
    if means:
        with clock.stage(clock.SAMPLE, LOOKUP):
            waves[LOOKUP] = decode_row(LOOKUP, material.codec.decode_latents, means, material)
    for name, runs in by_seed.items():
        waves[name] = join_all(
            [drawn for arm in runs for drawn in (arm.sampled.waves, *arm.more_waves)]
        )
    return waves


def evaluation_context(config: Comparison, material: Material) -> EvaluationContext:
    """Return what does not depend on the row: networks, and real audio that is no prompt."""
    content = []
    if config.data.domain.has("wer"):
        content.append(ContentMetric("ctc", "word", load_recogniser().transcribe))
    if "grammar" in recognisers(config):
        content.append(grammar_metric(grammar_jsgf(), VOCABULARY))
    reference = find_reference(config, material.manifest, material.clips)

    return build_context(
        config.evaluation,
        content,
        [material.wave(clip) for clip in reference.common],
        [clip.speaker for clip in reference.common],
        lambda waves: [codes for codes, _ in material.codec.encode(waves)],
        more_voices=[(clip.speaker, material.wave(clip)) for clip in reference.more],
        excused=excuses(config),
        audio=material.codec.audio,
        networks=networks_of(config),
    )


def _add_bits(
    row: RowResult, config: Comparison, material: Material, runs: Sequence[ArmRun]
) -> RowResult:
    """Add the bits per second of the clips' own codes, if the family can put a number on them."""
    decoders = [arm.result.model for arm in runs if can_score(arm.result.model)]
    if not decoders:  # all are of one family
        return row
    store = material.store
    clips = choose_scored(store, config)
    # Training clips serve where no clips of validation are left: no prompt is one of them, so the
    # bound stays a bound.
    unscored = choose_unscored(store, config.data, config.prompts_split, config.num_prompts)
    with clock.stage(clock.BITS, runs[0].name):
        score, values = score_bits(
            decoders,
            store,
            clips,
            [config.data.domain.unit_of(clip) for clip in clips],
            unscored=unscored,
            num_draws=config.evaluation.score_draws,
            seed=config.evaluation.seed,
        )
    return row._replace(
        scores={**row.scores, "bits_per_s": score}, per_clip={**row.per_clip, "bits_per_s": values}
    )
