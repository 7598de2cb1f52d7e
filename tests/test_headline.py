"""The headline's pages: what they run and predict, and a toy of them that is killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genlab import cli
from genlab.config import ConfigError
from genlab.load import call_page, load_experiment
from genlab.report.inputs import read_results
from genlab.sweeps.page import expand, load_sweep
from genlab.sweeps.runs import read_state, run_directory

CONFIGS = Path(__file__).parents[1] / "configs"
HEADLINE, PEOPLE = CONFIGS / "headline.py", CONFIGS / "headline_people.py"
ARMS = ("ar_codes", "ar_latents", "masked_codes", "diffusion_latents")
RATES = {128: dict.fromkeys(ARMS, 1e-3), 192: dict.fromkeys(ARMS, 5e-4)}
PAGE = f"""
from genlab.data.corpus import Embedded
from genlab.experiment import TokenData
from genlab.load import call_base
from genlab.sweeps.square import Tuned, square_page

SMALLER = [
    "seeds=[0,1,2]", "batch_size=4", "backbone.layers=1", "backbone.heads=2", "condition.layers=1",
    "checkpoint.looks=2", "checkpoint.clips=2", "checkpoint.draws=1", "num_prompts=2",
    "evaluation.token_prompts=4", "evaluation.energy_draws=2", "evaluation.score_draws=2",
    "evaluation.audio_draws=1", "evaluation.dnsmos_clips=0", "evaluation.reference_clips=4",
]


def sweep():
    base = call_base(__file__, {str(HEADLINE)!r}).override(SMALLER)
    data = TokenData(corpus=Embedded(minutes=1.5, test_fraction=0.2), num_frames=96)
    base = base.model_copy(update={{"name": "toy", "data": data}})
    rates = dict.fromkeys({ARMS}, 1e-3)
    tuned = Tuned({{16: rates, 24: rates}}, trials=3, share=0.5)
    return square_page(
        base, {{16: 2e10, 24: 3e10}}, tuned, better="latents", in_bits=("diffusion_latents",)
    )
