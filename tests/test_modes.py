"""What each mode holds equal, what it refuses because it cannot, and what it leaves free."""

import json
from dataclasses import replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from codec_toys import LoudnessUnits, make_frozen, make_manifest
from comparison_toys import ARMS, make_comparison
from flax import nnx

from genlab.arms import plan
from genlab.codecs.cache import PlannedStore, encode_corpus
from genlab.config import Config, ConfigError, GenlabError
from genlab.decoders.ar import ARSampler
from genlab.decoders.cost import drawn_tokens, sample_cost
from genlab.decoders.diffusion import DiffusionSampler
from genlab.decoders.latent_ar import LatentARSampler
from genlab.decoders.mar import MARSampler
from genlab.decoders.masked import MaskedSampler
from genlab.fairness import measured as measured_module
from genlab.fairness import timing
from genlab.fairness.budget import TOLERANCE, solve_budget
from genlab.fairness.latency import fit_sampler, has_steps, steps_of, with_steps
from genlab.fairness.measured import drawn_levels, floor_distances, step_seconds
from genlab.fairness.timing import fit_seconds
from genlab.report.console import format_budget
from genlab.report.ledger import _sampling_rows, compute_rows
from genlab.tokens import SampleOut, make_tokens
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
            'budget.sampling={"seconds":0.5}, or budget.mode=iso_flop',
        ),
        (["budget.mode=iso_bitrate"], "set budget.floor_tolerance=0.05, or"),
        (['budget.sampling={"calls":3,"flops":1e9}'], "a sampling budget is one of the three"),
        (['budget.sampling={"calls":3,"seconds":1}'], "a sampling budget is one of the three"),
        (["budget.sampling={}"], "a sampling budget is one of the three"),
    ],
)
def test_fields_of_another_mode_are_refused_with_the_fix(overrides, told):
    with pytest.raises(ConfigError) as caught:
        make_comparison(*overrides)
    assert told in str(caught.value)


def test_new_modes_change_no_digest_of_the_old_ones():
    assert Budget(train_flops=2e10).digest() == "bc6d5be9bc"
    assert Budget(mode="iso_step", steps=7).digest() == "7133c8fe88"
    # Calls and FLOPs are what they were before seconds could be asked for.
    assert SamplingBudget(calls=25).digest() == "1a29bbbbc0"


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


SECONDS = ("budget.mode=iso_latency", 'budget.sampling={"seconds":0.5}')
# What a step of each arm takes and what there is beside the steps; AR has none to choose.
TIMES = {"ar": (0.0, 0.48), "masked": (0.02, 0.06), "diffusion": (0.05, 0.03)}


def law_of(name, times=TIMES):
    """Return the clock of a machine whose times are a line in the steps."""
    slope, rest = times[name]
    return lambda sampler: rest + slope * (steps_of(sampler) or 0)


@pytest.mark.parametrize("own", [1, 6, 300])
@pytest.mark.parametrize(
    ("slope", "rest", "steps"), [(0.05, 0.03, 9), (0.001, 0.2, 300), (0.4, 0.1, 1), (0.02, 0.0, 25)]
)
def test_the_steps_are_found_with_which_a_clip_takes_the_time(own, slope, rest, steps):
    tried = []

    def clock(sampler):
        tried.append(sampler.steps)
        return rest + slope * sampler.steps

    found = fit_seconds("d", DiffusionSampler(steps=own), SamplingBudget(seconds=0.5), clock)
    # The nearest whole number, or one that is as good as equal.
    assert abs(found.seconds / 0.5 - 1) <= max(0.01, abs((rest + slope * steps) / 0.5 - 1))
    assert found.seconds == rest + slope * found.sampler.steps and len(tried) <= 5


def test_a_time_that_bends_with_the_steps_is_met_as_well():
    def clock(sampler):
        return 0.01 * sampler.steps**1.3 + 0.002 * (sampler.steps % 2)  # and wobbles

    found = fit_seconds(
        "m",
        MaskedSampler(steps=(4, 1)),
        SamplingBudget(seconds=2.0),
        lambda sampler: clock(DiffusionSampler(steps=sampler.steps[0])),
    )
    assert found.sampler.steps[0] == pytest.approx(200 ** (1 / 1.3), abs=1.5)
    assert found.sampler.steps[1] == 1


