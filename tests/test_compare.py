"""The main job at a tiny size, end to end in real processes: what it writes, that it resumes, that
it refuses.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kill_points import end_at, run_until
from quick_commands import QUICKLY

from genlab.evaluate.table import find_metric
from genlab.report import outputs

TINY = """
from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.train import TrainSettings


def config():
    return Comparison(
        name="tiny",
        question="Does <script>alert(1)</script> the whole thing run?",
        data=TokenData(corpus=Embedded(minutes=1.5), num_frames=96),
        batch_size=4,
        backbone=BackboneConfig(width=16, layers=1, heads=2),
        condition=ConditionConfig(units_route="cross", layers=1),
        budget=Budget(train_flops=6.3e9),
        arms={
            "ar": Arm(decoder=ARConfig(), sampler=ARSampler()),
            "masked": Arm(decoder=MaskedConfig(), sampler=MaskedSampler(steps=(4, 1))),
            "masked_random": Arm(
                decoder=MaskedConfig(), sampler=MaskedSampler(steps=(4, 1), order="random")
            ),
            "diffusion": Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=4)),
        },
        num_prompts=3,
        evaluation=EvaluationConfig(
            dnsmos_clips=1, reference_clips=8, energy_draws=2, score_draws=8
        ),
        settings=TrainSettings(log_every=8, save_every_steps=40),
    )
