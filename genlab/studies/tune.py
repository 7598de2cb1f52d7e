"""Fair tuning: every arm tries equally many settings with equal training FLOPs, judged by one
score.

In: a `Comparison` and a `Tuning`. Out: a directory that `genlab compare CONFIG --tuned` reads:

    tuning.json  tuning.html  tuning_config.json
    arms/NAME/trialNN/       an ordinary training run, and trial.json once it is scored

Trial 0 is the arm's own setting; the others are drawn from one `TuningSpace`, and by default all
arms try the very same draws. A trial trains for `fraction` of the arm's budget, with its whole
schedule, under a training seed that the comparison does not report. Optuna is used as ask and tell
in one process and keeps nothing: the setting of trial n is a pure function of the seed, n and the
finished trials, so a command that was killed resumes when it is given again.

The baseline that is trained, the regression, is tuned as an arm is: as many trials on as many
FLOPs, from the same space, chosen by the same score of what it predicts. A baseline that is tuned
less is easier to beat than it should be.

The score is one of audio or of samples on *validation* prompts, the same for every arm, never test
(Dodge et al. 2019, arXiv 1909.03004, report what tuning spent; fairness asks for the selection rule
before the run). A family's own validation loss would be cheaper, and legal within an arm, but it is
not allowed: losses weigh errors that never show in samples, and each family weighs them
differently, so one arm would be tuned for the score and another would not.
"""

import argparse
import math
import shlex
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import JsonValue

from genlab.arms import train_arm
from genlab.config import GenlabError, digest
from genlab.config.errors import shorten as shorten_text
from genlab.config.shipped import install_command
from genlab.data.store import TokenStore
from genlab.evaluate.table import find_metric
from genlab.experiment import Comparison
from genlab.fairness.budget import ArmBudget, check_budget, check_flops, check_memory, solve_budget
from genlab.fairness.regression import solve_trained, trained_names, trained_run, with_settings
from genlab.machine.stopping import TrainingDiverged
from genlab.preflight import check_chooses
from genlab.prompts import choose_prompts
from genlab.report.additions import SETTINGS, BestOf, Setting, TrialEntry, TunedArm
from genlab.report.additions import Tuning as TuningFacts
from genlab.report.console import fold
from genlab.report.page import write_tuning_page
from genlab.report.tuning import describe_tuning, tuning_rows
from genlab.run.bounds import REGRESSION
from genlab.run.files import write_json
from genlab.run.ownership import check_is_ours
from genlab.run.status import lock_run
from genlab.run.stored import read_again, read_stored
from genlab.statistics.best_of import best_of_k
from genlab.studies.judges import Judge, make_judge
from genlab.studies.space import LOG_SCALE, Tuning, TuningSpace
from genlab.studies.tuned import arm_key
from genlab.training.optim import ArmSettings
from genlab.training.shapes import GRIDS, Shape
from genlab.watch.progress import Progress


class Trial(NamedTuple):
    """A finished trial, as in trial.json. `value` is None if training diverged; its FLOPs were
    spent all the same.
    """

    number: int
    setting: dict[Setting, float | None]
    value: float | None
    low: float | None
    high: float | None
    train_flops: float
    steps: int
    wall_s: float
    note: str = ""
    shape: dict[str, int] | None = None

    def to_dict(self) -> TrialEntry:
        """Return trial.json."""
        entry: TrialEntry = {
            "number": self.number,
            "setting": self.setting,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "train_flops": self.train_flops,
            "steps": self.steps,
            "wall_s": self.wall_s,
            "note": self.note,
        }
        if self.shape is not None:
            entry["shape"] = self.shape
        return entry


class Job(NamedTuple):
    """What all trials share. `short` is the comparison on the budget of a trial; `budgets` are by
    shape, of which None is the arm's own.
    """

    short: Comparison
    tuning: Tuning
    store: TokenStore
    budgets: dict[Shape | None, dict[str, ArmBudget]]
    judge: Callable[[str, Shape | None], Judge]
    out: Path
    progress: Progress


