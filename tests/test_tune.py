"""Tuning: equal trials and FLOPs for every arm, a command that resumes wherever it stopped,
settings that are used.
"""

import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from comparison_toys import make_comparison
from flax import nnx
from report_toys import make_ledger, make_results
from test_ledger import make_ledger as make_true_ledger
from test_ledger import row

from genlab.cli import main
from genlab.config import ConfigError, GenlabError
from genlab.config.shipped import install_command
from genlab.evaluate.scores import clip_means
from genlab.experiment import Comparison
from genlab.fairness.regression import trained_run
from genlab.machine.stopping import TrainingDiverged
from genlab.report.page import render_page
from genlab.report.tuning import tuning_rows, tuning_section
from genlab.report.written import render_markdown
from genlab.run.checkpoint import restore_latest
from genlab.run.files import write_json
from genlab.studies import tune as tuning_module
from genlab.studies.space import TuningSpace
from genlab.studies.tune import (
    Trial,
    Tuning,
    ask,
    own_setting,
    shorten,
    tune,
)
from genlab.studies.tuned import apply_tuning
from genlab.training.shapes import GRIDS, Shape

BASELINE = 'baselines=["regression"]'
BUDGET = 40 * 162204672.0  # 40 updates of ar
FIELDS = ("peak_lr", "warmup_fraction", "weight_decay", "ema_decay", "dropout")


def two_arms(*overrides) -> Comparison:
    config = make_comparison(
        f"budget.train_flops={BUDGET}", "settings.save_every_s=null", *overrides
    )
    arms = {name: arm for name, arm in config.arms.items() if name != "masked"}
    return config.model_copy(update={"arms": arms})


def finish(number, setting, value):
    tried = {field: getattr(setting, field) for field in FIELDS}
    return Trial(number, tried, value, None, None, 1.0, 1, 0.0)


def replay(tuning, value_of, known=()):
    trials = list(known)
    for number in range(len(trials), 12):
        setting = own_setting(two_arms(), "ar") if number == 0 else ask(tuning, number, trials)
        trials.append(finish(number, setting, value_of(setting)))
    return trials


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_asking_again_after_any_trial_gives_the_same_trials(sampler):
    tuning = Tuning(sampler=sampler)
    whole = replay(tuning, lambda setting: abs(np.log(setting.peak_lr / 1e-3)))
    for cut in range(len(whole)):
        known = [Trial(**json.loads(json.dumps(trial._asdict()))) for trial in whole[:cut]]
        assert replay(tuning, lambda setting: abs(np.log(setting.peak_lr / 1e-3)), known) == whole
    assert len({trial.setting["peak_lr"] for trial in whole}) == len(whole)


def test_random_trials_are_the_same_in_every_arm_and_follow_the_space():
    tuning = Tuning(space=TuningSpace(dropout=(0.1, 0.1)))
    drawn = [ask(tuning, number, []) for number in range(1, 201)]
    seen = finish(0, drawn[0], 0.1)
    assert ask(tuning, 5, [seen]) == ask(tuning, 5, []) != ask(Tuning(seed=1), 5, [])
    for name, (low, high) in tuning.space:
        values = np.array([getattr(setting, name) for setting in drawn])
        assert (values >= low - 1e-12).all() and (values <= high + 1e-12).all()
    assert {setting.dropout for setting in drawn} == {0.1}
    # Half of them lie below the middle of the log scale, of the rate and of the steps that the
    # average remembers.
    for values, middle in (
        ([setting.peak_lr for setting in drawn], np.sqrt(3e-4 * 1e-2)),
        ([1 - setting.ema_decay for setting in drawn], np.sqrt(0.1 * 0.001)),
    ):
        assert 0.4 < np.mean(np.array(values) < middle) < 0.6