"""


def make_page(rates, **predicted):
    return call_page(HEADLINE, "sweep", rates=rates, **predicted)


def test_a_page_is_the_square_at_the_sizes_that_are_tuned():
    sweep = make_page(RATES)
    small, large = expand(sweep)
    assert (small.label, large.label) == ("width=128", "width=192")
    for run, flops in ((small, 6e12), (large, 1.2e13)):
        assert tuple(run.config.arms) == ARMS and run.config.seeds == (0, 1, 2, 3, 4)
        assert run.config.budget.train_flops == flops and run.config.evaluation.token_prompts == 200
        assert run.config.checkpoint.rule == "best" and not run.config.condition.speaker
        rates = RATES[run.config.backbone.width]
        for name, arm in run.config.arms.items():
            assert (arm.peak_lr, arm.training_trials) == (rates[name], 3)
            assert arm.tuning_flops == 3 * 0.5 * flops
    one = make_page({192: RATES[192]})
    assert [run.id for run in expand(one)] == [large.id], "what was run stays, whatever is added"
    assert not any("smaller" in prediction.text for prediction in one.predictions)


def test_what_is_predicted_is_the_sides_of_the_square_and_what_the_size_does():
    by_text = {each.text: each for each in make_page(RATES, in_bits=()).predictions}
    assert len(by_text) == 2 * 4 + len(ARMS) + 1 + 2
    side = by_text["width=192: over codes, left to right below parallel"]
    assert side.terms == {"ar_codes @ width=192": 1.0, "masked_codes @ width=192": -1.0}
    assert (side.score, side.expect) == ("block_energy", "below")
    gap = by_text["over latents, the gap shrinks with the size"]
    assert gap.terms == {
        "diffusion_latents @ width=192": 0.5,
        "ar_latents @ width=192": -0.5,
        "diffusion_latents @ width=128": -0.5,
        "ar_latents @ width=128": 0.5,
    }


def test_a_page_that_nobody_tuned_says_what_to_run():
    with pytest.raises(ConfigError, match=r"no size of headline is tuned.*run the `genlab tune`"):
        make_page({})


@pytest.mark.parametrize("value", ["", "no/such/folder"])
def test_the_audio_of_people_is_named_by_the_user(value, monkeypatch, capsys):
    monkeypatch.setenv("SPEECH_COMMANDS_DIR", value)
    assert cli.main(["sweep", "status", str(PEOPLE)]) == 2
    told = capsys.readouterr().err.strip()
    assert f"SPEECH_COMMANDS_DIR={value}: no such folder" in told and "metadata.csv" in told
    assert "\n" not in told


def test_the_units_of_people_are_speakers(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECH_COMMANDS_DIR", str(tmp_path))
    config = load_experiment(PEOPLE)
    assert config.data.corpus.path == str(tmp_path)
    assert config.data.domain.unit == "speaker"
    assert (config.condition.content, config.condition.speaker) == ("text", False)


def test_a_page_that_is_killed_goes_on_seed_by_seed_and_shows_its_gates(tmp_path, monkeypatch):
    page, out = tmp_path / "toy_page.py", tmp_path / "out"
    page.write_text(PAGE)
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    runs = expand(load_sweep(page))
    first = run_directory(out, runs[0])
    arguments = ["sweep", "run", str(page), "--out", str(out)]
    coordinator = subprocess.Popen(
        [sys.executable, "-m", "genlab.cli", *arguments],
        env={**os.environ, "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ends = time.monotonic() + 300
    while not (first / "arms/ar_codes/seed1/status.json").exists():
        if coordinator.poll() is not None or time.monotonic() > ends:
            coordinator.kill()
            raise AssertionError(f"never came: {coordinator.communicate()[0][-2000:]}")
        time.sleep(0.1)
    coordinator.kill()
    os.kill(json.loads((first / "status.json").read_text())["pid"], signal.SIGKILL)
    coordinator.communicate()
    # Every arm has its first seed before any has its last: a stopped run has compared as many.
    assert all((first / f"arms/{arm}/seed0/batch_hashes.txt").exists() for arm in ARMS)
    assert (first / "floors/regression/seed0").exists() and not list(first.rglob("seed2"))
    made = (first / "arms/ar_latents/seed0/batch_hashes.txt").stat().st_mtime_ns
    assert cli.main(arguments) == 0
    assert [read_state(run, out).state for run in runs] == ["finished", "finished"]
    assert (first / "arms/ar_latents/seed0/batch_hashes.txt").stat().st_mtime_ns == made
    check_report(page, out, [read_results(run_directory(out, run)) for run in runs])


def check_report(page, out, results):
    assert cli.main(["sweep", "report", str(page), "--out", str(out)]) == 0
    findings = json.loads((out / "findings.json").read_text())["findings"]
    contrasts = [finding for finding in findings if finding["kind"] == "contrast"]
    assert len(contrasts) == 2 * 5 + len(ARMS) + 1 + 2
    for finding in contrasts:
        assert finding["low"] < finding["value"] < finding["high"] and finding["seeds"] == 3
        states = {gate["name"]: gate["state"] for gate in finding["gates"]}
        assert len(states) == 9 and states["three seeds"] == "passed"
        assert states["ledger controlled"] == "passed", finding["gates"]
        if "failed" in states.values():
            assert finding["verdict"] in ("inconclusive", "not tested at this scale")
    text = (out / "report.md").read_text()
    assert "| Gates | ledger controlled |" in text and "width=16" in text and "width=24" in text
    figure, html = (out / "figure.svg").read_text(), (out / "report.html").read_text()
    assert all(title in figure for title in ("Autoregressive", "lookup"))
    assert html.count('aria-labelledby="curve') == 2, "energy and bits, each against the width"
    for found in results:
        rows = {arm["name"] for arm in found["arms"]}
        assert {*ARMS, "lookup", "regression", "uniform", "unigram", "bigram"} <= rows
        assert len(found["gates"]) == 9
