"""What each mode holds equal, what it refuses because it cannot, and what it leaves free."""

import json

import numpy as np
import pytest
from codec_toys import LoudnessUnits, make_frozen, make_manifest
from comparison_toys import ARMS, make_comparison

from genlab.arms import plan
from genlab.codecs.cache import encode_corpus
from genlab.config import ConfigError, GenlabError
from genlab.decoders.cost import sample_cost
from genlab.decoders.diffusion import DiffusionSampler
from genlab.decoders.latent_ar import LatentARSampler
from genlab.decoders.mar import MARSampler
from genlab.decoders.masked import MaskedSampler
from genlab.fairness import measured as measured_module
from genlab.fairness.budget import TOLERANCE, solve_budget
from genlab.fairness.latency import fit_sampler, with_steps
from genlab.fairness.measured import floor_distances, step_seconds
from genlab.report.ledger import compute_rows
from genlab.training.spend import Budget, SamplingBudget

NO_FLOPS = "budget.train_flops=null"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    return encode_corpus(make_manifest(root, 12), make_frozen(), LoudnessUnits(), root)


def rows_of(config, store, measured=None):
    budgets = solve_budget(config, store, measured)
    return {row["item"]: row for row in compute_rows(config, budgets)}, budgets


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["budget.mode=iso_data", NO_FLOPS],
            "mode='iso_data' takes epochs (epochs is null); set budget.epochs=10",
        ),
        (
            ["budget.mode=iso_data", "budget.epochs=3"],
            "mode='iso_data' takes epochs and not train_flops; set budget.train_flops=null",
        ),
        (
            ["budget.epochs=3", NO_FLOPS],
            "mode='iso_flop' takes train_flops and not epochs; set budget.train_flops=1e13 "
            "budget.epochs=null, or budget.mode=iso_data",
        ),
        (
            ["budget.mode=iso_time"],
            "mode='iso_time' takes wall_s and not train_flops; set budget.wall_s=600 "
            "budget.train_flops=null, or budget.mode=iso_flop",
        ),
        (
            ["budget.mode=iso_latency"],
            "takes train_flops and sampling (sampling is null); set "
            'budget.sampling={"calls":32}, or budget.mode=iso_flop',
        ),
        (["budget.mode=iso_bitrate"], "set budget.floor_tolerance=0.05, or"),
        (['budget.sampling={"calls":3,"flops":1e9}'], "a sampling budget is one of the two"),
        (["budget.sampling={}"], "a sampling budget is one of the two"),
    ],
)
def test_fields_of_another_mode_are_refused_with_the_fix(overrides, told):
    with pytest.raises(ConfigError) as caught:
        make_comparison(*overrides)
    assert told in str(caught.value)


def test_new_modes_change_no_digest_of_the_old_ones():
    assert Budget(train_flops=2e10).digest() == "bc6d5be9bc"
    assert Budget(mode="iso_step", steps=7).digest() == "7133c8fe88"


def test_iso_data_gives_the_same_epochs_of_the_same_audio(store):
    config = make_comparison("budget.mode=iso_data", NO_FLOPS, "budget.epochs=3")
    rows, budgets = rows_of(config, store)
    # three passes over eight training clips, four in a batch
    assert {budget.steps for budget in budgets.values()} == {6}
    assert {budget.epochs for budget in budgets.values()} == {3}
    assert rows["Epochs"]["status"] == rows["Updates"]["status"] == "bounded"
    for item in ("Training FLOPs", "Backbone parameters", "Head parameters"):
        assert rows[item]["status"] == "free", item
    assert len(set(rows["Training FLOPs"]["values"].values())) == 3
    part = make_comparison(
        "budget.mode=iso_data", NO_FLOPS, "budget.epochs=3", "data.train_clips=4"
    )
    assert {budget.steps for budget in solve_budget(part, store).values()} == {3}
    odd = make_comparison("budget.mode=iso_data", NO_FLOPS, "budget.epochs=0.7")
    with pytest.raises(GenlabError, match=r"makes 1.4 updates.*miss by 28.6%.*budget\.epochs=50"):
        solve_budget(odd, store)