def test_tpe_follows_what_was_found():
    rng = np.random.default_rng(0)
    near = []
    for sampler in ("random", "tpe"):
        trials = []
        for number in range(1, 40):
            setting = ask(Tuning(sampler=sampler), number, trials)
            value = (setting.dropout - 0.2) ** 2 + 1e-4 * rng.random()
            trials.append(finish(number, setting, value))
        near.append(np.mean([trial.setting["dropout"] for trial in trials[20:]]))
    assert near[1] > near[0] + 0.03


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"peak_lr": (1e-2, 1e-3)}, "expected [LOW, HIGH]"),
        ({"weight_decay": (0.0, 0.1)}, "drawn on a log scale"),
        ({"ema_decay": (0.9, 1.0)}, "less than 1"),
        ({"dropout": (-0.1, 0.1)}, "greater than or equal to 0"),
        ({"width": (1, 2)}, "width"),
    ],
)
def test_a_wrong_space_is_refused(space, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("]", r"\]")):
        TuningSpace(**space)


@pytest.fixture
def cache(monkeypatch, tmp_path_factory):
    """A minute of audio; no clip is as short as the examples of the toys, so there are no prompts
    to choose.
    """
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path_factory.getbasetemp() / "tune_cache"))
    monkeypatch.setattr(
        tuning_module, "choose_prompts", lambda *args: [SimpleNamespace(id="", text="a word")]
    )


@pytest.fixture
def quick(cache, monkeypatch):
    """Training that only notes what it was asked, and a score that is a number of the setting."""

    def train_arm(run, store, run_dir, progress):
        run_dir.mkdir(parents=True)
        write_json(run_dir / "config.json", run.to_dict())
        return SimpleNamespace(model=run)

    def judge(model, run):
        seed = int(model.optim.digest() + model.arm.decoder.digest(), 16)
        return clip_means(np.random.default_rng(seed).random(6), tuple("abcdef"))

    monkeypatch.setattr(tuning_module, "train_arm", train_arm)
    monkeypatch.setattr(tuning_module, "check_flops", lambda *args: 1.0)
    monkeypatch.setattr(tuning_module, "make_judge", lambda *args: judge)


class Quiet:
    def __call__(self, *args):
        pass

    def stage(self, *args, **more):
        return 0

    update = finish = stage


def without_times(summary):
    text = json.loads(json.dumps(summary))
    for arm in text["arms"].values():
        for trial in arm["trials"]:
            trial.pop("wall_s")
    return text


def test_a_tuning_killed_after_every_trial_ends_the_same_and_its_settings_are_used(
    quick, tmp_path, monkeypatch
):
    config, tuning = two_arms(BASELINE), Tuning(trials=3, fraction=0.5)
    whole = tune(config, tuning, tmp_path / "whole", Quiet())
    train_arm = tuning_module.train_arm
    for done in range(8):
        calls = []

        def train_one(run, store, run_dir, progress, calls=calls):
            calls.append(run_dir)
            if len(calls) > 1:
                raise KeyboardInterrupt
            return train_arm(run, store, run_dir, progress)

        monkeypatch.setattr(tuning_module, "train_arm", train_one)
        with pytest.raises(KeyboardInterrupt):
            tune(config, tuning, tmp_path / "killed", Quiet())
        assert len(list((tmp_path / "killed").glob("arms/*/*/trial.json"))) == done + 1
        assert not (tmp_path / "killed/tuning.json").exists()
    monkeypatch.setattr(tuning_module, "train_arm", train_arm)
    resumed = tune(config, tuning, tmp_path / "killed", Quiet())
    assert without_times(resumed) == without_times(whole)

    spent = [arm["train_flops"] for arm in whole["arms"].values()]
    assert max(spent) / min(spent) < 1.01 and spent[0] == pytest.approx(3 * 0.5 * BUDGET, rel=0.01)
    settings = [[trial["setting"] for trial in arm["trials"]] for arm in whole["arms"].values()]
    # The baseline that is trained tries as much as the arms, and the same.
    assert list(whole["arms"]) == ["ar", "diffusion", "regression"]
    assert settings[0] == settings[1] == settings[2]
    assert settings[0][0]["peak_lr"] == config.optim.peak_lr
    for name, arm in whole["arms"].items():
        assert arm["best"] == int(np.argmin([trial["value"] for trial in arm["trials"]]))
        ran = json.loads((tmp_path / f"whole/arms/{name}/trial02/config.json").read_text())
        third = arm["trials"][2]["setting"]
        assert {field: ran["optim"][field] for field in FIELDS[:4]} == {
            field: third[field] for field in FIELDS[:4]
        }
        assert (
            ran["backbone"]["dropout"] == third["dropout"] and ran["seed"] == max(config.seeds) + 1
        )

    tuned, found = apply_tuning(config, tmp_path / "whole/tuning.json")
    assert (
        found == json.loads(json.dumps(whole)) and tuned.comparison_key() == config.comparison_key()
    )
    for name, arm in whole["arms"].items():
        run = trained_run(tuned, name, 0, steps=1)
        used = {field: getattr(run.optim, field) for field in FIELDS[:4]} | {
            "dropout": run.backbone.dropout
        }
        assert used == arm["setting"] and run.optim.b2 == config.optim.b2
        told = tuned.regression if name == "regression" else tuned.arms[name]
        assert told.training_trials == 3 and told.tuning_flops == arm["train_flops"]
    check_a_tuning_without_the_baseline(config, tmp_path / "whole")

    more = tune(config, Tuning(trials=4, fraction=0.5), tmp_path / "more", Quiet())
    longer = tune(config, Tuning(trials=4, fraction=0.5), tmp_path / "whole", Quiet())
    assert without_times(longer) == without_times(more)
    with pytest.raises(GenlabError, match="trials with another fraction"):
        tune(config, Tuning(trials=4, fraction=0.25), tmp_path / "whole", Quiet())
    with pytest.raises(GenlabError, match="trials with another arms"):
        tune(two_arms("optim.b2=0.9"), Tuning(trials=4, fraction=0.5), tmp_path / "whole", Quiet())
    with pytest.raises(GenlabError, match="arm 'ar' was tuned with another"):
        apply_tuning(two_arms("batch_size=2"), tmp_path / "whole/tuning.json")
    with pytest.raises(
        GenlabError, match="tuned ar, diffusion, this config has ar, masked, diffusion"
    ):
        apply_tuning(make_comparison(), tmp_path / "whole/tuning.json")


