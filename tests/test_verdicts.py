"""Verdicts of a sweep on data with a known truth, and the page that shows them."""

import math

import numpy as np
import pytest
from gate_toys import NAMES
from hypothesis import given
from hypothesis import strategies as st
from report_toys import beat_floors
from sweep_toys import finish, make_sweep
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import load_row, save_row
from genlab.evaluate.scores import ClipValues
from genlab.fairness.verdict import Gate
from genlab.run.bounds import BIGRAM, UNIGRAM
from genlab.run.files import read_json, write_json
from genlab.statistics.bootstrap import holm_correction
from genlab.statistics.crossed import crossed_contrast
from genlab.sweeps.drafts import Draft
from genlab.sweeps.finding import Finding
from genlab.sweeps.judge import conclude, judge
from genlab.sweeps.notebook import verdict_of, write_notebook
from genlab.sweeps.page import (
    Contrast,
    Crossing,
    Ratio,
    product,
)
from genlab.sweeps.runs import (
    run_directory,
)
from genlab.sweeps.runs import write_page as write_files

LOW, HIGH = "FLOPs=2e+10", "FLOPs=4e+10"


LEVEL = 2000.0  # bits per second, from which rows differ by their effects


def write_rows(
    out,
    run,
    effects,
    rng,
    *,
    seeds=3,
    prompts=24,
    validity=None,
    seed_spread=0.5,
    spoil=None,
    reads=None,
):
    """Make a finished run whose rows have these true values above the level, and whose gates pass;
    `spoil` changes its results.json.
    """
    finish(run, out)
    hardness = rng.normal(size=prompts)
    arms = []
    for arm, effect in effects.items():
        luck = seed_spread * rng.normal(size=seeds)
        values = LEVEL + effect + hardness + luck[:, None] + 0.5 * rng.normal(size=(seeds, prompts))
        clusters = tuple(str(i) for i in range(prompts)) * seeds
        runs = tuple(int(i) for i in np.repeat(np.arange(seeds), prompts))
        kind = (validity or {}).get(arm, "exact")
        clips = ClipValues(values.ravel(), np.ones(values.size), clusters, kind, runs)
        save_row(
            run_directory(out, run) / "rows" / f"{arm}.json",
            RowResult({}, {"bits_per_s": clips}, [], ()),
        )
        score = {
            "value": values.mean(),
            "low": values.mean() - 1,
            "high": values.mean() + 1,
            "validity": kind,
        }
        score |= {
            "by_seed": values.mean(axis=1).tolist(),
            "unit": "bits per second of audio",
            "direction": "lower",
            "seeds": seeds,
            "covers": "prompts and training seeds",
        }
        arms.append(
            {
                "name": arm,
                "family": arm,
                "reads": (reads or {}).get(arm, "codes"),
                "scores": {"bits_per_s": score},
                "steps": 3,
                "network_calls": 4,
                "epochs": 1.0,
                "train_flops": run.config.budget.train_flops,
                "train_wall_s": 1.0,
            }
        )
    results = {
        "arms": arms,
        "differences": beat_floors(effects, "bits_per_s", (UNIGRAM, BIGRAM)),
        "controls": [
            {"arm": arm, "control": "prompt_swap", "score": "wer_ctc", "difference": 0.8}
            | {"low": 0.7, "high": 0.9, "passed": True}
            for arm in effects
        ],
        "commit": "abc",
        "wall_s": 2.0,
        "versions": {"genlab": "0"},
    }
    if spoil is not None:
        spoil(results)
    stamp = results.pop("stamp", "controlled")
    write_json(run_directory(out, run) / "results.json", results)
    write_json(run_directory(out, run) / "ledger.json", {"stamp": stamp})


EDGE = 1.5  # bits a second, at which three seeds of 24 prompts are just told apart


def below(text):
    terms = {"ar": 1.0, "masked": -1.0}
    return Contrast(text=text, score="bits_per_s", terms=terms, expect="below")


def verdicts(tmp_path, effects, *predictions, **kinds):
    whole = [
        Contrast(
            **{
                "text": "t",
                "score": "bits_per_s",
                "terms": {"ar": 1.0, "masked": -1.0},
                "expect": "below",
                **one,
            }
        )
        for one in predictions
    ]
    sweep = make_sweep(points=({},), predictions=tuple(whole))
    runs = write_files(sweep, tmp_path)
    write_rows(tmp_path, runs[0], effects, np.random.default_rng(0), **kinds)
    return judge(sweep, runs, tmp_path)


