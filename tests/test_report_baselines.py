"""What the report says of baselines: rows and lines of their own, never a winner, and a footnote
where they are missing.
"""

import csv
import io
import re

from report_toys import make_ledger, make_results, score
from sweep_toys import make_sweep

from genlab.report.answer import find_answer, model_arms
from genlab.report.baselines import describe_baselines, missing_baselines
from genlab.report.console import format_results
from genlab.report.dots import dot_plots
from genlab.report.page import render_page
from genlab.report.tables import score_table
from genlab.report.written import render_csv, render_markdown
from genlab.run.bounds import BASELINES, COUNTED_BASELINES, DRESSED_BASELINES, HEARD_BASELINES
from genlab.sweeps.figures import curves
from genlab.sweeps.page import expand

BITS = {"unit": "bits per second of audio"}


def with_baselines(results: dict) -> dict:
    """The results with baselines that are better than every arm."""
    rows = {
        name: {"wer_grammar": score(0.001, 0.0005, 3), "block_energy": score(0.1, 0.01, 3)}
        for name in HEARD_BASELINES
    }
    rows |= {name: {"block_energy": score(0.1, 0.01, 3)} for name in DRESSED_BASELINES}
    rows |= {
        name: {"bits_per_s": score(1000.0 + number, 5, 3, validity="exact", **BITS)}
        for number, name in enumerate(COUNTED_BASELINES)
    }
    entries = [
        {"name": name, "family": "baseline", "reads": "codes", "scores": scores}
        for name, scores in rows.items()
    ]
    return {**results, "arms": results["arms"][:3] + entries + results["arms"][3:]}


def test_baselines_are_columns_between_arms_and_floors_and_no_footnote():
    results = with_baselines(make_results(3))
    table = str(score_table(results, find_answer(results, make_ledger())))
    heads = re.findall(r'<th scope="col" class="(\w+)">([^<]*)', table)
    assert [title for _, title in heads] == [
        *("Autoregressive", "Masked parallel", "Latent diffusion"),
        *("Mean latents", "Regression", "Climatology", "Mean latents + residuals"),
        *("Regression + residuals", "Uniform codes", "Unigram", "Bigram"),
        *("Codec floor, codes", "Codec floor, latents", "Real audio"),
    ]
    assert [css for css, _ in heads] == ["model"] * 3 + ["bound"] * 11
    assert "Not in this run" not in table and missing_baselines(results) == ""


def test_a_baseline_is_never_ranked_and_never_the_winner():
    results, ledger = with_baselines(make_results(3)), make_ledger()
    assert [arm["name"] for arm in model_arms(results)] == ["ar", "masked", "diffusion"]
    answer = find_answer(results, ledger)
    assert answer.winner not in BASELINES
    assert answer.winner == find_answer(make_results(3), ledger).winner
    assert not any(title in answer.shows for title in ("Mean latents", "Regression", "Bigram"))


def test_every_place_that_shows_scores_shows_baselines():
    results, ledger = with_baselines(make_results(3)), make_ledger()
    rows = list(csv.DictReader(io.StringIO(render_csv(results))))
    assert {row["arm"] for row in rows if row["family"] == "baseline"} == {*BASELINES}
    dots, page = str(dot_plots(results)), str(render_page(results, ledger, []))
    for title in ("Mean latents", "Regression"):
        assert title in dots and title in page and title in render_markdown(results, ledger)
    # Bits are drawn with counts as their bounds: rings are of arms alone.
    bits = next(panel for panel in dots.split("<svg") if "Bits" in panel)
    assert bits.index("Uniform codes") < bits.index("Bigram") < bits.index("Autoregressive")
    assert bits.count('<g class="bound') == 3
    told = format_results({"question": "Which?", **results}, ledger)
    assert "Unigram" in told and max(map(len, told.splitlines())) <= 80


def test_results_of_an_earlier_version_say_that_they_have_none():
    results, ledger = {"question": "Which?", **make_results(3)}, make_ledger()
    told = (
        "Not in this run: Mean latents, Regression, Climatology, Mean latents + residuals, "
        "Regression + residuals, Uniform codes, Unigram, Bigram."
    )
    assert told in str(score_table(results, find_answer(results, ledger)))
    assert told in render_markdown(results, ledger)
    assert told in " ".join(format_results(results, ledger).split())
    some = with_baselines(results)
    some["arms"] = [arm for arm in some["arms"] if arm["name"] not in ("regression", "bigram")]
    assert missing_baselines(some).startswith("Not in this run: Regression, Bigram. No arm is")


def test_the_method_names_the_baselines_that_were_made():
    assert describe_baselines(()) == []
    (told,) = describe_baselines(("bigram", "lookup"))
    assert told.index("Mean latents") < told.index("Bigram") and "Regression" not in told


def test_figures_of_a_sweep_have_a_line_per_baseline():
    runs = expand(make_sweep(predictions=()))
    prediction = type("Prediction", (), {"score": "bits_per_s"})
    sweep = type("Page", (), {"predictions": (prediction,), "names": {}})
    results = {}
    for number, run in enumerate(runs):
        found = make_results(3)
        for arm in found["arms"][3:]:
            arm["scores"]["bits_per_s"] = score(900.0 - number, 5, 3, **BITS)
        results[run.label] = with_baselines(found)
    (panel,) = curves(sweep, runs, results)
    assert str(panel).count('<path class="level"') == 3
    assert all(title in panel for title in ("Uniform codes", "Unigram", "Bigram"))
    assert str(panel).count('<path class="front"') == 3
