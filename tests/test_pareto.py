"""Fronts: equally many settings for every arm, and settings dropped by a test and not by eye."""

import numpy as np
import pytest
from report_toys import make_ledger, make_results

from genlab.evaluate.scores import ClipValues
from genlab.load import load_experiment
from genlab.report.fronts import COSTS, fronts_section
from genlab.report.page import render_page
from genlab.studies.pareto import NUM_SETTINGS, TEMPERATURES, _judge, format_fronts, list_settings


def test_every_arm_gets_its_own_setting_and_as_many_others():
    config = load_experiment("configs/units_to_speech.py")
    settings = list_settings(config)
    assert {len(of_arm) for of_arm in settings.values()} == {NUM_SETTINGS}
    for name, of_arm in settings.items():
        assert of_arm[0].sampler == config.arms[name].sampler and of_arm[0].name == "own setting"
        assert len({setting.sampler for setting in of_arm}) == NUM_SETTINGS
        assert all(setting.change for setting in of_arm[1:])
    assert list_settings(config) == settings  # the same settings on every machine and every day


def test_without_dropped_conditions_nothing_is_guided_and_the_smallest_grid_counts():
    config = load_experiment("configs/units_to_speech.py")
    arms = {
        name: arm.model_copy(update={"sampler": arm.sampler.model_copy(update={"guidance": 1.0})})
        for name, arm in config.arms.items()
    }
    condition = config.condition.model_copy(update={"dropout": 0.0})
    settings = list_settings(config.model_copy(update={"arms": arms, "condition": condition}))
    assert {setting.sampler.guidance for of_arm in settings.values() for setting in of_arm} == {1.0}
    # a quarter, half and all of diffusion's steps
    assert {len(of_arm) for of_arm in settings.values()} == {3}


@pytest.mark.parametrize(
    ("head", "axes"),
    [
        ("gmm", {"temperature"}),
        ("energy", {"temperature"}),
        ("flow", {"steps", "temperature", "guidance"}),
    ],
)
def test_a_head_is_asked_only_for_what_it_can_do(head, axes):
    """A mixture refuses guidance, which would end the study after the training."""
    decoder = f'{{"kind":"latent_ar","head":{{"kind":"{head}"}}}}'
    told = f'arms.ar={{"decoder":{decoder},"sampler":{{"kind":"latent_ar"}}}}'
    config = load_experiment("configs/units_to_speech.py", (told,))
    settings = list_settings(config)
    assert {field for setting in settings["ar"] for field in setting.change} == axes
    # As many of each arm as the smallest grid has: its temperatures.
    of_each = {len(of_arm) for of_arm in settings.values()}
    assert of_each == ({NUM_SETTINGS} if head == "flow" else {len(TEMPERATURES)})


def entries_of(shares, costs, seeds=3, words=20, prompts=40):
    """Entries of settings with these error rates: prompts and seeds move all settings alike, and
    words are many.
    """
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 0.02, prompts)[None, :] + rng.normal(0, 0.01, seeds)[:, None]
    values = {}
    for name, share in shares.items():
        errors = rng.binomial(words, np.clip(share + hard, 0, 1)).astype(float).ravel()
        runs = tuple(np.repeat(range(seeds), prompts).tolist())
        values[name] = ClipValues(
            errors, np.full(len(errors), float(words)), tuple(range(prompts)) * seeds, runs=runs
        )
    of_settings = {name: dict.fromkeys(COSTS, cost) for name, cost in costs.items()}
    return _judge("ar", values, of_settings, 0, "wer_ctc")


def test_a_dearer_and_surely_worse_setting_is_dropped_and_no_other():
    shares = {"good": 0.1, "bad": 0.5, "cheap": 0.5, "equal": 0.1}
    entries = entries_of(shares, {"good": 10, "bad": 20, "cheap": 1, "equal": 30})
    beaten = {entry["setting"]: entry["dominated_by"]["network_calls"] for entry in entries}
    assert beaten["bad"] in ("good",) and not beaten["good"]
    assert not beaten["cheap"]  # worse, but nothing as cheap is better
    assert not beaten["equal"]  # dearer, but not surely worse


def test_luck_drops_nothing():
    dropped = 0
    for prompts in range(20, 60):
        entries = entries_of(
            dict.fromkeys("abcde", 0.2), dict(zip("abcde", range(1, 6))), prompts=prompts
        )
        dropped += any(entry["dominated_by"]["latency_s"] for entry in entries)
    assert dropped <= 5  # 5 % of 40, and three deviations of chance


def test_the_report_draws_the_fronts_and_lists_every_setting():
    entries = entries_of({"own setting": 0.1, "steps 6": 0.5}, {"own setting": 10, "steps 6": 20})
    results = {**make_results(3), "pareto": entries}
    section = str(fronts_section(results))
    assert section.count('<svg class="plot"') == len(COSTS) and section.count(
        'class="front"'
    ) == len(COSTS)
    assert (
        "steps 6" in section
        and "every cost" in section
        and section.count('class="arm0 beaten"') == len(COSTS)
    )
    assert "--pareto" not in section and "--pareto" in str(fronts_section(make_results(3)))
    assert 'id="fronts"' in render_page(results, make_ledger(), [])
    rows = format_fronts(entries)
    assert (
        rows[1][-1] == "all" and rows[2][-1] == "none" and rows[1][2] == pytest.approx(rows[1][2])
    )