def test_verdicts_on_a_known_truth(tmp_path):
    found = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {"size": -9.0}, {"expect": "above"})
    assert [one.verdict for one in found] == ["reproduced", "reversed"]
    assert found[0].low < -9.0 < found[0].high and "inside" in found[0].note and found[0].seeds == 3
    [none] = verdicts(tmp_path, {"ar": 0.0, "masked": 0.3}, {})
    assert none.verdict == "inconclusive"
    alike = {"expect": "within", "margin": 5.0}
    assert verdicts(tmp_path, {"ar": 0.0, "masked": 0.3}, alike)[0].verdict == "reproduced"
    assert verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, alike)[0].verdict == "reversed"
    few = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {}, seeds=2)
    assert few[0].verdict == "inconclusive" and "each arm has 2 training seeds" in few[0].note


def test_no_effect_is_seldom_called_one(tmp_path):
    sweep = make_sweep(
        points=({},),
        predictions=(
            Contrast(
                text="t", score="bits_per_s", terms={"ar": 1.0, "masked": -1.0}, expect="below"
            ),
        ),
    )
    runs, rng = write_files(sweep, tmp_path), np.random.default_rng(5)
    called = 0
    for _ in range(300):
        write_rows(tmp_path, runs[0], {"ar": 0.0, "masked": 0.0}, rng, prompts=12)
        called += judge(sweep, runs, tmp_path)[0].verdict != "inconclusive"
    assert called / 300 < 0.08


@pytest.fixture
def crossing_sweep(tmp_path):
    flops = [1e10, 2e10, 4e10, 8e10]
    rows = {f"{arm} @ FLOPs=8e+10": weight for arm, weight in (("ar", 1.0), ("masked", -1.0))}
    predictions = (
        Crossing(text="masked passes", score="bits_per_s", before="ar", after="masked"),
        Contrast(text="masked leads at the end", score="bits_per_s", terms=rows, expect="above"),
    )
    sweep = make_sweep(
        points=tuple(product({"budget.train_flops": flops})), predictions=predictions
    )
    return sweep, write_files(sweep, tmp_path)


@pytest.mark.parametrize(("slope", "verdict"), [(-6.0, "reproduced"), (0.0, "inconclusive")])
def test_a_crossing_is_found_where_it_is(tmp_path, crossing_sweep, slope, verdict):
    (sweep, runs), rng = crossing_sweep, np.random.default_rng(3)
    assert [one.verdict for one in judge(sweep, runs, tmp_path)] == ["not run", "not run"]
    for index, run in enumerate(runs):
        write_rows(tmp_path, run, {"ar": 0.0, "masked": 9.0 + slope * index}, rng, seed_spread=0.1)
    found = judge(sweep, runs, tmp_path)[0]
    assert found.verdict == verdict
    if slope:
        assert found.low < 1e10 * 2**1.5 < found.high


def test_ratios_of_cost_are_exact_or_have_an_interval_over_seeds(tmp_path):
    def ratio(**update):
        told = {
            "text": "t",
            "cost": "latency_s",
            "length_s": 10.0,
            "over": "ar",
            "under": "masked",
            "expect": "above",
        }
        return Ratio(**{**told, **update})

    base = make_sweep().base
    timed = base.model_copy(
        update={"evaluation": base.evaluation.model_copy(update={"lengths_s": (10.0,)})}
    )
    wanted = (
        ratio(times=2.0),
        ratio(times=9.0),
        ratio(times=4.0),
        ratio(cost="network_calls"),
        ratio(cost="network_calls", times=8.0),
        ratio(over="masked", under="ar", expect="below"),
    )
    with pytest.raises(ValueError, match="add it there"):
        make_sweep(points=({},), predictions=wanted[:1])
    sweep = make_sweep(base=timed, points=({},), predictions=wanted)
    runs = write_files(sweep, tmp_path)
    write_rows(tmp_path, runs[0], {"ar": 0.0, "masked": 1.0}, np.random.default_rng(0))
    path = run_directory(tmp_path, runs[0]) / "results.json"
    results = read_json(path)
    seconds = {"ar": [4.0, 4.4, 3.6], "masked": [1.0, 1.0, 1.0]}
    for arm in results["arms"]:
        cost = {
            "latency_s": seconds[arm["name"]],
            "network_calls": 800 if arm["name"] == "ar" else 100,
            "flops": 1e9,
        }
        arm["by_length"] = {"10": cost}
    write_json(path, results)
    found = judge(sweep, runs, tmp_path)
    # Calls follow from the configs: no run could have come out otherwise.
    verdicts = [
        "reproduced",
        "reversed",
        "inconclusive",
        "arithmetic",
        "arithmetic",
        "reproduced",
    ]
    assert [one.verdict for one in found] == verdicts
    # Geometric mean 3.987; Student's t with 2 degrees of freedom on the logs: a factor of 1.283.
    np.testing.assert_allclose(
        [found[0].value, found[0].low, found[0].high], [3.9866, 3.1068, 5.1156], rtol=1e-4
    )
    assert (found[3].value, found[3].low, found[3].high) == (8.0, 8.0, 8.0)
    assert "exact: it is above 1" in found[3].note and "it is not above 8" in found[4].note
    assert math.isnan(found[3].p_holm) and found[0].p_holm > found[5].p_holm
    text, _ = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert (
        "## Cost by length" in text
        and "| 10 s | the run | Autoregressive | 800 | 1.00 G | 4.00 s, 4.40 s, 3.60 s | 2.50 |"
        in text
    )


