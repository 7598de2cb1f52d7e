"""The ledger believes what it can read: differences that are not declared stamp a comparison
`uncontrolled`.
"""

import itertools
import json
from types import SimpleNamespace

import pytest
from comparison_toys import ARMS, make_comparison

from genlab.arms import ArmRun
from genlab.data.manifest import Clip, Manifest
from genlab.decoders.conditioning import ConditionConfig
from genlab.fairness.budget import ArmBudget
from genlab.nets.backbone import BackboneConfig
from genlab.report.ledger import build_ledger, compute_rows
from genlab.train import RunResult
from genlab.training.optim import OptimConfig
from genlab.training.shapes import GRIDS, Shape
from genlab.training.spend import Budget

INFO = SimpleNamespace(manifest_hash="m" * 10, codec_fingerprint="c" * 10, is_two_sided=False)
STORE = SimpleNamespace(info=INFO)
NAMES = ("ar", "masked", "diffusion")
WHOLE = {"units": {"ahead": 48, "most": 48}}
STEPS = {"ar": 4, "masked": 6, "diffusion": 5}
HASHES = [f"{step:016x}" for step in range(6)]


def make_budgets(**changes):
    budgets = {}
    for name in NAMES:
        fields = {
            "name": name,
            "family": name,
            "reads": "codes",
            "params": 1000 + 100 * len(name),
            "shared_params": 900,
            "flops_per_clip": 1.0,
            "steps": STEPS[name],
            "train_flops": 1e9 + STEPS[name],
            "seconds_seen": 10.0 * STEPS[name],
            "unique_seconds": 60.0,
            "epochs": 1.0,
            "network_calls": STEPS[name],
            "sample_flops": 1.0,
            "sampler": ARMS[name].sampler,
        }
        budgets[name] = ArmBudget(**(fields | changes.get(name, {})))
    return budgets


def make_ledger(
    tmp_path,
    config=None,
    budgets=None,
    hashes=None,
    seeds=(0,),
    store=STORE,
    manifest=None,
    *,
    missing=(),
    looks=None,
    own=None,
    reach=None,
):
    """The ledger of runs that trained. `missing` leaves out a seed of an arm, `own` changes fields
    of the runs of an arm, `looks` are those of every run of an arm.
    """
    config = config or make_comparison(f"seeds={list(seeds)}")
    budgets, arms = budgets or make_budgets(), []
    for name, seed in itertools.product(NAMES, seeds):
        if (name, seed) in missing:
            continue
        run_dir = tmp_path / name / str(seed)
        run_dir.mkdir(parents=True)
        lines = (hashes or {}).get((name, seed), HASHES[: STEPS[name]])
        (run_dir / "batch_hashes.txt").write_text("".join(f"{line}\n" for line in lines))
        run = config.run(name, seed, budgets[name].steps)
        run = run.model_copy(update=(own or {}).get(name, {}))
        arm = ArmRun(name, seed, run, run_dir, budgets[name])
        found = (looks or {}).get(name, ())
        arm.result = RunResult(STEPS[name], None, 1.5, 0.1, 0.0, 0.0, "chain", {}, found)
        arm.sampled = SimpleNamespace(reach=(reach or {}).get(name, WHOLE))
        arms.append(arm)
    return build_ledger(config, store, arms, manifest)


def row(ledger, item):
    [found] = [row for row in ledger["rows"] if row["item"] == item]
    assert set(found["values"]) == set(NAMES) and found["note"]
    return found


def test_arms_that_agree_are_controlled(tmp_path):
    ledger = make_ledger(tmp_path)
    assert (
        ledger["stamp"] == "controlled" and ledger["schema"] == 1 and ledger["mode"] == "iso_flop"
    )
    assert row(ledger, "Data order")["status"] == "matched"
    assert row(ledger, "Training FLOPs")["status"] == "bounded"
    assert row(ledger, "Updates")["status"] == row(ledger, "Head parameters")["status"] == "free"
    assert row(ledger, "Sampler calls")["status"] == "declared"
    assert "insufficient seeds" in row(ledger, "Seeds")["note"]
    assert {item["status"] for item in ledger["rows"]} == {"matched", "bounded", "free", "declared"}