def check_a_tuning_without_the_baseline(config, out):
    """One of an earlier version gives the arms theirs, leaves the baseline alone, and goes on."""
    whole, claimed = (
        json.loads((out / f"tuning{end}.json").read_text()) for end in ("", "_config")
    )
    assert whole["arms"].pop("regression")["key"] == claimed.pop("regression")
    write_json(out / "tuning_config.json", claimed)
    write_json(out / "old.json", whole)
    tuned, _ = apply_tuning(config, out / "old.json")
    assert tuned.regression == config.regression and tuned.arms["ar"].training_trials == 3


def test_every_arm_tries_every_shape_of_the_grid(quick, tmp_path, monkeypatch):
    grid = (
        Shape(width=16, layers=1, heads=1),
        Shape(width=32, layers=2, heads=2),
        Shape(width=48, layers=1, heads=3),
    )
    monkeypatch.setitem(GRIDS, "small", grid)
    more = ["budget.train_flops=4e10", "optim.ema_powers=[3,5]"]
    config = two_arms(BASELINE).override([*more, "shape_grid=small"])
    with pytest.raises(GenlabError, match=r"has 3 shapes.*use --trials 4 or more"):
        tune(config, Tuning(trials=3, fraction=0.5), tmp_path / "few", Quiet())
    found = tune(config, Tuning(trials=5, fraction=0.5), tmp_path / "tuned", Quiet())
    shapes = [None, *(shape.to_dict() for shape in grid), grid[0].to_dict()]
    for arm in found["arms"].values():
        assert [trial.get("shape") for trial in arm["trials"]] == shapes
        # other shapes make other numbers of updates, so that all trials spend the same
        assert len({trial["steps"] for trial in arm["trials"]}) == 3
        spent = [trial["train_flops"] for trial in arm["trials"]]
        assert spent == pytest.approx([2e10] * 5, rel=0.005)
        # every trial keeps the grid of averages
        assert {trial["setting"]["ema_decay"] for trial in arm["trials"]} == {None}
    best = {name: arm["best"] for name, arm in found["arms"].items()}
    tuned, _ = apply_tuning(config, tmp_path / "tuned/tuning.json")
    for name, number in best.items():
        own = trained_run(tuned, name, 0, 1).backbone
        wanted = shapes[number] or {"width": 32, "layers": 2, "heads": 2}
        assert {field: getattr(own, field) for field in wanted} == wanted
        ran = json.loads((tmp_path / f"tuned/arms/{name}/trial{number:02}/config.json").read_text())
        assert {field: ran["backbone"][field] for field in wanted} == wanted
    text = str(tuning_section(found))
    assert "those of the grid small" in text and "1 x 48" in text
    with pytest.raises(GenlabError, match="was tuned with another"):
        apply_tuning(two_arms().override(more), tmp_path / "tuned/tuning.json")


