"""Gaps with both sides given and continuations as scored columns: closed forms of a law whose
conditionals are known, which clips count, what arms say that fill by another law or not at all, and
what of it is seen.
"""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison_toys import make_comparison
from decoder_toys import FAMILIES, toy_batch
from flax import nnx
from report_toys import make_ledger, make_results, score
from walk_toys import WalkStore

from genlab.config import GenlabError
from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.depth import DepthConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.discrete import DiscreteConfig
from genlab.decoders.hole_rule import CANNOT, describe_hole_rule, fills_its_law
from genlab.decoders.latent_ar import LatentARConfig
from genlab.decoders.mar import MARConfig, MARSampler
from genlab.decoders.noise.corruption import UniformNoise
from genlab.decoders.steps.patterns import FlatPattern
from genlab.evaluate.context import EvaluationConfig
from genlab.evaluate.gaps import Span, names_of_gaps
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import load_row, save_row
from genlab.experiment import Arm, DecoderRun, TokenData
from genlab.forecasts.draws import BlockEnergy
from genlab.forecasts.gaps import add_lookup_spans, add_spans, lacks_spans
from genlab.forecasts.prompted import PromptedDraws
from genlab.forecasts.spans import SpanDraws
from genlab.nets.backbone import BackboneConfig
from genlab.report.page import write_report
from genlab.report.prompt_row import gap_rows
from genlab.report.written import render_scores
from genlab.tokens import Prompt, SampleOut, make_tokens

KEEPS, CHANNELS, FRAMES = 0.9, 4, 24
NOISE = (1 - KEEPS**2) ** 0.5
SOURCE = KnownEntropy(states=4, entries=6, clips=12, clip_frames=FRAMES, latent_channels=CHANNELS)
RUN = DecoderRun(
    name="mar",
    steps=1,
    batch_size=4,
    data=TokenData(corpus=SOURCE, num_frames=FRAMES),
    backbone=BackboneConfig(width=32, layers=1, heads=4),
    condition=ConditionConfig(content="none", dropout=0.0, layers=1),
    arm=Arm(decoder=MARConfig(), sampler=MARSampler()),
)
COVARIANCE = KEEPS ** np.abs(np.arange(FRAMES)[:, None] - np.arange(FRAMES)[None, :])


class Bridge(nnx.Module):
    """Draws walks given what is known on both sides, on the left one alone, or on none."""

    def __init__(self, reads="both"):
        self.reads = reads

    def sample(self, cond, *, num_frames, key, sampler, prompt):
        """Return the draws: of a free walk, corrected by what it misses where it is known."""
        known, is_known = prompt.tokens.latents, prompt.is_known
        read = {
            "both": is_known,
            "left": jnp.cumprod(is_known, axis=1).astype(bool),
            "none": jnp.zeros_like(is_known),
        }[self.reads]
        covariance = jnp.asarray(COVARIANCE)
        root = jnp.linalg.cholesky(covariance)
        free = jnp.einsum("ts,bsd->btd", root, jax.random.normal(key, known.shape))

        def correct(free, known, read):
            weight = read.astype(free.dtype)
            among = covariance * weight[:, None] * weight[None, :] + jnp.diag(1 - weight)
            missed = jnp.linalg.solve(among, weight[:, None] * (known - free))
            return free + covariance @ (weight[:, None] * missed)

        latents = jax.vmap(correct)(free, known, read)
        latents = jnp.where(is_known[:, :, None], known, latents)
        return SampleOut(make_tokens(latents=latents, num_frames=num_frames), 1)


def make_walks(num_clips):
    """Return walks, x(t) = 0.9 x(t - 1) + noise, of unit variance, in every channel."""
    free = np.random.default_rng(0).normal(size=(num_clips, FRAMES, CHANNELS))
    root = np.linalg.cholesky(COVARIANCE)
    return WalkStore(np.einsum("ts,bsd->btd", root, free).astype(np.float32))


WALKS = make_walks(640)