def test_what_only_the_longer_arm_read_does_not_count(tmp_path):
    hashes = {("masked", 0): [*HASHES[:4], "f" * 16, "e" * 16]}
    assert make_ledger(tmp_path, hashes=hashes)["stamp"] == "controlled"


@pytest.mark.parametrize("step", [0, 3])
def test_one_different_batch_is_uncontrolled(tmp_path, step):
    changed = [*HASHES[:step], "f" * 16, *HASHES[step + 1 :]]
    ledger = make_ledger(tmp_path, hashes={("diffusion", 0): changed[:5]})
    assert ledger["stamp"] == "uncontrolled"
    assert row(ledger, "Data order")["status"] == "undeclared"


def test_another_order_in_one_seed_of_several_is_uncontrolled(tmp_path):
    hashes = {("masked", 2): HASHES[::-1]}
    ledger = make_ledger(tmp_path, hashes=hashes, seeds=(0, 1, 2))
    assert ledger["stamp"] == "uncontrolled" and "insufficient" not in row(ledger, "Seeds")["note"]


def test_a_log_that_ends_early_proves_nothing(tmp_path):
    ledger = make_ledger(tmp_path, hashes={(name, 0): HASHES[:2] for name in NAMES})
    assert ledger["stamp"] == "uncontrolled"
    assert "ends before step 4" in row(ledger, "Data order")["note"]


@pytest.mark.parametrize(
    ("arm", "flops", "spread"),
    [
        ("ar", 1.02e9, "2.00%"),
        ("ar", 1.012e9, "1.20%"),
        ("ar", 1.009e9, "0.90%"),
        ("diffusion", 0.991e9, "0.91%"),
        ("diffusion", 0.988e9, "1.21%"),
        ("masked", 0.9e9, "11.11%"),  # cheaper than the others, which agree
    ],
)
def test_flops_more_than_a_percent_apart_are_uncontrolled(tmp_path, arm, flops, spread):
    ledger = make_ledger(tmp_path, budgets=make_budgets(**{arm: {"train_flops": flops}}))
    is_near = float(spread.rstrip("%")) <= 1
    assert ledger["stamp"] == ("controlled" if is_near else "uncontrolled")
    assert row(ledger, "Training FLOPs")["status"] == ("bounded" if is_near else "undeclared")
    assert f"spread {spread}, limit 1%" in row(ledger, "Training FLOPs")["note"]


MODES = {
    "iso_flop": ({"train_flops"}, {"train_flops": 2e10}),
    "iso_step": ({"shared_params", "steps", "epochs", "seconds_seen"}, {"steps": 100}),
    "iso_data": ({"steps", "epochs", "seconds_seen"}, {"epochs": 3}),
    "iso_time": (set(), {"wall_s": 60}),
    "iso_latency": ({"train_flops"}, {"train_flops": 2e10, "sampling": {"calls": 32}}),
    "iso_bitrate": ({"train_flops"}, {"train_flops": 2e10, "floor_tolerance": 0.05}),
}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_holds_its_own_rows_and_no_others(mode):
    held, spent = MODES[mode]
    config = make_comparison().model_copy(update={"budget": Budget(mode=mode, **spent)})
    alike = {"train_flops": 1e9, "shared_params": 1000, "params": 1000, "steps": 100}
    alike |= {"epochs": 100.0, "seconds_seen": 1000.0}
    for field in ("train_flops", "shared_params", "steps", "epochs", "seconds_seen"):
        for share in (0.95, 1.05):
            other = {**alike, field: type(alike[field])(share * alike[field])}
            rows = compute_rows(config, make_budgets(ar=alike, masked=other, diffusion=alike))
            found = {item["item"] for item in rows if item["status"] == "undeclared"}
            assert bool(found) == (field in held), (field, found)


