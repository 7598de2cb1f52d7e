"""A comparison of three tiny arms, and overrides of it, for the tests of experiment, budget and
ledger.
"""

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig

ARMS = {
    "ar": Arm(decoder=ARConfig(), sampler=ARSampler()),
    "masked": Arm(decoder=MaskedConfig(), sampler=MaskedSampler(steps=(4, 1))),
    "diffusion": Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=6)),
}


def make_comparison(*overrides):
    """Return the comparison with dotted overrides applied."""
    config = Comparison(
        name="tiny",
        question="Which one?",
        data=TokenData(corpus=Embedded(minutes=1.0), num_frames=16),
        batch_size=4,
        backbone=BackboneConfig(width=32, layers=2, heads=2),
        condition=ConditionConfig(layers=1),
        budget=Budget(train_flops=2e10),
        arms=ARMS,
        baselines=(),
    )
    return config.override(overrides)
