"""What the baseline `regression` is and may spend: the arm that a comparison never ranks.

In: a comparison and the solved budgets of its arms. Out: the training run of the conditional mean
(decoders/regression.py) and its budget. It has the network and the training settings of the first
diffusion arm, or else the shared backbone and settings, and as many training FLOPs: those of that
arm, or else the most that any arm has. Its settings may be its own (`config.regression`): where
arms try a grid of rates, or `genlab tune` tries settings of theirs, it tries as many, and the
ledger names a baseline that has tried fewer.
"""

import dataclasses
from collections.abc import Mapping

from genlab.data.store import TokenStore
from genlab.decoders.cost import sample_cost
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.regression import RegressionConfig, RegressionSampler
from genlab.experiment import Arm, Comparison, DecoderRun
from genlab.fairness.budget import ArmBudget, abstract_decoder, clip_flops, count_params
from genlab.nets.param import count_shared
from genlab.run.bounds import BASELINE, REGRESSION
from genlab.training.optim import ArmSettings


def regression_run(config: Comparison, seed: int, steps: int) -> DecoderRun:
    """Return the training run on one seed."""
    arms = {REGRESSION: _regression_of(config)}
    run = config.model_copy(update={"arms": arms}).run(REGRESSION, seed, steps)
    # It has no bits, so it looks at its loss; with fewer updates than looks it looks at each.
    looks = {"by": "loss", "looks": min(run.checkpoint.looks, steps)}
    return run.model_copy(update={"checkpoint": run.checkpoint.model_copy(update=looks)})


def trained_run(config: Comparison, name: str, seed: int, steps: int) -> DecoderRun:
    """Return the training run of an arm, or of this baseline, by its name."""
    if name == REGRESSION:
        return regression_run(config, seed, steps)
    return config.run(name, seed, steps)


def with_settings(config: Comparison, name: str, settings: Mapping[str, object]) -> Comparison:
    """Return the comparison in which an arm, or this baseline, has these settings of training."""
    if name == REGRESSION:
        own = config.regression.model_copy(update=dict(settings))
        return config.model_copy(update={REGRESSION: own})
    arms = {**config.arms, name: config.arms[name].model_copy(update=dict(settings))}
    return config.model_copy(update={"arms": arms})


def trained_names(config: Comparison) -> list[str]:
    """Return the names of all that a comparison trains: the arms, and this baseline if it is
    measured.
    """
    return [*config.arms, *([REGRESSION] if REGRESSION in config.measured_baselines else ())]


def solve_regression(
    config: Comparison, store: TokenStore, budgets: Mapping[str, ArmBudget]
) -> ArmBudget | None:
    """Return what it spends: as many FLOPs as its model, to the nearest whole step; None if the
    comparison does without it. `budgets` are those of the arms.
    """
    if REGRESSION not in config.measured_baselines:
        return None
    alike = list(_diffusions(config))[:1] or list(budgets)
    model = max((budgets[name] for name in alike), key=lambda budget: budget.train_flops)
    run = regression_run(config, config.seeds[0], steps=1)
    flops_per_clip = clip_flops(run, store)
    per_step = flops_per_clip * config.batch_size
    # Never refused for a step too many: no arm is compared with another by it.
    steps = max(1, round(model.train_flops / per_step))
    sampling = sample_cost(run.arm.decoder, run.arm.sampler, run.task(store))
    abstract = abstract_decoder(run, store)
    # The batches of all arms are alike, so seconds and epochs go with the steps.
    return dataclasses.replace(
        model,
        name=REGRESSION,
        family=BASELINE,
        reads=abstract.reads,
        params=count_params(abstract),
        shared_params=count_shared(abstract),
        flops_per_clip=flops_per_clip,
        steps=steps,
        train_flops=steps * per_step,
        seconds_seen=model.seconds_seen * steps / model.steps,
        epochs=model.epochs * steps / model.steps,
        network_calls=sampling.network_calls,
        sample_flops=sampling.flops,
        sampler=run.arm.sampler,
    )


def solve_trained(
    config: Comparison, store: TokenStore, budgets: Mapping[str, ArmBudget]
) -> dict[str, ArmBudget]:
    """Return what everything that a comparison trains spends: the arms' `budgets` and this one."""
    regression = solve_regression(config, store, budgets)
    return {**budgets, **({} if regression is None else {REGRESSION: regression})}


def describe_rate(config: Comparison) -> str:
    """Return what the ledger says of the learning rate of the baseline; empty if it has none."""
    if REGRESSION not in config.measured_baselines:
        return ""
    rate = regression_run(config, config.seeds[0], steps=1).optim.peak_lr
    how = "its own" if config.regression.peak_lr is not None else "that of the arm it is made of"
    return f"{REGRESSION} (a baseline): {rate:g}, {how}"


def describe_trials(config: Comparison) -> str:
    """Return what the ledger says of the trials that the baseline had; empty if it has none.

    A baseline that was tuned less than the arms is easier to beat than it should be.
    """
    if REGRESSION not in config.measured_baselines:
        return ""
    mine, most = config.regression.training_trials, most_trials(config)
    told = f"{REGRESSION} (a baseline): {mine}"
    if mine < most:
        return f"{told}, fewer than the {most} of an arm, so beating it says less"
    return f"{told}, {'as many as any arm' if mine == most else 'more than any arm'}"


def note_fewer_trials(config: Comparison) -> str:
    """Return a warning before anything trains, and the fix; empty if the baseline tried enough."""
    mine, most = config.regression.training_trials, most_trials(config)
    if REGRESSION not in config.measured_baselines or mine >= most:
        return ""
    return (
        f"{REGRESSION}.training_trials={mine}: an arm tried {most} settings, so beating this "
        "baseline says less; `genlab tune` tries as many for it as for the arms"
    )


def most_trials(config: Comparison) -> int:
    """Return the most settings of training that any arm tried."""
    return max(arm.training_trials for arm in config.arms.values())


def _regression_of(config: Comparison) -> Arm:
    settings: dict[str, object] = {}
    decoder = RegressionConfig()
    for name, alike in list(_diffusions(config).items())[:1]:
        given = config.arms[name]
        settings = {field: getattr(given, field) for field in ArmSettings.model_fields}
        decoder = RegressionConfig(network=alike.network)
    own = {field: getattr(config.regression, field) for field in ArmSettings.model_fields}
    settings |= {field: value for field, value in own.items() if value is not None}
    arm = Arm(decoder=decoder, sampler=RegressionSampler())
    return arm.model_copy(update=settings)


def _diffusions(config: Comparison) -> dict[str, DiffusionConfig]:
    return {
        name: arm.decoder
        for name, arm in config.arms.items()
        if isinstance(arm.decoder, DiffusionConfig)
    }
