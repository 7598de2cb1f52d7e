"""What a reader of the report meets: scores and players first, a list of contents, dots, curves,
and no blank rows.
"""

import re

import numpy as np
import pytest
from browser import needs_browser, start_browser
from markupsafe import escape
from report_toys import make_ledger, make_results
from test_report import EVIL, Page, make_clips

from genlab.report import PromptRow, write_report
from genlab.report.answer import find_answer
from genlab.report.curves import MOST_POINTS, read_curves
from genlab.report.dots import dot_plots
from genlab.report.page import render_page
from genlab.report.tables import control_table, difference_table, score_table
from genlab.report.training import describe_loss, training_plots
from genlab.watch.tensorboard import RunWriter, is_loss_tag

CURVES = {
    "ar": [{"train/loss_ar_nats_per_code": [(1, 7.0), (50, 3.0), (100, 2.5)]}] * 2,
    "masked": [{"train/loss_masked_nats_per_hidden_code": [(1, 7.0), (60, 5.0)]}],
    "diffusion": [{}],
}


def sections_of(page) -> list[str]:
    return re.findall(r'<section id="([a-z]+)"', str(page))


def test_scores_and_players_come_before_the_ledger_and_the_contents_name_every_section():
    page = render_page(make_results(), make_ledger(), make_clips(), curves=CURVES)
    sections = sections_of(page)
    assert sections == [
        "scores",
        "listen",
        "cost",
        "ledger",
        "controls",
        "audit",
        "training",
        "method",
        "reproduce",
    ]
    contents = str(page).split('<nav class="contents"')[1].split("</nav>")[0]
    assert re.findall(r'href="#([a-z]+)"', contents) == sections


def test_a_section_without_content_is_left_out_and_its_command_is_named_at_the_end():
    page = str(render_page({**make_results(), "audit": None}, make_ledger(), []))
    assert not {"fronts", "crossings", "tuning", "audit", "training"} & set(sections_of(page))
    last = page.split('<section id="reproduce"')[1]
    for command in ("--pareto", "genlab crossover", "--audit", "genlab tune", "genlab listen"):
        # Without an audit the gate of the score fails, and says at the top how to make one.
        first = page.split('<section id="reproduce"')[0].count(command)
        assert command in last and bool(first) == (command == "--audit")


def test_fewer_prompts_than_all_are_counted():
    shown = render_page(make_results(), make_ledger(), make_clips(count=2), num_prompts=32)
    assert "2 of 32 prompts; TensorBoard" in shown and "Every prompt" not in shown
    assert "Every prompt of the comparison." in render_page(
        make_results(), make_ledger(), make_clips(count=2)
    )


def test_the_scores_of_a_clip_stand_beside_its_player():
    wave = np.zeros(1600, np.float32)
    marks = {"ar": {"wer_grammar": 0.25, "speaker_similarity": 0.8125}}
    row = PromptRow("prompt00", "a", "s", 0, {"ar": wave, "masked": wave}, scores=marks)
    page = str(render_page(make_results(), make_ledger(), [row]))
    clips = page.split('<figure class="clip"')[1:]
    assert (
        "<b>0.250</b> Word error (grammar)" in clips[0]
        and "<b>0.812</b> Speaker similarity" in clips[0]
    )
    assert 'class="marks"' not in clips[1]


def test_every_row_of_a_score_is_a_dot_with_its_interval():
    results = make_results(3)
    for arm, seeds in (("ar", [0.1, 0.11, 0.09]), ("masked", [0.1])):
        next(a for a in results["arms"] if a["name"] == arm)["scores"]["wer_grammar"]["by_seed"] = (
            seeds
        )
    results["arms"][4]["scores"]["bits_per_s"] = results["arms"][3]["scores"]["bits_per_s"] | {
        "validity": "upper bound"
    }
    panels = str(dot_plots(results)).split("<svg ")[1:]
    titles = [re.search(r'class="name"[^>]*>([^<]*)', panel) for panel in panels]
    assert [title and title[1] for title in titles] == [
        "Word error (grammar) ↓",
        "Speaker similarity ↑",
        "Fréchet distance ↓",
        "Bits per second ↓",
    ]
    assert panels[0].count('class="bar"') == 6 and panels[0].count('class="marker"') == 6
    assert panels[0].count('class="seed"') == 3  # of the arm with several seeds
    assert panels[3].count('class="bar"') == 2 and panels[3].count("hollow") == 1
    # The dot of the better arm lies left of the dot of the worse one, by their share of the axis.
    places = [float(x) for x in re.findall(r'class="bar" d="M([\d.]+) ', panels[0])]
    assert places[3] < places[4] < places[5]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_value_that_is_not_finite_draws_no_dot(value):
    results = make_results()
    for arm in results["arms"]:
        arm["scores"] = {"wer_grammar": arm["scores"]["wer_grammar"]}
    results["arms"][3]["scores"]["wer_grammar"] |= {"value": value, "low": value, "high": value}
    panels = str(dot_plots(results))
    assert panels.count('class="bar"') == 5 and "nan" not in panels and "inf" not in panels