def test_a_trial_is_an_ordinary_run_of_its_setting(cache, tmp_path, monkeypatch):
    def make_judge(config, tuning, store, clips):
        def judge(model, run):
            leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
            return clip_means(
                np.array([float(abs(leaf).mean()) for leaf in leaves[:3]]), tuple("abc")
            )

        return judge

    monkeypatch.setattr(tuning_module, "make_judge", make_judge)
    config = two_arms()
    config = config.model_copy(update={"arms": {"ar": config.arms["ar"]}})
    found = tune(config, Tuning(trials=2, fraction=0.25), tmp_path, Quiet())
    first, second = found["arms"]["ar"]["trials"]
    assert first["value"] != second["value"] and first["steps"] == second["steps"] == 10
    for number, trial in enumerate((first, second)):
        run_dir = tmp_path / f"arms/ar/trial{number:02}"
        meta = restore_latest(run_dir, lambda meta: {}, move_damaged=False).meta["identity"]
        assert {field: meta[f"optim.{field}"] for field in FIELDS[:4]} == {
            f: trial["setting"][f] for f in FIELDS[:4]
        }
        assert len((run_dir / "batch_hashes.txt").read_text().split()) == 10


def test_a_diverged_trial_costs_its_flops_and_loses(quick, tmp_path, monkeypatch):
    train_arm = tuning_module.train_arm

    def diverge(run, store, run_dir, progress):
        if run_dir.name == "trial01" or (tmp_path / "all").exists():
            run_dir.mkdir(parents=True)
            raise TrainingDiverged("step 3: loss is not finite")
        return train_arm(run, store, run_dir, progress)

    monkeypatch.setattr(tuning_module, "train_arm", diverge)
    found = tune(two_arms(), Tuning(trials=3, fraction=0.25), tmp_path / "one", Quiet())
    arm = found["arms"]["ar"]
    assert (
        arm["trials"][1]["value"] is None
        and "diverged" in arm["trials"][1]["note"]
        and arm["best"] != 1
    )
    assert arm["train_flops"] == pytest.approx(3 * arm["trials"][0]["train_flops"])
    values = [trial["value"] for trial in arm["trials"]]
    worst = max(values[0], values[2])
    assert arm["best_of"][0]["value"] == pytest.approx((worst + values[2]) / 2)
    (tmp_path / "all").mkdir()
    with pytest.raises(GenlabError, match="all 3 trials diverged"):
        tune(
            two_arms("arms.ar.peak_lr=0.5"),
            Tuning(trials=3, fraction=0.25),
            tmp_path / "two",
            Quiet(),
        )


def test_a_trial_trains_on_its_share_and_another_seed():
    config = make_comparison("seeds=[0,4]", "budget.train_flops=8e9")
    short = shorten(config, 0.25)
    assert short.budget.train_flops == 2e9 and short.seeds == (5,)
    steps = make_comparison("budget.mode=iso_step", "budget.train_flops=null", "budget.steps=10")
    assert shorten(steps, 0.25).budget.steps == 2


def test_the_ledger_tells_trials_flops_and_settings(tmp_path):
    spent = [f"arms.{name}.tuning_flops=6e9" for name in ("ar", "masked", "diffusion")]
    spent += [f"arms.{name}.training_trials=4" for name in ("ar", "masked", "diffusion")]
    own = [
        "arms.ar.dropout=0.1",
        "arms.ar.ema_decay=0.9",
        "arms.masked.weight_decay=0.3",
        "arms.ar.warmup_fraction=0.2",
    ]
    ledger = make_true_ledger(tmp_path / "a", make_comparison(*spent, *own))
    assert ledger["stamp"] == "controlled" and row(ledger, "Tuning FLOPs")["status"] == "bounded"
    assert (
        row(ledger, "Training trials")["status"] == row(ledger, "Backbone")["status"] == "matched"
    )
    for item in ("Dropout", "EMA decay", "Weight decay", "Warm-up share"):
        assert row(ledger, item)["status"] == "declared"
    assert row(ledger, "Dropout")["values"] == {"ar": 0.1, "masked": 0.0, "diffusion": 0.0}
    others = [item for item in spent if not item.startswith("arms.ar.tuning_flops")]
    ledger = make_true_ledger(tmp_path / "b", make_comparison(*others, "arms.ar.tuning_flops=7e9"))
    assert (
        ledger["stamp"] == "uncontrolled" and row(ledger, "Tuning FLOPs")["status"] == "undeclared"
    )
    ledger = make_true_ledger(tmp_path / "c", make_comparison())
    assert row(ledger, "Tuning FLOPs")["status"] == "matched"


