"""Whom a sentence is about: what intervals over texts and over voices cover, on drawn voices."""

import numpy as np
import pytest
from report_toys import make_ledger, make_results

from genlab.evaluate.scope import count_speakers, describe_scope, describe_units
from genlab.report.answer import find_answer
from genlab.statistics.crossed import crossed_difference

REPETITIONS, SEEDS = 1000, 3


def draw_differences(rng, voices, texts_per_voice):
    """Draw two arms whose true difference is 0, and by how much each voice prefers one of them:
    each text is spoken by one voice.
    """
    prefers = rng.normal(size=(REPETITIONS, 1, voices))
    of_text = np.repeat(prefers, texts_per_voice, axis=2)
    texts = of_text.shape[2]
    noise = rng.normal(size=(2, REPETITIONS, SEEDS, texts))
    return of_text + noise[0], noise[1], prefers.mean(axis=(1, 2))


def coverage(found, truth):
    return float(np.mean(np.abs(found.value - truth) <= found.half_width))


def test_an_interval_over_texts_is_about_these_voices_alone():
    a, b, of_these = draw_differences(np.random.default_rng(0), 8, 25)
    found = crossed_difference(a, b)
    assert 0.93 <= coverage(found, of_these)
    # Of voices in general, whose mean preference is 0, it says far too much.
    assert coverage(found, 0.0) < 0.6
    units = count_speakers("text", [f"s{number % 8}" for number in range(200)])
    assert units == {"unit": "text", "speakers": 8}
    assert describe_scope(units) == "the 8 voices of this corpus"


@pytest.mark.parametrize("voices", [10, 40])
def test_with_voices_as_units_it_covers_others(voices):
    a, b, _ = draw_differences(np.random.default_rng(1), voices, 5)
    by_voice = [arm.reshape(REPETITIONS, SEEDS, voices, 5).mean(axis=3) for arm in (a, b)]
    assert 0.93 <= coverage(crossed_difference(*by_voice), 0.0) <= 0.98
    assert describe_scope({"unit": "speaker", "speakers": voices}) == ""


@pytest.mark.parametrize(
    ("unit", "speakers", "scope", "told"),
    [
        ("text", 1, "the one voice of this corpus", "other texts of the one voice"),
        ("text", 8, "the 8 voices of this corpus", "nothing of other voices."),
        ("text", 40, "the 40 voices of this corpus", "a corpus with unit=speaker covers."),
        ("speaker", 9, "the 9 voices of this corpus", "too few of them to say anything of others"),
        ("speaker", 10, "", "Their units are speakers."),
        ("text", 0, "", "Their units are texts."),
        ("clip", 8, "", "Their units are clips."),  # labels of sounds, not people
    ],
)
def test_the_scope_in_words(unit, speakers, scope, told):
    units = {"unit": unit, "speakers": speakers}
    assert describe_scope(units) == scope and told in describe_units(units)


def test_the_answer_says_whom_it_holds_for():
    results = make_results(seeds=3)
    assert "voice" not in find_answer(results, make_ledger()).headline  # of an early version
    results["units"] = {"unit": "text", "speakers": 8}
    answer = find_answer(results, make_ledger())
    assert answer.winner == "ar"
    assert "over 3 training seeds, for the 8 voices of this corpus." in answer.headline
    assert "Their units are texts: they cover other texts of the 8 voices" in answer.shows
    power = next(gate for gate in answer.gates if gate.name == "enough prompts")
    assert "a test at the level 0.017 would find" in power.reason
    assert power.reason.endswith("in 90% of all experiments, for the 8 voices of this corpus")
