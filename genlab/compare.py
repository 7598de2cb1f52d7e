"""The main job: train several decoders on one token space with one budget, sample and score them
alike, say who won.

corpus -> token store -> budget -> train every arm -> sample the same prompts -> score every row ->
results.json, ledger.json, TensorBoard, report.html. Every stage leaves its result on disk under the
run directory, so the same command resumes after an interruption: a trained arm, its samples and a
scored row are never made twice.

    config.json          what is compared          inputs.json   what it is made from (inputs.py)
    results.json ...     the outputs, which outputs.json lists (outputs.py)
    arms/NAME/seedN/     checkpoints, batch_hashes.txt, samples.json, samples/promptNN.flac,
                         events of TensorBoard
    floors/ROW/          events of the real and codec-floor rows        rows/ROW.json   scores
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genlab.arms import (
    _copy_training,
    _trained_alike,
    list_run_dirs,
    read_all_samples,
    sample_arm,
    train_arm,
)
from genlab.changes import claim
from genlab.config import GenlabError
from genlab.evaluate.metrics import (
    RowResult,
)
from genlab.experiment import Comparison
from genlab.fairness.budget import ArmBudget, check_budget, check_flops, check_memory, solve_budget
from genlab.fairness.ledger import build_ledger
from genlab.machine import hosts
from genlab.material import FLOORS, Material, gather
from genlab.preflight import require_packages
from genlab.report import outputs
from genlab.report.additions import made_beside
from genlab.report.inputs import read_results
from genlab.report.previews import choose_preview_clips, finish_previews, plan_previews
from genlab.report.results import assemble, show
from genlab.run import checkpoint
from genlab.run.files import write_json
from genlab.run.status import keep_alive, lock_run
from genlab.run.stored import Number, read_again
from genlab.sample import Sampled
from genlab.score import audit, read_audit, score_rows
from genlab.train import RunResult
from genlab.watch.progress import Progress


def compare(
    config: Comparison,
    out: Path,
    progress: Progress,
    command: str,
    tuning: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the comparison in `out` to its end and return results.json; `tuning` is where the arms'
    settings are from.

    Raises:
        GenlabError: if `out` holds another comparison, or the arms cannot be compared.
    """
    check_budget(config)
    with lock_run(out):
        outputs.settle(out)
        claim(config, out)
        with keep_alive(out):
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
    run_dirs = [
        path for by_seed in list_run_dirs(config, out).values() for path in by_seed.values()
    ]
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
        write_json(out / "tuning.json", tuning)
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
    scored = assemble(config, material, budgets, trained, sampled, rows, command, wall_s)
    results: dict[str, Any] = {**scored, "audit": found}
    outputs.seal(results, ledger)
    write_json(staged / "ledger.json", ledger)
    write_json(staged / "results.json", results)
    show(config, material, sampled, results | made_beside(out), ledger, out, staged)
    outputs.publish(out)


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
            before = [
                config.run(other, seed, budgets[other].steps)
                for other in trained
                if seed in trained[other]
            ]
            if (twin := _trained_alike(run, before)) is not None:
                _copy_training(run_dirs[twin][seed], path)
            trained[name][seed] = train_arm(run, material.store, path, progress, watch)
    return trained


def rewrite_report(config: Comparison, out: Path, progress: Progress) -> Path:
    """Write TensorBoard pages and report.html of a finished comparison again, and return the
    report's path.

    Raises:
        GenlabError: if the comparison is not finished.
    """
    with lock_run(out):
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


def show_previews(config: Comparison, material: Material, out: Path) -> None:
    """Write what the previews of the arms are compared with: real audio, codec floors, and pictures
    of all of them.
    """
    clips = choose_preview_clips(
        config.run(next(iter(config.arms)), config.seeds[0], steps=1), material.store
    )
    by_id = {clip.id: clip for clip in material.manifest.clips}
    codec = material.codec
    ceilings = {
        "real": lambda: [
            material.manifest.audio(by_id[clip.id]) / np.float32(32768) for clip in clips
        ],
        FLOORS[0]: lambda: codec.decode_codes([clip.codes for clip in clips]),
        FLOORS[1]: lambda: codec.decode_latents([clip.latents for clip in clips]),
    }
    finish_previews(out, clips, ceilings, list(config.arms), codec)


def _add_wall_time(out: Path, seconds: float) -> float:
    """Add this attempt's seconds to those of earlier ones and return the sum."""
    earlier = read_again(out / "wall.json", dict[str, Number], doing="counting from this attempt")
    total = (earlier or {}).get("wall_s", 0.0) + seconds
    write_json(out / "wall.json", {"wall_s": total})
    return total
