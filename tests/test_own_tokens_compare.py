"""A comparison on tokens that somebody else encoded: no audio, no codec, scored in bits."""

import json
import math

import numpy as np
import pytest
from own_toys import write_arrays, write_spec

from genlab.compare import compare
from genlab.config import ConfigError, GenlabError
from genlab.data.known_entropy import KnownEntropy
from genlab.data.own.row import Facts
from genlab.data.own.source import OwnTokens
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.blockwise import BlockwiseConfig, BlockwiseSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.fairness.budget import check_budget, check_flops
from genlab.nets.backbone import BackboneConfig
from genlab.preflight import rehearse
from genlab.report.console import format_plan, format_results
from genlab.train import TrainSettings
from genlab.training.optim import OptimConfig
from genlab.watch.progress import Progress

SOURCE = KnownEntropy(states=4, codebooks=2, entries=8, latent_channels=4, noise=0.02)
SPEC = {"sample_rate_hz": 16_000, "hop_samples": 320, "codebooks": 2, "entries": 8}
FRAMES = 16
ARMS = {
    "ar": Arm(decoder=ARConfig(), sampler=ARSampler()),
    "depth": Arm(decoder=DepthConfig(), sampler=DepthSampler()),
    "masked": Arm(decoder=MaskedConfig(), sampler=MaskedSampler(steps=(4, 1))),
    "discrete": Arm(decoder=DiscreteConfig(), sampler=DiscreteSampler(steps=4)),
    "blockwise": Arm(decoder=BlockwiseConfig(), sampler=BlockwiseSampler()),
}


def write_tokens(folder, **more):
    """Write clips of a known source: most for training, and a few of validation and test."""
    codes, _ = SOURCE.draw(np.random.default_rng(0), 160, FRAMES)
    splits = ["valid" if n % 16 == 0 else "test" if n % 16 == 1 else "train" for n in range(160)]
    clips = [
        (
            Facts(
                f"c{number:03d}",
                f"say {chr(97 + number % 26)} {chr(97 + number // 26)}",
                split=split,
            ),
            one.astype(np.int16),
        )
        for number, (one, split) in enumerate(zip(codes, splits))
    ]
    return write_arrays(folder, clips, **{**SPEC, **more})


def make(folder, arms, **more):
    return Comparison(
        name="own",
        question="Which family needs the fewest bits?",
        data=TokenData(tokens=str(folder), num_frames=FRAMES),
        batch_size=8,
        backbone=BackboneConfig(width=32, layers=1, heads=2),
        condition=ConditionConfig(content="none", layers=1),
        budget=Budget(mode="iso_data", epochs=10),
        arms={name: ARMS[name] for name in arms},
        num_prompts=8,
        optim=OptimConfig(peak_lr=5e-3),
        evaluation=EvaluationConfig(score_draws=2),
        settings=TrainSettings(log_every=50, save_every_steps=100),
        **more,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("own") / "tokens")


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "own"
    config = make(folder, ["ar", "masked"])
    with pytest.MonkeyPatch.context() as patch, Progress() as progress:
        patch.setenv("GENLAB_CACHE", str(out.parent / "cache"))
        results = compare(config, out, progress, "genlab compare own")
        again = compare(config, out, progress, "genlab compare own")
    assert again == results
    return config, out, results


def bits_of(results):
    return {row["name"]: row["scores"]["bits_per_s"]["value"] for row in results["arms"]}


def test_families_of_codes_are_scored_in_bits_beside_the_counts(finished):
    _, _, results = finished
    bits = bits_of(results)
    assert list(bits) == ["uniform", "unigram", "bigram", "ar", "masked"]
    assert bits["uniform"] == pytest.approx(50 * 2 * 3)
    # An exact likelihood lies above the entropy; what was learnt lies below the counts.
    assert SOURCE.rate_bits * 50 < bits["ar"] < bits["unigram"] < bits["uniform"]
    assert results["primary_score"] == "bits_per_s" and results["controls"] == []
    gates = {gate["name"]: gate["state"] for gate in results["gates"]}
    assert gates["score trusted"] == gates["real clips heard"] == "not applicable"
    assert gates["three seeds"] == "failed" and gates["one token type"] == "passed"
    for row in results["arms"][3:]:
        assert set(row["scores"]) == {"bits_per_s"} and row["sampling"]["flops"] > 0
        assert row["network_calls"] > 0


def test_nothing_is_heard_and_everything_else_is_written(finished):
    _, out, results = finished
    assert list(out.rglob("*.flac")) == []
    page = (out / "report.html").read_text()
    assert "No codec is named, so nothing was decoded" in page and "<audio" not in page
    ledger = json.loads((out / "ledger.json").read_text())
    assert ledger["stamp"] == "controlled"
    [overlap] = [row for row in ledger["rows"] if row["item"] == "Overlap of splits"]
    assert set(overlap["values"].values()) == {0}
    assert "bits" in format_results(results, ledger)
    inputs = json.loads((out / "inputs.json").read_text())
    assert inputs["latent_mean"] == []