def test_what_arms_planned_to_take_is_held_where_it_was_measured(tmp_path):
    times = {"ar": 0.1, "masked": 0.05, "diffusion": 0.2}
    steps = {"ar": 600, "masked": 1200, "diffusion": 300}
    arms = {name: {"step_s": times[name], "steps": steps[name]} for name in NAMES}
    config = make_comparison("budget.train_flops=null", "budget.mode=iso_time", "budget.wall_s=60")
    rows = {row["item"]: row for row in compute_rows(config, make_budgets(**arms))}
    assert rows["Planned training time"]["status"] == "bounded"
    arms["masked"]["steps"] = 1230
    rows = {row["item"]: row for row in compute_rows(config, make_budgets(**arms))}
    assert rows["Planned training time"]["status"] == "undeclared"
    assert rows["Planned training time"]["values"]["masked"] == pytest.approx(61.5)


@pytest.mark.parametrize(
    "shape", [{"width": 64}, {"layers": 3}, {"heads": 4}, {"width": 16, "layers": 8}], ids=str
)
def test_an_arm_of_another_backbone_is_uncontrolled(tmp_path, shape):
    own = json.dumps({"width": 32, "layers": 2, "heads": 2} | shape)
    ledger = make_ledger(tmp_path, make_comparison(f"arms.ar.shape={own}"))
    assert ledger["stamp"] == "uncontrolled"
    assert row(ledger, "Backbone")["status"] == "undeclared"


def test_own_shapes_are_declared_only_if_every_arm_tried_the_whole_grid(tmp_path):
    shapes = dict(zip(NAMES, GRIDS["small"]))

    def status(place, *, trials, feeds=None):
        own = [f"arms.{name}.shape={json.dumps(shapes[name].to_dict())}" for name in NAMES]
        own += [f"arms.{name}.training_trials={trials[name]}" for name in NAMES]
        config = make_comparison(*own, "shape_grid=small")
        others = {}
        if feeds is not None:
            backbone = config.run("ar", 0, 1).backbone
            others = {"ar": {"backbone": backbone.model_copy(update=feeds)}}
        return row(make_ledger(tmp_path / place, config, own=others), "Backbone")["status"]

    whole = dict.fromkeys(NAMES, len(GRIDS["small"]))
    assert status("a", trials=whole) == "declared"
    assert status("b", trials={**whole, "masked": 8}) == "undeclared"
    assert status("c", trials=dict.fromkeys(NAMES, 8)) == "undeclared"
    assert status("d", trials=whole, feeds={"ffn_multiple": 4.0}) == "undeclared"
    shapes["diffusion"] = Shape(width=64, layers=1, heads=2)
    assert status("e", trials=whole) == "undeclared"


@pytest.mark.parametrize(
    ("item", "own"),
    [
        ("Batch size", {"batch_size": 8}),
        ("Conditioning", {"condition": ConditionConfig(layers=2)}),
        ("Precision", {"backbone": BackboneConfig(width=32, layers=2, heads=2, dtype="bfloat16")}),
        ("Optimiser, other fields", {"optim": OptimConfig(b1=0.5)}),
        ("Optimiser, other fields", {"optim": OptimConfig(clip_norm=None)}),
    ],
)
def test_what_runs_share_is_read_from_the_runs(tmp_path, item, own):
    ledger = make_ledger(tmp_path, own={"masked": own})
    assert row(ledger, item)["status"] == "undeclared" and ledger["stamp"] == "uncontrolled"


def test_other_seconds_of_the_same_split_are_uncontrolled(tmp_path):
    ledger = make_ledger(tmp_path, budgets=make_budgets(masked={"unique_seconds": 30.0}))
    assert row(ledger, "Unique seconds")["status"] == "undeclared"
    assert ledger["stamp"] == "uncontrolled"


