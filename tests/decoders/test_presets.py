"""The presets at toy size, by the path of `genlab compare`: a run directory, TensorBoard tags,
samples.
"""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import BACKBONE, VOCAB, jitted_loss, view_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genlab.arms import train_arm
from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.data.store import TokenStore
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.task import Task
from genlab.experiment import Comparison, TokenData
from genlab.load import load_experiment
from genlab.nets.backbone import BackboneConfig
from genlab.train import TrainSettings
from genlab.training.optim import OptimConfig
from genlab.watch.progress import Progress

PRESETS = sorted((Path(__file__).parents[2] / "configs" / "presets").glob("*.py"))
SOURCE = KnownEntropy(states=4, codebooks=4, entries=16, noise=0.02, clips=64, clip_frames=24)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return draw_store(SOURCE, tmp_path_factory.mktemp("presets"))


class Conversations(TokenStore):
    """The same clips, each beside the next one."""

    def __init__(self, directory):
        super().__init__(directory)
        self.one_sided = TokenStore(directory)
        self.info = self.info.model_copy(update={"is_two_sided": True})

    def clip(self, index):
        other = self.one_sided.clip((index + 1) % SOURCE.clips).codes
        return self.one_sided.clip(index)._replace(other=other)


def toy_run(path):
    """A preset's run: its own decoder, sampler, conditions, mixers and feed-forward parts,
    everything else small.
    """
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    if isinstance(experiment, Comparison):
        assert list(experiment.arms) == [path.stem]
        experiment = experiment.run(path.stem, 0, 12)
    mixed = {"mixer": experiment.backbone.mixer, "ffn": experiment.backbone.ffn}
    small = BACKBONE
    if mixed != {"mixer": BACKBONE.mixer, "ffn": BACKBONE.ffn}:
        # Heads of 24 channels, which what latent attention rotates divides.
        small = BackboneConfig(width=48, layers=2, heads=2, **mixed)
    return experiment.model_copy(
        update={
            "data": TokenData(corpus=SOURCE, num_frames=SOURCE.clip_frames),
            "steps": 12,
            "batch_size": 8,
            "backbone": small,
            "optim": OptimConfig(peak_lr=3e-3, warmup_fraction=0, ema_decay=None),
            "settings": TrainSettings(log_every=4, save_every_s=None),
        }
    )


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_trains_and_samples(path, store, tmp_path, monkeypatch):
    # The toy source draws no texts; a preset that is told some is told nothing here.
    monkeypatch.setattr(ConditionConfig, "check_texts", lambda self, texts: "")
    run = toy_run(path)
    arm, spec = run.arm, store.info.spec
    is_hearing = getattr(arm.decoder, "other", None) is not None
    store = Conversations(store.directory) if is_hearing else store
    with Progress(io.StringIO()) as progress:
        decoder = train_arm(run, store, tmp_path, progress).model
    events = EventAccumulator(str(tmp_path)).Reload()
    losses = [
        point.value
        for point in events.Scalars(f"train/loss_{arm.decoder.kind}_{arm.decoder.loss_unit}")
    ]
    assert np.isfinite(losses).all() and len(losses) == 3
    clips = SOURCE.fresh_clips(3, SOURCE.clip_frames)
    clips = [clip._replace(other=clip.codes) for clip in clips] if is_hearing else clips
    tokens, cond = jax.tree.map(
        lambda *some: jnp.stack(some), *[store.example(clip, SOURCE.clip_frames) for clip in clips]
    )
    decoder.eval()
    per_example = jitted_loss(decoder)(tokens, cond, jax.random.key(2)).per_example
    assert np.isfinite(per_example).all()
    if (
        decoder.reads == "codes"
    ):  # heads start close to saying nothing, so training starts at the entropy of a uniform code
        plan = getattr(arm.decoder, "plan", None)
        of_plan = plan.weight * np.log(plan.num_units + 1) / spec.codebooks if plan else 0
        # A clip of which most is shown has few codes left to predict, so one draw says little.
        loss = jitted_loss(decoder)
        keys = jax.random.split(jax.random.key(3), 32)
        drawn_losses = [loss(tokens, cond, key).per_example for key in keys]
        assert np.mean(drawn_losses) < (1 + is_hearing) * np.log(spec.entries) + of_plan
    out = decoder.sample(
        cond, num_frames=tokens.num_frames, key=jax.random.key(1), sampler=arm.sampler
    )
    drawn = view_of(decoder, out.tokens)
    assert drawn.shape == view_of(decoder, tokens).shape and len(np.unique(drawn)) > 2
    cost = arm.decoder.sample_cost(
        arm.sampler,
        Task(
            spec,
            VOCAB,
            run.backbone,
            run.condition,
            num_frames=SOURCE.clip_frames,
            num_symbols=cond.text.shape[1],
        ),
    )
    assert out.num_network_calls == cost.network_calls