def test_iso_time_gives_every_arm_the_same_seconds(store, tmp_path, monkeypatch):
    config = make_comparison("budget.mode=iso_time", NO_FLOPS, "budget.wall_s=60")
    times = {"ar": 0.1, "masked": 0.05, "diffusion": 0.2}
    asked = []

    def measure(run, store):
        asked.append(run.name)
        return times[run.name] * (1 + len(asked) // 4)  # measured again it would be another

    monkeypatch.setattr(measured_module, "step_seconds", measure)
    arms = plan(config, store, tmp_path)
    assert {arm.name: arm.run.steps for arm in arms} == {
        "ar": 600,
        "masked": 1200,
        "diffusion": 300,
    }
    # Kept: a resumed comparison makes the same updates, whatever the machine does now.
    again = plan(config, store, tmp_path)
    assert [arm.run for arm in again] == [arm.run for arm in arms] and len(asked) == 3
    assert json.loads((tmp_path / "measured.json").read_text())["step_s"] == times
    rows = {
        row["item"]: row for row in compute_rows(config, {arm.name: arm.budget for arm in arms})
    }
    assert rows["Planned training time"]["status"] == "bounded"
    assert rows["Planned training time"]["values"] == pytest.approx(dict.fromkeys(times, 60))
    assert rows["Updates"]["status"] == rows["Training FLOPs"]["status"] == "free"
    with pytest.raises(GenlabError, match="measured ar, masked, diffusion, this config has ar"):
        one = config.model_copy(update={"arms": {"ar": ARMS["ar"]}})
        plan(one, store, tmp_path)
    short = make_comparison("budget.mode=iso_time", NO_FLOPS, "budget.wall_s=0.3")
    with pytest.raises(GenlabError, match=r"arm 'diffusion', at 0\.2 s an update, makes 1\.5"):
        solve_budget(short, store, {"device": "here", "step_s": times})


def test_a_compiled_update_takes_time(store):
    assert 0 < step_seconds(make_comparison().run("masked", 0, 1), store) < 60


@pytest.mark.parametrize(
    ("sampler", "more"),
    [
        (DiffusionSampler(steps=3, guidance=2.0), DiffusionSampler(steps=9, guidance=2.0)),
        (MaskedSampler(steps=(4, 1)), MaskedSampler(steps=(9, 1))),
        (MARSampler(rounds=3, steps=5), MARSampler(rounds=9, steps=5)),
        (LatentARSampler(steps=3), LatentARSampler(steps=9)),
        (ARMS["ar"].sampler, None),
    ],
)
def test_steps_are_changed_and_nothing_else(sampler, more):
    assert with_steps(sampler, 9) == more


def test_iso_latency_takes_the_most_steps_that_fit(store, tmp_path):
    chosen = ("budget.mode=iso_latency", 'budget.sampling={"calls":25}')
    config = make_comparison(*chosen)
    rows, budgets = rows_of(config, store)
    # AR: 16 frames and a delay of 2; masked: 25 less a call for each other level
    assert {name: budget.network_calls for name, budget in budgets.items()} == {
        "ar": 18,
        "masked": 25,
        "diffusion": 25,
    }
    assert budgets["diffusion"].sampler == DiffusionSampler(steps=25)
    assert budgets["masked"].sampler == MaskedSampler(steps=(23, 1))
    assert rows["Training FLOPs"]["status"] == "bounded"
    runs = {arm.name: arm.run for arm in plan(config, store, tmp_path)}
    assert runs["diffusion"].arm.sampler.steps == 25 and runs["ar"].arm == config.arms["ar"]
    with pytest.raises(GenlabError, match=r"arms\.ar: .*costs 18 calls, more than .*raise") as told:
        solve_budget(make_comparison(chosen[0], 'budget.sampling={"calls":9}'), store)
    assert "budget.sampling.calls to 18" in str(told.value)


def test_a_budget_of_flops_is_spent_and_not_exceeded(store):
    config = make_comparison()
    run = config.run("diffusion", 0, 1)
    task, decoder = run.task(store), run.arm.decoder
    per_call = (
        sample_cost(decoder, DiffusionSampler(steps=3), task).flops
        - sample_cost(decoder, DiffusionSampler(steps=2), task).flops
    )
    whole = sample_cost(decoder, DiffusionSampler(steps=10), task).flops
    limit = SamplingBudget(flops=whole + 0.5 * per_call)
    assert fit_sampler("d", decoder, DiffusionSampler(), task, limit).steps == 10
    # guidance counts as two calls
    guided = fit_sampler("d", decoder, DiffusionSampler(guidance=3.0), task, limit)
    assert guided.steps == 5 and guided.guidance == 3.0


def test_a_head_that_does_not_iterate_keeps_its_steps(store):
    config = make_comparison(
        'arms.gmm={"decoder":{"kind":"latent_ar"},"sampler":{"kind":"latent_ar"}}'
    )
    run = config.run("gmm", 0, 1)
    own = run.arm.sampler
    limit = SamplingBudget(calls=1000)
    assert fit_sampler("gmm", run.arm.decoder, own, run.task(store), limit) == own


def test_iso_bitrate_refuses_floors_that_are_too_far_apart(store):
    config = make_comparison("budget.mode=iso_bitrate", "budget.floor_tolerance=0.1")
    near = {"device": "here", "floor_db": {"codes": 2.1, "latents": 2.0}}
    rows, budgets = rows_of(config, store, near)
    assert rows["Codec floor"]["values"] == {
        "ar": "2.1 dB",
        "masked": "2.1 dB",
        "diffusion": "2 dB",
    }
    assert rows["Codec floor"]["status"] == "bounded" and "10%" in rows["Codec floor"]["note"]
    spent = [budget.train_flops for budget in budgets.values()]
    assert max(spent) / min(spent) - 1 < TOLERANCE
    far = {"device": "here", "floor_db": {"codes": 2.5, "latents": 2.0}}
    with pytest.raises(GenlabError, match=r"2\.5 dB from codes, 2 dB from latents, 25\.0% apart"):
        solve_budget(config, store, far)
    # Arms that read the same lose the same.
    codes = config.model_copy(update={"arms": {name: ARMS[name] for name in ("ar", "masked")}})
    assert set(solve_budget(codes, store, far)) == {"ar", "masked"}


def test_floors_are_heard_on_validation_clips(tmp_path, monkeypatch):
    manifest, codec = make_manifest(tmp_path, 12), make_frozen()
    store = encode_corpus(manifest, codec, LoudnessUnits(), tmp_path)
    config = make_comparison()
    data = type(config.data)
    monkeypatch.setattr(data, "load_codec", lambda self: codec)
    monkeypatch.setattr(data, "build_audio", lambda self, progress=None: manifest)
    found = floor_distances(config, store)
    assert set(found) == {"codes", "latents"} and all(np.isfinite(v) for v in found.values())
    assert min(found.values()) > 0
