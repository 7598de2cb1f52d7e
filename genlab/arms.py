"""One arm of a comparison on one seed: trained, sampled, read back."""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flax import nnx

from genlab import inputs
from genlab.changes import check_same_training
from genlab.config import GenlabError
from genlab.data.audio import read_wave, to_int16, write_flac
from genlab.data.store import TokenStore
from genlab.experiment import Comparison, DecoderRun
from genlab.fairness.budget import clip_flops
from genlab.machine import hosts
from genlab.material import Material
from genlab.run import bucket, checkpoint
from genlab.run.files import write_config, write_json
from genlab.run.ownership import check_is_ours
from genlab.run.status import check_held, hold_run
from genlab.sample import Sampled, has_samples, read_facts, sample_clips
from genlab.train import RunResult, train
from genlab.training.step import Watch
from genlab.watch.profiling import find_peak_flops
from genlab.watch.progress import Progress
from genlab.watch.tensorboard import RunWriter, StepCost, TrainingLog


def _trained_alike(run: DecoderRun, others: Sequence[DecoderRun]) -> str | None:
    """Return the first of the others that trains to the same bits: arms may differ in how they
    sample alone.
    """

    def training(run: DecoderRun) -> dict[str, Any]:
        values = run.to_dict()
        return {**values, "name": "", "settings": None, "arm": values["arm"]["decoder"]}

    return next((other.name for other in others if training(other) == training(run)), None)


def _copy_training(trained: Path, run_dir: Path) -> None:
    """Give an arm what an equal one has trained, unless it has begun; a copy that was cut short is
    made again.
    """
    if hosts.is_leader() and not checkpoint.saved_steps(run_dir):
        partial = run_dir.with_name(f"{run_dir.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(
            trained,
            partial,
            ignore=shutil.ignore_patterns("lock", "config.json", "samples*", "*.samples"),
        )
        shutil.rmtree(run_dir, ignore_errors=True)
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, run_dir)
        bucket.copy_checkpoints(trained, run_dir)
    hosts.wait_for_all("an equal arm's training is copied")


def train_arm(
    run: DecoderRun,
    store: TokenStore,
    run_dir: Path,
    progress: Progress,
    watch: Mapping[int, Watch] | None = None,
) -> RunResult:
    """Train one arm in its run directory, resume it, or return it if it is done; `watch` as in
    `train`.
    """
    # First: what is refused as held by another process must not change what that one trains.
    with hold_run(run_dir):
        check_is_ours(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        check_same_training(run, run_dir)
        inputs.bind(run_dir, run.data, store)
        write_config(run_dir, run.to_dict())
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


def sample_arm(
    model: nnx.Module,
    run: DecoderRun,
    material: Material,
    run_dir: Path,
    progress: Progress,
    lengths_s: Sequence[float] = (),
) -> Sampled:
    """Sample the prompts once, and return what is on disk: a resumed run scores the very same
    audio.
    """
    check_held(run_dir)
    if not has_samples(run_dir):
        stage = partial(progress, f"sample {run.name}/seed{run.seed}")
        # Sampling seeds are paired: every arm draws prompt i with the same seed.
        sampled = sample_clips(
            model, run, material.store, material.codec, material.clips, run.seed, lengths_s, stage
        )
        (run_dir / "samples").mkdir(exist_ok=True)
        for path, wave in zip(_sample_paths(run_dir, material), sampled.waves):
            write_flac(path, to_int16(wave))
        facts = {field.name: getattr(sampled, field.name) for field in dataclasses.fields(sampled)}
        write_json(run_dir / "samples.json", {key: facts[key] for key in facts if key != "waves"})
    return read_samples(run_dir, material)


def read_samples(run_dir: Path, material: Material) -> Sampled:
    """Return the samples that `sample_arm` wrote."""
    facts = read_facts(run_dir)
    if facts is None:
        raise GenlabError(f"{run_dir}: no samples here; run `genlab compare` again to make them")
    rate = material.codec.wave_rate_hz
    return Sampled(
        waves=[read_wave(path, sample_rate_hz=rate) for path in _sample_paths(run_dir, material)],
        **facts,
    )


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
    return [
        run_dir / "samples" / f"prompt{number:02}.flac" for number in range(len(material.clips))
    ]


def list_run_dirs(config: Comparison, out: Path) -> dict[str, dict[int, Path]]:
    """Return the directory of every arm's training, by arm and seed."""
    arms = out / "arms"
    return {name: {s: arms / name / f"seed{s}" for s in config.seeds} for name in config.arms}
