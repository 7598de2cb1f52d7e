"""Scores that can be proved wrong: tokens of a source whose entropy is known, instead of audio.

Question: is the number of bits that each family reports what it claims to be? An exact likelihood
must come down to the entropy, an upper bound may stay above it, and neither may fall below it
beyond its own error. There is nothing to hear, so `genlab compare` refuses this config; train an
arm and compare its score with the source:

    genlab train configs/known_entropy.py --arm ar --out runs/known_ar
    genlab evaluate runs/known_ar

Result (one seed, 2,000 steps, under a minute and a half on two cores): AR needs 218.7 bits/s where
the source itself gives the same clips 217.8, an excess of 0.95 [0.81, 1.09] bits/s or 0.4 %.
Modelling each frame by itself would cost 317, each code by itself 425, and naming every code 450.
"""

from genlab.data.known_entropy import KnownEntropy
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.training.optim import OptimConfig


def config() -> Comparison:
    """Return the arms; those of other families join with their decoder and sampler."""
    return Comparison(
        name="known_entropy",
        question="Is the number of bits that each family reports what it claims to be?",
        data=TokenData(corpus=KnownEntropy(), num_frames=32),
        batch_size=16,
        backbone=BackboneConfig(width=64, layers=2, heads=4),
        condition=ConditionConfig(content="none", speaker=False, dropout=0.0, layers=1),
        budget=Budget(mode="iso_step", steps=2000),
        optim=OptimConfig(peak_lr=5e-3, weight_decay=0.0, ema_decay=0.99),
        arms={
            "ar": Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler()),
            "masked": Arm(decoder=MaskedConfig(), sampler=MaskedSampler()),
            "diffusion": Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler()),
        },
    )
