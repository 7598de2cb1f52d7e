"""The regression learns the conditional mean, says the same whatever the key, and trains as an arm
does.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from decoder_toys import BACKBONE, SPEC, VOCAB, prompt_where, toy_batch
from flax import nnx

from genlab.arms import plan, plan_regression
from genlab.config import GenlabError
from genlab.data.known_entropy import KnownEntropy
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.regression import RegressionConfig, RegressionSampler
from genlab.decoders.task import Task
from genlab.evaluate.likelihood import can_score
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.fairness.budget import check_flops
from genlab.fairness.rates import choose_rates, with_rates
from genlab.fairness.regression import (
    describe_rate,
    describe_trials,
    note_fewer_trials,
    regression_run,
)
from genlab.machine.stopping import TrainingInterrupted
from genlab.nets.backbone import BackboneConfig
from genlab.run.bounds import BASELINE, is_arm
from genlab.training.looks import LookEntry
from genlab.training.optim import ArmSettings
from genlab.training.settings import TrainSettings
from genlab.watch.progress import Progress

SAMPLER = RegressionSampler()
CONDITION = ConditionConfig(content="semantic", dropout=0.0)


def build(condition=CONDITION):
    task = Task(SPEC, VOCAB, BACKBONE.model_copy(update={"layers": 1}), condition)
    return RegressionConfig().build(task, key=jax.random.key(0))


def linear_batch(key, num_examples=32):
    """Latents that are linear in the units around them plus a voice of deviation 0.6, which a clip
    has throughout and nobody tells, plus noise of deviation 0.5; their mean given the units, and
    that given the voice too.
    """
    tokens, cond = toy_batch(num_examples)
    unit_key, voice_key, noise_key = jax.random.split(key, 3)
    units = jax.random.randint(unit_key, cond.content.shape, 1, VOCAB.num_units + 1)
    vectors = jax.random.normal(jax.random.key(5), (2, VOCAB.num_units + 1, SPEC.latent_channels))
    before = jnp.pad(units[:, :-1], [(0, 0), (1, 0)])
    means = 0.8 * vectors[0][units] + 0.4 * vectors[1][before] * (before > 0)[:, :, None]
    voice = 0.6 * jax.random.normal(voice_key, (num_examples, 1, SPEC.latent_channels))
    latents = means + voice + 0.5 * jax.random.normal(noise_key, means.shape)
    cond = cond._replace(content=jnp.where(tokens.is_valid, units, 0))
    return (tokens._replace(latents=latents), cond), means, means + voice


def test_it_comes_to_the_conditional_mean_given_units_and_what_is_known():
    graph, params, rest = nnx.split(build(), nnx.Param, ...)
    steps = 250
    adam = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, key):
        batch, *_ = linear_batch(key)

        def loss(params):
            return nnx.merge(graph, params, rest).loss(*batch, key=key).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state = adam.init(params)
    for key in jax.random.split(jax.random.key(1), steps):
        params, state, loss = update(params, state, key)
    (tokens, cond), means, voiced = linear_batch(jax.random.key(2))
    model = nnx.merge(graph, params, rest)

    def error_of(prompt, truth, where):
        out = model.sample(
            cond,
            num_frames=tokens.num_frames,
            key=jax.random.key(3),
            sampler=SAMPLER,
            prompt=prompt,
        )
        return np.sqrt(np.square(out.tokens.latents - truth)[where].mean())

    is_valid = np.asarray(tokens.is_valid)
    # The means spread by 0.9, the voices by 0.6 and the noise by 0.5: it must hit them within 0.2.
    assert np.asarray(means)[is_valid].std() > 0.8
    assert error_of(None, means, is_valid) < 0.2
    # Six frames tell the voice up to 0.5 / sqrt(6) = 0.2; so small a model gets a part of it.
    is_known = np.arange(12) < 6
    is_left = is_valid & ~is_known
    told = error_of(prompt_where(tokens, is_known), voiced, is_left)
    assert told < 0.85 * error_of(None, voiced, is_left) and told < 0.55
    # What is left of the loss is the noise, and the voice of clips of which little is known.
    assert 0.25 < float(loss) < 0.25 + 0.36


def test_it_predicts_and_does_not_draw():
    model, (tokens, cond) = build(), toy_batch()
    model.network.head.kernel[...] += 0.1  # it starts at zero
    prompt = prompt_where(tokens, np.arange(12) < 4)
    outs = [
        model.sample(cond, num_frames=tokens.num_frames, key=jax.random.key(seed), sampler=SAMPLER)
        for seed in (0, 1)
    ]
    free = outs[0].tokens.latents
    assert outs[0].num_network_calls == 1 and jnp.abs(free).max() > 0
    np.testing.assert_array_equal(free, outs[1].tokens.latents)
    kept = model.sample(
        cond,
        num_frames=tokens.num_frames,
        key=jax.random.key(0),
        sampler=SAMPLER,
        prompt=prompt,
    ).tokens.latents
    is_known = np.asarray(prompt.is_known & tokens.is_valid)
    np.testing.assert_array_equal(kept[is_known], tokens.latents[is_known])
    assert (free[~np.asarray(tokens.is_valid)] == 0).all()


def test_it_has_no_bits_and_says_why():
    assert not can_score(build())
    with pytest.raises(GenlabError, match="'regression' predicts a mean"):
        build().score(*toy_batch(), key=jax.random.key(0))


def make_comparison(budget, **arms):
    return Comparison(
        name="known",
        question="Which?",
        data=TokenData(corpus=KnownEntropy(clips=64, clip_frames=16), num_frames=16),
        batch_size=4,
        backbone=BackboneConfig(width=16, layers=1, heads=2),
        condition=ConditionConfig(content="none", speaker=False, dropout=0.0, layers=1),
        budget=budget,
        arms=arms,
        settings=TrainSettings(log_every=2, save_every_steps=2),
    )


DIFFUSION = Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=2), peak_lr=7e-3)


def test_it_spends_what_the_diffusion_arm_spends(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    config = make_comparison(Budget(mode="iso_step", steps=6), diffusion=DIFFUSION)
    store = config.data.open()
    arms = plan(config, store, tmp_path)
    (regression,) = plan_regression(config, store, tmp_path, arms)
    assert regression.budget.steps == 6
    assert regression.budget.train_flops == arms[0].budget.train_flops
    assert regression.budget.params == arms[0].budget.params
    assert regression.run.optim == arms[0].run.optim  # with its tuned learning rate
    assert check_flops(regression.run, store) == pytest.approx(1.0, abs=1e-6)
    assert regression.budget.family == BASELINE and not is_arm({"family": BASELINE})
    assert regression.run_dir == tmp_path / "floors" / "regression" / "seed0"
    assert plan_regression(config.override(['baselines=["lookup"]']), store, tmp_path, arms) == []


def test_it_may_have_a_learning_rate_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    shared = make_comparison(Budget(mode="iso_step", steps=6), diffusion=DIFFUSION)
    assert regression_run(shared, 0, 6).optim.peak_lr == 7e-3  # that of diffusion
    assert describe_rate(shared).endswith(": 0.007, that of the arm it is made of")
    own = shared.override(["regression.peak_lr=2e-3", "regression.training_trials=2"])
    run = regression_run(own, 0, 6)
    assert run.optim == own.run("diffusion", 0, 6).optim.model_copy(update={"peak_lr": 2e-3})
    assert describe_rate(own) == "regression (a baseline): 0.002, its own"
    assert own.run("diffusion", 0, 6).optim.peak_lr == 7e-3
    # Runs of the arms are those of before, and so is what they are compared on.
    assert own.comparison_key() == shared.comparison_key() and own.digest() != shared.digest()
    assert describe_rate(own.override(['baselines=["lookup"]'])) == ""


def test_with_a_grid_of_rates_it_tries_the_same_and_has_no_other(tmp_path):
    plain = DIFFUSION.model_copy(update={"peak_lr": None})
    grid = ["optim.peak_lrs=[1e-3,4e-3]", "checkpoint.rule=best", "checkpoint.looks=2"]
    config = make_comparison(Budget(mode="iso_step", steps=6), diffusion=plain).override(grid)
    with pytest.raises(GenlabError, match=r"regression\.peak_lr=0\.002: optim\.peak_lrs lets the"):
        config.override(["regression.peak_lr=2e-3"])

    def train(run, run_dir):
        best = {"regression": 1e-3, "diffusion": 4e-3}[run.name]
        return [LookEntry(step=6, values={"average": abs(run.optim.peak_lr - best)})]

    runs = {"diffusion": config.run("diffusion", 0, 6), "regression": regression_run(config, 0, 6)}
    found = choose_rates(config, runs, dict.fromkeys(runs, 1.0), tmp_path, train)
    tried = with_rates(config, found)
    assert tried.arms["diffusion"].peak_lr == 4e-3
    assert regression_run(tried, 0, 6).optim.peak_lr == 1e-3
    assert describe_rate(tried) == "regression (a baseline): 0.001, its own"
    assert describe_trials(tried) == "regression (a baseline): 2, as many as any arm"
    assert tried.regression.tuning_flops == tried.arms["diffusion"].tuning_flops == 2.0


def test_what_has_tried_less_than_an_arm_is_named():
    more = DIFFUSION.model_copy(update={"training_trials": 4})
    config = make_comparison(Budget(mode="iso_step", steps=6), diffusion=more)
    few = config.override(["regression.training_trials=2"])
    assert describe_trials(few) == (
        "regression (a baseline): 2, fewer than the 4 of an arm, so beating it says less"
    )
    assert note_fewer_trials(few).startswith(
        "regression.training_trials=2: an arm tried 4 settings"
    )
    equal = config.override(["regression.training_trials=4"])
    assert describe_trials(equal) == "regression (a baseline): 4, as many as any arm"
    without = few.override(['baselines=["lookup"]'])
    assert note_fewer_trials(equal) == note_fewer_trials(without) == describe_trials(without) == ""


def test_it_has_every_setting_that_an_arm_may_have_for_itself():
    config = make_comparison(Budget(mode="iso_step", steps=6), diffusion=DIFFUSION)
    own = {"warmup_fraction": 0.2, "weight_decay": 0.3, "ema_decay": 0.9, "dropout": 0.1}
    own["shape"] = {"width": 32, "layers": 2, "heads": 4}
    given = {name: getattr(DIFFUSION, name) for name in ArmSettings.model_fields}
    assert given.keys() - own.keys() == {"peak_lr"}
    tuned = config.override([f"regression.{name}={json.dumps(one)}" for name, one in own.items()])
    run = regression_run(tuned, 0, 6)
    assert (run.optim.peak_lr, run.optim.warmup_fraction, run.optim.weight_decay) == (
        7e-3,
        0.2,
        0.3,
    )
    assert (run.optim.ema_decay, run.backbone.dropout, run.backbone.width) == (0.9, 0.1, 32)
    assert tuned.run("diffusion", 0, 6) == config.run("diffusion", 0, 6)
    with pytest.raises(GenlabError, match=r"regression\.shape: "):
        config.override(['regression.shape={"width":33,"layers":2,"heads":4}'])


def test_a_run_that_is_cut_short_resumes_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    config = make_comparison(Budget(mode="iso_step", steps=6), diffusion=DIFFUSION)
    store = config.data.open()

    def start(out, watch=None):
        (arm,) = plan_regression(config, store, out, plan(config, store, out))
        with Progress() as progress:
            arm.train(store, progress, watch=watch)
        return arm

    def interrupt(model):
        raise TrainingInterrupted("here")

    whole = start(tmp_path / "whole").result
    with pytest.raises(TrainingInterrupted):
        start(tmp_path / "cut", {5: interrupt})
    resumed = start(tmp_path / "cut").result
    assert resumed.batch_hash == whole.batch_hash
    for ours, theirs in zip(
        jax.tree.leaves(nnx.state(resumed.model)), jax.tree.leaves(nnx.state(whole.model))
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_no_arm_may_be_one():
    arm = Arm(decoder=RegressionConfig(), sampler=SAMPLER)
    with pytest.raises(ValueError, match="'regression': a baseline"):
        make_comparison(Budget(mode="iso_step", steps=6), mine=arm)