def test_the_page_tells_what_was_predicted_and_found(tmp_path, crossing_sweep):
    (sweep, runs), rng = crossing_sweep, np.random.default_rng(3)
    for index, run in enumerate(runs[:-1]):
        write_rows(tmp_path, run, {"ar": 0.0, "masked": 9.0 - 6 * index}, rng)
    half, findings = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert "waits for FLOPs=8e+10" in half and verdict_of(findings) == "not run"
    write_rows(tmp_path, runs[-1], {"ar": 0.0, "masked": -9.0}, rng)
    text, findings = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert verdict_of(findings) == "reproduced" and "# toy: reproduced" in text
    assert (
        "masked leads at the end" in text and "genlab sweep run" in text and "(figure.svg)" in text
    )
    page = (tmp_path / "report.html").read_text()
    assert page.count('<svg class="plot"') == 2 and page.count('href="runs/') == 4
    figure = (tmp_path / "figure.svg").read_text()
    assert figure.startswith("<svg") and "<style>" in figure and figure.count('class="front"') == 2
    assert read_json(tmp_path / "findings.json")["findings"][1]["verdict"] == "reproduced"
    [events] = (tmp_path / "hparams" / f"{runs[0].id}-ar").iterdir()
    read = EventAccumulator(str(events)).Reload()
    assert "score/bits_per_s" in read.Tags()["scalars"] and read.summary_metadata


def test_what_the_page_does_not_ask_is_listed_and_counts_for_nothing(tmp_path):
    sweep = make_sweep(
        points=({},),
        predictions=(
            Contrast(
                text="t", score="bits_per_s", terms={"ar": 1.0, "masked": -1.0}, expect="below"
            ),
        ),
        untested=("listeners agree: nobody was asked",),
        looks=("A pilot of two runs.", "Nobody has seen these prompts."),
        noticed=("one arm hums",),
    )
    runs = write_files(sweep, tmp_path)
    write_rows(tmp_path, runs[0], {"ar": 0.0, "masked": 9.0}, np.random.default_rng(0))
    text, findings = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert [one.verdict for one in findings] == ["reproduced", "not tested at this scale"]
    assert verdict_of(findings) == "reproduced" and "| listeners agree: nobody was asked |" in text
    assert "## Noticed afterwards\n\n- one arm hums" in text
    looks = "A pilot of two runs. Nobody has seen these prompts."
    assert f"**Looks before the run.** {looks}" in text
    page = (tmp_path / "report.html").read_text()
    assert f"<strong>Looks before the run.</strong> {looks}" in page
    assert "<li>one arm hums</li>" in page
    # Nothing was varied, so the page's figure is that of its predictions.
    assert "(figure.svg)" in text and 'class="bar"' in (tmp_path / "figure.svg").read_text()


