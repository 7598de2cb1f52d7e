"""What the baseline `regression` is and may spend: the arm that a comparison never ranks.

In: a comparison and the solved budgets of its arms. Out: the training run of the conditional mean
(decoders/regression.py) and its budget. It has the network and the training settings of the first
diffusion arm, or else the shared backbone and settings, and as many training FLOPs: those of that
arm, or else the most that any arm has. Its learning rate may be its own (`config.regression`), and
where arms try a grid of rates it tries the same.
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


def _regression_of(config: Comparison) -> Arm:
    sampler, own = RegressionSampler(), config.regression.peak_lr
    for name, decoder in _diffusions(config).items():
        given = config.arms[name]
        settings = {field: getattr(given, field) for field in ArmSettings.model_fields}
        settings["peak_lr"] = given.peak_lr if own is None else own
        return Arm(decoder=RegressionConfig(network=decoder.network), sampler=sampler, **settings)
    return Arm(decoder=RegressionConfig(), sampler=sampler, peak_lr=own)


def describe_rate(config: Comparison) -> str:
    """Return what the ledger says of the learning rate of the baseline; empty if it has none."""
    if REGRESSION not in config.measured_baselines:
        return ""
    rate = regression_run(config, config.seeds[0], steps=1).optim.peak_lr
    trials = config.regression.training_trials
    how = "its own" if config.regression.peak_lr is not None else "that of the arm it is made of"
    tried = f"{trials} rate{'s' * (trials != 1)} tried"
    return f"{REGRESSION} (a baseline): {rate:g}, {how}, {tried}"


def _diffusions(config: Comparison) -> dict[str, DiffusionConfig]:
    return {
        name: arm.decoder
        for name, arm in config.arms.items()
        if isinstance(arm.decoder, DiffusionConfig)
    }
