import dataclasses
import json

import numpy as np
import pytest

from genlab.config import GenlabError
from genlab.evaluate.comparisons import compare_rows
from genlab.evaluate.metrics import ContentMetric, EvaluationConfig, build_context, score_clips
from genlab.evaluate.table import is_paired

FIELDS = {"value", "low", "high", "n", "seeds", "unit", "direction", "validity", "note", "covers"}


@pytest.fixture(scope="module")
def prompts(speech):
    return speech[-12:]


@pytest.fixture(scope="module")
def context(speech, grammar):
    parrot = ContentMetric("parrot", "character", lambda waves: ["one two"] * len(waves))
    known = speech[:-12]
    config = EvaluationConfig(dnsmos_clips=2)
    return build_context(
        config, [grammar, parrot], [p.wave for p in known], [p.speaker for p in known]
    )


@pytest.fixture(scope="module")
def real(prompts, context):
    return score_clips([p.wave for p in prompts], prompts, context, is_reconstruction=True)


@pytest.fixture(scope="module")
def noisy(prompts, context, degrade):
    return score_clips(
        [degrade["noise_0db"](p.wave) for p in prompts], prompts, context, is_reconstruction=True
    )


def test_every_score_has_the_fields_of_results_json(real):
    expected = {
        "wer_grammar",
        "cer_parrot",
        "speaker_similarity",
        "speaker_accuracy",
        "kad",
        "frechet",
        "mel_distance",
    }
    expected |= {"f0_correlation", "voicing_agreement", "f0_gross_error"}
    expected |= {"dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808"}
    assert expected <= set(real.scores)
    for name, score in real.scores.items():
        row = json.loads(json.dumps(score.to_dict(), allow_nan=False))
        assert set(row) == FIELDS
        assert row["low"] <= row["value"] <= row["high"], name
    assert real.scores["dnsmos_ovrl"].n == 2
    assert real.scores["wer_grammar"].n == 12


def test_real_speech_beats_noisy_speech_on_every_score(real, noisy):
    for name, score in real.scores.items():
        # A tracker and a parrot do not mind noise; SIG hears the speech through it on some clips.
        if name in {
            "cer_parrot",
            "f0_correlation",
            "voicing_agreement",
            "f0_gross_error",
            "dnsmos_sig",
        }:
            continue
        worse = noisy.scores[name].value
        assert (score.value < worse) if score.direction == "lower" else (score.value > worse), name
    better = {
        d.score: d.better for d in compare_rows({"real": real.per_clip, "noisy": noisy.per_clip})
    }
    assert better["wer_grammar"] == "real"


def test_controls_tell_speech_from_a_parrot(real):
    passed = {(control.control, control.score): control.passed for control in real.controls}
    assert passed["prompt_swap", "wer_grammar"]
    assert passed["speaker_swap", "speaker_similarity"]
    assert not passed["prompt_swap", "cer_parrot"]


def test_too_few_vectors_are_flagged(real):
    assert real.scores["frechet"].validity == "biased"
    assert "vectors a side" in real.scores["frechet"].note


def test_threads_and_row_order_do_not_move_scores(prompts, context, real):
    alone = dataclasses.replace(context, config=context.config.override(["threads=1"]))
    again = score_clips([p.wave for p in prompts], prompts, alone)
    assert again.scores == {
        name: score for name, score in real.scores.items() if name in again.scores
    }


def test_prompts_under_several_seeds_are_one_unit(prompts, context):
    doubled = score_clips(
        [p.wave for p in prompts[:4]] * 2, list(prompts[:4]) * 2, context, seeds=2
    )
    assert doubled.scores["wer_grammar"].n == 4
    assert doubled.scores["wer_grammar"].covers == "prompts and training seeds"
    told = []
    once = score_clips(
        [p.wave for p in prompts[:4]],
        prompts[:4],
        context,
        progress=lambda done, total: told.append((done, total)),
    )
    # From the first measurement to the last, one by one.
    assert (
        told == [(done, told[0][1]) for done in range(len(told))]
        and told[-1][0] == told[-1][1] > 10
    )
    for name in ("kad", "frechet", "kad_voice", "coverage", "spread"):
        both, one = doubled.scores[name], once.scores[name]
        assert (both.covers, both.n) == ("prompts and training seeds", one.n)
        assert (
            both.value == pytest.approx(one.value)
            and both.high - both.low <= one.high - one.low + 1e-9
        )
    for name, values in doubled.per_clip.items():
        # The same audio from both seeds: the same clips are scored, in the same groups, and seeds
        # add nothing.
        assert len(set(values.clusters)) == len(set(once.per_clip[name].clusters))
        assert values.runs == (0, 0, 0, 0, 1, 1, 1, 1)
        np.testing.assert_allclose(
            values.values, np.tile(once.per_clip[name].values, 2), rtol=1e-5, atol=1e-6
        )


