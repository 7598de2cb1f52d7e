"""A grid of learning rates: every arm tries all of it on validation, has its best, and says so."""

import json

import pytest
from codec_toys import LoudnessUnits, make_frozen, make_manifest
from comparison_toys import make_comparison
from flax import nnx

from genlab import arms as arms_module
from genlab.arms import plan, restore_rates, try_rates
from genlab.codecs.cache import encode_corpus
from genlab.config import ConfigError, GenlabError
from genlab.fairness.rates import (
    choose_rates,
    describe_rates,
    how_chosen,
    num_trainings,
    read_rates,
    with_rates,
)
from genlab.machine.stopping import TrainingDiverged
from genlab.training.optim import OptimConfig, build_optimizer

GRID = ("optim.peak_lrs=[1e-3,3e-3,9e-3]", "checkpoint.rule=best")
FLOPS = {"ar": 1e9, "masked": 1.01e9, "diffusion": 1e9}
# Of each arm the lowest value by rate; None: it diverges.
FOUND = {"ar": (3.0, 2.0, 4.0), "masked": (5.0, 6.0, None), "diffusion": (None, None, 7.0)}


def choose(config, out, found=FOUND):
    """Let arms try rates whose values are known; return what they chose, and what was trained."""
    trained = []

    def train(run, run_dir):
        trained.append((run_dir.relative_to(out).as_posix(), run.seed, run.optim.peak_lr))
        value = found[run.name][config.optim.peak_lrs.index(run.optim.peak_lr)]
        if value is None:
            raise TrainingDiverged("step 3: loss is not finite")
        # The last look is worse than the best, which is the one that counts.
        return [{"step": step, "values": {"average": value + step}} for step in (0, 5)]

    runs = {name: config.run(name, 0, 10) for name in config.arms}
    return choose_rates(config, runs, FLOPS, out, train), trained


def test_every_arm_tries_every_rate_and_has_its_best(tmp_path):
    config = make_comparison(*GRID, "seeds=[0,1,4]")
    found, trained = choose(config, tmp_path)
    assert {name: one["chosen"] for name, one in found.items()} == {
        "ar": 3e-3,
        "masked": 1e-3,
        "diffusion": 9e-3,
    }
    # on a seed that is not reported, each in a directory of its own
    assert len(trained) == 9 and {seed for _, seed, _ in trained} == {5}
    assert trained[0] == ("rates/ar/0.001", 5, 1e-3)
    assert found["masked"]["values"] == {"0.001": 5.0, "0.003": 6.0, "0.009": None}
    # what a diverged rate took is counted all the same
    assert found["diffusion"]["train_flops"] == pytest.approx(3e9)
    assert num_trainings(config) == 6 and num_trainings(make_comparison()) == 1
    # told once, never tried again
    again, more = choose(config, tmp_path)
    assert again == found == read_rates(config, tmp_path) and more == []


def test_a_choice_of_another_grid_or_of_fewer_arms_is_none(tmp_path):
    config = make_comparison(*GRID)
    found, _ = choose(config, tmp_path)
    assert read_rates(make_comparison("optim.peak_lrs=[1e-3,2e-3]", GRID[1]), tmp_path) is None
    (tmp_path / "rates.json").write_text(json.dumps({"ar": found["ar"]}))
    assert read_rates(config, tmp_path) is None
    with pytest.raises(GenlabError, match=r"rates of its arms are missing; restore rates\.json"):
        restore_rates(config, (), tmp_path)
    assert restore_rates(make_comparison(), (), tmp_path) == make_comparison()


def test_an_arm_that_diverges_everywhere_is_told(tmp_path):
    with pytest.raises(GenlabError, match=r"arm 'masked': .* every rate .*0\.009\]; add lower"):
        choose(make_comparison(*GRID), tmp_path, {**FOUND, "masked": (None, None, None)})


