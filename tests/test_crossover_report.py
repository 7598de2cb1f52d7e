"""`genlab crossover` over made-up finished comparisons: what it reads, what it says, what it
refuses.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from report_toys import beat_floors, make_audit, make_ledger, make_results

from genlab.cli import main
from genlab.evaluate.scores import ClipValues
from genlab.report.additions import made_beside
from genlab.report.crossings import crossings_section
from genlab.report.page import render_page
from genlab.report.written import render_markdown
from genlab.statistics.crossover import Crossover
from genlab.studies.crossover import _corrected

BUDGETS = (1e12, 3e12, 1e13, 3e13, 1e14)


def write_run(folder, flops, seeds=3, **more):
    """Two families whose word errors cross at 1e13 FLOPs, latent diffusion ahead above it."""
    rng = np.random.default_rng(int(flops / 1e11))
    arms = []
    for family, slope in (("ar", 0.05), ("diffusion", 0.15)):
        runs = (0.3 - slope * np.log10(flops / 1e13) + 0.01 * rng.standard_normal(seeds)).tolist()
        score = {"value": float(np.mean(runs)), "by_seed": runs, "validity": "metric"}
        only = {
            "value": 1.0,
            "by_seed": [1.0],
            "validity": "upper bound" if family == "diffusion" else "exact",
        }
        arms.append(
            {
                "name": f"{family}_{flops:.0e}",
                "family": family,
                "train_flops": flops * (1 + slope / 10),
                "epochs": flops / 1e12,
            }
            | {"unique_seconds": 3600.0, "scores": {"wer_ctc": score, "bits_per_s": only}}
        )
    pair = {
        "score": "wer_ctc",
        "a": arms[0]["name"],
        "b": arms[1]["name"],
        "difference": 0.0,
        "low": -0.1,
        "high": 0.1,
    }
    results = {
        "codec": {"fingerprint": "c"},
        "arms": arms,
        "differences": [pair | {"plan": {"prompt_error": 0.001}}],
    }
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results | more))
    (folder / "ledger.json").write_text(json.dumps({"stamp": "controlled"}))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / f"run{i}", flops) for i, flops in enumerate(BUDGETS)]


def test_the_table_and_the_verdict(runs, capsys):
    assert main(["crossover", *runs, "--score", "wer_ctc"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == "Word error (CTC) against training FLOPs, mean (runs)"
    assert lines[1].split() == ["Autoregressive", "Latent", "diffusion"] and len(lines) == 9
    assert "1.00 TFLOP" in lines[2] and "(3)" in lines[2]
    assert "beware: epochs differ too between these arms and runs" in text
    assert (
        "inside sweep: Autoregressive is ahead below" in text and "Latent diffusion above" in text
    )


def test_every_run_keeps_what_was_found_and_its_report_shows_it(runs, capsys):
    assert main(["crossover", *runs, "--score", "wer_ctc"]) == 0
    assert main(["crossover", *runs, "--score", "wer_ctc", "--against", "epochs"]) == 0
    assert main(["crossover", *runs, "--score", "wer_ctc"]) == 0  # again: replaced, not added
    text = capsys.readouterr().out
    left = [json.loads((Path(run) / "crossover.json").read_text()) for run in runs]
    assert all(entries == left[0] for entries in left)
    assert [entry["axis"] for entry in left[0]] == ["epochs", "training FLOPs"]
    found = left[0][1]
    assert found["verdicts"][0] in text and found["num_runs"] == 5
    for curve in found["curves"].values():
        assert (
            len(curve["x"]) == len(curve["score"]) == 15
            and len(curve["grid"]) == len(curve["fit"]) == 41
        )
        assert all(
            low < fit < high for low, fit, high in zip(curve["low"], curve["fit"], curve["high"])
        )
    results = {**make_results(3), "crossover": made_beside(Path(runs[0]))["crossover"]}
    section = str(crossings_section(results["crossover"]))
    assert section.count('<svg class="plot"') == 2 and section.count(
        'class="front"'
    ) == 4 == section.count('"band"')
    assert (
        section.count('class="marker"') == 4 * (15 + 1)
        and "inside sweep: Autoregressive is ahead below" in section
    )
    assert 'id="crossings"' in render_page(results, make_ledger(), [])
    assert "## Where the ranking flips" in render_markdown(results, make_ledger())
    assert "genlab crossover RUN_DIR" in str(crossings_section([]))


def test_an_assumed_exponent_leaves_nothing(runs):
    plan = ["--plan", "1e12,1e13,1e14,1e15", "--exponents", "ar=0.05,diffusion=0.2"]
    assert main(["crossover", runs[0], "--score", "wer_ctc", *plan]) == 0
    assert not (Path(runs[0]) / "crossover.json").exists()


def test_few_budgets_do_not_settle_it_and_a_plan_says_what_would(runs, capsys):
    assert (
        main(
            [
                "crossover",
                *runs[:2],
                "--score",
                "wer_ctc",
                "--against",
                "flops",
                "--plan",
                "1e12,1e13,1e14",
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "extrapolated" in text and "do not read it as measured" in text
    assert (
        "plan: 1.00 TFLOP, 10.0 TFLOP, 100 TFLOP with 3 seeds would show the crossing inside with "
        "probability"
    ) in text


def test_one_run_and_assumed_exponents_make_a_plan(runs, capsys):
    plan = ["--plan", "1e12,1e13,1e14,1e15"]
    assert (
        main(
            [
                "crossover",
                runs[0],
                "--score",
                "wer_ctc",
                *plan,
                "--exponents",
                "ar=0.05,diffusion=0.2",
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "would show the crossing inside with probability" in text and "inside sweep" not in text
    assert main(["crossover", runs[0], "--score", "wer_ctc", *plan, "--exponents", "ar=0.05"]) == 2
    assert "for every family, for example ar=0.1,diffusion=0.1" in capsys.readouterr().err


def test_what_is_refused_and_what_is_warned_of(runs, tmp_path, capsys):
    def refused(*arguments):
        assert main(["crossover", *arguments]) == 2
        return capsys.readouterr().err

    assert "no finished comparison" in refused(str(tmp_path), "--score", "wer_ctc")
    assert "choose one of wer_ctc, bits_per_s" in refused(*runs, "--score", "wer")
    assert "a curve needs 3 runs" in refused(*runs, "--score", "wer_ctc", "--against", "seconds")
    assert "expected 3 or more budgets" in refused(
        *runs, "--score", "wer_ctc", "--plan", "1e12,many"
    )
    other = write_run(tmp_path / "other", 1e15, codec={"fingerprint": "d"})
    assert "different codecs" in refused(*runs, other, "--score", "wer_ctc")
    (tmp_path / "run0" / "ledger.json").write_text(json.dumps({"stamp": "uncontrolled"}))
    assert main(["crossover", *runs, "--score", "bits_per_s"]) == 0
    text = capsys.readouterr().out
    assert "beware: ar exact, diffusion upper bound" in text and "run0 is uncontrolled" in text
    assert "none: no crossing is established" in text


def test_each_training_seed_has_its_value():
    values = ClipValues(
        np.array([1.0, 3.0, 2.0, 0.0]),
        np.array([2.0, 2.0, 4.0, 0.0]),
        ("p", "q", "p", "q"),
        runs=(0, 0, 1, 1),
    )
    assert values.by_run() == [1.0, 0.5]
    assert values._replace(runs=()).by_run() == [0.75]


def make_sound(run, reads=("codes", "codes")):
    """Give a made-up run the floors, controls and audit that a verdict takes."""
    path = Path(run) / "results.json"
    results = json.loads(path.read_text())
    names = [arm["name"] for arm in results["arms"]]
    for arm, kind in zip(results["arms"], reads):
        arm["reads"] = kind
        arm["scores"]["wer_ctc"] |= {"seeds": 3, "covers": "prompts and training seeds"}
    real = {"value": 0.01, "unit": "errors per word", "direction": "lower"}
    results["arms"].append({"name": "real", "family": "real", "scores": {"wer_ctc": real}})
    results["differences"] += beat_floors(names, "wer_ctc")
    results["controls"] = [
        {"arm": name, "control": "prompt_swap", "score": "wer_ctc", "passed": True}
        for name in names
    ]
    path.write_text(json.dumps(results | {"audit": {"wer_ctc": make_audit()}}))


def test_a_crossing_is_a_verdict_only_where_every_gate_passes_in_every_run(runs, capsys):
    for run in runs:
        make_sound(run)
    assert main(["crossover", *runs, "--score", "wer_ctc"]) == 0
    text = capsys.readouterr().out
    assert "Autoregressive and Latent diffusion: inside sweep" in text and "no verdict" not in text
    assert "Gates: ledger controlled passed; controls passed passed; score trusted passed" in text
    (Path(runs[1]) / "ledger.json").write_text(json.dumps({"stamp": "uncontrolled"}))
    make_sound(runs[2], ("codes", "latents"))
    assert main(["crossover", *runs, "--score", "wer_ctc"]) == 0
    text = capsys.readouterr().out
    assert "no verdict, because gates failed (ledger controlled: run1: the arms differ" in text
    assert "the curves alone: inside sweep" in text and "ledger controlled failed" in text


def change(run, change_arm):
    """Change the arms of a made-up run."""
    path = Path(run) / "results.json"
    results = json.loads(path.read_text())
    for arm in list(results["arms"]):
        change_arm(results["arms"], arm)
    path.write_text(json.dumps(results))


@pytest.mark.parametrize("kind", ["upper bound", "biased"])
def test_a_crossing_of_a_bound_is_refused_and_says_so(runs, capsys, kind):
    def bound(arms, arm):
        if arm["family"] == "diffusion":
            arm["scores"]["wer_ctc"]["validity"] = kind

    for run in runs:
        make_sound(run)
        change(run, bound)
    assert main(["crossover", *runs, "--score", "wer_ctc"]) == 0
    text = capsys.readouterr().out
    told = "refused: the values of Latent diffusion are bounds, and a tighter one could turn"
    assert told in text and "the curves alone: inside sweep" in text


def test_holm_runs_over_every_pair_of_families(runs, capsys):
    """A third family, far from both: three pairs are looked at, and the one that crosses pays."""

    def add_far(arms, arm):
        if arm["family"] == "ar":
            score = arm["scores"]["wer_ctc"]
            score = {**score, "by_seed": [value + 5 for value in score["by_seed"]]}
            arms.append({**arm, "name": "far", "family": "masked", "scores": {"wer_ctc": score}})

    def p_value_of():
        assert main(["crossover", *runs, "--score", "wer_ctc"]) == 0
        text = capsys.readouterr().out
        (line,) = [line for line in text.splitlines() if "Autoregressive is ahead below" in line]
        return line

    assert "after Holm's correction over 1 pair" in p_value_of()
    for run in runs:
        change(run, add_far)
    assert "after Holm's correction over 3 pairs" in p_value_of()


def test_a_crossing_that_chance_explains_after_holm_is_none():
    found = Crossover(1e13, 9e12, 2e13, "inside sweep", (1e12, 1e14), ("line", "line"), 0.02)
    told = "Autoregressive and Latent diffusion: inside sweep: A is ahead"
    kept = _corrected(told, "ar", "diffusion", found, 0.04, 3)
    assert kept == f"{told}; p = 0.040 after Holm's correction over 3 pairs"
    lost = _corrected(told, "ar", "diffusion", found, 0.06, 3)
    told = "none: no crossing is established, p = 0.060 after Holm's correction over 3 pairs"
    assert lost.endswith(told)