@pytest.mark.parametrize(
    ("field", "item", "shared"),
    [
        ("peak_lr", "Peak learning rate", 1e-3),
        ("warmup_fraction", "Warm-up share", 0.05),
        ("weight_decay", "Weight decay", 0.05),
        ("ema_decay", "EMA decay", 0.999),
        ("dropout", "Dropout", 0.0),
    ],
)
def test_every_setting_of_an_arm_has_a_row_of_its_own(tmp_path, field, item, shared):
    found = row(make_ledger(tmp_path, make_comparison(f"arms.masked.{field}=0.25")), item)
    assert found["status"] == "declared"
    assert found["values"] == {"ar": shared, "masked": 0.25, "diffusion": shared}
    assert row(make_ledger(tmp_path / "b"), item)["status"] == "matched"


def test_another_grid_of_averages_is_uncontrolled(tmp_path):
    config = make_comparison("optim.ema_powers=[6,8]")
    looks = {name: [{"step": 3, "values": {"k6": 1.0, "k8": 2.0}}] for name in NAMES}
    ledger = make_ledger(tmp_path / "a", config, looks=looks)
    assert row(ledger, "EMA grid")["status"] == "matched" and ledger["stamp"] == "controlled"
    assert set(row(ledger, "Chosen average")["values"].values()) == {"k6"}
    own = {"ar": {"optim": config.optim.model_copy(update={"ema_powers": (6, 10)})}}
    ledger = make_ledger(tmp_path / "b", config, looks=looks, own=own)
    assert row(ledger, "EMA grid")["status"] == "undeclared"


def test_the_look_that_the_rule_chose_is_told_and_as_many_looks_are_held(tmp_path):
    config = make_comparison("checkpoint.rule=best", "checkpoint.looks=2")
    two = [{"step": step, "values": {"average": value}} for step, value in ((2, 0.5), (4, 0.7))]
    looks = dict.fromkeys(NAMES, two)
    ledger = make_ledger(tmp_path / "a", config, looks=looks, seeds=(0, 1))
    assert ledger["stamp"] == "controlled"
    assert row(ledger, "Chosen update")["values"]["ar"] == "2 of 4; 2 of 4"
    assert row(ledger, "Looks at validation")["values"]["ar"] == "2; 2"
    ledger = make_ledger(tmp_path / "b", config, looks={**looks, "masked": two[:1]})
    assert row(ledger, "Looks at validation")["status"] == "undeclared"
    assert ledger["stamp"] == "uncontrolled"


def test_an_arm_that_weighs_its_examples_otherwise_is_declared(tmp_path):
    ledger = make_ledger(tmp_path / "a")
    assert row(ledger, "Infilling orders")["values"] == {"ar": 0.1, "masked": 0.0, "diffusion": 0.0}
    found = row(ledger, "Loss weighting")
    assert found["status"] == "declared" and found["values"]["ar"] == "own"
    assert found["values"]["masked"] == ARMS["masked"].decoder.loss_weighting != "own"


def test_one_arm_that_alone_was_tuned_is_uncontrolled(tmp_path):
    ledger = make_ledger(tmp_path, make_comparison("arms.ar.tuning_flops=7e9"))
    assert row(ledger, "Tuning FLOPs")["status"] == "undeclared"
    assert ledger["stamp"] == "uncontrolled"


@pytest.mark.parametrize(
    ("limit", "calls", "flops"), [("calls", "bounded", "free"), ("flops", "free", "bounded")]
)
def test_a_sampling_budget_bounds_what_it_is_stated_in(tmp_path, limit, calls, flops):
    told = ["budget.mode=iso_latency", f'budget.sampling={{"{limit}":32}}']
    ledger = make_ledger(tmp_path, make_comparison(*told))
    assert row(ledger, "Sampler calls")["status"] == calls
    assert row(ledger, "Sampling FLOPs")["status"] == flops