def made_up(sampler="random"):
    trials = [
        Trial(i, dict.fromkeys(FIELDS, 0.1), v, v - 0.01, v + 0.01, 1e9, 10, 1.0)
        for i, v in enumerate((3, 2, 4))
    ]
    curve = [
        {"k": 1, "value": 3.0, "low": 2.5, "high": 3.5},
        {"k": 2, "value": 2.0, "low": None, "high": None},
    ]
    arm = {
        "family": "ar",
        "num_trials": 3,
        "train_flops": 3e9,
        "best": 1,
        "setting": trials[1].setting,
    }
    arm |= {
        "best_of": curve if sampler == "random" else [],
        "trials": [trial._asdict() for trial in trials],
    }
    head = {
        "schema": 1,
        "name": "<b>",
        "unit": "errors per word",
        "direction": "lower",
        "num_prompts": 3,
    }
    return {
        **head,
        **Tuning(sampler=sampler, trials=3).to_dict(),
        "arms": {"ar": arm, "masked": arm},
    }


def test_the_report_shows_curves_choice_and_every_trial(tmp_path):
    results = {**make_results(3), "tuning": made_up()}
    section = str(tuning_section(made_up()))
    assert section.count('<svg class="plot"') == 1 and section.count(
        'class="front"'
    ) == 2 == section.count('"band"')
    assert (
        section.count("<tr>") == 2 + 2 + 6
        and "3.00 GFLOP" in section
        and "the same in every arm" in section
    )
    assert 'id="tuning"' in render_page(
        results, make_ledger(), []
    ) and "## Tuning" in render_markdown(results, {})
    assert "genlab tune CONFIG" in render_page(make_results(), make_ledger(), [])
    assert "svg" not in str(tuning_section(made_up("tpe"))) and "chosen by TPE" in str(
        tuning_section(made_up("tpe"))
    )
    assert tuning_rows(made_up())[1][-1].startswith("trial 1: peak LR 0.1")
    tuning_module.write_tuning_page(tmp_path / "tuning.html", made_up())
    page = (tmp_path / "tuning.html").read_text()
    assert "Tuning: &lt;b&gt;" in page and "<b>" not in page.split("<h1>")[1].split("</h1>")[0]


def test_what_is_missing_or_wrong_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    def refused(*arguments):
        assert main([*arguments]) == 2
        [line] = capsys.readouterr().err.splitlines()
        return line

    quickstart, out = "configs/quickstart.py", str(tmp_path / "out")
    assert "expected the tuning.json" in refused(
        "compare", quickstart, "--tuned", str(tmp_path / "none.json")
    )
    assert "trials" in refused("tune", quickstart, "--trials", "1", "--out", out)
    assert "by: " in refused("tune", quickstart, "--by", "loss", "--out", out)
    assert "space.peak_lr" in refused(
        "tune", quickstart, "--space", "peak_lr=[1,0.1]", "--out", out
    )
    assert "report others" in refused("tune", quickstart, "prompts_split=valid", "--out", out)
    grid = ("checkpoint.rule=best", "optim.peak_lrs=[1e-3,3e-3]")
    shared = "configs/units_to_speech.py"  # whose arms have no rate of their own
    assert "set optim.peak_lrs=null" in refused("tune", shared, *grid, "--out", out)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert f"run `{install_command('tune')}`" in refused("tune", quickstart, "--out", out)
    with pytest.raises(ConfigError, match=r"arms\.ar\.dropout"):
        make_comparison("arms.ar.dropout=1.5")