def fill(reads, span, num_draws=4):
    draws = SpanDraws(PromptedDraws(RUN, WALKS, MARSampler()), WALKS.clips)
    return draws(Bridge(reads), span, num_draws=num_draws, seed=0)


def true_energy(deviation):
    """The energy of a Gaussian law of four channels under itself: half the mean distance of two."""
    mean_of_chi = math.sqrt(2) * math.gamma(2.5) / math.gamma(2)
    return 0.5 * math.sqrt(2) * deviation * mean_of_chi / math.sqrt(CHANNELS)


def test_a_gap_and_a_continuation_of_one_frame_have_their_closed_forms():
    gap, after = Span(1, is_gap=True), Span(1, is_gap=False)
    # Between two neighbours a walk varies by 0.19 / 1.81, after one by 0.19, by itself by 1. Who
    # reads less than there is has the same closed form, since his law is right, of less.
    for reads, deviation in (("both", NOISE / (1 + KEEPS**2) ** 0.5), ("left", NOISE), ("none", 1)):
        found = fill(reads, gap).energy(1)
        assert abs(found.mean() - true_energy(deviation)) < 4 * found.std() / len(found) ** 0.5
    for reads in ("both", "left"):  # there is nothing on the right of a continuation
        found = fill(reads, after).energy(1)
        assert abs(found.mean() - true_energy(NOISE)) < 4 * found.std() / len(found) ** 0.5


def test_who_reads_both_sides_is_better_in_the_gap_and_at_its_seams():
    filled = {reads: fill(reads, Span(6, is_gap=True)) for reads in ("both", "left", "none")}
    for better, worse in (("both", "left"), ("left", "none")):
        energy = filled[worse].energy(6) - filled[better].energy(6)
        seams = filled[worse].seams() - filled[better].seams()
        for more in (energy, seams):
            assert more.mean() > 4 * more.std() / len(more) ** 0.5, (better, worse)
    # The true law jumps as far as the clips do; the others jump too far out of the gap.
    drawn, real = filled["both"].jumps()
    assert drawn == pytest.approx(real, rel=0.03)
    assert filled["left"].jumps()[0] > 1.2 * real and filled["none"].jumps()[0] > 2 * real


def test_a_continuation_of_a_block_has_the_energy_of_the_next_block():
    energy = BlockEnergy(RUN, WALKS, WALKS.clips, MARSampler())(Bridge(), num_draws=4, seed=0)
    longest = fill("both", Span(12, is_gap=False))
    np.testing.assert_array_equal(longest.energy(12), energy)
    assert longest.energy(3).mean() < energy.mean()  # what is near is known better


def test_spans_lie_in_the_middle_and_leave_out_what_is_too_short():
    gap, after = Span(4, is_gap=True), Span(4, is_gap=False)
    lengths = np.array([5, 6, 9, 12])
    assert gap.fits(lengths).tolist() == [False, True, True, True]
    assert after.fits(lengths).tolist() == [False, False, True, True]
    assert gap.first(lengths[1:]).tolist() == [1, 2, 4]
    given = gap.is_given(lengths, 12)[2]
    assert given.tolist() == [True] * 2 + [False] * 4 + [True] * 3 + [False] * 3
    assert after.is_given(lengths, 12)[2].tolist() == [True] * 4 + [False] * 8
    assert Span.of(0.25, 12.5, is_gap=True).frames == 3 and Span.of(0.02, 12.5, is_gap=True) == (
        1,
        True,
    )


RULES = {
    "ar": "part hidden",
    "flat": "exact",
    "depth": "part hidden",
    "masked": "part hidden",
    "diffusion": "replacement",
    "diffusion_v": "replacement",
    "mean_flow": "replacement",
    "latent_gmm": "exact",
    "latent_flow": "exact",
    "latent_energy": "exact",
    "discrete": "exact",
    "blockwise": "earlier alone",
    "mar": "exact",
    "latent_blocks": "earlier alone",
}