def test_losses_of_different_families_are_drawn_apart():
    plots = str(training_plots(make_results(), CURVES))
    assert plots.count("<svg ") == 2 and plots.count('class="curve"') == 3
    assert (
        "Training loss, nats per code" in plots and "Training loss, nats per hidden code" in plots
    )
    assert describe_loss("valid/loss_latent_ar_mse", "latent_ar") == "Validation loss, mse"
    assert training_plots(make_results(), {}) == ""


def test_hostile_names_stay_text_in_contents_dots_and_curves(tmp_path):
    results = make_results()
    results["arms"][3] |= {"title": EVIL}
    results["arms"][3]["scores"][EVIL] = results["arms"][3]["scores"]["wer_grammar"] | {
        "unit": EVIL
    }
    curves = {"ar": [{f"train/loss_{EVIL}": [(1, 1.0), (2, 2.0)]}]}
    row = PromptRow(
        "p", "t", "s", None, {"ar": np.zeros(99, np.float32)}, scores={"ar": {EVIL: 1.0}}
    )
    page = Page(write_report(tmp_path, results, make_ledger(), [row], curves=curves).read_text())
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("field", ["unit", "validity", "n"])
def test_what_one_arm_has_unlike_the_others_stays_text(field):
    """Where one arm departs from the rest, its own cell says so, and the head of its row not."""
    results = make_results()
    results["arms"][3]["scores"]["wer_grammar"][field] = EVIL
    table = score_table(results, find_answer(results, make_ledger()))
    head = re.search(r'<th scope="row">Word error(?:(?!</th>).)*</th>', table)
    assert head and "script" not in head[0] and "n = 64" in head[0]
    [cell] = re.findall(r'<span class="unlike">((?:(?!</span>).)*)</span>', table)
    assert escape(EVIL) in cell and "<" not in cell
    assert "<script" not in table and "<img" not in table


def test_the_table_shows_the_corrected_p_value():
    """A pair that is below the level alone and not after Holm is shown with what decides."""
    results = make_results(seeds=3)
    pair = next(one for one in results["differences"] if (one["a"], one["b"]) == ("ar", "masked"))
    pair |= {"p_value": 0.013, "p_holm": 0.39, "better": ""}
    [row] = [row for row in difference_table(results).split("<tr>") if "0.390" in row]
    assert "0.013" not in row and "<td>no</td>" in row
    head = difference_table(results).split("<tr>")[1]
    assert "p, Holm" in head


def test_a_resumed_training_has_one_curve(tmp_path):
    for start, stop, value in ((0, 10, 1.0), (5, 12, 2.0)):
        with RunWriter(tmp_path, resume_step=start) as writer:
            for step in range(start + 1, stop + 1):
                writer.scalars(step, {"train/loss_ar_nats": value, "train/grad_norm": 9.0})
    with RunWriter(tmp_path, attempt="samples") as writer:
        writer.scalars(0, {"train/loss_ar_nats": 7.0})  # a file that is not read
    curve = [(step, 1.0) for step in range(1, 6)] + [(step, 2.0) for step in range(6, 13)]
    assert read_curves(tmp_path, is_loss_tag) == {"train/loss_ar_nats": curve}
    assert read_curves(tmp_path / "gone", is_loss_tag) == {}


def test_a_long_curve_is_thinned_and_keeps_its_end(tmp_path):
    with RunWriter(tmp_path) as writer:
        for step in range(1001):
            writer.scalars(step, {"train/loss_ar_nats": float(step)})
    [curve] = read_curves(tmp_path, is_loss_tag).values()
    assert len(curve) <= MOST_POINTS + 1 and curve[0] == (0, 0.0) and curve[-1] == (1000, 1000.0)


@needs_browser
def test_a_phone_shows_no_blank_rows_and_nothing_wider_than_itself(tmp_path):
    ledger = make_ledger()
    ledger["rows"][0]["note"] = (
        "hash over the batches of all seeds, in the order in which every arm saw them " * 4
    )
    path = write_report(tmp_path, make_results(), ledger, make_clips(), curves=CURVES)
    with start_browser(tmp_path / "browser") as browser:
        browser.resize(390, 844)
        browser.open(path)
        assert browser.run("return document.documentElement.scrollWidth") <= 390
        # A row was as tall as its note, which stood outside the screen.
        rights = browser.run(
            "return [...document.querySelectorAll('.ledger td')].map(cell => "
            "cell.getBoundingClientRect().right)"
        )
        assert rights and max(rights) <= 390


def test_a_control_looks_like_what_became_of_it():
    item = {"arm": "ar", "control": "text_swap", "score": "wer_ctc", "low": 0.1, "high": 0.3}
    items = [
        {**item, "difference": 0.2, "passed": True, "status": "passed"},
        {**item, "difference": 0.0, "passed": False, "status": "failed"},
        {**item, "difference": None, "passed": False, "status": "not judged"},
        {**item, "difference": None, "passed": False, "status": "not applicable"},
    ]
    table = str(control_table({"arms": [], "controls": items}))
    assert re.findall(r'class="badge (\w+)">([\w ]+)<', table) == [
        ("good", "passed"),
        ("bad", "failed"),
        ("bad", "not judged"),
        ("bounded", "not applicable"),
    ]