def tune(config: Comparison, tuning: Tuning, out: Path, progress: Progress) -> TuningFacts:
    """Run every trial of every arm in `out`, or resume them, and return tuning.json.

    Raises:
        GenlabError: if `out` holds another tuning, or validation prompts are what the comparison
            reports.
    """
    _require_optuna()
    if config.prompts_split == "valid":
        raise GenlabError(
            "prompts_split='valid': tuning chooses on these prompts, so report others: "
            "prompts_split=test"
        )
    if config.optim.peak_lrs is not None:
        raise GenlabError(
            f"optim.peak_lrs={list(config.optim.peak_lrs)}: tuning chooses the rates itself; set "
            "optim.peak_lrs=null"
        )
    searched = config.data.domain.searched
    if tuning.by not in searched:
        raise GenlabError(f"by: got {shorten_text(tuning.by)}, expected {' or '.join(searched)}")
    for name in unused_settings(config):
        if getattr(tuning.space, name) != getattr(TuningSpace(), name):
            raise GenlabError(
                f"space.{name}={list(getattr(tuning.space, name))}: optim.ema_powers keeps a grid "
                f"of averages in every trial, so no {name} is tried; leave it out, or set "
                "optim.ema_powers=null"
            )
    short = shorten(config, tuning.fraction)
    try:
        check_budget(short)
    except GenlabError as error:
        raise GenlabError(
            f"a trial has --fraction {tuning.fraction:g} of the config's budget: {error}; the "
            f"config's must be {1 / tuning.fraction:g} times a trial's"
        ) from None
    check_is_ours(out)
    out.mkdir(parents=True, exist_ok=True)
    with lock_run(out):
        _claim(config, tuning, out)
        store = config.data.open(progress, parts=config.condition.parts)
        budgets = _solve_shapes(short, tuning, store)
        clips = choose_prompts(store, config.data, "valid", config.num_prompts)
        check_chooses(config, tuning.by, clips, store.info.spec.frame_hz, progress)
        for name in trained_names(config):
            run = trained_run(short, name, short.seeds[0], budgets[None][name].steps)
            check_flops(run, store)
        judges: dict[tuple[str, Shape | None], Judge] = {}

        def judge(name: str, shape: Shape | None) -> Judge:
            # Trials of one arm and shape share a compiled sampler.
            if (name, shape) not in judges:
                judges[name, shape] = make_judge(config, tuning, store, clips)
            return judges[name, shape]

        job = Job(short, tuning, store, budgets, judge, out, progress)
        trials: dict[str, list[Trial]] = {name: [] for name in trained_names(config)}
        # arms in turn: whenever this is stopped, they have tried as much
        for number in range(tuning.trials):
            for name, finished in trials.items():
                finished.append(run_trial(job, name, number, finished))
        summary = summarise(config, tuning, trials, budgets[None], len(clips))
        write_json(out / "tuning.json", summary)
        write_tuning_page(out / "tuning.html", summary)
    return summary


def tune_from_arguments(
    arguments: argparse.Namespace, config: Comparison, progress: Progress
) -> str:
    """Tune as the command line says, and return what to print."""
    asked = {
        name: getattr(arguments, name) for name in ("trials", "fraction", "by", "sampler", "seed")
    }
    changes = [f"space.{item}" for item in arguments.space]
    changes += [f"{name}={value}" for name, value in asked.items() if value is not None]
    tuning = Tuning().override(changes)
    key = digest([config.digest(exclude={"settings"}), tuning.digest(exclude={"trials"})])
    out = arguments.out or Path("runs") / f"tune-{config.name}-{key}"
    found = tune(config, tuning, out, progress)
    words = ["genlab", "compare", str(arguments.config), "--tuned", str(out / "tuning.json")]
    following = shlex.join(words)
    return (
        f"{describe_tuning(found)}\n\n{fold(tuning_rows(found))}\n\npage: "
        f"{out / 'tuning.html'}\nnext: {following}"
    )


def shorten(config: Comparison, fraction: float) -> Comparison:
    """Return the comparison with a part of its budget, and one training seed that it does not
    report itself.
    """
    budget = config.budget
    if budget.train_flops is not None:
        budget = budget.model_copy(update={"train_flops": budget.train_flops * fraction})
    elif budget.steps is not None:
        budget = budget.model_copy(update={"steps": max(1, round(budget.steps * fraction))})
    return config.model_copy(update={"budget": budget, "seeds": (max(config.seeds) + 1,)})


