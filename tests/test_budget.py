"""The budget of three tiny arms on a tiny store: equal FLOPs, honest formulas, refusals."""

import re

import numpy as np
import pytest
from codec_toys import LoudnessUnits, make_frozen, make_manifest
from comparison_toys import make_comparison

from genlab.cli import main
from genlab.codecs.cache import encode_corpus
from genlab.config import ConfigError, GenlabError
from genlab.experiment import Budget
from genlab.fairness import budget as budget_module
from genlab.fairness.budget import (
    TOLERANCE,
    abstract_decoder,
    check_flops,
    check_memory,
    checkpoint_bytes,
    clip_flops,
    count_params,
    next_budget,
    solve_budget,
    solve_steps,
)
from genlab.machine import memory as host
from genlab.nets.param import count_shared
from genlab.report.ledger import compute_rows


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
    # they cost differently, so they step differently
    assert len({budget.steps for budget in budgets.values()}) > 1
    for budget in budgets.values():
        assert budget.train_flops == budget.steps * 4 * budget.flops_per_clip
        # batches of 4 of 8 training clips
        assert budget.epochs == pytest.approx(budget.steps * 4 / 8)
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


def test_short_training_examples_are_paid_and_long_clips_are_drawn(store):
    """16 frames are sampled and scored, 8 are trained on."""
    whole, short = (
        make_comparison(f"data.train_frames={frames}").run("ar", 0, 1) for frames in ("null", "8")
    )
    assert short.source_of(store).batch_at(0).args[0].codes.shape[1] == 8
    assert short.task(store).num_frames == 16
    assert check_flops(short, store) == pytest.approx(1, abs=TOLERANCE)
    # A delay pattern has two more steps than frames.
    assert clip_flops(short, store) < 0.6 * clip_flops(whole, store)
    budget = solve_budget(make_comparison("data.train_frames=8"), store)["ar"]
    per_pass = sum(min(n, 8) for n in store.frames(store.numbers("train"))) / 50
    assert budget.seconds_seen == pytest.approx(budget.epochs * per_pass)
    assert budget.network_calls == 16 + 3 - 1
    with pytest.raises(ConfigError, match=r"train_frames=17: more than num_frames=16"):
        make_comparison("data.train_frames=17")


def test_repeated_data_are_counted_as_repeated(store):
    whole, part = (
        solve_budget(make_comparison(f"data.train_clips={n}"), store)["ar"] for n in ("null", "4")
    )
    assert part.steps == whole.steps and part.epochs == pytest.approx(2 * whole.epochs)
    frames = sum(len(store.clip(i).units) for i in store.numbers("train", 4))
    assert (
        part.unique_seconds == pytest.approx(frames / 50)
        and part.unique_seconds < whole.unique_seconds
    )


def test_iso_step_gives_equal_steps(store):
    budgets = solve_budget(
        make_comparison("budget.train_flops=null", "budget.mode=iso_step", "budget.steps=7"), store
    )
    assert {budget.steps for budget in budgets.values()} == {7}
    assert len({budget.train_flops for budget in budgets.values()}) == 3


# Every family that stands on the backbone, with and without a modulation or a backbone in its head.
FAMILIES = ("ar", "masked", "diffusion", "depth", "latent_ar", "discrete", "mar", "blockwise")


