"""Tokens that you have already encoded, compared without a codec and without audio.

Question: which family needs the fewest bits for the codes you have? The tokens are a directory that
docs/tokens.md describes; codes of Mimi, EnCodec, DAC or of a codec that nobody else has will do.

    genlab data check my_tokens
    genlab compare configs/own_tokens.py data.tokens=my_tokens

Add data.codec=KIND:DIRECTORY, the codec that made them, to hear samples and score audio as well;
with code vectors, families of latents can join. data.num_frames is 10 s at 12.5 frames/s: set it to
the frames of your clips. Scores are bits per second, beside those of counted codes.
"""

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.blockwise import BlockwiseConfig, BlockwiseSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.train import TrainSettings
from genlab.training.optim import OptimConfig


def config() -> Comparison:
    """Return the comparison of every family that reads codes."""
    return Comparison(
        name="own_tokens",
        question="With equal training compute, which family needs the fewest bits for your codes?",
        data=TokenData(tokens="my_tokens", num_frames=125),
        batch_size=8,
        backbone=BackboneConfig(width=192, layers=4, heads=4),
        condition=ConditionConfig(content="none", dropout=0.1),
        budget=Budget(mode="iso_flop", train_flops=1.2e13),
        optim=OptimConfig(peak_lr=2e-3, weight_decay=0.02, ema_decay=0.99),
        arms={
            "ar": Arm(decoder=ARConfig(), sampler=ARSampler()),
            "depth": Arm(decoder=DepthConfig(), sampler=DepthSampler()),
            "masked": Arm(decoder=MaskedConfig(), sampler=MaskedSampler()),
            "discrete": Arm(decoder=DiscreteConfig(), sampler=DiscreteSampler()),
            "blockwise": Arm(decoder=BlockwiseConfig(), sampler=BlockwiseSampler()),
        },
        num_prompts=64,
        settings=TrainSettings(log_every=20, save_every_s=60.0),
    )
