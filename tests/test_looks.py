"""Looks at validation: the same moments in every arm, the best weights handed over, nothing else
changed, and a killed run hands over the same bits.
"""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from codec_toys import LoudnessUnits, make_frozen, make_manifest
from comparison_toys import make_comparison
from flax import nnx
from train_toy import Toy, build, digest, make_source

from genlab.arms import train_arm
from genlab.codecs.cache import encode_corpus
from genlab.config import ConfigError, GenlabError
from genlab.data.corpus import Embedded
from genlab.data.dialogue import Dialogue
from genlab.data.held_out import larger_share
from genlab.data.manifest import Manifest
from genlab.fairness.budget import solve_budget
from genlab.fairness.looks import open_looks
from genlab.train import TrainSettings, load_trained, train
from genlab.training.looks import CheckpointRule, Looks, choose_look, curve
from genlab.training.optim import OptimConfig
from genlab.watch.tensorboard import TrainingLog

STEPS = 12
GRID = OptimConfig(peak_lr=1e-2, ema_powers=(1, 3, 8))


def make_looks(rule, steps=STEPS, count=5):
    """Look at some batches of another seed, of the last of which but `count` rows count."""
    source = make_source(seed=9)
    counts = np.arange(8) < count
    rows = [
        (source.batch_at(0).args, np.ones(8, np.float32)),
        (source.batch_at(1).args, counts.astype(np.float32)),
    ]
    return Looks(rule, rule.steps_of(steps), rows, "clips")


def run(run_dir, looks, steps=STEPS, optim=None, save=None, **more):
    return train(
        build,
        make_source(),
        steps=steps,
        optim=optim or OptimConfig(peak_lr=1e-2),
        seed=1,
        settings=TrainSettings(log_every=5, save_every_s=None, save_every_steps=save),
        run_dir=run_dir,
        looks=looks,
        **more,
    )


def test_looks_lie_at_the_same_shares_of_every_budget():
    rule = CheckpointRule(rule="best", looks=4)
    assert rule.steps_of(8) == (2, 4, 6, 8) and rule.steps_of(1210) == (302, 605, 908, 1210)
    with pytest.raises(GenlabError, match=r"only 3 updates.*checkpoint\.looks=3 or less"):
        rule.steps_of(3)


def test_the_earliest_of_the_best_looks_is_chosen():
    looks = [
        {"step": 2, "values": {"k4": 3.0, "k6": None}},
        {"step": 4, "values": {"k4": 2.0, "k6": 1.5}},
        {"step": 6, "values": {"k4": 1.5, "k6": 1.8}},
    ]
    assert choose_look(looks, "best") == (4, "k6")
    assert choose_look(looks, "last") == (6, "k4")
    with pytest.raises(GenlabError, match="not finite"):
        choose_look([{"step": 2, "values": {"k4": None}}], "best")


class Counting(Toy):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.deterministic = False

    def loss(self, inputs, targets, weight, *, key):
        out = super().loss(inputs, targets, weight, key=key)
        if self.deterministic:
            return out._replace(per_example=jnp.abs(self.count[...] - 9.0) + 0 * out.per_example)
        self.count[...] = self.count[...] + 1.0
        return out


def build_counting(key):
    model = Counting(nnx.Rngs(key))
    model.count = nnx.Variable(jnp.zeros(()))
    return model


def test_bits_at_a_look_are_not_logged_as_a_loss():
    look = {"step": 2, "values": {"average": 70.0}}
    assert curve(look, "loss") == {"valid_loss": 70.0}
    assert curve(look, "bits") == {"valid_bits_per_frame": 70.0}
    two = {"step": 2, "values": {"k6": 70.0, "k8": None}}
    assert curve(two, "bits") == {"valid_bits_per_frame_k6": 70.0}
    logged = {}
    writer = SimpleNamespace(scalars=lambda step, found: logged.update(found))
    for by in ("loss", "bits"):
        TrainingLog(writer, "ar", "nats_per_code").scalars(2, curve(look, by))
    assert logged == {"valid/loss_ar_nats_per_code": 70.0, "valid/bits_per_frame": 70.0}