@pytest.mark.parametrize("route", ["sum", "adaln"])
def test_all_families_share_as_many_parameters(store, route):
    config = make_comparison(
        f"condition.clip_route={route}",
        *(
            f'arms.{name}={{"decoder":{{"kind":"{name}"}},"sampler":{{"kind":"{name}"}}}}'
            for name in FAMILIES[3:]
        ),
    )
    models = {name: abstract_decoder(config.run(name, 0, steps=1), store) for name in config.arms}
    assert set(models) == set(FAMILIES)
    shared = {name: count_shared(model) for name, model in models.items()}
    assert len(set(shared.values())) == 1, shared
    # by hand: two layers of 32 channels, of SwiGLU's inner 96, and a layer of the conditions
    width, inner = 32, 96
    layer = 4 * width**2 + 3 * width * inner + 2 * width + 2 * (width // 2)
    info = store.info
    told = (len(info.speakers) + 1 + info.num_units + 2) * width
    encoder = 7 * width + width + 3 * width * width
    assert shared["ar"] == 2 * layer + width + told + encoder
    # The depth transformer is a backbone, too, but one of the head.
    assert count_params(models["depth"]) - shared["depth"] > 2 * layer


def test_iso_step_controls_ar_against_diffusion(store):
    config = make_comparison("budget.train_flops=null", "budget.mode=iso_step", "budget.steps=7")
    rows = {row["item"]: row for row in compute_rows(config, solve_budget(config, store))}
    assert rows["Backbone parameters"]["status"] == "bounded"
    assert len(set(rows["Backbone parameters"]["values"].values())) == 1
    heads = rows["Head parameters"]
    assert heads["status"] == "declared"
    # The modulation by a noise level: 8 * 32 * 32, six offsets a layer, and the level's embedding.
    assert heads["values"]["diffusion"] > heads["values"]["ar"] + 8 * 32 * 32


def test_too_few_steps_to_be_equal_are_refused(store):
    with pytest.raises(
        GenlabError, match=r"budget\.train_flops=1e\+08: arm '\w+' needs .* raise train_flops"
    ) as error:
        solve_budget(make_comparison("budget.train_flops=1e8"), store)
    assert "\n" not in str(error.value)


def test_whole_steps_miss_by_at_most_half_the_tolerance():
    budget = Budget(train_flops=1000.0)
    assert solve_steps(budget, "a", 1.0) == 1000
    assert solve_steps(budget, "a", 7.0) == 143
    with pytest.raises(GenlabError, match=r"14 whole steps miss it by 2\.0%"):
        solve_steps(budget, "a", 70.0)
    # Two arms may miss on either side, so each gets half of the tolerance.
    assert solve_steps(budget, "a", 99.6) == solve_steps(budget, "a", 100.4) == 10
    for cost, off in ((99.3, "0.7%"), (100.7, "0.7%")):
        with pytest.raises(GenlabError, match=f"10 whole steps miss it by {off}"):
            solve_steps(budget, "a", cost)
    assert solve_steps(budget, "a", 1000 / 199.6) == 200  # to the nearest, from below as well
    with pytest.raises(GenlabError, match=r"needs 3e\+03 a step, 3 times the whole budget; raise"):
        solve_steps(budget, "a", 3000.0)


def test_a_refused_budget_says_which_one_every_arm_meets(store):
    with pytest.raises(GenlabError) as refused:
        solve_budget(make_comparison("budget.train_flops=1e8"), store)
    [advised] = re.findall(
        r"raise train_flops to (budget\.train_flops=[0-9.e+]+), which every arm meets",
        str(refused.value),
    )
    budgets = solve_budget(make_comparison(advised), store)
    asked = float(advised.split("=")[1])
    assert all(abs(budget.train_flops / asked - 1) <= TOLERANCE / 2 for budget in budgets.values())


def test_the_next_budget_is_met_by_all_arms_and_is_no_larger_than_it_must_be():
    rng = np.random.default_rng(0)
    for _ in range(300):
        costs = list(10 ** rng.uniform(8, 12, size=rng.integers(1, 6)))
        asked = 10 ** rng.uniform(7, 14)
        found = next_budget(asked, costs)
        assert all(
            abs(max(1, round(found / cost)) * cost / found - 1) <= TOLERANCE / 2 for cost in costs
        )
        assert 0.999 * asked <= found <= max(1.1 * asked, 105 * max(costs))
    assert next_budget(1000.0, [70.0]) == 1100.0 - 50.0  # 15 steps
    assert next_budget(10.0, [3000.0]) == 3000.0


@pytest.mark.parametrize(("epochs", "updates"), [(4.98, 10), (5.02, 10), (4.97, 0), (5.03, 0)])
def test_whole_updates_miss_the_epochs_by_at_most_half_the_tolerance(store, epochs, updates):
    # Eight clips in batches of four: two updates a pass.
    spent = ("budget.mode=iso_data", "budget.train_flops=null", f"budget.epochs={epochs}")
    if updates:
        found = solve_budget(make_comparison(*spent), store)
        assert {budget.steps for budget in found.values()} == {updates}
    else:
        with pytest.raises(GenlabError, match=r"whole ones miss by 0\.6%"):
            solve_budget(make_comparison(*spent), store)


@pytest.mark.parametrize("louder", ["codes", "latents"])
def test_a_codec_that_loses_more_in_either_view_is_refused(store, louder):
    spent = ("budget.mode=iso_bitrate", "budget.floor_tolerance=0.05")

    def solve(share):
        floors = {"codes": 10.0, "latents": 10.0}
        floors[louder] *= share
        measured = {"device": "here", "floor_db": floors}
        return solve_budget(make_comparison(*spent), store, measured)

    found = solve(1.04)
    assert {arm.reads: arm.floor_db for arm in found.values()}[louder] == pytest.approx(10.4)
    with pytest.raises(GenlabError, match=r"6\.0% apart"):
        solve(1.06)


def test_the_checkpoints_of_all_seeds_are_counted(store):
    config = make_comparison("seeds=[0,1,2]", "settings.keep=2", "optim.ema_decay=0.9")
    budgets = solve_budget(config, store)
    params = sum(budget.params for budget in budgets.values())
    # parameters, two moments and one average, in four bytes, of three seeds, twice
    assert checkpoint_bytes(config, budgets) == 4 * 4 * params * 3 * 2
    looking = make_comparison("seeds=[0,1,2]", "checkpoint.rule=best", "checkpoint.looks=2")
    assert checkpoint_bytes(looking, budgets) == 4 * 5 * params * 3 * 2


def test_a_budget_is_refused_before_the_corpus_is_built(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    page = tmp_path / "tiny.py"
    page.write_text("from comparison_toys import make_comparison as config\n")
    for command in (
        ["budget"],
        ["compare", "--out", str(tmp_path / "run")],
        ["train", "--arm", "ar"],
        ["tune"],
    ):
        assert main([command[0], str(page), "budget.train_flops=1e8", *command[1:]]) == 2
        told = capsys.readouterr().err
        asked = "2.5e+07" if command[0] == "tune" else "1e+08"  # a quarter for each trial
        assert (
            f"budget.train_flops={asked}: arm 'ar' needs" in told
            and "which every arm meets" in told
        )
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


def test_steps_beyond_what_the_device_can_count_are_refused():
    with pytest.raises(
        GenlabError, match=r"it would take 1e[+]20 steps, more than 2147483647; lower train_flops"
    ):
        solve_steps(Budget(train_flops=1e21), "a", 10.0)


def test_what_no_memory_holds_is_refused_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(host, "device_memory_bytes", lambda: 2**30)
    run = make_comparison().run("ar", 0, steps=1)
    check_memory(run, 2**26 - 2**10)
    with pytest.raises(
        GenlabError, match=r"arm 'ar': training 6\.71e\+07 parameters with batch_size=4 takes at"
    ):
        check_memory(run, 2**26)
    with pytest.raises(
        GenlabError, match="batch_size=8388608 takes at least 16 GiB, and there are 1 GiB"
    ):
        check_memory(run.model_copy(update={"batch_size": 2**23}), 0)
    monkeypatch.setattr(host, "device_memory_bytes", lambda: None)
    check_memory(run, 2**60)


@pytest.mark.parametrize("name", ["ar", "masked", "diffusion"])
@pytest.mark.parametrize(
    "overrides", [(), ("condition.content=text", "condition.route=cross")], ids=["units", "text"]
)
def test_the_formula_agrees_with_the_walk(store, name, overrides):
    run = make_comparison(*overrides).run(name, 0, steps=1)
    assert check_flops(run, store) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize(("share", "off"), [(1.02, "-2.0%"), (0.98, r"\+2.0%")])
def test_a_wrong_formula_is_refused(store, monkeypatch, share, off):
    """One that counts too little would give its arm more training than the others."""
    run = make_comparison().run("masked", 0, steps=1)
    honest = clip_flops(run, store)
    monkeypatch.setattr(budget_module, "clip_flops", lambda run, store: honest * share)
    with pytest.raises(GenlabError, match=f"arm 'masked': its FLOP formula is off by {off}"):
        check_flops(run, store)


def test_abstract_decoders_hold_no_arrays(store):
    import jax

    run = make_comparison("backbone.width=4096", "backbone.layers=64").run("ar", 0, steps=1)
    leaves = jax.tree.leaves(abstract_decoder(run, store))
    assert sum(leaf.size for leaf in leaves) > 1e9
    assert not any(isinstance(leaf, jax.Array) for leaf in leaves)
