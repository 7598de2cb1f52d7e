import math

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.evaluate.comparisons import compare_rows
from genlab.evaluate.content import word_errors
from genlab.evaluate.controls import Control, derange_texts, prompt_swap, speaker_swap
from genlab.evaluate.scores import ClipValues, clip_means

TEXTS = [
    "one two",
    "three four",
    "one two",
    "five six",
    "seven eight",
    "five six",
    "nine nine nine",
] * 3


def test_a_derangement_changes_every_text():
    for seed in range(20):
        other = derange_texts(TEXTS, seed)
        assert sorted(other) == list(range(len(TEXTS)))
        assert all(TEXTS[i] != TEXTS[j] for i, j in enumerate(other))
    assert (derange_texts(TEXTS, 1) == derange_texts(TEXTS, 1)).all()
    assert (derange_texts(TEXTS, 1) != derange_texts(TEXTS, 2)).any()


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "a", "b"], ["a"] * 4])
def test_a_text_in_the_majority_allows_no_derangement(texts):
    with pytest.raises(GenlabError, match="prompt-swap"):
        derange_texts(texts)


def test_speech_that_follows_its_prompt_passes_and_other_speech_does_not():
    clips = list(range(len(TEXTS)))
    good = prompt_swap("wer_grammar", TEXTS, TEXTS, clips, word_errors)
    assert good.passed
    assert good.difference > 0.8
    deaf = prompt_swap("wer_grammar", ["ten eleven"] * len(TEXTS), TEXTS, clips, word_errors)
    assert not deaf.passed
    assert deaf.difference == 0
    half = [text if i % 2 else "ten" for i, text in enumerate(TEXTS)]
    assert prompt_swap("wer_grammar", half, TEXTS, clips, word_errors).passed


def test_a_control_that_cannot_be_made_is_neither_passed_nor_failed():
    control = prompt_swap("wer_grammar", ["a"], ["a"], [0], word_errors)
    assert not control.passed and control.status == "not applicable"
    assert control.to_dict("ar") == {
        "arm": "ar",
        "control": "prompt_swap",
        "score": "wer_grammar",
        "difference": None,
        "low": None,
        "high": None,
        "passed": False,
        "status": "not applicable",
        "reason": "1 of 1 have the same text; the prompt-swap control needs prompts where no text "
        "occurs in more than "
        "half",
    }


def test_a_control_of_an_older_version_without_a_number_did_not_fail():
    assert (
        Control("prompt_swap", "wer_ctc", math.nan, math.nan, math.nan, False).status
        == "not applicable"
    )
    assert Control("prompt_swap", "wer_ctc", 0.1, -0.1, 0.3, False).status == "failed"
    assert Control("prompt_swap", "wer_ctc", 0.3, 0.1, 0.5, True).status == "passed"


def test_prompts_without_text_are_left_out_of_the_swap():
    silent = prompt_swap("wer_ctc", ["one", "two"], ["", "你好"], [0, 1], word_errors)
    assert (silent.status, silent.reason) == ("not applicable", "the prompts have no text")
    whole = prompt_swap("wer_ctc", TEXTS, TEXTS, list(range(len(TEXTS))), word_errors)
    hypotheses, texts = [*TEXTS, "noise", "more noise"], [*TEXTS, "", ""]
    assert prompt_swap("wer_ctc", hypotheses, texts, list(range(len(texts))), word_errors) == whole
    doubled = prompt_swap(
        "wer_ctc",
        hypotheses * 2,
        texts * 2,
        list(range(len(texts))) * 2,
        word_errors,
        runs=(0,) * len(texts) + (1,) * len(texts),
    )
    assert doubled.status == "passed" and doubled.difference == pytest.approx(whole.difference)


def test_speaker_swap_needs_the_own_voice_to_be_nearer():
    clusters = tuple(range(12))
    own = clip_means(np.linspace(0.8, 0.9, 12), clusters)
    assert speaker_swap(own, np.linspace(0.4, 0.5, 12)).passed
    assert not speaker_swap(own, np.linspace(0.9, 0.8, 12)).passed
    alone = speaker_swap(own, np.full(12, math.nan))
    assert (alone.status, alone.reason) == (
        "not applicable",
        "there is no other speaker to compare with",
    )
    # One group of clips has a value and no interval, which shows nothing either way.
    single = speaker_swap(clip_means(np.array([0.9]), ("a",)), np.array([0.4]))
    assert single.status == "not judged" and single.difference == pytest.approx(-0.5)