def ask(
    tuning: Tuning, number: int, finished: Sequence[Trial], unused: Collection[str] = ()
) -> ArmSettings:
    """Return the setting of trial `number`: a pure function of the arguments; random draws need but
    two of them. Settings that are `unused` were drawn and not tried: nothing is learned of them.
    """
    optuna = _require_optuna()
    spans = {name: sorted(_flip(name, end) for end in span) for name, span in tuning.space}
    axes = {
        name: optuna.distributions.FloatDistribution(*spans[name], log=name in LOG_SCALE)
        for name in spans
    }
    kinds = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    # The trial's number is part of the seed, not a position in a stream: a resumed tuning asks the
    # same.
    sampler_seed = int(np.random.SeedSequence([tuning.seed, number]).generate_state(1)[0])
    study = optuna.create_study(sampler=kinds[tuning.sampler](seed=sampler_seed))
    for trial in finished:
        point = {
            name: _flip(name, value) for name, value in trial.setting.items() if name not in unused
        }
        is_inside = all(
            value is not None and spans[name][0] <= value <= spans[name][1]
            for name, value in point.items()
        )
        if is_inside and trial.value is not None:
            # TPE learns only from trials that lie in its space and have a value; the arm's own
            # setting may not.
            known = {name: axes[name] for name in point}
            study.add_trial(
                optuna.trial.create_trial(params=point, distributions=known, value=trial.value)
            )
    drawn = study.ask(axes).params
    return ArmSettings(**{name: _flip(name, value) for name, value in drawn.items()})


def unused_settings(config: Comparison) -> tuple[Setting, ...]:
    """Return the settings that trials do not try: with a grid of averages every trial keeps the
    grid and chooses of it.
    """
    return () if config.optim.ema_powers is None else ("ema_decay",)


def run_trial(job: Job, name: str, number: int, finished: Sequence[Trial]) -> Trial:
    """Train and score one trial, resume it, or return it if it is done."""
    run_dir = job.out / "arms" / name / f"trial{number:02}"
    found = read_again(run_dir / "trial.json", Trial, doing="scoring the trial again")
    if found is not None:
        return found
    short, shape = job.short, _shape_of(job.short, number)
    budget = job.budgets[shape][name]
    # Trial 0 is the config's own setting, so that tuning can choose to change nothing.
    unused = unused_settings(short)
    setting = own_setting(short, name) if number == 0 else ask(job.tuning, number, finished, unused)
    setting = setting.model_copy(update=dict.fromkeys(unused))
    changed = {field: getattr(setting, field) for field in SETTINGS}
    tried = with_settings(_with_shape(short, shape), name, changed)
    run = trained_run(tried, name, short.seeds[0], budget.steps)
    began = time.perf_counter()
    ends = (math.nan,) * 3
    note = ""
    try:
        model = train_arm(run, job.store, run_dir, job.progress).model
        ends = job.judge(name, shape)(model, run).estimate(job.tuning.seed)[:3]
    # A setting that diverges is a result: it has used its budget like any other.
    except TrainingDiverged as error:
        note = f"diverged: {error}"
    wall_s = time.perf_counter() - began
    values: dict[Setting, float | None] = {name: getattr(setting, name) for name in SETTINGS}
    value, low, high = (end if math.isfinite(end) else None for end in ends)
    trial = Trial(
        number,
        values,
        value,
        low,
        high,
        budget.train_flops,
        budget.steps,
        wall_s,
        note,
        None if shape is None else shape.to_dict(),
    )
    write_json(run_dir / "trial.json", trial.to_dict())
    return trial


def _shape_of(config: Comparison, number: int) -> Shape | None:
    """Return the shape of a trial: the arm's own (None), then those of the grid in turn."""
    if config.shape_grid is None or number == 0:
        return None
    grid = GRIDS[config.shape_grid]
    return grid[(number - 1) % len(grid)]


def _with_shape(config: Comparison, shape: Shape | None) -> Comparison:
    if shape is None:
        return config
    for name in trained_names(config):
        config = with_settings(config, name, {"shape": shape})
    return config


def _solve_shapes(
    short: Comparison, tuning: Tuning, store: TokenStore
) -> dict[Shape | None, dict[str, ArmBudget]]:
    """Return the budgets of all trials by shape, and refuse what does not fit before any trains.

    Raises:
        GenlabError: if there are fewer trials than shapes, or a budget or the memory is too small.
    """
    if short.shape_grid is not None and tuning.trials <= len(GRIDS[short.shape_grid]):
        needed = 1 + len(GRIDS[short.shape_grid])
        raise GenlabError(
            f"trials={tuning.trials}: shape_grid={short.shape_grid!r} has {needed - 1} shapes, and "
            f"an arm tries its own setting and each of them; use --trials {needed} or more"
        )
    budgets: dict[Shape | None, dict[str, ArmBudget]] = {}
    # Other shapes make other numbers of updates: the FLOPs of all trials are equal, not the steps.
    for number in range(tuning.trials):
        shape = _shape_of(short, number)
        if shape in budgets:
            continue
        config = _with_shape(short, shape)
        try:
            budgets[shape] = solve_trained(config, store, solve_budget(config, store))
            for name, budget in budgets[shape].items():
                run = trained_run(config, name, config.seeds[0], budget.steps)
                check_memory(run, budget.params)
        except GenlabError as error:
            told = "" if shape is None else f"shape {shape.title}: "
            raise GenlabError(f"{told}{error}") from None
    return budgets


