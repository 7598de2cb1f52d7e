"""Thirty million parameters at 24 kHz: the smallest of three sizes at which the families meet on
TPUs.

Question: does the ranking of families at laptop size hold when models, clips and data grow? Tokens
have the shape of Mimi's (12.5 frames/s, 8 x 2048 entries, 512 latent channels), clips last 30 s,
text is read in front of the frames, and the budget is twenty positions per parameter (2203.15556).
The folder of speech is yours to give. `at` makes the other sizes too; heads have 128 channels, the
width of a TPU's matrix unit. A step adds up the gradients of several parts of its batch: with few
clips per chip and part, what passes between the products stays in the chip's vector memory.

    genlab aot configs/scale/scale_30m.py --topology v5e-16
    genlab compare configs/scale/scale_30m.py data.corpus.path=/path/to/speech
"""

from genlab.data.folder import Folder
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.training.optim import OptimConfig


def at(
    name: str, width: int, layers: int, batch_size: int, accumulate: int, peak_lr: float
) -> Comparison:
    """Return the comparison at one size."""
    parameters = 12 * layers * width**2
    return Comparison(
        name=name,
        question="At this size and budget, which family says the words best?",
        data=TokenData(corpus=Folder(path="speech"), codec="mimi", num_frames=375),
        batch_size=batch_size,
        backbone=BackboneConfig(
            width=width, layers=layers, heads=width // 128, dtype="bfloat16", remat="full"
        ),
        condition=ConditionConfig(content="text", route="prefix"),
        budget=Budget(mode="iso_flop", train_flops=6.0 * 20 * parameters**2),
        optim=OptimConfig(peak_lr=peak_lr, warmup_fraction=0.01, accumulate=accumulate),
        arms={
            "ar": Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler(guidance=1.5)),
            "masked": Arm(
                decoder=MaskedConfig(), sampler=MaskedSampler(steps=(16, *(1,) * 7), guidance=1.5)
            ),
            "diffusion": Arm(
                decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=32, guidance=1.5)
            ),
        },
    )


def config() -> Comparison:
    """Return the comparison."""
    return at("scale_30m", width=512, layers=8, batch_size=512, accumulate=4, peak_lr=1e-3)
