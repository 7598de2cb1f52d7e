"""What a reader of figures and tables is told: where axes begin, labels that do not run into each
other, rings where there are some, and numbers for people.
"""

import re

import numpy as np
import pytest
from browser import needs_browser, start_browser
from report_toys import make_ledger, make_results, score

from genlab.decoders.diffusion import DiffusionSampler
from genlab.decoders.masked import MaskedSampler
from genlab.report import write_report
from genlab.report.dots import dot_plots, place_labels
from genlab.report.page import render_page
from genlab.report.plot import linear_axis, origin_of
from genlab.report.results import chart_title, describe_sampler
from genlab.report.written import render_markdown

LETTER = 7.4


@pytest.mark.parametrize(
    ("name", "values", "first"),
    [
        ("dnsmos_ovrl", [1.78, 2.9], 1.0),  # nobody scores below 1
        ("dnsmos_ovrl", [3.2, 3.5], 3.2),  # so near each other that 1 would hide it
        ("wer_ctc", [0.1, 0.4], 0.0),
        ("f0_correlation", [0.1, 0.9], 0.0),
        ("f0_correlation", [-0.2, 0.9], -0.5),
        ("kad", [-1.2, 3.0], -2.0),
        ("pause_error", [0.2, 1.0], 0.0),  # of a user, in no table
    ],
)
def test_an_axis_begins_where_values_can(name, values, first):
    ticks, place = linear_axis(values, origin=origin_of(name))
    assert ticks[0] == pytest.approx(first)
    assert place(ticks[0]) > place(values[0]) or values[0] == pytest.approx(first)


@pytest.mark.parametrize(
    "ticks", [[2500, 3000, 3500, 4000], [3100, 3150, 3200, 3250, 3300], [0, 0.0005, 0.001], [1, 2]]
)
def test_labels_of_an_axis_do_not_run_into_each_other(ticks):
    places = np.linspace(132, 366, len(ticks))
    found = place_labels([(f"{tick:g}", float(x)) for tick, x in zip(ticks, places)])
    wide = [LETTER * len(text) for text, _, _ in found]
    starts = [x - w * (1.0 if anchor == "end" else 0.5) for (_, x, anchor), w in zip(found, wide)]
    ends = [start + w for start, w in zip(starts, wide)]
    assert all(end < start for end, start in zip(ends, starts[1:]))
    assert max(ends) <= 380 and found[0][0] == f"{ticks[0]:g}"


def test_many_long_labels_are_thinned_and_the_first_stays():
    labels = [(f"{tick}", 132.0 + 20 * i) for i, tick in enumerate(range(33000, 33500, 50))]
    found = place_labels(labels)
    assert [text for text, _, _ in found] == [text for text, _ in labels[::3]]


def test_a_unit_that_does_not_fit_beside_its_title_goes_below_it():
    results = make_results()
    long = {"unit": "deviations of the latents"}
    for arm in results["arms"]:
        arm["scores"]["block_energy_tuned"] = score(0.5, 0.1, **long)
    panels = str(dot_plots(results)).split("<svg")
    tall = next(panel for panel in panels if "own sampler" in panel)
    short = next(panel for panel in panels if "cosine" in panel)
    assert 'y="28" text-anchor="end">deviations of the latents' in tall
    assert 'y="13" text-anchor="end">cosine' in short


def test_rings_are_named_only_where_there_are_some():
    one, three = make_results(1), make_results(3)
    for results, values in ((one, [0.1]), (three, [0.09, 0.1, 0.11])):
        for arm in results["arms"]:
            arm["scores"]["wer_grammar"]["by_seed"] = values
    assert "rings" not in str(render_page({"question": "Which?", **one}, make_ledger(), []))
    assert "rings are single training seeds" in str(
        render_page({"question": "Which?", **three}, make_ledger(), [])
    )


def test_the_written_ledger_is_for_people():
    ledger = make_ledger()
    ledger["rows"].append(
        {
            "item": "Training FLOPs",
            "status": "bounded",
            "values": {"ar": 12003468042240.0, "masked": True, "diffusion": None},
            "note": "",
        }
    )
    text = render_markdown({"question": "Which?", **make_results()}, ledger)
    (line,) = [line for line in text.splitlines() if line.startswith("| Training FLOPs | bounded")]
    assert "12003468042240" not in text
    assert re.sub(r"\s", " ", line).startswith("| Training FLOPs | bounded | 12.0 T | yes |")


def test_a_chart_says_the_better_side_the_unit_and_which_rows_are_bounds():
    results = make_results()
    for arm in results["arms"][3:]:
        validity = "exact" if arm["name"] == "ar" else "upper bound"
        arm["scores"]["bits_per_s"] = score(3000, 9, validity=validity, unit="bits per second")
    title = chart_title(results, "bits_per_s")
    assert title.startswith("Bits per second ↓ (bits per second; upper bounds: ")
    assert title.count(",") == 1 and "Autoregressive" not in title
    assert chart_title(results, "speaker_similarity") == "Speaker similarity ↑ (cosine)"


def test_a_sampler_is_told_by_what_is_not_its_default():
    assert describe_sampler(DiffusionSampler()) == "diffusion"
    assert describe_sampler(DiffusionSampler(steps=6, guidance=1.5)) == (
        "diffusion guidance=1.5 steps=6"
    )
    assert describe_sampler(MaskedSampler(steps=(8, 1))).startswith("masked steps=")


@needs_browser
def test_on_a_phone_scores_and_gates_are_lists_that_do_not_scroll(tmp_path):
    path = write_report(tmp_path, make_results(), make_ledger(), [])
    with start_browser(tmp_path / "browser") as browser:
        browser.resize(390, 844)
        browser.open(path)
        for table in (".scores", ".gates"):
            rights = browser.run(
                "return [...document.querySelectorAll(arguments[0] + ' td')].map(cell => "
                "cell.getBoundingClientRect().right)",
                table,
            )
            assert rights and max(rights) <= 390, table
        told = browser.run(
            "return getComputedStyle(document.querySelector('.scores td:not(.missing)'), "
            "'::before').content"
        )
        assert "Autoregressive" in told
        assert browser.run(
            "const list = document.querySelector('.contents ul'); "
            "return list.scrollWidth <= list.clientWidth"
        )
