"""The main job: train several decoders on one token space with one budget, sample and score them
alike, say who won.

corpus -> token store -> budget -> train every arm -> sample the same prompts -> score every row ->
results.json, ledger.json, TensorBoard, report.html. Every stage leaves its result on disk under the
run directory, so the same command resumes after an interruption: a trained arm, its samples and a
scored row are never made twice.

    config.json          what is compared          inputs.json   what it is made from (inputs.py)
    measured.json        what iso_time, iso_latency and iso_bitrate measure before training
    results.json ...     the outputs, which outputs.json lists (report/outputs.py)
    rates.json           which learning rate each arm has, of a grid; rates/NAME/RATE/ as arms/
    arms/NAME/seedN/     checkpoints, batch_hashes.txt, samples.json, samples/promptNN.flac (further
                         draws: samples/drawN/), events of TensorBoard
    floors/ROW/          events of rows that are no arms; floors/regression/seedN/ as arms/
    rows/ROW.json        scores
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genlab.arms import (
    ArmRun,
    find_run_dir,
    plan,
    plan_regression,
    read_samples,
    restore_rates,
    try_rates,
)
from genlab.changes import claim
from genlab.config import GenlabError
from genlab.evaluate.metrics import RowResult
from genlab.experiment import Comparison
from genlab.fairness.budget import check_budget, check_flops, check_memory
from genlab.machine import hosts
from genlab.material import Material, gather
from genlab.preflight import hear_prompts, require_packages
from genlab.report import outputs
from genlab.report.additions import Tuning
from genlab.report.answer import find_answer
from genlab.report.inputs import WholeResults, read_results
from genlab.report.ledger import build_ledger
from genlab.report.previews import choose_preview_clips, finish_previews, plan_previews
from genlab.report.results import assemble, collect_shown, write_events, write_pages
from genlab.run import checkpoint
from genlab.run.bounds import CODES_FLOOR, LATENTS_FLOOR, REAL, REGRESSION
from genlab.run.clock import DATA, PLAN, REPORT, WALL, Clock, stage
from genlab.run.files import write_json
from genlab.run.status import keep_alive, lock_run
from genlab.score import audit, read_audit, score_rows
from genlab.watch.progress import Progress


def compare(
    config: Comparison,
    out: Path,
    progress: Progress,
    command: str,
    tuning: Tuning | None = None,
) -> WholeResults | None:
    """Run the comparison in `out` to its end and return results.json; `tuning` is where the arms'
    settings are from.

    Raises:
        GenlabError: if `out` holds another comparison, or the arms cannot be compared.
    """
    check_budget(config)
    with lock_run(out):
        outputs.settle(out)
        outputs.check_made_with(out)
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
    return read_results(out)


def _refuse_to_train_again(config: Comparison, out: Path, wrong: list[str]) -> None:
    """Keep a damaged output from costing a training whose checkpoints were pruned."""
    run_dirs = [find_run_dir(out, name, seed) for name in config.arms for seed in config.seeds]
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
    tuning: Tuning | None,
) -> None:
    if tuning is not None:
        write_json(out / "tuning.json", tuning)
    require_packages(config)
    with Clock(out / WALL) as clock:
        clock.keep_in(out)
        with stage(DATA, ""):
            material = gather(config, progress, out)
            for note in hear_prompts(config, material.manifest, material.preflight).notes:
                progress.note(note)
        with stage(PLAN, ""):
            arms = _plan_all(config, material, out)
        heard = [arm for arm in arms if arm.name in config.arms and arm.seed == config.seeds[0]]
        tried = try_rates(config, arms, material.store, out, progress)
        previews = out / "previews"
        # Seed by seed: whenever it is stopped, all arms have been trained on as many seeds.
        in_turn = sorted(arms, key=lambda arm: config.seeds.index(arm.seed))
        for number, arm in enumerate(in_turn):
            watch = (
                plan_previews(arm.run, material.store, material.codec, previews)
                if arm in heard  # while they train
                else {}
            )
            arm.train(material.store, progress, earlier=in_turn[:number], watch=watch)
        if not hosts.is_leader():  # the others wait for what it makes of the models
            return
        with stage(REPORT, ""):
            show_previews(config, material, previews)
        # After all training: the others leave before it, and all arms are timed alike.
        for arm in arms:
            arm.sample(material, progress, config.evaluation.lengths_s)
            arm.draw_more(material, config.evaluation.audio_draws)
        rows = score_rows(config, material, arms, out, progress)
        staged = outputs.open_stage(out, config.to_dict())
        conclude(tried, material, arms, rows, out, staged, command, clock, progress)


def _plan_all(config: Comparison, material: Material, out: Path) -> list[ArmRun]:
    """Return the runs of all arms and of the regression, checked before any of them trains."""
    arms = plan(config, material.store, out)
    arms += plan_regression(config, material.store, out, arms)
    for arm in arms:
        if arm.seed == config.seeds[0]:
            check_memory(arm.run, arm.budget.params)
            check_flops(arm.run, material.store)
    return arms


def conclude(
    config: Comparison,
    material: Material,
    arms: Sequence[ArmRun],
    rows: Mapping[str, RowResult],
    out: Path,
    staged: Path,
    command: str,
    clock: Clock,
    progress: Progress,
) -> None:
    """Make results, ledger and reports of the scored rows, and replace those of the run at once.

    In `config` every arm has the learning rate that it chose, if there was a choice.
    """
    is_audited = config.audit and config.data.is_heard
    found = audit(config, progress, material) if is_audited else read_audit(config, material)
    with stage(REPORT, ""):
        ranked = [arm for arm in arms if arm.name in config.arms]
        ledger = build_ledger(config, material.store, ranked, material.manifest)
        results = assemble(config, material, arms, rows, command, clock.tell())
        results["audit"] = found
        results["gates"] = [gate.to_dict() for gate in find_answer(results, ledger).gates]
        heard = {arm.name: arm.sampled for arm in arms if arm.seed == config.seeds[0]}
        shown = collect_shown(config, material, heard, results)
        write_events(config, material, heard, shown, results, ledger, out)
        # Again, with the events; what follows cannot be in a page that tells it.
        time = clock.tell()
        results["time"], results["wall_s"] = time, time["whole_s"]
        outputs.seal(results, ledger)
        write_json(staged / "ledger.json", ledger)
        write_json(staged / "results.json", results)
        write_pages(config, material, heard, shown, results, ledger, out, staged)
    outputs.publish(out)


def rewrite_report(config: Comparison, out: Path, progress: Progress) -> Path:
    """Write TensorBoard pages and report.html of a finished comparison again, and return the
    report's path.

    Raises:
        GenlabError: if the comparison is not finished.
    """
    with lock_run(out):
        outputs.settle(out)
        outputs.check_made_with(out)
        outputs.read_outputs(out)
        return _render_again(config, out, progress)


def _render_again(config: Comparison, out: Path, progress: Progress) -> Path:
    results, ledger = outputs.read_outputs(out)
    material = gather(config, progress, out)
    seed = config.seeds[0]
    # A run of an earlier version has no baselines.
    is_regressed = any(arm["name"] == REGRESSION for arm in results["arms"])
    names = [*config.arms, *([REGRESSION] if is_regressed else [])]
    heard = {name: read_samples(find_run_dir(out, name, seed), material) for name in names}
    # An audit may have been made after the run.
    results["audit"] = results.get("audit") or read_audit(config, material)
    results["gates"] = [gate.to_dict() for gate in find_answer(results, ledger).gates]
    staged = outputs.open_stage(out, config.to_dict())
    tried = restore_rates(config, (), out)
    shown = collect_shown(tried, material, heard, results)
    write_events(tried, material, heard, shown, results, ledger, out)
    write_pages(tried, material, heard, shown, results, ledger, out, staged)
    outputs.publish(out)
    return out / "report.html"


def show_previews(config: Comparison, material: Material, out: Path) -> None:
    """Write what the previews of the arms are compared with: real audio, codec floors, and pictures
    of all of them.
    """
    clips = choose_preview_clips(
        config.run(next(iter(config.arms)), config.seeds[0], steps=1), material.store
    )
    by_id = material.manifest.find(clip.id for clip in clips)
    codec = material.codec
    ceilings = {
        REAL: lambda: [
            material.manifest.audio(by_id[clip.id]) / np.float32(32768) for clip in clips
        ],
        CODES_FLOOR: lambda: codec.decode_codes([clip.codes for clip in clips]),
        LATENTS_FLOOR: lambda: codec.decode_latents([clip.latents for clip in clips]),
    }
    finish_previews(out, clips, ceilings, list(config.arms), codec)