def test_arms_that_differ_in_their_sampler_alone_try_once(tmp_path):
    config = make_comparison(*GRID)
    cold = config.arms["ar"].model_copy(
        update={"sampler": config.arms["ar"].sampler.model_copy(update={"temperature": 0.5})}
    )
    config = config.model_copy(update={"arms": {"ar": config.arms["ar"], "cold": cold}})
    runs = {name: config.run(name, 0, 10) for name in config.arms}
    tried = []

    def train(run, run_dir):
        tried.append(run.name)
        return [{"step": 1, "values": {"average": run.optim.peak_lr}}]

    found = choose_rates(config, runs, {"ar": 1e9, "cold": 1e9}, tmp_path, train)
    assert tried == ["ar"] * 3 and found["ar"] == found["cold"]


def test_the_ledger_and_the_report_have_trials_flops_and_rates(tmp_path):
    config = make_comparison(*GRID)
    tried = with_rates(config, choose(config, tmp_path)[0])
    assert {arm.training_trials for arm in tried.arms.values()} == {3}
    assert tried.arms["masked"].tuning_flops == pytest.approx(3.03e9)
    assert tried.run("diffusion", 0, 10).optim.peak_lr == 9e-3
    [told] = describe_rates(tried)
    assert "0.001, 0.003, 0.009" in told and "ar 0.003, masked 0.001, diffusion 0.009" in told
    assert "training seed 1, which is not reported" in told
    assert describe_rates(make_comparison()) == []
    # The rate may have been the luck of that one seed, and no interval holds it.
    assert how_chosen(tried) == how_chosen(config) == "chosen on one seed"
    assert how_chosen(make_comparison()) == ""
    assert how_chosen(make_comparison("arms.ar.training_trials=4")) == "chosen on one seed"


def test_a_grid_that_nothing_chooses_of_is_refused():
    with pytest.raises(ConfigError, match=r"peak_lrs=\[0\.001, 0\.003.*set checkpoint\.rule=best"):
        make_comparison(GRID[0])
    with pytest.raises(ConfigError, match=r"arms\.ar\.peak_lr=0\.01: optim\.peak_lrs keeps"):
        make_comparison(*GRID, "arms.ar.peak_lr=0.01")
    for wrong in ("[]", "[1e-3]", "[1e-3,1e-3]"):
        with pytest.raises(ConfigError, match="expected rates that differ, at least two"):
            make_comparison(f"optim.peak_lrs={wrong}")
    # a field that was added later changes no digest at its default
    assert make_comparison("optim.peak_lrs=null").digest() == make_comparison().digest()
    # a run has one rate, and what is no comparison cannot try any
    assert make_comparison(*GRID).run("ar", 0, 10).optim.peak_lrs is None
    with pytest.raises(GenlabError, match=r"set optim\.peak_lrs=null to train with .*=0\.001"):
        build_optimizer(OptimConfig(peak_lrs=(1e-3, 1e-2)), 10, nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


def test_planned_arms_train_with_the_rate_that_real_looks_chose(tmp_path, monkeypatch):
    store = encode_corpus(make_manifest(tmp_path, 12), make_frozen(), LoudnessUnits(), tmp_path)
    config = make_comparison(
        "optim.peak_lrs=[1e-6,1e-2]",
        *("checkpoint.rule=best", "checkpoint.by=bits", "checkpoint.looks=2"),
        *("budget.mode=iso_step", "budget.train_flops=null", "budget.steps=6"),
    )
    config = config.model_copy(update={"arms": {"ar": config.arms["ar"]}})
    arms = plan(config, store, tmp_path / "out")
    tried = try_rates(config, arms, store, tmp_path / "out", None)
    # six updates at a millionth learn nothing
    assert arms[0].run.optim.peak_lr == 1e-2 == tried.arms["ar"].peak_lr
    values = read_rates(config, tmp_path / "out")["ar"]["values"]
    assert values["0.01"] < values["1e-06"]

    def refuse(*_):
        raise AssertionError("tried again")

    monkeypatch.setattr(arms_module, "train_arm", refuse)
    later = plan(config, store, tmp_path / "out")
    assert try_rates(config, later, store, tmp_path / "out", None) == tried
    assert (
        later[0].run
        == arms[0].run
        == tried.run("ar", 0, 6).model_copy(update={"arm": arms[0].run.arm})
    )