def test_too_few_seeds_of_one_arm_are_too_few(tmp_path):
    missing = [("masked", 1), ("masked", 2)]
    ledger = make_ledger(tmp_path / "a", seeds=(0, 1, 2), missing=missing)
    assert row(ledger, "Seeds")["values"] == {"ar": 3, "masked": 1, "diffusion": 3}
    assert "insufficient seeds" in row(ledger, "Seeds")["note"]
    assert row(ledger, "Seeds")["status"] == "undeclared"
    enough = make_ledger(tmp_path / "b", seeds=(0, 1, 2))
    assert "insufficient" not in row(enough, "Seeds")["note"]
    two = make_ledger(tmp_path / "c", seeds=(0, 1))
    assert "insufficient seeds" in row(two, "Seeds")["note"]


def test_one_seed_whose_log_ends_early_is_enough_to_prove_nothing(tmp_path):
    ledger = make_ledger(tmp_path, hashes={("ar", 1): HASHES[:2]}, seeds=(0, 1, 2))
    assert "batch_hashes.txt of ar ends before step 4" in row(ledger, "Data order")["note"]
    assert ledger["stamp"] == "uncontrolled"


def test_iso_step_holds_updates_and_parameters(tmp_path):
    config = make_comparison("budget.train_flops=null", "budget.mode=iso_step", "budget.steps=4")
    same = {name: {"steps": 4, "seconds_seen": 40.0} for name in NAMES}
    ledger = make_ledger(tmp_path / "a", config, make_budgets(**same))
    assert ledger["stamp"] == "controlled" and row(ledger, "Training FLOPs")["status"] == "free"
    assert (
        row(ledger, "Updates")["status"]
        == row(ledger, "Backbone parameters")["status"]
        == "bounded"
    )
    # heads differ by family and are declared: AR has 300 of its own, diffusion 1000
    found = row(ledger, "Head parameters")
    assert found["status"] == "declared"
    assert found["values"] == {"ar": 300, "masked": 700, "diffusion": 1000}
    same["ar"]["shared_params"] = 910
    assert make_ledger(tmp_path / "b", config, make_budgets(**same))["stamp"] == "uncontrolled"


def test_a_learning_rate_per_arm_is_declared_not_hidden(tmp_path):
    ledger = make_ledger(tmp_path, make_comparison("arms.ar.peak_lr=0.5"))
    found = row(ledger, "Peak learning rate")
    assert found["status"] == "declared" and found["values"]["ar"] == 0.5
    assert row(ledger, "Optimiser, other fields")["status"] == "matched"
    assert ledger["stamp"] == "controlled"


@pytest.mark.parametrize("field", ["training_trials", "sampler_trials"])
def test_an_arm_that_was_tuned_longer_is_uncontrolled(tmp_path, field):
    ledger = make_ledger(tmp_path, make_comparison(f"arms.ar.{field}=20"))
    assert ledger["stamp"] == "uncontrolled"


def test_settings_that_one_seed_chose_say_so(tmp_path):
    trials = [f"arms.{name}.training_trials=4" for name in NAMES]
    found = row(make_ledger(tmp_path / "a", make_comparison(*trials)), "Training trials")
    assert found["status"] == "matched" and found["note"].endswith("; chosen on one seed")
    grid = make_comparison("optim.peak_lrs=[1e-3,3e-3]", "checkpoint.rule=best")
    looks = {name: ({"step": 1, "values": {"weights": 1.0}},) for name in NAMES}
    found = row(make_ledger(tmp_path / "b", grid, looks=looks), "Training trials")
    assert found["note"].endswith("; chosen on one seed")
    found = row(make_ledger(tmp_path / "c"), "Training trials")
    assert "seed" not in found["note"]


def test_an_arm_that_hears_more_is_declared(tmp_path):
    talk = SimpleNamespace(info=SimpleNamespace(**vars(INFO) | {"is_two_sided": True}))
    assert row(make_ledger(tmp_path / "a", store=talk), "Other speaker")["status"] == "matched"
    hearing = make_ledger(
        tmp_path / "b", make_comparison('arms.ar.decoder.other={"weight":1.0}'), store=talk
    )
    assert row(hearing, "Other speaker")["status"] == "declared"
    assert row(hearing, "Other speaker")["values"] == {
        "ar": True,
        "masked": False,
        "diffusion": False,
    }
    assert all(item["item"] != "Other speaker" for item in make_ledger(tmp_path / "c")["rows"])


