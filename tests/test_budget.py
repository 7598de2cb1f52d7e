"""The budget of three tiny arms on a tiny store: equal FLOPs, honest formulas, refusals."""

import pytest
from codec_toys import LoudnessUnits, make_frozen, make_manifest
from comparison_toys import make_comparison

from genlab import budget as budget_module
from genlab.budget import TOLERANCE, abstract_decoder, check_flops, clip_flops, solve_budget, solve_steps
from genlab.codecs.cache import encode_corpus
from genlab.config import GenlabError
from genlab.experiment import Budget


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    return encode_corpus(make_manifest(root, 12), make_frozen(), LoudnessUnits(), root)


def test_iso_flop_gives_equal_training_flops(store):
    config = make_comparison()
    budgets = solve_budget(config, store)
    assert list(budgets) == ["ar", "masked", "diffusion"]
    spent = [budget.train_flops for budget in budgets.values()]
    assert max(spent) / min(spent) - 1 < TOLERANCE
    assert all(abs(flops / 2e10 - 1) < TOLERANCE / 2 for flops in spent)
    assert len({budget.steps for budget in budgets.values()}) > 1  # they cost differently, so they step differently
    for budget in budgets.values():
        assert budget.train_flops == budget.steps * 4 * budget.flops_per_clip
        assert budget.epochs == pytest.approx(budget.steps * 4 / 8)  # batches of 4 of 8 training clips
        assert budget.params > 0 and budget.sample_flops > 0
    assert [budget.reads for budget in budgets.values()] == ["codes", "codes", "latents"]
    assert [budget.network_calls for budget in budgets.values()] == [16 + 3 - 1, 4 + 1 + 1, 6]


def test_seconds_seen_count_no_padding(store):
    split = store.split("train")
    frames = [len(store.clip(i).units) for i in range(split.first, split.first + split.clips)]
    budget = solve_budget(make_comparison(), store)["ar"]
    per_pass = sum(min(count, 16) for count in frames) / 50
    assert per_pass < 8 * 16 / 50  # at least one clip is shorter than an example
    assert budget.seconds_seen == pytest.approx(budget.epochs * per_pass)
    assert budget.unique_seconds == pytest.approx(split.seconds)


def test_repeated_data_are_counted_as_repeated(store):
    whole, part = (solve_budget(make_comparison(f"data.train_clips={n}"), store)["ar"] for n in ("null", "4"))
    assert part.steps == whole.steps and part.epochs == pytest.approx(2 * whole.epochs)
    frames = sum(len(store.clip(i).units) for i in store.numbers("train", 4))
    assert part.unique_seconds == pytest.approx(frames / 50) and part.unique_seconds < whole.unique_seconds


def test_iso_step_gives_equal_steps(store):
    budgets = solve_budget(make_comparison("budget.train_flops=null", "budget.mode=iso_step", "budget.steps=7"), store)
    assert {budget.steps for budget in budgets.values()} == {7}
    assert len({budget.train_flops for budget in budgets.values()}) == 3


def test_too_few_steps_to_be_equal_are_refused(store):
    with pytest.raises(GenlabError, match=r"budget\.train_flops=1e\+08: arm '\w+' needs .* raise train_flops") as error:
        solve_budget(make_comparison("budget.train_flops=1e8"), store)
    assert "\n" not in str(error.value)


def test_whole_steps_miss_by_at_most_half_the_tolerance():
    budget = Budget(train_flops=1000.0)
    assert solve_steps(budget, "a", 1.0) == 1000
    assert solve_steps(budget, "a", 7.0) == 143
    with pytest.raises(GenlabError, match=r"14 whole steps miss it by 2\.0%"):
        solve_steps(budget, "a", 70.0)
    with pytest.raises(GenlabError, match=r"1 whole steps miss it by 200\.0%"):
        solve_steps(budget, "a", 3000.0)


@pytest.mark.parametrize("name", ["ar", "masked", "diffusion"])
@pytest.mark.parametrize("overrides", [(), ("condition.content=text", "condition.route=cross")], ids=["units", "text"])
def test_the_formula_agrees_with_the_walk(store, name, overrides):
    run = make_comparison(*overrides).run(name, 0, steps=1)
    assert check_flops(run, store) == pytest.approx(1, abs=TOLERANCE)


def test_a_wrong_formula_is_refused(store, monkeypatch):
    run = make_comparison().run("masked", 0, steps=1)
    honest = clip_flops(run, store)
    monkeypatch.setattr(budget_module, "clip_flops", lambda run, store: honest * 1.02)
    with pytest.raises(GenlabError, match=r"arm 'masked': its FLOP formula is off by -2\.0%"):
        check_flops(run, store)


def test_abstract_decoders_hold_no_arrays(store):
    import jax

    run = make_comparison("backbone.width=4096", "backbone.layers=64").run("ar", 0, steps=1)
    leaves = jax.tree.leaves(abstract_decoder(run, store))
    assert sum(leaf.size for leaf in leaves) > 1e9
    assert not any(isinstance(leaf, jax.Array) for leaf in leaves)