def test_clips_whose_speaker_is_unknown_are_left_out_of_the_speaker_swap():
    others = np.linspace(0.4, 0.5, 12)
    known = speaker_swap(clip_means(np.linspace(0.8, 0.9, 12), tuple(range(12))), others)
    values = np.append(np.linspace(0.8, 0.9, 12), [math.nan, math.nan])
    own = clip_means(values, tuple(range(14)))
    assert speaker_swap(own, np.append(others, [math.nan, 0.3])) == known


def make_row(rng, rate, num_clips=40):
    words = np.full(num_clips, 5.0)
    clusters = tuple(range(num_clips))
    errors = ClipValues(rng.binomial(5, rate, num_clips).astype(float), words, clusters)
    return {
        "wer_grammar": errors,
        "dnsmos_ovrl": clip_means(rng.normal(3, 0.3, num_clips), clusters),
    }


def test_rows_are_ranked_only_where_the_data_tell():
    rng = np.random.default_rng(0)
    rows = {
        "ar": make_row(rng, 0.05),
        "masked": make_row(rng, 0.5),
        "diffusion": make_row(rng, 0.5),
    }
    found = {(d.score, d.a, d.b): d for d in compare_rows(rows)}
    assert len(found) == 6
    assert found["wer_grammar", "ar", "masked"].better == "ar"
    assert found["wer_grammar", "ar", "masked"].high < 0
    assert found["wer_grammar", "masked", "diffusion"].better == ""
    assert found["dnsmos_ovrl", "ar", "masked"].better == ""
    assert all(d.p_holm >= d.p_value for d in found.values())


def make_shifted(shifts, num_clips=24, spread=1.0):
    """Rows of one seed whose differences are exactly `shifts` on average, and nearly normal."""
    clusters = tuple(range(num_clips))
    rng = np.random.default_rng(3)
    rows = {}
    for name, shift in shifts.items():
        noise = rng.normal(0, spread, num_clips)
        noise = (noise - noise.mean()) * spread / noise.std()
        rows[name] = {"dnsmos_ovrl": clip_means(3 + shift + noise, clusters)}
    return rows


def test_one_of_many_pairs_needs_more_than_its_own_p_value():
    """Two rows that alone would be told apart, at p = 0.01 to 0.05, and are not among six pairs."""
    rows = make_shifted({"a": 0.75, "b": 0.0})
    (alone,) = compare_rows(rows)
    assert 0.008 < alone.p_value < 0.05 and alone.low > 0 and alone.better == "a"
    assert alone.p_holm == alone.p_value
    more = make_shifted({"a": 0.75, "b": 0.0, "c": 0.35, "d": 0.4})
    found = {(d.a, d.b): d for d in compare_rows(more)}
    pair = found["a", "b"]
    assert pair.p_value == alone.p_value and pair.low > 0, "its own interval excludes zero"
    assert pair.p_holm == pytest.approx(6 * pair.p_value) and pair.p_holm > 0.05
    assert pair.better == "" and not any(d.better for d in found.values())


def test_a_control_passes_by_its_interval_not_by_its_value():
    """One swap of six clips is worse: the mean is, and chance does it as easily."""
    texts = ["one", "two", "three", "four", "five", "six"]
    said = ["one", *["nothing"] * 5]
    control = prompt_swap("wer_grammar", said, texts, list(range(6)), word_errors)
    assert control.difference > 0 and control.low <= 0
    assert not control.passed and control.status == "failed"
    clusters = tuple(range(6))
    own = clip_means(np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.5]), clusters)
    voice = speaker_swap(own, np.array([0.1, 0.52, 0.5, 0.5, 0.52, 0.5]))
    assert voice.difference < 0 < voice.high and voice.status == "failed"


def test_rows_on_different_prompts_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(GenlabError, match="different prompts"):
        compare_rows({"a": make_row(rng, 0.1, 10), "b": make_row(rng, 0.1, 11)})