def test_the_weights_of_the_best_look_are_handed_over(tmp_path):
    source, settings = make_source(), TrainSettings(save_every_s=None)
    same = {"optim": OptimConfig(peak_lr=1e-2), "seed": 1, "settings": settings}
    looks = make_looks(CheckpointRule(rule="best", looks=4, draws=2))
    result = train(build_counting, source, steps=12, run_dir=tmp_path / "a", looks=looks, **same)
    # the value is |updates - 9|: 6, 3, 0, 3 at the four looks
    assert [look["step"] for look in result.looks] == [3, 6, 9, 12]
    np.testing.assert_allclose([look["values"]["average"] for look in result.looks], [6, 3, 0, 3])
    assert float(result.model.count[...]) == 9 and result.steps == 12
    # the average as it is after nine of twelve updates
    seen = {}
    watch = {9: lambda model: seen.update(model=digest(model))}
    train(build_counting, make_source(), steps=12, run_dir=tmp_path / "b", watch=watch, **same)
    assert digest(result.model) == seen["model"]
    assert digest(load_trained(build_counting, tmp_path / "a")) == seen["model"]
    # the last parameters stay readable, too
    last = load_trained(build_counting, tmp_path / "a", use_ema=False)
    assert float(last.count[...]) == 12


def test_a_look_changes_nothing_in_the_training_and_counts_apart(tmp_path):
    plain = run(tmp_path / "plain", None)
    rows = {}
    writer = type("Writer", (), {"scalars": lambda self, step, row: rows.update({step: row})})()
    looked = run(
        tmp_path / "looked", make_looks(CheckpointRule(rule="best", looks=3)), writer=writer
    )
    raw = [load_trained(build, tmp_path / name, use_ema=False) for name in ("plain", "looked")]
    assert digest(raw[0]) == digest(raw[1]) and plain.batch_hash == looked.batch_hash
    assert looked.look_s > 0 and plain.look_s == 0 and plain.looks == []
    assert rows[4] == {"valid_loss": looked.looks[0]["values"]["average"]}


def test_a_look_weighs_examples_and_leaves_out_what_fills_up(tmp_path):
    first, second = (
        run(tmp_path / str(n), make_looks(CheckpointRule(rule="best", looks=1, draws=1), count=n))
        for n in (5, 8)
    )
    model = load_trained(build, tmp_path / "5")
    assert first.looks != second.looks

    def expected(count):
        sums = np.zeros(2)
        for number, rows in enumerate((8, count)):
            key = jax.random.fold_in(jax.random.key(20_261), number)
            out = model.loss(
                *make_source(seed=9).batch_at(number).args, key=jax.random.split(key, 1)[0]
            )
            sums += [(out.per_example * out.weight)[:rows].sum(), out.weight[:rows].sum()]
        return sums[0] / sums[1]

    np.testing.assert_allclose(first.looks[0]["values"]["average"], expected(5), rtol=1e-5)
    np.testing.assert_allclose(second.looks[0]["values"]["average"], expected(8), rtol=1e-5)


@pytest.mark.parametrize("optim", [OptimConfig(peak_lr=1e-2), GRID], ids=["one", "grid"])
def test_a_killed_run_hands_over_the_same_bits(tmp_path, optim):
    looks = make_looks(CheckpointRule(rule="best", looks=4))
    whole = run(tmp_path / "whole", looks, optim=optim, save=2)
    run(tmp_path / "cut", looks, optim=optim, save=2)
    for step in (10, 12):  # as if killed after step 8, between the second look and the third
        kept = tmp_path / "cut/checkpoints" / str(step)
        kept.rename(tmp_path / f"gone{step}")
    assert not (tmp_path / "cut/checkpoints/12").exists()
    again = run(tmp_path / "cut", looks, optim=optim, save=2)
    assert digest(again.model) == digest(whole.model) and again.looks == whole.looks
    # a finished run returns the same, and so does whoever reads it
    assert digest(run(tmp_path / "cut", looks, optim=optim, save=2).model) == digest(whole.model)
    assert digest(load_trained(build, tmp_path / "cut")) == digest(whole.model)


def test_other_looks_are_another_run(tmp_path):
    run(tmp_path, make_looks(CheckpointRule(rule="best", looks=4)))
    with pytest.raises(GenlabError, match="looks: now"):
        run(tmp_path, make_looks(CheckpointRule(rule="best", looks=3)))
    with pytest.raises(GenlabError, match="looks: now None"):
        run(tmp_path, None)


def test_every_average_of_the_grid_is_the_one_of_its_decay(tmp_path):
    looks = make_looks(CheckpointRule(looks=2))
    grid = run(tmp_path / "grid", looks, optim=GRID)
    assert [sorted(look["values"]) for look in grid.looks] == [["k1", "k3", "k8"]] * 2
    step, name = choose_look(grid.looks, "last")
    assert step == STEPS
    alone = OptimConfig(peak_lr=1e-2, ema_decay=1 - 2.0 ** -int(name[1:]))
    assert digest(grid.model) == digest(run(tmp_path / "alone", None, optim=alone).model)


