"""The plan keeps its promise: drawn comparisons of the promised size see the difference as often as
it says.
"""

import numpy as np
import pytest
from crossed_toys import make_row
from scipy import stats

from genlab.evaluate.comparisons import compare_rows
from genlab.statistics.crossed import Crossed, crossed_difference
from genlab.statistics.power import (
    LEVEL,
    Components,
    find_components,
    find_power,
    find_prompts,
    find_seeds,
    first_level,
    make_plan,
    power_of,
)

REPETITIONS = 2000


def draw_pair(rng, components, num_seeds, num_prompts, repetitions=REPETITIONS):
    prompts = components.prompt**0.5 * rng.standard_normal((repetitions, 1, num_prompts))

    def draw_arm():
        seeds = (components.seed / 2) ** 0.5 * rng.standard_normal((repetitions, num_seeds, 1))
        return seeds + (components.rest / 2) ** 0.5 * rng.standard_normal(
            (repetitions, num_seeds, num_prompts)
        )

    return draw_arm() + prompts, draw_arm()


def measured_power(target, components, num_prompts, num_seeds):
    a, b = draw_pair(np.random.default_rng(0), components, num_seeds, num_prompts)
    return float(np.mean(crossed_difference(a + target, b).p_value() < 0.05))


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize(
    "components", [(0.0, 1.0, 1.0), (0.02, 1.0, 1.0), (0.02, 0.02, 2.0), (1.0, 0.1, 0.1)], ids=str
)
def test_power_is_what_simulation_gives(components, num_seeds):
    components = Components(*components)
    target = (
        3
        * (components.seed / num_seeds + components.prompt / 32 + components.rest / 32 / num_seeds)
        ** 0.5
    )
    promised = find_power(target, components, 32, num_seeds)
    assert abs(measured_power(target, components, 32, num_seeds) - promised) < 0.04


def test_the_numbers_asked_for_reach_80_percent_and_not_much_more():
    components = Components(0.05, 1.0, 1.0)
    for num_seeds in (3, 5, 10):
        needed = find_prompts(0.6, components, num_seeds)
        assert needed and 0.76 <= measured_power(0.6, components, needed, num_seeds) <= 0.84
        assert find_power(0.6, components, needed - 1, num_seeds) < 0.8
    needed = find_seeds(0.6, components, 40)
    assert needed and find_power(0.6, components, 40, needed - 1) < 0.8
    assert measured_power(0.6, components, 40, needed) >= 0.76


def test_no_number_of_prompts_makes_up_for_seeds_and_the_other_way_round():
    assert find_prompts(0.5, Components(1.0, 1.0, 1.0), 3) is None
    assert find_seeds(0.1, Components(0.1, 10.0, 1.0), 32) is None


def test_components_are_found_again():
    truth = Components(0.5, 1.0, 2.0)
    a, b = draw_pair(np.random.default_rng(1), truth, 6, 40, repetitions=300)
    found = np.array([find_components(first, second) for first, second in zip(a, b)])
    np.testing.assert_allclose(found.mean(axis=0), truth, rtol=0.1)
    assert find_components(a[0, :1], b[0]) is None


def test_a_comparison_says_what_it_would_take():
    rng = np.random.default_rng(2)
    difficulty = rng.normal(3, 0.5, 32)
    rows = {
        name: make_row(rng, shifts, difficulty)
        for name, shifts in {"a": [0, 0.5, 1], "b": [0.2, 0.4, 0]}.items()
    }
    (found,) = compare_rows(rows)
    assert found.plan and (found.plan.prompts, found.plan.seeds) == (32, 3)
    better = max(row["dnsmos_ovrl"].totals.mean() for row in rows.values())
    assert np.isclose(found.plan.target, better / 10)  # no margin: a tenth of the better value
    assert found.plan.seeds_needed and found.plan.seeds_needed > 3
    assert set(found.to_dict()["plan"]["prompts_needed"]) == {"3", "5", "10"}
    assert make_plan(0.0, np.zeros((3, 4)), np.zeros((3, 4))) is None
    single = {
        name: {"dnsmos_ovrl": row["dnsmos_ovrl"]._replace(runs=())} for name, row in rows.items()
    }
    assert compare_rows(single)[0].plan is None


def test_power_is_that_of_the_strictest_step_of_holm():
    """Six pairs share 5 %: simulated, a difference is seen as often as the plan says."""
    components, target, level = Components(0.02, 1.0, 1.0), 0.8, first_level(6)
    assert level == pytest.approx(0.05 / 6) and first_level(1) == first_level(0) == LEVEL
    a, b = draw_pair(np.random.default_rng(0), components, 5, 32)
    found = crossed_difference(a + target, b)
    seen = float(np.mean(found.p_value() < level))
    assert abs(find_power(target, components, 32, 5, level) - seen) < 0.04
    assert seen < float(np.mean(found.p_value() < 0.05)) - 0.1
    known = Crossed(*(np.array(value) for value in (0.0, 0.2, 30.0, 0.4)))
    assert power_of(0.8, known, level) < power_of(0.8, known)
    # At the level, the critical value is 1 - level / 2 of Student's t.
    assert power_of(0.2 * stats.t.ppf(1 - level / 2, 30), known, level) == pytest.approx(0.5)


def test_pairs_of_a_score_share_the_level_of_their_plan():
    rng = np.random.default_rng(4)
    rows = {name: make_row(rng, [0, 0.1, 0.2], rng.normal(3, 0.5, 32)) for name in "abcd"}
    plans = [pair.plan for pair in compare_rows(rows)]
    assert len(plans) == 6 and {plan.level for plan in plans} == {first_level(6)}
    entry = compare_rows(rows, {"dnsmos_ovrl": 0.3})[0].to_dict()["plan"]
    assert (entry["target"], entry["declared"]) == (0.3, True)
    assert compare_rows(rows)[0].to_dict()["plan"]["declared"] is False