def test_a_withdrawn_verdict_keeps_what_was_found_and_says_why(tmp_path):
    terms = {"ar": 1.0, "masked": -1.0}
    withdrawn = {"t": "both arms lose to counting"}
    sweep = make_sweep(
        points=({},),
        predictions=(Contrast(text="t", score="bits_per_s", terms=terms, expect="below"),),
        withdrawn=withdrawn,
    )
    runs = write_files(sweep, tmp_path)
    assert judge(sweep, runs, tmp_path / "not run")[0].verdict == "not run"
    write_rows(tmp_path, runs[0], {"ar": 0.0, "masked": 9.0}, np.random.default_rng(0))
    text, [finding] = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert finding.verdict == "withdrawn" and finding.note == withdrawn["t"]
    assert -9.5 < finding.value < -8.5 and text.startswith(f"# {sweep.name}: withdrawn\n")
    with pytest.raises(ValueError, match="withdrawn: no prediction 'u'"):
        make_sweep(predictions=sweep.predictions, withdrawn={"u": "no such prediction"})


def uncontrol(results):
    results["stamp"] = "uncontrolled"


def fail_control(results):
    results["controls"][0]["passed"] = False


def lose_to_unigram(results):
    results["differences"][0]["better"] = ""


def leave_out_unigram(results):
    results["differences"] = [item for item in results["differences"] if item["b"] != UNIGRAM]


@pytest.mark.parametrize(
    ("spoil", "verdict", "told"),
    [
        (uncontrol, "inconclusive", "ledger controlled: the arms differ"),
        (fail_control, "inconclusive", "failed the prompt swap"),
        (lose_to_unigram, "not tested at this scale", "not trained enough: Autoregressive does"),
        (
            leave_out_unigram,
            "not tested at this scale",
            "was compared with counts of single",
        ),
    ],
)
def test_a_verdict_reads_the_ledger_the_controls_and_the_counts(tmp_path, spoil, verdict, told):
    for effects in ({"ar": 0.0, "masked": 9.0}, {"ar": 9.0, "masked": 0.0}):
        [found] = verdicts(tmp_path, effects, {}, spoil=spoil)
        assert found.verdict == verdict and told in found.note
        assert [gate.state for gate in found.gates].count("failed") == 1
        assert found.to_dict()["gates"][0]["name"] == "ledger controlled"


def test_latents_against_codes_is_no_verdict_on_families(tmp_path):
    [found] = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {}, reads={"masked": "latents"})
    assert found.verdict == "inconclusive"
    assert "so this compares codes and latents, not families" in found.note


def test_few_prompts_and_much_noise_are_no_verdict(tmp_path):
    [found] = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {"size": -0.1})
    assert found.verdict == "inconclusive" and "with 24 prompts, a test at" in found.note


def test_holm_runs_over_all_that_a_page_decides(tmp_path, crossing_sweep):
    (sweep, runs), rng = crossing_sweep, np.random.default_rng(3)
    for index, run in enumerate(runs):
        write_rows(tmp_path, run, {"ar": 0.0, "masked": 9.0 - 6.0 * index}, rng, seed_spread=0.1)
    crossing, contrast = judge(sweep, runs, tmp_path)
    assert crossing.p_holm < 0.05 and contrast.p_holm < 0.05
    alone = sweep.model_copy(update={"predictions": sweep.predictions[1:]})
    [by_itself] = judge(alone, runs, tmp_path)
    assert by_itself.p_holm <= contrast.p_holm
    crossed = sweep.model_copy(update={"predictions": sweep.predictions[:1]})
    assert judge(crossed, runs, tmp_path)[0].p_holm <= crossing.p_holm
    both = (by_itself.p_holm, judge(crossed, runs, tmp_path)[0].p_holm)
    assert sorted((contrast.p_holm, crossing.p_holm)) == sorted(holm_correction(both))


def test_one_of_three_predictions_pays_for_all_of_them(tmp_path):
    """Its own p-value says reproduced; three times as much does not."""
    effects = {"ar": 0.0, "masked": EDGE, "diffusion": EDGE / 2}
    asked = [
        {"size": -9.0},
        {"size": -9.0, "text": "u", "terms": {"ar": 1.0, "diffusion": -1.0}},
        {"size": -9.0, "text": "v", "terms": {"diffusion": 1.0, "masked": -1.0}},
    ]
    [alone] = verdicts(tmp_path / "a", effects, asked[0])
    assert alone.verdict == "reproduced" and 0.017 < alone.p_holm < 0.05
    found = verdicts(tmp_path / "b", effects, *asked)
    assert "at the level 0.017" in found[0].gates[-2].reason  # 5 % over three
    assert "at the level 0.05" in alone.gates[-2].reason
    assert found[0].value == alone.value and found[0].p_holm == pytest.approx(3 * alone.p_holm)
    assert [one.verdict for one in found] == ["inconclusive"] * 3


