"""Units to speech: SoundStorm's task, frame-aligned semantic units and a speaker in, codes or
latents out. The presets and most claims are variations of it.

Question: which decoder says the words best in a given voice, with equal training compute? Word
error and speaker similarity are printed, but mean latents per speaker and unit do well in both:
little is left to sample here, which is why the quick start does not tell the voice.

Samplers: the best of eight settings per family on validation prompts, the cheapest of equals,
measured by sweeps/sampling_settings.py, then frozen.

    genlab compare configs/units_to_speech.py
"""

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.train import TrainSettings
from genlab.training.optim import OptimConfig


def config() -> Comparison:
    """Return the comparison."""
    return Comparison(
        name="units_to_speech",
        question=(
            "With equal training compute, which decoder says the words best: autoregressive, "
            "masked or diffusion?"
        ),
        data=TokenData(corpus=Embedded(minutes=30.0), num_frames=96),
        batch_size=8,
        backbone=BackboneConfig(width=192, layers=4, heads=4),
        condition=ConditionConfig(content="semantic", units_route="cross", dropout=0.1),
        budget=Budget(mode="iso_flop", train_flops=1.2e13),
        optim=OptimConfig(peak_lr=2e-3, weight_decay=0.02, ema_decay=0.99),
        arms={
            "ar": Arm(
                decoder=ARConfig(),
                sampler=ARSampler(temperature=0.3, guidance=1.5),
                sampler_trials=8,
            ),
            "masked": Arm(
                decoder=MaskedConfig(),
                sampler=MaskedSampler(steps=(8, 1), temperature=0.6),
                sampler_trials=8,
            ),
            "diffusion": Arm(
                decoder=DiffusionConfig(),
                sampler=DiffusionSampler(steps=6, guidance=1.5),
                sampler_trials=8,
            ),
        },
        num_prompts=32,
        settings=TrainSettings(log_every=20, save_every_s=60.0),
    )