def test_every_family_says_how_it_knows_both_sides():
    assert {name: describe_hole_rule(family.config) for name, family in FAMILIES.items()} == RULES
    assert describe_hole_rule(DiscreteConfig(noise=UniformNoise())) == "replacement"
    for config in (ARConfig, DepthConfig, LatentARConfig):
        assert describe_hole_rule(config(infill_share=0)) == CANNOT
    assert describe_hole_rule(object()) == "not declared" and not fills_its_law(object())


def test_who_says_that_it_cannot_refuses_a_gap():
    tokens, cond = toy_batch()
    is_known = tokens.is_valid.at[:, 2:4].set(False)
    decoder = FAMILIES["ar"].build()
    config = ARConfig(pattern=FlatPattern(), infill_share=0)
    decoder.config, own = config, decoder.config
    try:
        with pytest.raises(GenlabError, match=r"infill_share=0 .* decoder\.infill_share=0\.1"):
            decoder.sample(
                cond,
                num_frames=tokens.num_frames,
                key=jax.random.key(0),
                sampler=ARSampler(),
                prompt=Prompt(tokens, is_known),
            )
    finally:
        decoder.config = own


class Constant(nnx.Module):
    """Draws noise around a number where nothing is known."""

    def __init__(self, value):
        self.value = nnx.Variable(jnp.asarray(value))

    def sample(self, cond, *, num_frames, key, sampler, prompt):
        """Return it."""
        known = prompt.tokens.latents
        drawn = self.value[...] + jax.random.normal(key, known.shape)
        latents = jnp.where(prompt.is_known[:, :, None], known, drawn)
        return SampleOut(make_tokens(latents=latents, num_frames=num_frames), 7)


CONFIG = make_comparison(
    f"data.num_frames={FRAMES}",
    "condition.content=none",
    "condition.speaker=false",
    "condition.dropout=0",
    "evaluation.gaps_s=[0.1,0.6]",
    "evaluation.continuations_s=[0.1,0.2]",
)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    store = draw_store(SOURCE, tmp_path_factory.mktemp("gaps"))
    clips = [store.clip(number) for number in store.numbers("train")[:6]]
    return SimpleNamespace(store=store, clips=clips, prompts=[None] * 6)


def arms_of(decoder, sampler, *values):
    arm = Arm(decoder=decoder, sampler=sampler)
    run = CONFIG.model_copy(update={"arms": {"a": arm}}).run("a", 0, steps=1)
    models = [SimpleNamespace(model=Constant(value)) for value in values]
    return [SimpleNamespace(run=run, result=model, name="a") for model in models]


EMPTY = RowResult({}, {}, {}, ())
EXACT, REPLACED = (MARConfig(), MARSampler()), (DiffusionConfig(), DiffusionSampler())
SILENT = (ARConfig(pattern=FlatPattern(), infill_share=0), ARSampler())


def test_rows_get_columns_that_say_how_an_arm_knows_what_is_given(material, tmp_path):
    exact = add_spans(EMPTY, CONFIG, material, arms_of(*EXACT, 0.0, 3.0))
    names = ["gap_100ms", "seam_100ms", "gap_600ms", "seam_600ms"]
    assert names == names_of_gaps(CONFIG.evaluation.gaps_s)
    assert list(exact.scores) == [*names, "continuation_100ms", "continuation_200ms"]
    # 24 frames hold no gap of 30.
    assert exact.scores["gap_600ms"].n == exact.scores["seam_600ms"].n == 0
    gap = exact.scores["gap_100ms"]
    assert (gap.n, gap.seeds, gap.validity) == (6, 2, "metric")
    assert gap.note.startswith("4 draws per clip at the bare law, 7 network calls each; how it")
    assert gap.note.endswith("both sides: exact")
    assert "; mean jump " in exact.scores["seam_100ms"].note
    by_run = exact.per_clip["gap_100ms"].by_run()
    assert by_run[1] > by_run[0] + 1  # three deviations off in the second seed
    replaced = add_spans(EMPTY, CONFIG, material, arms_of(*REPLACED, 0.0))
    kinds = {name: replaced.scores[name].validity for name in names}
    assert kinds == dict.fromkeys(names, "biased")
    assert replaced.scores["continuation_100ms"].note.endswith("a prompt: replacement")
    silent = add_spans(EMPTY, CONFIG, material, arms_of(*SILENT, 0.0))
    assert silent.scores["continuation_100ms"].validity == "metric"
    for name in names:
        cell = silent.scores[name]
        assert math.isnan(cell.value) and cell.validity == "impossible" and cell.n == 0
        assert "decoder.infill_share=0.1" in cell.note and name not in silent.per_clip
    # What is kept is whole, and a row of an earlier command lacks nothing but what it never had.
    save_row(tmp_path / "a.json", silent)
    kept = load_row(tmp_path / "a.json")
    assert kept is not None and not lacks_spans(kept, CONFIG, material)
    assert lacks_spans(EMPTY, CONFIG, material)
    off = make_comparison()
    assert not lacks_spans(EMPTY, off, material)
    assert add_spans(EMPTY, off, material, arms_of(*EXACT, 0.0)) is EMPTY


