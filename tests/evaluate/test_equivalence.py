"""Equivalence within a declared margin: size and power of the two one-sided tests, and who may
claim it.
"""

import numpy as np
import pytest
import scipy.stats
from crossed_toys import DESIGNS, REGIMES, draw_pair, make_row

from genlab.config import ConfigError
from genlab.evaluate.comparisons import compare_rows
from genlab.evaluate.table import is_paired
from genlab.statistics.crossed import crossed_difference


@pytest.mark.parametrize("design", DESIGNS, ids=str)
@pytest.mark.parametrize("regime", REGIMES, ids=str)
def test_size_at_the_margin_is_at_most_5_percent_and_far_inside_it_is_found(regime, design):
    a, b = draw_pair(regime, design)
    # of the difference
    deviation = np.sqrt(2 * (regime[0] ** 2 + regime[2] ** 2 / design[1]) / design[0])
    at_margin = crossed_difference(a + 4 * deviation, b).equivalence_p_value(4 * deviation)
    assert np.mean(at_margin < 0.05) <= 0.065
    equal = crossed_difference(a, b)
    assert np.mean(equal.equivalence_p_value(8 * deviation) < 0.05) > 0.95
    # too little data shows nothing
    assert np.mean(equal.equivalence_p_value(0.2 * deviation) < 0.05) < 0.05


def test_two_one_sided_tests_agree_with_the_90_percent_interval():
    rng = np.random.default_rng(2)
    found = crossed_difference(*(rng.normal(0, 1, (200, 3, 16)) for _ in range(2)))
    reach = np.abs(found.value) + scipy.stats.t.ppf(0.95, found.dof) * found.std_error
    for margin in (0.3, 0.6):
        assert ((found.equivalence_p_value(margin) < 0.05) == (reach < margin)).all()


def test_only_a_declared_margin_allows_the_word():
    rng = np.random.default_rng(3)
    difficulty = rng.normal(3, 0.5, 32)
    rows = {
        name: make_row(rng, shifts, difficulty)
        for name, shifts in {"a": [0, 0.02, 0], "b": [0.01, 0, 0]}.items()
    }
    (silent,) = compare_rows(rows)
    assert not silent.equivalent and silent.to_dict()["margin"] is None
    (wide,) = compare_rows(rows, {"dnsmos_ovrl": 0.3})
    (narrow,) = compare_rows(rows, {"dnsmos_ovrl": 0.01})
    assert wide.equivalent and wide.p_equivalent < 0.05 and wide.better == ""
    assert not narrow.equivalent and narrow.p_equivalent > 0.05
    assert wide.plan and wide.plan.target == 0.3


def test_a_bound_is_never_equivalent_to_an_exact_value():
    rng = np.random.default_rng(4)
    difficulty = rng.normal(3, 0.5, 32)
    values = {name: make_row(rng, [0.0, 0.01, 0.0], difficulty)["dnsmos_ovrl"] for name in "ab"}
    rows = {
        name: {"bits_per_s": values[name]._replace(validity=kind)}
        for name, kind in {"a": "exact", "b": "upper bound"}.items()
    }
    (found,) = compare_rows(rows, {"bits_per_s": 10.0})
    assert not found.equivalent
    rows["b"]["bits_per_s"] = values["b"]._replace(validity="exact")
    assert compare_rows(rows, {"bits_per_s": 10.0})[0].equivalent


def test_a_margin_names_a_score_that_is_paired():
    from comparison_toys import make_comparison

    assert make_comparison('equivalence={"wer_ctc": 0.02}').equivalence == {"wer_ctc": 0.02}
    before = make_comparison()
    assert (
        before.comparison_key() == make_comparison('equivalence={"wer_ctc": 0.02}').comparison_key()
    )
    with pytest.raises(ConfigError, match=r"equivalence\.frechet"):
        make_comparison('equivalence={"frechet": 1.0}')
    with pytest.raises(ConfigError, match="greater than 0"):
        make_comparison('equivalence={"wer_ctc": 0.0}')
    assert is_paired("cer_whisper") and not is_paired("nonsense") and not is_paired("kad")
