"""Every family against a source whose entropy is known: no score may fall below it, and AR must
come down to it.

A family takes part as soon as it has `score`. Bits are compared with those of the source on the
same fresh clips.
"""

import pytest
from decoder_toys import FAMILIES

from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.decoders.conditioning import ConditionConfig
from genlab.evaluate.likelihood import can_score, measure_excess
from genlab.experiment import Arm, DecoderRun, TokenData
from genlab.fairness.budget import abstract_decoder
from genlab.nets.backbone import BackboneConfig
from genlab.train import TrainSettings, train
from genlab.training.optim import OptimConfig

SOURCE = KnownEntropy(states=6, entries=6, clips=1024)
NUM_FRAMES, STEPS = 32, 300


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return draw_store(SOURCE, tmp_path_factory.mktemp("known_entropy"))


def make_run(name):
    family = FAMILIES[name]
    return DecoderRun(
        name=name,
        steps=STEPS,
        batch_size=16,
        data=TokenData(corpus=SOURCE, num_frames=NUM_FRAMES),
        backbone=BackboneConfig(width=64, layers=1, heads=4),
        condition=ConditionConfig(content="none", speaker=False, dropout=0.0, layers=1),
        arm=Arm(decoder=family.config, sampler=family.sampler),
        optim=OptimConfig(peak_lr=1e-2, weight_decay=0.0, ema_decay=0.99),
        settings=TrainSettings(log_every=STEPS, save_every_s=None),
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_no_score_falls_below_the_entropy(name, store, tmp_path):
    run = make_run(name)
    if not can_score(abstract_decoder(run, store)):
        pytest.skip(f"{name} has no score yet")
    result = train(
        lambda key: run.build_for(store, key),
        run.source_of(store),
        steps=run.steps,
        optim=run.optim,
        seed=run.seed,
        settings=run.settings,
        run_dir=tmp_path,
    )
    found = measure_excess(
        result.model, SOURCE, store, num_frames=NUM_FRAMES, num_clips=512, num_draws=8
    )
    print(name, found.describe())
    assert not found.is_refuted
    assert (found.validity == "exact") == (found.monte_carlo_error == 0)
    # The interval must be narrow enough for the test above to mean something.
    assert found.excess.high - found.excess.low < 0.1 * found.source
    # a bound through latents may be far above, and is still a bound
    if result.model.reads == "codes":
        assert found.bits.value < SOURCE.code_bits * SOURCE.spec.frame_hz, (
            "no better than unigrams: nothing was learnt"
        )
    if name == "ar":
        assert found.validity == "exact" and found.excess.value < 0.03 * found.source