def test_what_cannot_take_the_time_is_refused_by_name():
    limit = SamplingBudget(seconds=0.5)
    with pytest.raises(GenlabError) as fixed:
        fit_seconds("ar", ARMS["ar"].sampler, limit, lambda sampler: 0.31)
    assert str(fixed.value) == (
        "arms.ar: drawing a clip takes 0.31 s and no steps of its sampler change that; expected "
        "budget.sampling.seconds=0.5 within 10%; set budget.sampling.seconds=0.31, or leave the "
        "arm out"
    )
    with pytest.raises(GenlabError) as coarse:
        fit_seconds("d", DiffusionSampler(steps=2), limit, lambda sampler: 0.4 * sampler.steps)
    assert "arms.d: no number of steps draws a clip in budget.sampling.seconds=0.5" in str(
        coarse.value
    )
    assert "1: 0.4 s, 2: 0.8 s" in str(coarse.value)
    assert "set budget.sampling.seconds=0.4, a larger budget.sampling.tolerance" in str(
        coarse.value
    )
    wide = SamplingBudget(seconds=0.5, tolerance=0.25)
    assert fit_seconds("d", DiffusionSampler(steps=2), wide, lambda s: 0.4 * s.steps).seconds == 0.4


def test_iso_latency_in_seconds_holds_the_time_of_a_clip(store, tmp_path, monkeypatch):
    config = make_comparison(*SECONDS)
    asked = []

    def clock(run, store):
        asked.append(run.name)
        return law_of(run.name)

    monkeypatch.setattr(timing, "clip_clock", clock)
    arms = plan(config, store, tmp_path)
    samplers = {arm.name: arm.run.arm.sampler for arm in arms}
    assert samplers["ar"] == config.arms["ar"].sampler
    assert samplers["masked"] == MaskedSampler(steps=(22, 1))
    assert samplers["diffusion"] == DiffusionSampler(steps=9)
    # Kept: a resumed comparison samples as it was planned, whatever the machine does now.
    assert [arm.run for arm in plan(config, store, tmp_path)] == [arm.run for arm in arms]
    assert asked == ["ar", "masked", "diffusion"]
    kept = json.loads((tmp_path / "measured.json").read_text())["sampling"]
    assert {name: one["steps"] for name, one in kept.items()} == {
        "ar": None,
        "masked": 22,
        "diffusion": 9,
    }
    budgets = {arm.name: arm.budget for arm in arms}
    rows = {row["item"]: row for row in _sampling_rows(config, budgets)}
    assert rows["Seconds per clip"]["status"] == "bounded"
    assert rows["Seconds per clip"]["values"] == {
        "ar": "0.48 s",
        "masked": "0.5 s",
        "diffusion": "0.48 s",
    }
    assert "within 10% of 0.5 s, spread 4.2%" in rows["Seconds per clip"]["note"]
    for free in ("Sampler calls", "Sampling FLOPs"):
        assert rows[free]["status"] == "free", free
    told = format_budget(config, budgets, dict.fromkeys(budgets, 1.0))
    assert "clip alone s" in " ".join(told.split()) and "0.48" in told
    plain = {name: replace(budget, sample_s=None) for name, budget in budgets.items()}
    assert "clip alone" not in format_budget(config, plain, dict.fromkeys(budgets, 1.0))
    slow = {**TIMES, "ar": (0.0, 0.7)}
    monkeypatch.setattr(timing, "clip_clock", lambda run, store: law_of(run.name, slow))
    with pytest.raises(GenlabError, match=r"arms\.ar: drawing a clip takes 0\.7 s"):
        plan(config, store, tmp_path / "slow")


def test_a_clip_alone_takes_time(store):
    run = make_comparison().run("diffusion", 0, 1)
    assert 0 < timing.clip_clock(run, store)(run.arm.sampler) < 60


def test_a_head_that_does_not_iterate_has_no_steps_to_time(store):
    config = make_comparison(
        'arms.gmm={"decoder":{"kind":"latent_ar"},"sampler":{"kind":"latent_ar"}}'
    )
    for name, wanted in {"gmm": False, "ar": False, "masked": True, "diffusion": True}.items():
        run = config.run(name, 0, 1)
        assert has_steps(run.arm.decoder, run.arm.sampler, run.task(store)) == wanted, name