@pytest.mark.parametrize(
    ("digests", "repeated"),
    [
        ({"train": "a", "valid": "b", "test": "c"}, 0),
        ({"train": "a", "valid": "b", "test": "a"}, 1),
        ({"train": "a", "valid": "b", "test_speaker": "a"}, 1),
        ({"train": "a", "valid": "b", "test": "b"}, 1),
        ({"train": "", "valid": "", "test": ""}, 0),
    ],
)
def test_a_recording_in_two_splits_is_uncontrolled(tmp_path, digests, repeated):
    clips = [
        Clip(split, f"{split}.flac", "", "amy", split, 16_000, "CC0", audio_digest=found)
        for split, found in digests.items()
    ]
    ledger = make_ledger(tmp_path, manifest=Manifest(clips, tmp_path))
    found = row(ledger, "Overlap of splits")
    assert set(found["values"].values()) == {repeated}
    assert found["status"] == ("undeclared" if repeated else "matched")
    assert ledger["stamp"] == ("uncontrolled" if repeated else "controlled")
    assert ("3 rendered clips" in found["note"]) == (digests["train"] == "")


@pytest.mark.parametrize(
    ("ahead", "status"), [(48, "matched"), (24, "matched"), (23, "undeclared")]
)
def test_arms_that_are_told_less_are_uncontrolled(tmp_path, ahead, status):
    reach = {name: {"units": {"ahead": 48, "most": 48}} for name in NAMES}
    reach["ar"] = {"units": {"ahead": ahead, "most": 48}}
    ledger = make_ledger(tmp_path, reach=reach)
    found = row(ledger, "Reach of the conditions")
    assert found["status"] == status and found["values"]["masked"] == "units: whole clip"
    assert ledger["stamp"] == ("controlled" if status == "matched" else "uncontrolled")
    assert ("units_route=cross" in found["note"]) == (status != "matched")


def test_a_reach_that_nobody_measured_is_no_equal_one(tmp_path):
    ledger = make_ledger(tmp_path, reach={name: {} for name in NAMES})
    found = row(ledger, "Reach of the conditions")
    assert found["status"] == "undeclared" and ledger["stamp"] == "uncontrolled"
    assert set(found["values"].values()) == {"not measured"} and "draw again" in found["note"]
    ledger = make_ledger(tmp_path / "one", reach={"ar": {}})
    assert ledger["stamp"] == "uncontrolled"
    # What has no order in time has no reach.
    silent = make_comparison("condition.content=none")
    ledger = make_ledger(tmp_path / "none", silent, reach={name: {} for name in NAMES})
    assert ledger["stamp"] == "controlled"
    assert "Reach of the conditions" not in [item["item"] for item in ledger["rows"]]


def test_how_a_prompt_is_known_stands_in_the_ledger(tmp_path):
    found = row(make_ledger(tmp_path / "a"), "How a prompt is known")
    assert found["values"] == dict(zip(NAMES, ("part hidden", "part hidden", "replacement")))
    assert found["status"] == "declared"
    assert "ar (part hidden), masked (part hidden), diffusion (replacement)" in found["note"]
    shown = [f"arms.{name}.decoder.prefix_share=0.5" for name in NAMES]
    found = row(make_ledger(tmp_path / "b", make_comparison(*shown)), "How a prompt is known")
    assert set(found["values"].values()) == {"clean prefixes"} and found["status"] == "matched"
    assert "biased" not in found["note"]
    silent = make_comparison("evaluation.energy_draws=0")
    found = row(make_ledger(tmp_path / "c", silent), "How a prompt is known")
    assert found["status"] == "free" and "biased" not in found["note"]