def test_mean_latents_are_a_forecast_of_a_gap(material):
    row = add_lookup_spans(EMPTY, CONFIG, material)
    store = material.store
    train = [store.normalise(store.clip(n).latents) for n in store.numbers("train")]
    mean = np.mean(train, axis=0)  # nothing is told but the number of the frame
    real = np.stack([store.normalise(clip.latents) for clip in material.clips])
    for name, first, frames in (("gap_100ms", 9, 5), ("continuation_200ms", 12, 10)):
        missed = (real - mean)[:, first : first + frames]
        expected = np.sqrt(np.square(missed).mean(axis=(1, 2)))
        np.testing.assert_allclose(row.per_clip[name].values, expected, rtol=1e-4)
    jump = np.sqrt(np.square(real[:, 8] - mean[9]).mean(axis=1))
    own = np.sqrt(np.square(real[:, 8] - real[:, 9]).mean(axis=1))
    out = np.sqrt(np.square(mean[13] - real[:, 14]).mean(axis=1))
    away = np.sqrt(np.square(real[:, 13] - real[:, 14]).mean(axis=1))
    expected = (np.abs(jump - own) + np.abs(out - away)) / 2
    np.testing.assert_allclose(row.per_clip["seam_100ms"].values, expected, rtol=1e-3)


def test_the_ledger_says_it_and_cells_say_who_cannot(tmp_path):
    runs = {
        name: arms_of(*pair, 0.0)[0].run for name, pair in (("exact", EXACT), ("silent", SILENT))
    }
    row = gap_rows(runs, has_gaps=True)[0]
    assert row["values"] == {"exact": "exact", "silent": CANNOT} and row["status"] == "declared"
    assert gap_rows(runs, has_gaps=False) == []
    results = make_results()
    for arm in results["arms"]:
        if arm["name"] == "masked":
            arm["scores"]["gap_250ms"] = score(0.4, 0.01, validity="biased")
        if arm["name"] == "ar":
            nothing = {"value": None, "low": None, "high": None, "n": 0}
            cell = score(0.4, 0.01, validity="impossible", note="it can only continue") | nothing
            arm["scores"]["gap_250ms"] = cell
    write_report(tmp_path, results, make_ledger(), [])
    page = (tmp_path / "report.html").read_text()
    assert "Energy of a gap (250ms)" in page and ">cannot</td>" in page
    assert "it can only continue" in page
    assert "| cannot |" in render_scores(results)


def test_lengths_are_checked():
    with pytest.raises(ValueError, match=r"gaps_s=\[0.25\]: .* energy_draws draws, got 0"):
        EvaluationConfig(gaps_s=(0.25,), energy_draws=0)
    with pytest.raises(ValueError, match="the same to a millisecond"):
        EvaluationConfig(continuations_s=(0.25, 0.2501))
    assert EvaluationConfig().digest() == EvaluationConfig(gaps_s=()).digest()
