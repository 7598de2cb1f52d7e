"""Gaps that shrink, means over token types, and bounds, on data with a known truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_toys import make_sweep
from test_verdicts import verdicts, write_rows

from genlab.config import ConfigError
from genlab.sweeps.judge import judge
from genlab.sweeps.page import Contrast, Gap
from genlab.sweeps.runs import write_page

SMALL, LARGE = "FLOPs=2e+10", "FLOPs=4e+10"


def gap_at(label):
    return {f"masked @ {label}": 1.0, f"ar @ {label}": -1.0}


def judge_gap(out, small, large, seed=0, **kinds):
    """Judge whether the gap shrinks, with these true gaps of masked over ar."""
    gap = Gap(text="t", score="bits_per_s", small=gap_at(SMALL), large=gap_at(LARGE))
    sweep = make_sweep(predictions=(gap,))
    runs, rng = write_page(sweep, out), np.random.default_rng(seed)
    for run, effect in zip(runs, (small, large), strict=True):
        write_rows(out, run, {"ar": 0.0, "masked": effect}, rng, seed_spread=0.1, **kinds)
    [found] = judge(sweep, runs, out)
    return found


@pytest.mark.parametrize(
    ("small", "large", "verdict"),
    [
        (9.0, 4.0, "reproduced"),
        (-9.0, -4.0, "reproduced"),
        (9.0, -4.0, "reproduced"),  # turned round, and nearer to zero
        (4.0, 9.0, "reversed"),
        (4.0, -9.0, "reversed"),  # the signed difference alone would say that it shrank
        (-4.0, 9.0, "reversed"),
        (9.0, -9.0, "inconclusive"),
        (9.0, 9.0, "inconclusive"),
        (0.0, 0.0, "inconclusive"),
    ],
)
def test_a_gap_shrinks_where_it_is_nearer_to_zero(tmp_path, small, large, verdict):
    found = judge_gap(tmp_path, small, large)
    assert (found.verdict, found.kind, found.expected) == (verdict, "gap", "shrinks")
    if verdict != "inconclusive" and small * large > 0:
        assert found.low < abs(small) - abs(large) < found.high
    assert (found.p_holm < 0.05) == (verdict != "inconclusive")


@settings(max_examples=25, deadline=None)
@given(small=st.floats(-9, 9), large=st.floats(-9, 9), seed=st.integers(0, 99))
def test_no_gap_that_grows_is_said_to_shrink(tmp_path_factory, small, large, seed):
    found = judge_gap(tmp_path_factory.mktemp("gap"), small, large, seed)
    # Gaps as alike as this are told apart wrongly in a few of a hundred draws, by design.
    if abs(abs(small) - abs(large)) > 1.0:
        right = "reproduced" if abs(large) < abs(small) else "reversed"
        assert found.verdict in (right, "inconclusive")


def test_bounds_and_rows_told_twice_are_no_gap(tmp_path):
    found = judge_gap(tmp_path, 9.0, 4.0, validity={"masked": "upper bound"})
    assert found.verdict == "inconclusive"
    with pytest.raises(ValueError, match="large: the row"):
        Gap(text="t", score="bits_per_s", small=gap_at(SMALL), large=gap_at(SMALL))
    wrong = Gap(text="t", score="bits_per_s", small=gap_at(SMALL), large={f"ar @ {LARGE}": 1.0})
    with pytest.raises((ValueError, ConfigError), match="share no data, budget or prompts"):
        make_sweep(predictions=(wrong,))


READS = {"latent_ar": "latents", "diffusion": "latents"}
TERMS = {"ar": 0.5, "latent_ar": 0.5, "masked": -0.5, "diffusion": -0.5}


def judge_mean(out, effects):
    """Judge a mean over codes and latents, and both cells, with these true values of the arms."""
    told = {"score": "bits_per_s", "expect": "below"}
    asked = (
        Contrast(text="mean", terms=TERMS, **told),
        Contrast(text="codes", terms={"ar": 1.0, "masked": -1.0}, **told),
        Contrast(text="latents", terms={"latent_ar": 1.0, "diffusion": -1.0}, **told),
    )
    base = make_sweep().base
    arms = {name: base.arms["ar" if "ar" in name else "masked"] for name in TERMS}
    sweep = make_sweep(base=base.model_copy(update={"arms": arms}), points=({},), predictions=asked)
    runs = write_page(sweep, out)
    write_rows(out, runs[0], effects, np.random.default_rng(0), seed_spread=0.1, reads=READS)
    return judge(sweep, runs, out)


@pytest.mark.parametrize(
    ("codes", "latents", "verdict", "told"),
    [
        (9.0, 9.0, "reproduced", ""),
        (9.0, 5.0, "inconclusive", "codes and latents differ in the difference"),
        (9.0, 0.0, "inconclusive", "codes and latents differ in the difference"),
        (9.0, -9.0, "inconclusive", "codes and latents differ in the difference"),
    ],
)
def test_a_mean_stands_for_its_cells_only_where_they_agree(tmp_path, codes, latents, verdict, told):
    """The difference of the families on codes and on latents, in bits a second."""
    effects = {"ar": 0.0, "latent_ar": 3.0, "masked": codes, "diffusion": 3.0 + latents}
    mean, *cells = judge_mean(tmp_path, effects)
    assert mean.low < -(codes + latents) / 2 < mean.high
    assert mean.verdict == verdict and told in mean.note
    assert "interaction of families and tokens" in mean.note
    for cell, size in zip(cells, (codes, latents), strict=True):
        assert cell.low < -size < cell.high and "interaction" not in cell.note


def test_an_interaction_that_may_reach_the_mean_leaves_no_sentence_of_it(tmp_path):
    """Neither is significant: nothing is known of the cells' signs."""
    effects = {"ar": 0.0, "latent_ar": 0.0, "masked": 0.1, "diffusion": 0.1}
    mean = judge_mean(tmp_path, effects)[0]
    gate = next(gate for gate in mean.gates if gate.name == "one token type")
    assert gate.state == "failed" and "may differ in sign" in gate.reason


