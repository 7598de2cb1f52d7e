"""The main job: train several decoders on one token space with one budget, sample and score them alike, say who won.

corpus -> token store -> budget -> train every arm -> sample the same prompts -> score every row -> results.json,
ledger.json, TensorBoard, report.html. Every stage leaves its result on disk under the run directory, so the same
command goes on after an interruption: a trained arm, its samples and a scored row are never made twice.

    config.json          what is compared          inputs.json   what it is made from (inputs.py)
    results.json ...     the outputs, which outputs.json lists (outputs.py)
    arms/NAME/seedN/     checkpoints, batch_hashes.txt, samples.json, samples/promptNN.flac, events of TensorBoard
    floors/ROW/          events of the real and codec-floor rows        rows/ROW.json   scores
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from genlab import inputs
from genlab.changes import check_same_training, claim
from genlab.config import GenlabError, digest
from genlab.data.audio import read_wave, to_int16, write_flac
from genlab.data.corpus import Embedded
from genlab.data.grammar import VOCABULARY, grammar_jsgf
from genlab.data.store import TokenStore
from genlab.evaluate.audit import audit_metrics
from genlab.evaluate.energy import BLOCK_S, block_energies
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
from genlab.evaluate.scores import clip_means, make_score
from genlab.experiment import Comparison, DecoderRun
from genlab.fairness.budget import ArmBudget, check_budget, check_flops, check_memory, clip_flops, solve_budget
from genlab.fairness.ledger import build_ledger
from genlab.machine import hosts
from genlab.material import FLOORS, Material, floor_waves, gather
from genlab.preflight import excuses, find_reference, require_packages
from genlab.prompts import choose_unscored
from genlab.recognisers.shipped import load_recogniser
from genlab.report import outputs
from genlab.report.additions import made_beside
from genlab.report.inputs import read_audit as read_stored_audit
from genlab.report.inputs import read_results
from genlab.report.previews import choose_preview_clips, finish_previews, plan_previews
from genlab.report.results import assemble, show
from genlab.run import bucket, checkpoint
from genlab.run.cache import cache_root
from genlab.run.stored import Number, read_again
from genlab.sample import Sampled, has_samples, read_facts, sample_clips
from genlab.train import RunResult, train
from genlab.training.step import Watch
from genlab.watch.profiling import find_peak_flops
from genlab.watch.progress import Progress
from genlab.watch.tensorboard import RunWriter, StepCost, TrainingLog


def compare(
    config: Comparison, out: Path, progress: Progress, command: str, tuning: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run the comparison in `out` to its end and return results.json; `tuning` is where the arms' settings are from.

    Raises:
        GenlabError: if `out` holds another comparison, or the arms cannot be compared.
    """
    check_budget(config)
    with checkpoint.lock_run(out):
        outputs.settle(out)
        claim(config, out)
        with checkpoint.keep_alive(out):
            hosts.wait_for_all("the outputs are settled")  # all decide from the same files
            is_finished, wrong = outputs.is_finished(out), outputs.find_wrong(out)
            hosts.wait_for_all("all know whether the run is finished")
            if not is_finished and not {*wrong} <= {*outputs.RENDERED}:
                _refuse_to_train_again(config, out, wrong)
                _make(config, out, progress, command, tuning)
            elif not is_finished and hosts.is_leader():
                _render_again(config, out, progress)  # the scores are whole
            hosts.wait_for_all("the report is written")
    return read_results(out) or {}


def _refuse_to_train_again(config: Comparison, out: Path, wrong: list[str]) -> None:
    """Keep a damaged output from costing a training whose checkpoints were pruned."""
    run_dirs = [path for by_seed in list_run_dirs(config, out).values() for path in by_seed.values()]
    if (out / outputs.MANIFEST).exists() and not all(map(checkpoint.saved_steps, run_dirs)):
        raise GenlabError(
            f"{out}: {', '.join(wrong[:3])}: damaged or missing, and making it again takes models "
            f"that are gone; restore it, or delete {out} to train again"
        )


def _make(
    config: Comparison,
    out: Path,
    progress: Progress,
    command: str,
    tuning: Mapping[str, Any] | None,
) -> None:
    began = time.perf_counter()
    if tuning is not None:
        checkpoint.write_json(out / "tuning.json", tuning)
    require_packages(config)
    material = gather(config, progress, out)
    for note in material.preflight.notes:
        progress.note(note)
    budgets = solve_budget(config, material.store)
    for name in config.arms:
        run = config.run(name, config.seeds[0], budgets[name].steps)
        check_memory(run, budgets[name].params)
        check_flops(run, material.store)
    run_dirs = list_run_dirs(config, out)
    trained = _train_all(config, material, budgets, run_dirs, out / "previews", progress)
    if not hosts.is_leader():  # the others wait for what it makes of the models
        return
    show_previews(config, material, out / "previews")
    sampled = {
        name: {
            seed: sample_arm(
                trained[name][seed].model,
                config.run(name, seed, budgets[name].steps),
                material,
                path,
                progress,
                config.evaluation.lengths_s,
            )
            for seed, path in by_seed.items()
        }
        for name, by_seed in run_dirs.items()
    }
    rows = score_rows(config, material, trained, sampled, out, progress)
    staged = outputs.open_stage(out, config.to_dict())
    conclude(
        config,
        material,
        budgets,
        trained,
        sampled,
        rows,
        out,
        staged,
        command,
        began,
        progress,
    )