@pytest.mark.parametrize("name", ARMS)
def test_every_family_of_codes_trains_on_them(folder, tmp_path, monkeypatch, name):
    """Its loss and gradient are traced over a real batch, which has no latents."""
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    config = make(folder, [name])
    check_budget(config)
    store = config.data.open()
    run = config.run(name, 0, steps=1)
    tokens, _ = run.source_of(store).batch_at(0).args
    assert tokens.latents is None and tokens.codes.shape == (8, FRAMES, 2)
    assert check_flops(run, store) == pytest.approx(1, abs=0.01)


def test_arms_are_told_the_columns_of_the_tokens(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    folder = write_tokens(tmp_path / "tokens")
    index = folder / "index.jsonl"
    rows = [json.loads(line) | {"gain": n} for n, line in enumerate(index.open())]
    index.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    part = '[{"kind": "numbers", "name": "gain", "columns": ["gain"], "deviation": 160}]'
    config = make(folder, ["ar", "masked"]).override([f"condition.parts={part}"])
    with Progress() as progress:
        assert rehearse(config, progress).ratios == pytest.approx({"ar": 1, "masked": 1}, abs=0.01)
    store = config.data.open(parts=config.condition.parts)
    _, cond = config.run("ar", 0, steps=1).source_of(store).batch_at(0).args
    assert cond.parts["gain"].shape == (8, 1)
    assert 0 <= cond.parts["gain"].min() < cond.parts["gain"].max() < 1


def test_a_dry_run_says_what_would_be_done(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    config = make(folder, ["ar", "masked"])
    with Progress() as progress:
        found = rehearse(config, progress)
    text = format_plan(config, found, 1e9)
    assert "deciding score: bits_per_s" in text and "baselines: uniform, unigram, bigram" in text
    assert "scores: bits_per_s" in text and "prompts: 8 of split 'test'" in text


def test_what_tokens_without_audio_cannot_do_is_refused_at_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    arm = Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=4))
    config = make(folder, ["ar"])
    with pytest.raises(GenlabError, match=r"arms\.d: decoder.kind='diffusion' predicts latents"):
        check_budget(config.model_copy(update={"arms": {**config.arms, "d": arm}}))
    for override, said in {
        "condition.content=semantic": "has no semantic units; set condition.content=none",
        "settings.previews=2": "settings.previews: this needs audio, and data.codec=null",
        "audit=true": "audit: this needs audio",
        "data.codec=in_lab_16khz": "the codec in_lab_16khz has 1024 entries and the tokens have 8",
    }.items():
        with pytest.raises(GenlabError, match=said):
            check_budget(config.override([override]))
    with pytest.raises(GenlabError, match=r"data\.codec=null: own tokens are not heard"):
        config.data.load_codec()


def test_tokens_take_the_place_of_corpus_and_codec(folder):
    config = make(folder, ["ar"])
    assert config.data.corpus == OwnTokens(directory=str(folder)) and config.data.codec is None
    named = config.override([f"data.tokens={folder}", "data.codec=mimi"])
    assert named.data.codec == "mimi" and named.data.corpus == config.data.corpus
    # Both spellings are one config, and a run directory holds the long one.
    assert Comparison.from_dict(config.to_dict()).digest() == config.digest()
    with pytest.raises(ConfigError, match="codec=null: a corpus of audio is encoded by a codec"):
        config.override(["data.corpus.kind=embedded"])


def test_with_code_vectors_a_family_of_latents_trains_and_has_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    folder = write_tokens(tmp_path / "tokens", code_vectors="v.npy")
    np.save(folder / "v.npy", SOURCE.code_vectors)
    store = TokenData(tokens=str(folder), num_frames=FRAMES).open()
    clip = store.clip(0)
    summed = sum(SOURCE.code_vectors[k][clip.codes[:, k]] for k in range(2))
    np.testing.assert_allclose(clip.latents, summed, rtol=1e-6)
    normalised = sum(store.code_vectors[k][clip.codes[:, k]] for k in range(2))
    np.testing.assert_allclose(store.normalise(clip.latents), normalised, atol=1e-5)
    train = store.info.splits["train"]
    latents = np.concatenate(
        [store.normalise(store.clip(train.first + n).latents) for n in range(train.clips)]
    )
    np.testing.assert_allclose(latents.std(axis=0), 1, atol=1e-3)
    arm = Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=4))
    check_budget(make(folder, ["ar"]).model_copy(update={"arms": {"d": arm}}))
    assert math.isclose(store.info.spec.latent_channels, 4)
    write_spec(folder, **SPEC)
    assert not TokenData(tokens=str(folder), num_frames=FRAMES).open().has_latents
