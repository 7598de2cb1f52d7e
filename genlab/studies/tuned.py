"""What a tuning found, given to the comparison that it was made for.

In: a comparison and the tuning.json of `genlab tune`. Out: the comparison in which every arm, and
the baseline that is trained, has its best setting, with what that took.
"""

from collections.abc import Mapping
from pathlib import Path

from genlab.config import GenlabError, digest
from genlab.experiment import Comparison
from genlab.fairness.regression import trained_names, trained_run, with_settings
from genlab.report.additions import TunedArm, read_tuning
from genlab.report.additions import Tuning as TuningFacts
from genlab.run.bounds import REGRESSION
from genlab.run.trust import find_code, pins_of
from genlab.training.shapes import Shape


def apply_tuning(config: Comparison, path: Path) -> tuple[Comparison, TuningFacts]:
    """Return the comparison in which all that it trains has its best setting, and the tuning.json
    at `path`. One of an earlier version tells nothing of the baseline, which the ledger then names.

    Raises:
        GenlabError: if the file is no finished tuning, or one of another comparison.
    """
    found = read_tuning(path)
    if found is None:
        raise GenlabError(
            f"--tuned {path}: expected the tuning.json that `genlab tune CONFIG` writes at its end"
        )
    tuned_arms = {name: arm for name, arm in found["arms"].items() if name != REGRESSION}
    if set(tuned_arms) != set(config.arms):
        raise GenlabError(
            f"--tuned {path}: tuned {', '.join(tuned_arms)}, this config has "
            f"{', '.join(config.arms)}"
        )
    tuned = config
    for name in trained_names(config):
        if name in found["arms"]:
            setting = _checked_setting(config, name, found["arms"][name], path)
            tuned = with_settings(tuned, name, setting)
    return Comparison.from_dict(tuned.to_dict()), found


def _checked_setting(
    config: Comparison, name: str, tuned: TunedArm, path: Path
) -> Mapping[str, object]:
    """Return the fields that tuning gives an arm.

    Raises:
        GenlabError: if they were found for something else.
    """
    called = name if name == REGRESSION else f"arm {name!r}"
    if tuned["key"] != arm_key(config, name):
        raise GenlabError(
            f"--tuned {path}: {called} was tuned with another decoder, data, backbone, batch or "
            "budget; tune this config"
        )
    # A tuning.json comes from a file that may be someone else's; it must not bring code.
    if code := dict(find_code(tuned["setting"], f"arms.{name}.setting")):
        raise GenlabError(
            f"--tuned {path}: {min(code)} refers to a Python file; no setting does, tune again"
        )
    # The ledger shows what was spent to find the setting.
    spent = {"training_trials": tuned["num_trials"], "tuning_flops": tuned["train_flops"]}
    shape = {"shape": Shape.from_dict({**tuned["shape"]})} if "shape" in tuned else {}
    return {**tuned["setting"], **shape, **spent}


def arm_key(config: Comparison, name: str) -> str:
    """Return a hash of what a setting was tuned for: all that the arm, or the baseline, trains on
    and with, except the seeds.
    """
    shared = [part.to_dict() for part in (config.data, config.backbone, config.condition)]
    shared += [part.lean_dict() for part in (config.budget, config.optim)]
    decoder = trained_run(config, name, config.seeds[0], steps=1).arm.to_dict()["decoder"]
    values = [*shared, decoder]
    if config.shape_grid is not None:
        values.append({"shape_grid": config.shape_grid})
    # A class of the user is another one when its source has changed.
    return digest([config.batch_size, *values, *sorted(pins_of(values).items())])