def conclude(
    config: Comparison,
    material: Material,
    budgets: Mapping[str, ArmBudget],
    trained: Mapping[str, Mapping[int, RunResult]],
    sampled: Mapping[str, Mapping[int, Sampled]],
    rows: Mapping[str, RowResult],
    out: Path,
    staged: Path,
    command: str,
    began: float,
    progress: Progress,
) -> None:
    """Make results, ledger and reports of the scored rows, and replace those of the run at once."""
    run_dirs = list_run_dirs(config, out)
    ledger = build_ledger(config, material.store, budgets, trained, run_dirs, material.manifest)
    found = audit(config, progress, material) if config.audit else read_audit(config, material)
    wall_s = _add_wall_time(out, time.perf_counter() - began)
    results = assemble(config, material, budgets, trained, sampled, rows, command, wall_s)
    results["audit"] = found
    outputs.seal(results, ledger)
    checkpoint.write_json(staged / "ledger.json", ledger)
    checkpoint.write_json(staged / "results.json", results)
    show(config, material, sampled, results | made_beside(out), ledger, out, staged)
    outputs.publish(out)


def list_run_dirs(config: Comparison, out: Path) -> dict[str, dict[int, Path]]:
    """Return the directory of every arm's training, by arm and seed."""
    arms = out / "arms"
    return {name: {s: arms / name / f"seed{s}" for s in config.seeds} for name in config.arms}


def _train_all(
    config: Comparison,
    material: Material,
    budgets: Mapping[str, ArmBudget],
    run_dirs: Mapping[str, Mapping[int, Path]],
    previews: Path,
    progress: Progress,
) -> dict[str, dict[int, RunResult]]:
    """Train every arm on every seed; the first seed of each is heard while it trains."""
    trained: dict[str, dict[int, RunResult]] = {name: {} for name in run_dirs}
    for name, by_seed in run_dirs.items():
        for seed, path in by_seed.items():
            run = config.run(name, seed, budgets[name].steps)
            is_heard = seed == config.seeds[0]
            watch = plan_previews(run, material.store, material.codec, previews) if is_heard else {}
            before = [config.run(other, seed, budgets[other].steps) for other in trained if seed in trained[other]]
            if (twin := _trained_alike(run, before)) is not None:
                _copy_training(run_dirs[twin][seed], path)
            trained[name][seed] = train_arm(run, material.store, path, progress, watch)
    return trained


def _trained_alike(run: DecoderRun, others: Sequence[DecoderRun]) -> str | None:
    """Return the first of the others that trains to the same bits: arms may differ in how they sample alone."""

    def training(run: DecoderRun) -> dict[str, Any]:
        values = run.to_dict()
        return {**values, "name": "", "settings": None, "arm": values["arm"]["decoder"]}

    return next((other.name for other in others if training(other) == training(run)), None)


def _copy_training(trained: Path, run_dir: Path) -> None:
    """Give an arm what an equal one has trained, unless it has begun; a copy that was cut short is made again."""
    if hosts.is_leader() and not checkpoint.saved_steps(run_dir):
        partial = run_dir.with_name(f"{run_dir.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(trained, partial, ignore=shutil.ignore_patterns("lock", "config.json", "samples*", "*.samples"))
        shutil.rmtree(run_dir, ignore_errors=True)
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, run_dir)
        bucket.copy_checkpoints(trained, run_dir)
    hosts.wait_for_all("an equal arm's training is copied")


def rewrite_report(config: Comparison, out: Path, progress: Progress) -> Path:
    """Write TensorBoard pages and report.html of a finished comparison again, and return the report's path.

    Raises:
        GenlabError: if the comparison is not finished.
    """
    with checkpoint.lock_run(out):
        outputs.settle(out)
        outputs.read_outputs(out)
        return _render_again(config, out, progress)


def _render_again(config: Comparison, out: Path, progress: Progress) -> Path:
    results, ledger = outputs.read_outputs(out)
    material = gather(config, progress, out)
    sampled = read_all_samples(config, material, out)
    # An audit may have been made after the run.
    results["audit"] = results.get("audit") or read_audit(config, material)
    staged = outputs.open_stage(out, config.to_dict())
    show(config, material, sampled, results | made_beside(out), ledger, out, staged)
    outputs.publish(out)
    return out / "report.html"