def test_a_config_that_chooses_on_what_it_reports_is_refused():
    with pytest.raises(ConfigError, match=r"prompts_split='valid': looks at validation choose"):
        make_comparison("prompts_split=valid", "checkpoint.rule=best")
    with pytest.raises(ConfigError, match=r"arms\.ar\.ema_decay=0\.9: optim\.ema_powers keeps"):
        make_comparison("optim.ema_powers=[4,6]", "arms.ar.ema_decay=0.9")
    with pytest.raises(ConfigError, match="expected powers that differ"):
        make_comparison("optim.ema_powers=[4,4]")
    plain = make_comparison()
    # a field that was added later changes no digest at its default
    assert plain.checkpoint == CheckpointRule() and "checkpoint" in plain.to_dict()
    assert make_comparison("checkpoint.rule=last").digest() == plain.digest()
    assert make_comparison("checkpoint.rule=best").digest() != plain.digest()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    return encode_corpus(make_manifest(root, 12), make_frozen(), LoudnessUnits(), root)


def test_arms_look_at_the_same_validation_clips(store):
    config = make_comparison("checkpoint.rule=best", "checkpoint.looks=2")
    looks = [open_looks(config.run(name, 0, 10), store) for name in config.arms]
    assert len({look.digest for look in looks}) == 1 and {look.steps for look in looks} == {(5, 10)}
    counted = sum(weights.sum() for _, weights in looks[0].batches)
    assert counted == store.split("valid").clips
    assert open_looks(make_comparison().run("ar", 0, 10), store) is None
    few = ("budget.train_flops=null", "budget.mode=iso_step", "budget.steps=4")
    with pytest.raises(GenlabError, match=r"checkpoint\.looks=8: an arm makes only 4 updates"):
        solve_budget(make_comparison("checkpoint.rule=best", *few), store)


def test_a_corpus_without_validation_says_what_to_paste(tmp_path):
    manifest = make_manifest(tmp_path, 12)
    clips = [
        dataclasses.replace(clip, split="train" if clip.split == "valid" else clip.split)
        for clip in manifest.clips
    ]
    bare = encode_corpus(Manifest(clips, tmp_path), make_frozen(), LoudnessUnits(), tmp_path)
    fixes = {
        ("checkpoint.rule=best",): "or set checkpoint.rule=last",
        ("optim.ema_powers=[3,5]",): "or set optim.ema_powers=null",
        ("checkpoint.rule=best", "optim.ema_powers=[3,5]"): (
            "or set checkpoint.rule=last optim.ema_powers=null"
        ),
    }
    for overrides, fix in fixes.items():
        config = make_comparison(*overrides)
        with pytest.raises(GenlabError) as caught:
            open_looks(config.run("ar", 0, 10), bare)
        told = str(caught.value)
        assert "0 clips of validation to look at (test 2, train 10), expected at least 2" in told
        assert told.endswith(fix)
        # What it says can be pasted as it stands.
        pasted = "data.corpus.valid_fraction=0.2"
        assert f"hold out more: {pasted} if its splits are drawn" in told
        assert config.override([pasted]).data.corpus.valid_fraction == 0.2


def test_conversations_hold_out_more_of_the_corpus_they_are_made_of():
    made_of = Embedded(valid_fraction=0.25)
    said = larger_share(Dialogue(corpus=made_of), "valid")
    assert said == "data.corpus.corpus.valid_fraction=0.4"
    assert larger_share(made_of, "test_speaker") == ""
    assert larger_share(Embedded(valid_fraction=0.4), "valid") == ""


@pytest.mark.parametrize("by", ["loss", "bits"])
def test_an_arm_is_chosen_by_its_loss_or_its_bits(store, tmp_path, by):
    config = make_comparison("checkpoint.rule=best", "checkpoint.looks=2", f"checkpoint.by={by}")
    run_dir = tmp_path / "ar"
    result = train_arm(config.run("ar", 0, 4), store, run_dir, None)
    assert [look["step"] for look in result.looks] == [2, 4]
    start, end = (look["values"]["average"] for look in result.looks)
    bits = np.log2(store.info.spec.entries) * (
        store.info.spec.codebooks if by == "bits" else np.log(2)
    )
    # near that of equally likely codes, from which four updates do not get far
    assert 0.5 * bits < end < start < 2 * bits
