"""The headline's pages: what they run, what they predict, and what they ask of the user."""

from pathlib import Path

import pytest

from genlab import cli
from genlab.load import call_page, load_experiment
from genlab.sweeps.page import expand, load_sweep

CONFIGS = Path(__file__).parents[1] / "configs"
HEADLINE, PEOPLE = CONFIGS / "headline.py", CONFIGS / "headline_people.py"
ARMS = ("ar_codes", "ar_latents", "masked_codes", "diffusion_latents")


def test_a_page_is_the_square_at_two_sizes():
    sweep = load_sweep(HEADLINE)
    small, large = expand(sweep)
    assert (small.label, large.label) == ("width=128", "width=192")
    for run, flops in ((small, 6e12), (large, 1.2e13)):
        assert tuple(run.config.arms) == ARMS and run.config.seeds == (0, 1, 2, 3, 4)
        assert run.config.budget.train_flops == flops and run.config.evaluation.token_prompts == 200
        assert run.config.checkpoint.rule == "best" and not run.config.condition.speaker
        assert len(run.config.optim.peak_lrs) == 3
    assert (small.config.backbone.width, large.config.backbone.width) == (128, 192)
    bits = [each for each in sweep.predictions if "the bound of diffusion_latents" in each.text]
    assert [each.score for each in bits] == ["bits_per_s"] * 2


def test_what_is_predicted_is_the_sides_of_the_square_and_what_the_size_does():
    page = call_page(HEADLINE, "sweep", in_bits=())
    by_text = {each.text: each for each in page.predictions}
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
    small, large = expand(load_sweep(PEOPLE))
    assert small.config == config.model_copy(update={"question": small.config.question})
    assert (large.config.backbone.width, large.config.budget.train_flops) == (192, 1.2e13)
