"""The sentence at the top of the report: what its intervals cover, equivalence, and what would
settle a doubt.
"""

import pytest
from report_toys import make_ledger, make_results

from genlab.report import write_report
from genlab.report.answer import find_answer


def test_the_answer_says_what_its_intervals_cover(tmp_path):
    one_seed = find_answer(make_results(seeds=1), make_ledger())
    assert (
        "cover the choice of prompts." in one_seed.shows
        and "do not cover the training seed" in one_seed.cannot
    )
    results = make_results(seeds=2)
    answer = find_answer(results, make_ledger())
    assert "cover the choice of prompts and training seeds." in answer.shows
    assert "2 seeds per arm say too little" in answer.cannot
    page = write_report(tmp_path, results, make_ledger(), []).read_text()
    assert "Intervals are 95 % intervals over prompts and training seeds." in page


def test_three_seeds_with_intervals_over_prompts_alone_settle_nothing():
    results = make_results(seeds=3)
    for arm in results["arms"]:
        del arm["scores"]["wer_grammar"]["covers"]  # as versions wrote it that pooled the seeds
    answer = find_answer(results, make_ledger())
    assert (answer.status, answer.winner) == (
        "not settled",
        "",
    ) and "genlab evaluate" in answer.headline


def _plan(**more):
    needed = {"3": None, "5": 120, "10": 40}
    return {
        "target": 0.01,
        "prompts": 64,
        "seeds": 3,
        "power": 0.4,
        "seeds_needed": 6,
        "prompts_needed": needed,
    } | more


def _undecided(**more):
    results = make_results(seeds=3)
    results["differences"][0] |= {"better": "", "low": -0.09, "high": 0.01} | more
    return results


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (_plan(), "about 3 more seeds per arm are needed (80 % power)"),
        (_plan(seeds_needed=4), "about 1 more seed per arm is needed"),
        (_plan(seeds_needed=None), "more prompts are needed as well"),
        (_plan(seeds_needed=2, power=0.93), "would show a difference of 0.0100 with 93% power"),
        (None, "number of pairs."),
    ],
)
def test_what_is_not_settled_says_what_it_would_take(plan, expected, tmp_path):
    results = _undecided(plan=plan)
    answer = find_answer(results, make_ledger())
    assert answer.status == "not settled" and expected in answer.headline
    page = write_report(tmp_path, results, make_ledger(), []).read_text()
    assert "Prompts needed with 5 seeds" in page and (plan is not None) == ("no number" in page)


def test_equivalence_is_claimed_within_its_margin_and_only_by_arms_that_passed(tmp_path):
    results = _undecided(margin=0.1, equivalent=True, p_equivalent=0.01)
    answer = find_answer(results, make_ledger())
    assert (answer.status, answer.winner) == ("equivalent", "")
    assert answer.headline.startswith(
        "Autoregressive and Masked parallel are equivalent in word error (grammar) within 0.1: "
        "Masked parallel differs by"
    )
    assert "Autoregressive is better than Latent diffusion" in answer.headline
    page = write_report(tmp_path, results, make_ledger(), []).read_text()
    assert "yes, within 0.1" in page and 'class="best"' not in page
    results["controls"][1]["passed"] = False
    assert "failed the prompt swap" in find_answer(results, make_ledger()).headline
    missed = find_answer(_undecided(margin=0.1, equivalent=False, p_equivalent=0.3), make_ledger())
    assert "neither excludes zero nor stays within 0.1" in missed.headline
    assert find_answer(_undecided(), make_ledger()).headline.count("does not exclude zero") == 1
    both = make_results(seeds=3)
    both["differences"][0] |= {"margin": 0.1, "equivalent": True}
    answer = find_answer(both, make_ledger())
    assert answer.winner == "ar" and "the two are equivalent all the same" in answer.headline