def audit(config: Comparison, progress: Progress, material: Material | None = None) -> dict[str, Any]:
    """Audit every metric of audio on the prompts' real clips, once per corpus, prompts and evaluation."""
    material = gather(config, progress) if material is None else material
    path = _audit_path(config, material)
    if not path.exists():
        found = audit_metrics(material.prompts, evaluation_context(config, material), progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(path, {name: one.to_dict() for name, one in found.items()})
    return read_audit(config, material)


def read_audit(config: Comparison, material: Material) -> dict[str, Any]:
    """Return the audit of this corpus, prompts and evaluation, empty if none was made."""
    return read_stored_audit(_audit_path(config, material)) or {}


def _audit_path(config: Comparison, material: Material) -> Path:
    clips = [clip.id for clip in material.clips]
    key = digest([material.manifest.hash(), material.codec.fingerprint, clips, config.evaluation.to_dict()])
    return cache_root() / "audits" / f"{key}.json"


def score_rows(
    config: Comparison,
    material: Material,
    trained: Mapping[str, Mapping[int, RunResult]],
    sampled: Mapping[str, Mapping[int, Sampled]],
    out: Path,
    progress: Progress,
) -> dict[str, RowResult]:
    """Score real audio, both codec floors and every arm, each once."""
    waves = {"real": [prompt.wave for prompt in material.prompts], **floor_waves(material)}
    waves |= {
        name: [wave for seed in config.seeds for wave in by_seed[seed].waves] for name, by_seed in sampled.items()
    }
    rows: dict[str, RowResult] = {}
    context: EvaluationContext | None = None
    for done, (name, row_waves) in enumerate(waves.items()):
        progress("score", done, len(waves))
        path = out / "rows" / f"{name}.json"
        row = load_row(path)
        if row is None:
            context = context or evaluation_context(config, material)
            seeds = len(config.seeds) if name in sampled else 1
            row = score_clips(
                row_waves,
                material.prompts * seeds,
                context,
                is_reconstruction=name in FLOORS,
                seeds=seeds,
                progress=partial(progress, f"score {name}"),
            )
            if name in sampled:
                models = {seed: run.model for seed, run in trained[name].items()}
                progress(f"score {name}: bits, energy", 0, 2)
                row = _add_bits(row, config, material, models)
                progress(f"score {name}: bits, energy", 1, 2)
                row = _add_energy(row, name, config, material, models)
                progress(f"score {name}: bits, energy", 2, 2)
            checkpoint.check_held(path)
            save_row(path, row)
        rows[name] = row
    progress("score", len(waves), len(waves))
    return rows


def train_arm(
    run: DecoderRun, store: TokenStore, run_dir: Path, progress: Progress, watch: Mapping[int, Watch] | None = None
) -> RunResult:
    """Train one arm in its run directory, or go on with it, or return it if it is done; `watch` as in `train`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    check_same_training(run, run_dir)
    inputs.bind(run_dir, run.data, store)
    checkpoint.write_config(run_dir, run.to_dict())
    start = max(checkpoint.saved_steps(run_dir), default=0)
    audio_s = run.batch_size * run.data.num_frames / store.info.spec.frame_hz
    cost = StepCost(audio_s, run.batch_size * clip_flops(run, store), find_peak_flops())
    with RunWriter(run_dir, resume_step=start) as writer:
        return train(
            lambda key: run.build_for(store, key),
            run.source_of(store),
            steps=run.steps,
            optim=run.optim,
            seed=run.seed,
            settings=run.settings,
            run_dir=run_dir,
            writer=TrainingLog(writer, run.arm.decoder.kind, run.arm.decoder.loss_unit, cost),
            progress=progress,
            watch=watch,
        )


def show_previews(config: Comparison, material: Material, out: Path) -> None:
    """Write what the previews of the arms are held against: real audio, codec floors, and pictures of all of them."""
    clips = choose_preview_clips(config.run(next(iter(config.arms)), config.seeds[0], steps=1), material.store)
    by_id = {clip.id: clip for clip in material.manifest.clips}
    codec = material.codec
    ceilings = {
        "real": lambda: [material.manifest.audio(by_id[clip.id]) / np.float32(32768) for clip in clips],
        FLOORS[0]: lambda: codec.decode_codes([clip.codes for clip in clips]),
        FLOORS[1]: lambda: codec.decode_latents([clip.latents for clip in clips]),
    }
    finish_previews(out, clips, ceilings, list(config.arms), codec)


def sample_arm(
    model: nnx.Module,
    run: DecoderRun,
    material: Material,
    run_dir: Path,
    progress: Progress,
    lengths_s: Sequence[float] = (),
) -> Sampled:
    """Sample the prompts once, and return what is on disk: a resumed run scores the very same audio."""
    checkpoint.check_held(run_dir)
    if not has_samples(run_dir):
        stage = partial(progress, f"sample {run.name}/seed{run.seed}")
        # Sampling seeds are paired: every arm draws prompt i with the same seed.
        sampled = sample_clips(model, run, material.store, material.codec, material.clips, run.seed, lengths_s, stage)
        (run_dir / "samples").mkdir(exist_ok=True)
        for path, wave in zip(_sample_paths(run_dir, material), sampled.waves):
            write_flac(path, to_int16(wave))
        facts = {field.name: getattr(sampled, field.name) for field in dataclasses.fields(sampled)}
        checkpoint.write_json(run_dir / "samples.json", {key: facts[key] for key in facts if key != "waves"})
    return read_samples(run_dir, material)


def read_samples(run_dir: Path, material: Material) -> Sampled:
    """Return the samples that `sample_arm` wrote."""
    facts = read_facts(run_dir)
    if facts is None:
        raise GenlabError(f"{run_dir}: no samples here; run `genlab compare` again to make them")
    rate = material.codec.wave_rate_hz
    return Sampled(waves=[read_wave(path, sample_rate_hz=rate) for path in _sample_paths(run_dir, material)], **facts)


def read_all_samples(
    config: Comparison,
    material: Material,
    out: Path,
) -> dict[str, dict[int, Sampled]]:
    """Return what `sample_arm` wrote for every arm and seed."""
    run_dirs = list_run_dirs(config, out)
    return {
        name: {seed: read_samples(path, material) for seed, path in by_seed.items()}
        for name, by_seed in run_dirs.items()
    }


def _sample_paths(run_dir: Path, material: Material) -> list[Path]:
    return [run_dir / "samples" / f"prompt{number:02}.flac" for number in range(len(material.clips))]


def evaluation_context(config: Comparison, material: Material) -> EvaluationContext:
    """Return what does not depend on the row: recognisers, networks, and real speech that is no prompt."""
    recogniser = load_recogniser()
    content = [ContentMetric("ctc", "word", recogniser.transcribe)]
    if isinstance(config.data.corpus, Embedded):
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
    )


def _add_bits(row: RowResult, config: Comparison, material: Material, models: Mapping[int, nnx.Module]) -> RowResult:
    """Add the bits per second of the prompts' own codes, if the family can put a number on them."""
    decoders = [models[seed] for seed in config.seeds]
    if not can_score(decoders[0]):
        return row
    store = material.store
    # Training clips serve where no clips of validation are left: no prompt is one of them, so the bound stays a bound.
    unscored = choose_unscored(store, config.prompts_split, config.num_prompts, config.data.num_frames)
    score, values = score_bits(
        decoders, store, material.clips, [prompt.clip_id for prompt in material.prompts], unscored=unscored,
        num_draws=config.evaluation.score_draws, seed=config.evaluation.seed,
    )  # fmt: skip
    return row._replace(scores={**row.scores, "bits_per_s": score}, per_clip={**row.per_clip, "bits_per_s": values})


def _add_energy(
    row: RowResult, name: str, config: Comparison, material: Material, models: Mapping[int, nnx.Module]
) -> RowResult:
    """Add the energy score of the block that follows the first half of each prompt's own clip."""
    num_draws, seed = config.evaluation.energy_draws, config.evaluation.seed
    if not num_draws:
        return row
    energies = [
        block_energies(
            models[run_seed], config.run(name, run_seed, steps=1), material.store, material.clips,
            num_draws=num_draws, seed=seed + number,
        )
        for number, run_seed in enumerate(config.seeds)
    ]  # fmt: skip
    clusters = tuple(prompt.clip_id for prompt in material.prompts) * len(config.seeds)
    runs = tuple(np.repeat(range(len(config.seeds)), len(material.prompts)).tolist())
    values = clip_means(np.concatenate(energies), clusters)._replace(runs=runs)
    note = f"{num_draws} continuations per clip, the next {BLOCK_S:g} s after its middle"
    score = make_score("block_energy", values.estimate(seed), seeds=len(config.seeds), note=note, covers=values.covers)
    return row._replace(scores={**row.scores, "block_energy": score}, per_clip={**row.per_clip, "block_energy": values})


def _add_wall_time(out: Path, seconds: float) -> float:
    """Add this attempt's seconds to those of earlier ones and return the sum."""
    earlier = read_again(out / "wall.json", dict[str, Number], doing="counting from this attempt")
    total = (earlier or {}).get("wall_s", 0.0) + seconds
    checkpoint.write_json(out / "wall.json", {"wall_s": total})
    return total
