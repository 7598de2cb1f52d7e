"""The ledger believes what it can read: differences that are not declared stamp a comparison
`uncontrolled`.
"""

import itertools
from types import SimpleNamespace

import pytest
from comparison_toys import ARMS, make_comparison

from genlab.arms import ArmRun
from genlab.data.manifest import Clip, Manifest
from genlab.fairness.budget import ArmBudget
from genlab.report.ledger import build_ledger
from genlab.train import RunResult

INFO = SimpleNamespace(manifest_hash="m" * 10, codec_fingerprint="c" * 10, is_two_sided=False)
STORE = SimpleNamespace(info=INFO)
NAMES = ("ar", "masked", "diffusion")
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
    tmp_path, config=None, budgets=None, hashes=None, seeds=(0,), store=STORE, manifest=None
):
    config = config or make_comparison(f"seeds={list(seeds)}")
    budgets, arms = budgets or make_budgets(), []
    for name, seed in itertools.product(NAMES, seeds):
        run_dir = tmp_path / name / str(seed)
        run_dir.mkdir(parents=True)
        lines = (hashes or {}).get((name, seed), HASHES[: STEPS[name]])
        (run_dir / "batch_hashes.txt").write_text("".join(f"{line}\n" for line in lines))
        run = config.run(name, seed, budgets[name].steps)
        arm = ArmRun(name, seed, run, run_dir, budgets[name])
        arm.result = RunResult(STEPS[name], None, 1.5, 0.1, 0.0, 0.0, "chain", {})
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


def test_flops_more_than_a_percent_apart_are_uncontrolled(tmp_path):
    ledger = make_ledger(tmp_path, budgets=make_budgets(ar={"train_flops": 1.02e9}))
    assert ledger["stamp"] == "uncontrolled"
    assert row(ledger, "Training FLOPs")["status"] == "undeclared"
    assert "spread 2.00%" in row(ledger, "Training FLOPs")["note"]


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
