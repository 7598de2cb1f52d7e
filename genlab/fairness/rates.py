"""The learning rates that every arm tries: each in a training of its own, chosen on validation.

In: a comparison whose `optim.peak_lrs` is a grid, and the planned run of each arm. Out: per arm the
rate whose training came lowest at a look at validation (`checkpoint`), kept in rates.json, and the
comparison and the runs with it. A trial has the whole budget of its arm, on a training seed that
is not reported; every arm tries as many, so the ledger finds trials and tuning FLOPs equal.

    rates.json           the value of every rate, and what each arm has
    rates/NAME/RATE/     the trainings, as arms/NAME/seedN/

A value is comparable within one arm only, and only within one arm it chooses.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pydantic
from typing_extensions import TypedDict

from genlab.config import GenlabError
from genlab.experiment import Comparison, DecoderRun
from genlab.machine.stopping import TrainingDiverged
from genlab.run.bounds import REGRESSION
from genlab.run.files import write_json
from genlab.run.stored import OPEN, Number, read_again
from genlab.training.looks import LookEntry

FILE = "rates.json"
Train = Callable[[DecoderRun, Path], Sequence[LookEntry]]


@pydantic.with_config(OPEN)
class TriedRates(TypedDict):
    """What one arm tried: the lowest value by rate, None where the training diverged."""

    values: dict[str, Number | None]
    chosen: Number
    train_flops: Number


def num_trainings(config: Comparison) -> int:
    """Return how often every arm is trained: on its seeds, and once per rate of a grid."""
    return len(config.seeds) + len(config.optim.peak_lrs or ())


def choose_rates(
    config: Comparison,
    runs: Mapping[str, DecoderRun],
    train_flops: Mapping[str, float],
    out: Path,
    train: Train,
) -> dict[str, TriedRates]:
    """Return what every arm tried, training what was not; nothing if there is no grid.

    Args:
        config: the comparison.
        runs: of each arm, the run on one seed.
        train_flops: of each arm, what one training takes.
        out: the directory of the comparison.
        train: trains a run in a directory, resumes it there, or returns what its looks found.

    Raises:
        GenlabError: if every training of an arm diverged.
    """
    grid = config.optim.peak_lrs
    if grid is None:
        return {}
    found = read_rates(config, out)
    if found is not None:
        return found
    found = {}
    kept: dict[str, TriedRates] = {}  # of arms that differ in how they sample alone
    for name, run in runs.items():
        training = str(training_of(run))
        if training not in kept:
            values = {_text(rate): _try(config, run, rate, out, train) for rate in grid}
            kept[training] = _choose(name, values, len(grid) * train_flops[name])
        found[name] = kept[training]
    write_json(out / FILE, found)
    return found


def read_rates(config: Comparison, out: Path) -> dict[str, TriedRates] | None:
    """Return what every arm of the comparison in `out` tried; None if it has no grid, or has not
    tried all of it.
    """
    if config.optim.peak_lrs is None:
        return None
    found = read_again(out / FILE, dict[str, TriedRates], doing="trying the learning rates again")
    if found is None or not {*config.arms} <= {*found}:
        return None
    wanted = {_text(rate) for rate in config.optim.peak_lrs}
    return found if all({*one["values"]} == wanted for one in found.values()) else None


def with_rates(config: Comparison, found: Mapping[str, TriedRates]) -> Comparison:
    """Return the comparison in which each arm, and the baseline that is trained, has the rate it
    chose, with what that took.
    """
    # One of the grid was the arm's own setting, which counts as a trial already.
    arms = {
        name: arm.model_copy(
            update={
                "peak_lr": found[name]["chosen"],
                "training_trials": arm.training_trials - 1 + len(found[name]["values"]),
                "tuning_flops": arm.tuning_flops + found[name]["train_flops"],
            }
        )
        if name in found
        else arm
        for name, arm in config.arms.items()
    }
    chosen: dict[str, object] = {"arms": arms}
    if REGRESSION in found:
        one = found[REGRESSION]
        own = {
            "peak_lr": one["chosen"],
            "training_trials": config.regression.training_trials - 1 + len(one["values"]),
            "tuning_flops": config.regression.tuning_flops + one["train_flops"],
        }
        chosen[REGRESSION] = config.regression.model_copy(update=own)
    return config.model_copy(update=chosen)


def training_of(run: DecoderRun) -> dict[str, object]:
    """Return all that decides the bits of a training, its seed among them."""
    values = run.to_dict()
    return {**values, "name": "", "settings": None, "arm": values["arm"]["decoder"]}


def run_with_rate(run: DecoderRun, rate: float) -> DecoderRun:
    """Return a run at a learning rate."""
    return run.model_copy(update={"optim": run.optim.model_copy(update={"peak_lr": rate})})


def describe_rates(config: Comparison) -> list[str]:
    """Return a sentence on how each arm came by its rate, none without a grid; the arms have
    theirs.
    """
    grid = config.optim.peak_lrs
    if grid is None:
        return []
    chosen = ", ".join(
        f"{name} {arm.peak_lr:g}" for name, arm in config.arms.items() if arm.peak_lr is not None
    )
    rule = config.checkpoint
    return [
        f"Every arm tried the learning rates {', '.join(map(_text, grid))}, each with its whole "
        f"budget on training seed {_trial_seed(config)}, which is not reported, and has the one "
        f"with the lowest {rule.by} of {rule.clips} validation clips at any look: {chosen}."
    ]


def how_chosen(config: Comparison) -> str:
    """Return that settings of training were chosen on one training seed, empty if none were chosen.

    What looked best there may have been its luck, and no interval over seeds holds that doubt.
    """
    is_chosen = config.optim.peak_lrs is not None or any(
        arm.training_trials > 1 for arm in config.arms.values()
    )
    return "chosen on one seed" if is_chosen else ""


def _try(config: Comparison, run: DecoderRun, rate: float, out: Path, train: Train) -> float | None:
    """Return the lowest value that a training at this rate came to, None if it diverged."""
    settings = run.settings.model_copy(update={"keep": 1, "previews": 0})
    tried = run_with_rate(run, rate).model_copy(
        update={"seed": _trial_seed(config), "settings": settings}
    )
    try:
        looks = train(tried, out / "rates" / run.name / _text(rate))
    # A rate that diverges is a result: it has used its budget like any other.
    except TrainingDiverged:
        return None
    values = [value for look in looks for value in look["values"].values() if value is not None]
    return min(values, default=None)


def _choose(name: str, values: dict[str, float | None], train_flops: float) -> TriedRates:
    finite = {rate: value for rate, value in values.items() if value is not None}
    if not finite:
        raise GenlabError(
            f"arm {name!r}: training diverged at every rate of optim.peak_lrs="
            f"[{', '.join(values)}]; add lower ones"
        )
    best = min(finite, key=finite.__getitem__)
    return {"values": values, "chosen": float(best), "train_flops": train_flops}


def _trial_seed(config: Comparison) -> int:
    return max(config.seeds) + 1


def _text(rate: float) -> str:
    return repr(float(rate))