"""


ARMS = ("ar", "masked", "masked_random", "diffusion")
DRESSED = ("climatology", "lookup_residuals", "regression_residuals")
BASELINES = ("lookup", "regression", *DRESSED, "uniform", "unigram", "bigram")


def run_compare(config: Path, out: Path, cache: Path, *overrides: str) -> subprocess.Popen:
    # One device: what a user has. The eight fake ones of the test process would only slow this
    # down.
    environment = {
        **os.environ,
        "GENLAB_CACHE": str(cache),
        **QUICKLY,
    }
    command = [
        sys.executable,
        "-m",
        "genlab.cli",
        "compare",
        str(config),
        "--out",
        str(out),
        *overrides,
    ]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "tiny.py").write_text(TINY)
    return folder


@pytest.fixture(scope="module")
def finished(place: Path) -> dict:
    process = run_compare(place / "tiny.py", place / "whole", place / "cache")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    results = json.loads((place / "whole/results.json").read_text())
    return {"out": place / "whole", "stdout": output, "stderr": errors, "results": results}


def test_results_have_the_promised_shape(finished: dict):
    results = finished["results"]
    assert results["schema"] == 1 and results["mode"] == "iso_flop" and results["wall_s"] > 0
    assert results["peak_rss_bytes"] > 2**20
    assert [arm["family"] for arm in results["arms"]] == [
        *("real", "floor", "floor", *["baseline"] * 8),
        *("ar", "masked", "masked", "diffusion"),
    ]
    for arm in results["arms"]:
        for name, score in arm["scores"].items():
            assert {"value", "low", "high", "n", "seeds", "unit", "direction", "validity"} <= set(
                score
            )
            assert find_metric(name).unit == score["unit"]
    for arm in results["arms"][11:]:
        assert arm["network_calls"] > 0 and arm["params"] > 0 and arm["batch_hash"]
        assert {"wall_s", "audio_s", "first_audio_s", "flops"} <= set(arm["sampling"])
    assert {item["control"] for item in results["controls"]} >= {"prompt_swap"}
    assert all(isinstance(item["passed"], bool) for item in results["controls"])
    gates = {gate["name"]: gate["state"] for gate in results["gates"]}
    assert len(gates) == 10 and gates["ledger controlled"] == "passed"
    assert gates["three seeds"] == "failed"


def test_the_seconds_of_all_stages_are_those_of_the_run(finished: dict):
    time_of = finished["results"]["time"]
    stages = {row["stage"]: row["seconds"] for row in time_of["stages"]}
    assert sum(stages.values()) == pytest.approx(finished["results"]["wall_s"])
    worked = [*(f"train {name}" for name in ARMS), "baselines: lookup", "baselines: regression"]
    worked += [f"baselines: {name}" for name in DRESSED]
    worked += ["baselines: counts", "data and codec", "plan and checks", "compile", "sample"]
    worked += [
        "bits",
        "energy, bare law",
        "energy, own sampler",
        "metrics of audio",
        "controls",
        "audit",
        "report",
    ]
    assert set(stages) == {*worked, "other"}
    assert all(stages[name] > 0 for name in worked)
    assert stages["train masked_random"] < stages["train masked"], "it was copied"
    assert not any(row["before_s"] or row["unmeasured"] for row in time_of["stages"])
    assert 0 < time_of["gates_s"] < time_of["whole_s"]
    assert "what the gates cost: " in finished["stdout"]


def test_training_flops_agree_within_one_percent(finished: dict):
    spent = [arm["train_flops"] for arm in finished["results"]["arms"] if arm["train_flops"]]
    assert len(spent) == 5  # with the regression
    assert max(spent) / min(spent) < 1.01


def test_bits_say_what_they_are_and_bounds_are_not_ranked_against_each_other(finished: dict):
    arms = [arm for arm in finished["results"]["arms"] if arm["family"] != "baseline"]
    bits = {arm["name"]: arm["scores"].get("bits_per_s") for arm in arms}
    kinds = {name: score["validity"] for name, score in bits.items() if score}
    assert kinds.pop("ar") == "exact" and set(kinds.values()) <= {"upper bound"}
    # Nearly untrained, it must cost about as much as naming every code: 50 frames/s x 8 codes x 10
    # bits.
    assert 2500 < bits["ar"]["value"] < 4400
    assert all(
        bits["ar"]["value"] * 0.8 < bits[name]["value"] and "draws per clip" in bits[name]["note"]
        for name in kinds
    )
    pairs = [
        pair
        for pair in finished["results"]["differences"]
        if pair["score"] == "bits_per_s" and pair["b"] not in BASELINES
    ]
    assert {frozenset((pair["a"], pair["b"])) for pair in pairs} == {
        frozenset(("ar", name)) for name in kinds
    }
    assert all(pair["better"] != "ar" for pair in pairs)


def test_baselines_are_scored_as_arms_and_are_none(finished: dict):
    results, out = finished["results"], finished["out"]
    rows = {row["name"]: row for row in results["arms"]}
    heard, counted = ("lookup", "regression"), ("uniform", "unigram", "bigram")
    for name in heard:
        assert {"wer_ctc", "speaker_similarity", "block_energy"} <= set(rows[name]["scores"])
        assert "bits_per_s" not in rows[name]["scores"]
        assert "prompt_swap" in {c["control"] for c in results["controls"] if c["arm"] == name}
    assert rows["uniform"]["scores"]["bits_per_s"]["value"] == pytest.approx(50 * 8 * 10)
    assert all(set(rows[name]["scores"]) == {"bits_per_s"} for name in counted)
    energies = {"block_energy", "block_energy_tuned", "block_variogram"}
    assert all(set(rows[name]["scores"]) == energies for name in DRESSED)
    assert "validation clips" in rows[DRESSED[-1]]["scores"]["block_energy"]["note"]
    found = {(pair["a"], pair["b"]) for pair in results["differences"] if pair["b"] in BASELINES}
    assert found == {(arm, name) for arm in ARMS for name in BASELINES}
    # The regression spends what diffusion spends, on the same batches; the ledger is of the arms.
    assert rows["regression"]["train_flops"] == rows["diffusion"]["train_flops"]
    assert rows["regression"]["batch_hash"] == rows["diffusion"]["batch_hash"]
    ledger = json.loads((out / "ledger.json").read_text())
    assert all(set(row["values"]) <= set(ARMS) for row in ledger["rows"])
    for name in BASELINES:
        assert (out / "rows" / f"{name}.json").exists()
        assert list((out / "floors" / name).rglob("events.out.tfevents*"))
    assert len(list((out / "floors/regression/seed0/samples").glob("*.flac"))) == 3
    page = (out / "report.html").read_text()
    assert page.count("<audio") == 3 * (3 + 2 + len(ARMS)) and "Not in this run" not in page
    for title in ("Mean latents", "Regression", "Uniform codes", "Unigram", "Bigram"):
        assert title in page and title in finished["stdout"]


def test_a_run_of_an_earlier_version_is_shown_without_baselines(finished: dict, place: Path):
    out = place / "earlier"
    shutil.copytree(finished["out"], out)
    shutil.rmtree(out / "floors")
    for name in BASELINES:
        (out / f"rows/{name}.json").unlink()
    (out / "outputs.json").unlink()  # the oldest had none
    for name in ("results.json", "ledger.json", "config.json"):
        values = json.loads((out / name).read_text())
        values.pop("digest", None)
        values.pop("baselines", None)
        for field in ("arms", "differences", "controls") if name == "results.json" else ():
            values[field] = [
                item
                for item in values[field]
                if not {item.get("name"), item.get("b"), item.get("arm")} & {*BASELINES}
            ]
        (out / name).write_text(json.dumps(values))
    environ = {"GENLAB_CACHE": str(place / "cache"), **QUICKLY}
    command = [sys.executable, "-m", "genlab.cli", "report", str(out)]
    done = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Not in this run: Mean latents, Regression" in (out / "report.html").read_text()
    assert "Not in this run: Mean latents, Regression" in (out / "report.md").read_text()


def test_ledger_is_controlled_and_batches_are_the_same(finished: dict):
    ledger = json.loads((finished["out"] / "ledger.json").read_text())
    rows = {row["item"]: row for row in ledger["rows"]}
    assert ledger["stamp"] == "controlled", [
        row for row in ledger["rows"] if row["status"] == "undeclared"
    ]
    assert (
        rows["Data order"]["status"] == "matched"
        and len(set(rows["Data order"]["values"].values())) == 1
    )
    logs = [
        (finished["out"] / f"arms/{name}/seed0/batch_hashes.txt").read_text().split()
        for name in ("ar", "masked")
    ]
    shared = min(map(len, logs))
    assert shared > 15 and logs[0][:shared] == logs[1][:shared]


def test_arms_that_differ_in_their_sampler_alone_are_trained_once(finished: dict):
    one, other = (finished["out"] / "arms" / name / "seed0" for name in ("masked", "masked_random"))
    steps = sorted(path.name for path in (one / "checkpoints").iterdir())
    assert steps == sorted(path.name for path in (other / "checkpoints").iterdir())
    files = [path for path in (one / "checkpoints" / steps[-1]).rglob("*") if path.is_file()]
    assert files and all(
        path.read_bytes() == (other / path.relative_to(one)).read_bytes() for path in files
    )
    # The curves of the training are the very same; what was sampled is its own.
    assert {path.name for path in one.glob("events*")} & {
        path.name for path in other.glob("events*")
    }
    sound = [
        [path.read_bytes() for path in sorted((run / "samples").glob("*.flac"))]
        for run in (one, other)
    ]
    assert sound[0] != sound[1]
    # Statistics pair them by seed.
    trained = {arm["name"]: arm.get("training") for arm in finished["results"]["arms"]}
    assert trained["masked"] == trained["masked_random"] != trained["ar"]
    assert "train masked_random/" not in finished["stdout"] + finished["stderr"]
    assert "train masked/" in finished["stdout"] + finished["stderr"]


def test_sampling_and_scoring_say_how_far_they_are(finished: dict):
    lines = finished["stderr"].splitlines()
    assert "sample ar/seed0: 0/4" in lines and any(
        line.startswith("sample ar/seed0: done, 4") for line in lines
    )
    assert any(line.startswith("score diffusion: 0/") for line in lines)
    assert any(line.startswith("score diffusion: bits, energy: done, 2") for line in lines)
    assert max(map(len, finished["stdout"].split("\n\nreport: ")[0].split("\n"))) <= 80


def test_report_and_events_are_there_and_text_is_escaped(finished: dict):
    page = (finished["out"] / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script>alert(1)" not in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert page.count("<audio") + page.count("data:audio") >= 4
    for name in ("arms/ar", "arms/masked", "arms/diffusion"):
        assert list((finished["out"] / name / "seed0").glob("events.out.tfevents*"))
    assert "tensorboard --logdir" in finished["stdout"] and "Autoregressive" in finished["stdout"]


def test_a_finished_run_returns_at_once_and_another_config_is_refused(finished: dict, place: Path):
    before = (place / "whole/results.json").stat().st_mtime_ns
    process = run_compare(place / "tiny.py", place / "whole", place / "cache")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "Autoregressive" in output
    assert (place / "whole/results.json").stat().st_mtime_ns == before
    process = run_compare(
        place / "tiny.py", place / "whole", place / "cache", "optim.peak_lr=0.002"
    )
    _, errors = process.communicate(timeout=300)
    assert (
        process.returncode == 2 and "another configuration" in errors and "Traceback" not in errors
    )


def read_files(out: Path) -> dict[str, bytes]:
    """Return every file but those of the lock and of who works there."""
    paths = [path for path in out.rglob("*") if path.is_file()]
    paths = [path for path in paths if path.name not in ("lock", "status.json")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def test_evaluate_refuses_or_is_killed_and_the_finished_run_stays(finished: dict, place: Path):
    out = place / "rescored"
    shutil.copytree(finished["out"], out)
    environ = {"GENLAB_CACHE": str(place / "cache"), **QUICKLY}
    before = read_files(out)

    refused = run_until(out, None, "evaluate", str(out), "seeds=[1]", environ=environ)
    _, errors = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert errors.startswith("genlab evaluate: seeds=[1]: the run was made with [0]")
    assert read_files(out) == before and not (out / "arms/ar/seed1").exists()

    changes = (
        "evaluation.seed=7",
        "evaluation.energy_draws=0",
        "evaluation.score_draws=2",
        "evaluation.dnsmos_clips=0",
    )
    evaluate = ("evaluate", str(out), *changes)
    killed = end_at(out, "rows/.ar.json", *evaluate, environ=environ)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert before.items() <= read_files(out).items(), "killed while it scored: nothing is changed"
    assert outputs.is_finished(out)

    killed = end_at(out, "os.rename outputs.partial/report.html", *evaluate, environ=environ)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not outputs.is_finished(out), "config and ledger are new, and the results are old"
    completed = end_at(out, 10**9, *evaluate, environ=environ)
    assert completed.returncode == 0 and outputs.is_finished(out), completed.stderr
    results = outputs.read_results(out)
    assert json.loads((out / "config.json").read_text())["evaluation"]["seed"] == 7
    assert not any("block_energy" in arm["scores"] for arm in results["arms"])
    kept = ("batch_hash", "train_flops", "network_calls", "sampling")
    # Without energies there are no rows of forecasts with a spread.
    made = {arm["name"]: arm for arm in finished["results"]["arms"]}
    assert {"ar", "masked", "diffusion"} <= {arm["name"] for arm in results["arms"]}
    for ours in results["arms"]:
        assert [ours[key] for key in kept] == [made[ours["name"]][key] for key in kept]
    for name, content in before.items():
        if "samples/" in name or "checkpoints/" in name:
            assert (out / name).read_bytes() == content


@pytest.mark.slow
def test_kill_9_and_the_same_command_give_the_same_audio(finished: dict, place: Path):
    out = place / "killed"
    process = run_compare(place / "tiny.py", out, place / "cache")
    deadline = time.monotonic() + 400
    while not list((out / "arms/masked/seed0").glob("checkpoints/*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "results.json").exists()
    process = run_compare(place / "tiny.py", out, place / "cache")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    resumed = json.loads((out / "results.json").read_text())
    stages = {row["stage"]: row for row in resumed["time"]["stages"]}
    assert stages["train ar"]["before_s"] > 0 and stages["sample"]["before_s"] == 0
    # The killed command kept no seconds of the training that it was in; the checkpoint did.
    pieces = json.loads((out / "wall.json").read_text())["pieces"]
    took = {
        piece["part"]: piece["seconds"] + piece["compile_s"]
        for piece in pieces
        if piece["stage"] == "train"
    }
    for arm in resumed["arms"]:
        if arm["name"] in ("ar", "masked", "diffusion"):
            trained_s = arm["train_wall_s"] + arm["train_compile_s"]
            assert took[f"{arm['name']}/seed0"] >= 0.999 * trained_s
    for ours, theirs in zip(resumed["arms"], finished["results"]["arms"]):
        assert ours.get("batch_hash") == theirs.get("batch_hash")
        values = [
            {name: score["value"] for name, score in arm["scores"].items()}
            for arm in (ours, theirs)
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-9, abs=1e-9)
    for name in ("arms/ar", "arms/masked", "arms/diffusion", "floors/regression"):
        for path in sorted((out / name / "seed0/samples").glob("*.flac")):
            whole = place / "whole" / name / "seed0/samples" / path.name
            assert path.read_bytes() == whole.read_bytes()


def test_prompt_choice_spreads_texts_and_speakers():
    from genlab.data.store import SplitInfo, TokenClip
    from genlab.evaluate.domains import SPEECH
    from genlab.prompts import choose_prompts

    class Store:
        info = SimpleNamespace(splits={"test": SplitInfo(first=0, clips=40, seconds=40.0)})

        def numbers(self, split: str) -> range:
            return range(40)

        def frames(self, numbers: range) -> np.ndarray:
            return np.array([len(self.clip(number).units) for number in numbers])

        def heading(self, index: int) -> TokenClip:
            return self.clip(index)

        def clip(self, index: int) -> TokenClip:
            shape = (20, 2)
            units = np.ones(20 if index < 38 else 200, np.int32)
            return TokenClip(
                f"c{index:02}",
                f"text {index % 10}",
                f"s{index % 4}",
                "",
                np.zeros(shape),
                np.zeros(shape),
                units,
            )

    data = SimpleNamespace(num_frames=96, domain=SPEECH)
    chosen = choose_prompts(Store(), data, "test", 10)
    assert len({clip.text for clip in chosen}) == 10 and len({clip.speaker for clip in chosen}) >= 3
    every = choose_prompts(Store(), data, "test", 40)
    assert len(every) == 38 and all(len(clip.units) <= 96 for clip in every)
    # A domain whose unit is the tens of the id: one prompt of each of the four comes first.
    data.domain = dataclasses.replace(SPEECH, unit_of=lambda clip: clip.id[:2])
    chosen = choose_prompts(Store(), data, "test", 4)
    assert {clip.id[:2] for clip in chosen} == {"c0", "c1", "c2", "c3"}