def test_iso_bitrate_refuses_floors_that_are_too_far_apart(store):
    config = make_comparison("budget.mode=iso_bitrate", "budget.floor_tolerance=0.1")
    levels = dict.fromkeys(("ar", "masked"), store.info.spec.codebooks)
    near = {"device": "here", "levels": levels, "floor_db": {"codes": 2.1, "latents": 2.0}}
    rows, budgets = rows_of(config, store, near)
    assert rows["Codec floor"]["values"] == {
        "ar": "2.1 dB",
        "masked": "2.1 dB",
        "diffusion": "2 dB",
    }
    assert rows["Codec floor"]["status"] == "bounded" and "10%" in rows["Codec floor"]["note"]
    spent = [budget.train_flops for budget in budgets.values()]
    assert max(spent) / min(spent) - 1 < TOLERANCE
    assert rows["Bitrate"]["status"] == "matched"
    assert rows["Bitrate"]["values"] == {
        "ar": f"{store.info.spec.bitrate_bps / 1000:.3g} kbit/s",
        "masked": f"{store.info.spec.bitrate_bps / 1000:.3g} kbit/s",
        "diffusion": "latents have none",
    }
    far = {"device": "here", "levels": levels, "floor_db": {"codes": 2.5, "latents": 2.0}}
    with pytest.raises(GenlabError) as told:
        solve_budget(config, store, far)
    assert "2.5 dB from codes, 2 dB from latents, 25.0% apart" in str(told.value)
    assert "codes are read by ar and masked; latents are read by diffusion" in str(told.value)
    # Arms that read the same lose the same.
    codes = config.model_copy(update={"arms": {name: ARMS[name] for name in ("ar", "masked")}})
    assert set(solve_budget(codes, store, far)) == {"ar", "masked"}


def test_codes_of_different_bitrates_are_refused_by_the_arms_names(store):
    config = make_comparison("budget.mode=iso_bitrate", "budget.floor_tolerance=0.1")
    floors = {"codes": 2.0, "latents": 2.0}
    uneven = {"device": "here", "levels": {"ar": 4, "masked": 2}, "floor_db": floors}
    rate = 4 * np.log2(store.info.spec.entries) * store.info.spec.frame_hz / 1000
    with pytest.raises(GenlabError) as told:
        solve_budget(config, store, uneven)
    assert f"(arms.ar {rate:.3g}, arms.masked {rate / 2:.3g})" in str(told.value)
    assert str(told.value).endswith("draw as many levels in every arm, or leave out masked")


class Narrow(nnx.Module):
    """Draws two levels of codes, whatever the codec has."""

    reads = "codes"

    def sample(self, cond, *, num_frames, key, sampler):
        codes = jnp.zeros((*cond.content.shape, 2), jnp.int32)
        return SampleOut(make_tokens(codes=codes, num_frames=num_frames), 1)


class NarrowConfig(Config):
    """The config of a decoder that draws fewer levels than the codec has."""

    kind: ClassVar[str] = "narrow"
    sampler: ClassVar[type] = ARSampler
    loss_unit: ClassVar[str] = "nats_per_code"

    def build(self, task, *, key):
        """Return the decoder."""
        return Narrow()


def test_the_levels_of_an_arm_are_those_that_it_draws(store):
    runs = {name: make_comparison().run(name, 0, 1) for name in ARMS}
    levels = store.info.spec.codebooks
    assert drawn_levels(runs, store) == {"ar": levels, "masked": levels}
    task = runs["ar"].task(store)
    assert drawn_tokens(NarrowConfig(), ARSampler(), task).codes.shape == (1, 16, 2)


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
    # Fewer levels lose more, and latents do not know of levels.
    coarse = floor_distances(config, store, levels=1)
    assert coarse["codes"] != found["codes"] and coarse["latents"] == found["latents"]
    # A store that is only planned has no tokens; the floors are the codec's all the same.
    planned = PlannedStore(manifest, codec, LoudnessUnits())
    assert floor_distances(config, planned) == found