@pytest.mark.parametrize("arm", ["ar", "masked"])
def test_a_prompt_without_a_value_in_one_row_is_left_out_of_both(tmp_path, arm):
    sweep = make_sweep(points=({},), predictions=(below("t"),))
    runs = write_files(sweep, tmp_path)
    write_rows(tmp_path, runs[0], {"ar": 0.0, "masked": 9.0}, np.random.default_rng(0))
    rows = run_directory(tmp_path, runs[0]) / "rows"
    grids = {}
    for name in ("ar", "masked"):
        values = load_row(rows / f"{name}.json").per_clip["bits_per_s"]
        grids[name] = values.values.reshape(3, 24)
        if name == arm:
            # Of one seed alone, and far from the others: the prompt goes from all seeds and rows.
            weights = np.ones((3, 24))
            weights[1, [2, 5]] = 0
            grids[name][:, [2, 5]] += 500.0
            holed = values._replace(
                totals=np.where(weights > 0, grids[name], 0.0).ravel(), weights=weights.ravel()
            )
            save_row(rows / f"{name}.json", RowResult({}, {"bits_per_s": holed}, [], ()))
    [found] = judge(sweep, runs, tmp_path)
    kept = np.delete(np.arange(24), [2, 5])
    truth = crossed_contrast([grids[name][:, kept] for name in ("ar", "masked")], (1.0, -1.0))
    assert found.value == pytest.approx(float(truth.value))
    assert found.high - found.value == pytest.approx(float(truth.half_width))


@pytest.mark.parametrize(("score", "leader"), [("bits_per_s", "masked"), ("dnsmos_ovrl", "ar")])
def test_who_leads_after_a_crossing_depends_on_the_direction_of_the_score(
    tmp_path, crossing_sweep, score, leader
):
    (sweep, runs), rng = crossing_sweep, np.random.default_rng(3)
    for index, run in enumerate(runs):
        write_rows(tmp_path, run, {"ar": 0.0, "masked": 9.0 - 6.0 * index}, rng, seed_spread=0.1)
        path = run_directory(tmp_path, run) / "results.json"
        path.write_text(path.read_text().replace("bits_per_s", score))
    crossing = sweep.predictions[0].model_copy(update={"score": score})
    alone = sweep.model_copy(update={"predictions": (crossing,)})
    [found] = judge(alone, runs, tmp_path)
    assert f"at the largest flops of the sweep {leader} leads" in found.note


def test_a_crossing_of_bounds_is_no_crossing_of_values(tmp_path, crossing_sweep):
    (sweep, runs), rng = crossing_sweep, np.random.default_rng(3)
    bound = {"validity": {"masked": "upper bound"}, "seed_spread": 0.1}
    for index, run in enumerate(runs):
        write_rows(tmp_path, run, {"ar": 0.0, "masked": 9.0 - 6.0 * index}, rng, **bound)
    found = judge(sweep, runs, tmp_path)[0]
    assert found.verdict == "inconclusive" and "values need not" in found.note
    taken = sweep.predictions[0].model_copy(update={"bounds_as_values": True})
    stated = sweep.model_copy(update={"predictions": (taken,)})
    found = judge(stated, runs, tmp_path)[0]
    assert found.verdict == "reproduced in bounds"
    assert "upper bounds are taken as values" in found.note


def make_draft(verdict, states):
    gates = tuple(Gate(name, state, "why") for name, state in zip(NAMES, states))
    return Draft(Finding("t", "contrast", "bits_per_s", "below", verdict, gates=gates), 0.001)


@given(
    verdict=st.sampled_from(["reproduced", "reversed", "inconclusive"]),
    states=st.tuples(*[st.sampled_from(["passed", "failed", "not applicable"])] * len(NAMES)),
    p_holm=st.floats(0.0, 1.0),
)
def test_no_combination_of_failed_gates_leaves_a_verdict(verdict, states, p_holm):
    found = conclude(make_draft(verdict, states), p_holm)
    if "failed" in states or p_holm >= 0.05:
        assert found.verdict in ("inconclusive", "not tested at this scale")
    else:
        assert found.verdict == verdict
    for name, state in zip(NAMES, states):
        assert (f"{name}: why" in found.note) == (state == "failed")