def test_codes_give_an_entropy_per_clip_that_is_paired(prompts, context):
    def encode(waves):
        return [np.arange(16)[:, None] % (1 + i % 4) for i in range(len(waves))]

    row = score_clips(
        [p.wave for p in prompts[:4]] * 2,
        list(prompts[:4]) * 2,
        dataclasses.replace(context, encode=encode),
        seeds=2,
    )
    values = row.per_clip["clip_code_entropy"]
    thirds = -(6 * np.log2(6 / 16) + 10 * np.log2(5 / 16)) / 16
    np.testing.assert_allclose(values.values, [0, 1, thirds, 2] * 2)
    assert (
        values.runs == (0, 0, 0, 0, 1, 1, 1, 1)
        and is_paired("clip_code_entropy")
        and not is_paired("code_entropy")
    )
    assert row.scores["clip_code_entropy"].value == pytest.approx((3 + thirds) / 4)
    assert row.scores["clip_code_entropy"].unit == "bits per code of a clip"


def test_silence_is_scored_not_refused(prompts, context):
    result = score_clips([np.zeros(4000, np.float32)] * 4, prompts[:4], context)
    assert result.scores["wer_grammar"].value == 1
    assert result.scores["f0_correlation"].value == 0
    assert not any(control.passed for control in result.controls)


def test_wrong_inputs_are_named(prompts, context):
    with pytest.raises(GenlabError, match="one clip per prompt"):
        score_clips([], prompts, context)
    broken = np.full(1000, np.nan, np.float32)
    with pytest.raises(GenlabError, match="not finite"):
        score_clips([broken], prompts[:1], context)


def test_prompts_that_a_score_cannot_use_are_left_out_and_counted(prompts, context):
    asked = [prompts[0]._replace(text=""), prompts[1]._replace(speaker="nobody"), *prompts[2:6]]
    row = score_clips([p.wave for p in asked], asked, context)
    assert row.scores["wer_grammar"].n == 5 and row.scores["wer_grammar"].value < 0.2
    assert row.scores["wer_grammar"].note == "1 of 6 clips are left out: their prompts have no text"
    weights = row.per_clip["speaker_similarity"].weights
    assert weights.tolist() == [1, 0, 1, 1, 1, 1]
    assert row.scores["speaker_similarity"].note.startswith(
        "1 of 6 clips are left out: their speakers"
    )
    assert row.scores["mcd"].note == "" and row.scores["mcd"].n == len({p.clip_id for p in asked})


def test_what_no_prompt_allows_is_absent_and_its_control_not_applicable(prompts, context):
    asked = [prompt._replace(text="", speaker="nobody") for prompt in prompts[:4]]
    excused = dataclasses.replace(
        context, excused={"speaker_swap": "the arms are not told who speaks"}
    )
    row = score_clips([p.wave for p in asked], asked, excused)
    assert not {name for name in row.scores if name.split("_")[0] in ("wer", "cer", "speaker")}
    assert {"mcd", "kad", "f0_correlation"} <= set(row.scores)
    reasons = {(control.control, control.status): control.reason for control in row.controls}
    assert reasons == {
        ("prompt_swap", "not applicable"): "the prompts have no text",
        ("speaker_swap", "not applicable"): "the arms are not told who speaks",
    }


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_few_real_clips_leave_out_what_needs_more(speech, prompts, count):
    known = speech[:count]
    config = EvaluationConfig(dnsmos_clips=0, reference_clips=max(2, count))
    context = build_context(config, [], [p.wave for p in known], [p.speaker for p in known])
    found = set(score_clips([p.wave for p in prompts[:3]], prompts[:3], context).scores)
    assert ({"kad", "frechet", "spread"} <= found) == (count >= 2)
    assert ({"coverage", "density"} <= found) == (count >= 6)


def test_one_draw_cannot_give_an_energy_score():
    with pytest.raises(ValueError, match=r"energy_draws=1: .* expected 0 or at least 2"):
        EvaluationConfig(energy_draws=1)
