"""One arm of a comparison on one training seed: planned, trained, sampled, read back.

In: a `Comparison` and its token store. Out: one `ArmRun` per arm and seed, which scores, ledger and
reports read. Every stage leaves what it made in the run directory, so none is done twice.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from genlab import inputs
from genlab.changes import check_same_training
from genlab.config import GenlabError, digest
from genlab.data.drawn import BLOCK_PROMPTS, DrawnWaves
from genlab.data.store import TokenStore
from genlab.data.wave_files import read_waves
from genlab.experiment import Comparison, DecoderRun
from genlab.fairness.budget import ArmBudget, clip_flops, solve_budget
from genlab.fairness.looks import open_looks
from genlab.fairness.measured import read_or_measure
from genlab.fairness.rates import (
    TriedRates,
    choose_rates,
    read_rates,
    run_with_rate,
    training_of,
    with_rates,
)
from genlab.fairness.regression import regression_run, solve_regression
from genlab.machine import hosts
from genlab.machine.rows import all_chips
from genlab.material import Material
from genlab.run import bucket, checkpoint
from genlab.run.bounds import BASELINES, REGRESSION
from genlab.run.clock import BASELINE, RATES, SAMPLE, TRAIN, Stage, done_before, stage
from genlab.run.files import write_config, write_json
from genlab.run.ownership import check_is_ours
from genlab.run.status import check_held, hold_run
from genlab.sample import (
    CompiledSampler,
    Sampled,
    compile_sampler,
    conditions,
    decode,
    has_samples,
    read_facts,
    sample_clips,
)
from genlab.train import RunResult, restore_trained, result_of, train
from genlab.training.looks import LookEntry
from genlab.training.step import Watch
from genlab.watch.follow import followed
from genlab.watch.profiling import find_peak_flops
from genlab.watch.progress import Progress
from genlab.watch.tensorboard import RunWriter, StepCost, TrainingLog

EVENTS = "events.out.tfevents*"
# Of a training that is copied: what is of its directory, or of its sampler.
NOT_COPIED = ("lock", "config.json", "samples*", "*.samples", "bad_checkpoints", "*.partial")


@dataclasses.dataclass(eq=False)
class ArmRun:
    """One arm on one training seed: what it may spend, and what came of it.

    `result` is there once `train` or `restore` has returned, `sampled` once `sample` or
    `read_samples` has; reading one before that raises AttributeError.
    """

    name: str
    seed: int
    run: DecoderRun
    """With as many steps as the budget allows."""
    run_dir: Path
    budget: ArmBudget
    """The same for all seeds of an arm."""
    result: RunResult = dataclasses.field(init=False, repr=False)
    sampled: Sampled = dataclasses.field(init=False, repr=False)
    more_waves: list[Sequence[Float[np.ndarray, "s *c"]]] = dataclasses.field(
        default_factory=list, repr=False
    )
    """The waves of all prompts in every further draw."""

    def train(
        self,
        store: TokenStore,
        progress: Progress,
        *,
        earlier: Sequence["ArmRun"] = (),
        watch: Mapping[int, Watch] | None = None,
    ) -> None:
        """Train in the run directory, resume there, or return if it is done; `watch` as in `train`.

        What one of the `earlier` arms has trained is copied if this one would train to the same
        bits: arms may differ in how they sample alone.
        """
        twins = [arm for arm in earlier if training_of(arm.run) == training_of(self.run)]
        with stage(self._making, self._part), hold_run(self.run_dir):
            if twins:
                _copy_training(twins[0].run_dir, self.run_dir)
            self.result = train_arm(self.run, store, self.run_dir, progress, watch)
        if not twins:
            # A killed command kept no seconds of it, and its last checkpoint did.
            spent = self.result
            done_before(self._making, self._part, spent.wall_s + spent.look_s, spent.compile_s)

    def restore(self, store: TokenStore) -> None:
        """Read what `train` left when it had made all steps; nothing is trained or written.

        Raises:
            GenlabError: if the newest intact checkpoint is of an earlier step, or there is none.
        """
        model, restored = restore_trained(lambda key: self.run.build_for(store, key), self.run_dir)
        if restored.step != self.run.steps:
            raise GenlabError(
                f"{self.run_dir}: the newest intact checkpoint is of step {restored.step}, "
                f"expected {self.run.steps}; finish the run with `genlab compare` first"
            )
        self.result = result_of(model, restored, self.run_dir)
        done_before(self._making, self._part)

    def sample(
        self, material: Material, progress: Progress, lengths_s: Sequence[float] = ()
    ) -> None:
        """Sample the prompts, unless that is done, and read the audio that is on disk.

        A resumed run scores the very same audio. `lengths_s` as in `sample_clips`.
        """
        check_held(self.run_dir)
        if not has_samples(self.run_dir):
            with stage(SAMPLE, self._part):
                # Sampling seeds are paired: every arm draws prompt i with the same seed.
                waves = self._waves(material, self.run_dir / "samples", jax.random.key(self.seed))
                facts = sample_clips(
                    self.result.model,
                    self.run,
                    material.store,
                    material.codec,
                    waves,
                    lengths_s,
                    partial(progress, f"sample {self._part}"),
                )
                write_json(self.run_dir / "samples.json", facts)  # says that all audio is there
                waves.finish()
        self.read_samples(material)

    def draw_more(self, material: Material, draws: int) -> None:
        """Sample the prompts again until there are as many `draws` of each, and read them; what is
        on disk is not drawn anew.
        """
        with stage(SAMPLE, self._part):
            self._draw_more(material, draws)

    def _draw_more(self, material: Material, draws: int) -> None:
        compiled: CompiledSampler | None = None
        self.more_waves = []
        if not material.prompts:  # nothing is heard
            return
        store, codec, frames = material.store, material.codec, self.run.data.num_frames
        for number in range(1, draws):
            check_held(self.run_dir)
            directory = self.run_dir / "samples" / f"draw{number}"
            if not directory.exists():
                # Drawn elsewhere first: a directory of its name is whole.
                unfinished = directory.with_name(f"{directory.name}.partial")
                key = jax.random.fold_in(jax.random.key(self.seed), number)
                waves = self._waves(material, unfinished, key)
                if compiled is None:
                    first = conditions(store, waves.clips[:BLOCK_PROMPTS], frames)
                    chips = all_chips(self.run.settings.sharding)
                    model = self.result.model
                    compiled, _ = compile_sampler(model, self.run, *first, spread=chips)
                waves.draw(
                    compiled,
                    lambda block: conditions(store, block, frames),
                    partial(decode, store=store, codec=codec),
                    codec.wave_rate_hz,
                )
                waves.finish()
                os.replace(unfinished, directory)
            # Read back, so that a resumed run scores the very same audio.
            self.more_waves.append(read_waves(directory, len(material.clips), codec.audio))

    def _waves(self, material: Material, directory: Path, key: jax.Array) -> DrawnWaves:
        return DrawnWaves(
            directory,
            self.run.arm.sampler.to_dict(),
            material.clips,
            key,
            partial(check_held, self.run_dir),
            is_heard=bool(material.prompts),
        )

    def read_samples(self, material: Material) -> None:
        """Read what `sample` wrote.

        Raises:
            GenlabError: if it has not, or the files are damaged.
        """
        self.sampled = read_samples(self.run_dir, material)
        done_before(SAMPLE, self._part)

    @property
    def _making(self) -> Stage:
        return BASELINE if self.name in BASELINES else TRAIN

    @property
    def _part(self) -> str:
        return f"{self.name}/seed{self.seed}"


def plan(config: Comparison, store: TokenStore, out: Path) -> list[ArmRun]:
    """Return every arm on every training seed, seeds innermost, with what its budget allows.

    Raises:
        GenlabError: if the budget fits no whole number of steps (`solve_budget`).
    """
    budgets = solve_budget(config, store, read_or_measure(config, store, out))
    return [
        ArmRun(
            name,
            seed,
            planned_run(config, name, seed, budgets[name]),
            find_run_dir(out, name, seed),
            budgets[name],
        )
        for name in config.arms
        for seed in config.seeds
    ]


def planned_run(config: Comparison, name: str, seed: int, budget: ArmBudget) -> DecoderRun:
    """Return the training run of one arm with the steps and the sampler that its budget allows."""
    run = config.run(name, seed, budget.steps)
    arm = run.arm.model_copy(update={"sampler": budget.sampler})
    return run.model_copy(update={"arm": arm})


def plan_regression(
    config: Comparison, store: TokenStore, out: Path, arms: Sequence[ArmRun]
) -> list[ArmRun]:
    """Return the runs of the baseline that is trained, on every training seed; none if it is not
    wanted. `arms` are those of `plan`.
    """
    budget = solve_regression(config, store, {arm.name: arm.budget for arm in arms})
    if budget is None:
        return []
    return [
        ArmRun(
            REGRESSION,
            seed,
            regression_run(config, seed, budget.steps),
            find_run_dir(out, REGRESSION, seed),
            budget,
        )
        for seed in config.seeds
    ]


def try_rates(
    config: Comparison, arms: Sequence[ArmRun], store: TokenStore, out: Path, progress: Progress
) -> Comparison:
    """Let every planned arm, and the baseline that is trained, try the rates of a grid, and give
    them the ones they chose; return the comparison with these.
    """

    def try_one(run: DecoderRun, run_dir: Path) -> Sequence[LookEntry]:
        part = f"{run.name}/{run_dir.name}"
        with stage(RATES, part):
            spent = train_arm(run, store, run_dir, progress)
        done_before(RATES, part, spent.wall_s + spent.look_s, spent.compile_s)
        return spent.looks

    first = {arm.name: arm for arm in reversed(arms)}
    found = choose_rates(
        config,
        {name: arm.run for name, arm in first.items()},
        {name: arm.budget.train_flops for name, arm in first.items()},
        out,
        try_one,
    )
    return _give_rates(config, arms, found)


def restore_rates(config: Comparison, arms: Sequence[ArmRun], out: Path) -> Comparison:
    """Give planned arms the rates that they chose when they were trained; return the comparison
    with these.

    Raises:
        GenlabError: if it has a grid and no choice is on disk.
    """
    found = read_rates(config, out)
    if found is None and config.optim.peak_lrs is not None:
        raise GenlabError(f"{out}: the learning rates of its arms are missing; restore rates.json")
    return _give_rates(config, arms, found or {})


def _give_rates(
    config: Comparison, arms: Sequence[ArmRun], found: Mapping[str, TriedRates]
) -> Comparison:
    tried = with_rates(config, found)
    for arm in arms:
        if arm.name in found:
            arm.run = run_with_rate(arm.run, found[arm.name]["chosen"])
    return tried


def by_name(arms: Sequence[ArmRun]) -> dict[str, list[ArmRun]]:
    """Return the runs of each arm, both in the order they were planned in."""
    return {
        name: [arm for arm in arms if arm.name == name]
        for name in dict.fromkeys(arm.name for arm in arms)
    }


def find_run_dir(out: Path, name: str, seed: int) -> Path:
    """Return where an arm, or the baseline that is trained, lies in the directory of its
    comparison.
    """
    return out / ("floors" if name in BASELINES else "arms") / name / f"seed{seed}"


def name_trainings(arms: Sequence[ArmRun]) -> dict[str, str]:
    """Return per arm a digest of what its models were trained by, all seeds in order: arms with the
    same one hold the same models, and are paired by seed.
    """
    return {
        name: digest([training_of(arm.run) for arm in runs]) for name, runs in by_name(arms).items()
    }


def _copy_training(trained: Path, run_dir: Path) -> None:
    """Give an arm what an equal one has trained, unless it has begun; a copy that was cut short is
    made again. Both directories belong to this process meanwhile.
    """
    with hold_run(trained), hold_run(run_dir):
        if hosts.is_leader() and not checkpoint.saved_steps(run_dir):
            _replace_training(trained, run_dir)
            bucket.copy_checkpoints(trained, run_dir)
    hosts.wait_for_all("an equal arm's training is copied")


def _replace_training(trained: Path, run_dir: Path) -> None:
    """Copy a training over what lies in a held run directory, the checkpoints last: with them it
    counts as trained.
    """
    staged = run_dir / "training.partial"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(trained, staged, ignore=shutil.ignore_patterns(*NOT_COPIED))
    # An attempt that saved nothing would add its curves to those of the copy.
    for path in run_dir.glob(EVENTS):
        if path.suffix != ".samples":
            path.unlink()
    for path in sorted(staged.iterdir(), key=lambda path: path.name == bucket.CHECKPOINTS):
        target = run_dir / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    staged.rmdir()


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
        # Before the first step: a directory that holds a checkpoint always says what it is of.
        write_config(run_dir, run.to_dict())
        start = max(checkpoint.saved_steps(run_dir), default=0)
        # FLOPs are walked once here, because TensorBoard's curves against cost need them at every
        # step.
        audio_s = run.batch_size * run.data.example_frames / store.info.spec.frame_hz
        cost = StepCost(audio_s, run.batch_size * clip_flops(run, store), find_peak_flops())
        name = "/".join(run_dir.parts[-4:])
        with (
            RunWriter(run_dir, resume_step=start) as events,
            followed(events, run.settings.follow, name, run.to_dict()) as writer,
        ):
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
                looks=open_looks(run, store),
            )


def read_samples(run_dir: Path, material: Material) -> Sampled:
    """Return the samples that are in an arm's run directory.

    Raises:
        GenlabError: if there are none, or they are damaged.
    """
    facts = read_facts(run_dir)
    if facts is None:
        raise GenlabError(f"{run_dir}: no samples here; run `genlab compare` again to make them")
    waves = read_waves(run_dir / "samples", len(material.prompts), material.codec.audio)
    return Sampled(waves=waves, **facts)