def test_a_bound_shows_only_the_harmless_direction(tmp_path):
    bound = {"validity": {"masked": "upper bound"}}
    hidden = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {}, **bound)[0]
    assert hidden.verdict == "inconclusive" and "could hide the opposite" in hidden.note
    taken = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {"bounds_as_values": True}, **bound)[0]
    assert taken.verdict == "reproduced in bounds" and "taken as values" in taken.note
    assert f"masked could lie lower, and by more than {abs(taken.value):.3g}" in taken.note
    # The exact value lies above the bound, and above what it bounds.
    harmless = {"bounds_as_values": True, "expect": "above"}
    sure = verdicts(tmp_path, {"ar": 9.0, "masked": 0.0}, harmless, **bound)[0]
    assert sure.verdict == "reproduced" and "taken as values" not in sure.note
    alike = {"expect": "within", "margin": 5.0}
    [found] = verdicts(tmp_path, {"ar": 0.0, "masked": 0.3}, alike, **bound)
    assert found.verdict == "inconclusive"
    alike["bounds_as_values"] = True
    [found] = verdicts(tmp_path, {"ar": 0.0, "masked": 0.3}, alike, **bound)
    assert found.verdict == "reproduced in bounds" and "masked could lie lower" in found.note
    assert verdicts(tmp_path, {"ar": 9.0, "masked": 0.0}, {}, **bound)[0].verdict == "reversed"


@pytest.mark.parametrize("taken", [False, True])
def test_a_biased_value_shows_nothing_whatever_the_source_does(tmp_path, taken):
    for effects in ({"ar": 0.0, "masked": 9.0}, {"ar": 9.0, "masked": 0.0}):
        biased = {"validity": {"masked": "biased"}}
        [found] = verdicts(tmp_path, effects, {"bounds_as_values": taken}, **biased)
        assert found.verdict == "inconclusive" and "a biased value" in found.note
        assert {gate.name: gate.state for gate in found.gates}["score trusted"] == "failed"