def own_setting(config: Comparison, name: str) -> ArmSettings:
    """Return what the config gives the arm, shared or its own."""
    run = trained_run(config, name, config.seeds[0], steps=1)
    own = {field: getattr(run.optim, field) for field in SETTINGS if field != "dropout"}
    return ArmSettings(**own, dropout=run.backbone.dropout)


def summarise(
    config: Comparison,
    tuning: Tuning,
    trials: dict[str, list[Trial]],
    budgets: dict[str, ArmBudget],
    num_prompts: int,
) -> TuningFacts:
    """Return tuning.json.

    Raises:
        GenlabError: if every trial of an arm diverged.
    """
    meaning = find_metric(tuning.by)
    arms: dict[str, TunedArm] = {}
    for name, of_arm in trials.items():
        values = [math.inf if trial.value is None else trial.value for trial in of_arm]
        worst = max((value for value in values if math.isfinite(value)), default=None)
        if worst is None:
            raise GenlabError(
                f"arm {name!r}: all {len(of_arm)} trials diverged; lower optim.peak_lr and "
                "space.peak_lr"
            )
        best = of_arm[values.index(min(values))]
        # a diverged trial counts as the worst that did not
        drawn = [min(value, worst) for value in values[1:]]
        curve = best_of_k(drawn) if tuning.sampler == "random" else []
        best_of: list[BestOf] = [{**one} for one in curve]
        arms[name] = {
            "family": budgets[name].family,
            "key": arm_key(config, name),
            "num_trials": len(of_arm),
            "train_flops": sum(trial.train_flops for trial in of_arm),
            "best": best.number,
            "setting": best.setting,
            "best_of": best_of,
            "trials": [trial.to_dict() for trial in of_arm],
        }
        if best.shape is not None:
            arms[name]["shape"] = best.shape
    found: TuningFacts = {
        "schema": 1,
        "name": config.name,
        "unit": meaning.unit,
        "direction": meaning.direction,
        "space": {
            name: list(getattr(tuning.space, name))
            for name in SETTINGS
            if name not in unused_settings(config)
        },
        "trials": tuning.trials,
        "fraction": tuning.fraction,
        "by": tuning.by,
        "sampler": tuning.sampler,
        "seed": tuning.seed,
        "num_prompts": num_prompts,
        "arms": arms,
    }
    if config.shape_grid is not None:
        found["shape_grid"] = config.shape_grid
    return found


def _claim(config: Comparison, tuning: Tuning, out: Path) -> None:
    """Refuse a directory with other trials. More trials of the same kind may follow those that are
    there.
    """
    keys = {
        name: [arm_key(config, name), arm.sampler.digest()] for name, arm in config.arms.items()
    }
    mine = {"arms": keys, "seed": max(config.seeds), "prompts": config.num_prompts}
    if REGRESSION in trained_names(config):
        mine[REGRESSION] = arm_key(config, REGRESSION)
    mine |= {name: value for name, value in tuning.to_dict().items() if name != "trials"}
    found = read_stored(
        out / "tuning_config.json", dict[str, JsonValue], fix="use another --out, or delete it"
    )
    # Trials of an earlier version, which did not tune the baseline, go on with its own.
    if found is not None and (found := {**mine, **found}) != mine:
        wrong = next(name for name in mine if found.get(name) != mine[name])
        raise GenlabError(
            f"{out}: holds trials with another {wrong}; use another --out, or delete it"
        )
    write_json(out / "tuning_config.json", mine)


def _flip(name: str, value: Any) -> Any:
    """Return the number that is drawn for a setting, or the setting for a drawn number: 1 - decay
    for an average.
    """
    return 1 - value if name == "ema_decay" and value is not None else value


def _require_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise GenlabError(
            f"tune: optuna is not installed; run `{install_command('tune')}`"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
