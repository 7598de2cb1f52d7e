"""The quick start: two ways to generate, on two kinds of tokens, after the same training compute.

Question: how well does each decoder continue an utterance that it has heard half of? Left to right
and in parallel, on codes and on latents: a 2 x 2, so that the effect of the family can be told from
that of its tokens. Task: SoundStorm's, frame-aligned semantic units in, acoustic tokens out, but
the speaker is not told. A continuation hears the voice in its first half; a clip from nothing has
to sample it. All arms see all units of the clip (`units_route`).

Half of the training examples show a beginning of their clip clean (`prefix_share`), wherever a
continuation would else be drawn from another law than the trained one: a masked decoder would hide
the fine codes of the first half, diffusion would replace its noisy frames, a delay pattern would
read its last fine codes too late. Latents from left to right need nothing. SoundStorm (2305.09636)
does so in all examples; here half of them stay whole, for the bits of whole clips.

Every arm hands over its weights of the best of four looks at validation, so that one that overfits
is stopped. Every arm must beat mean latents per unit and a regression on the score that decides,
the energy of the next block at each family's bare law.

Tuning: peak learning rates, the best of four per arm at half the budget by validation energy
(`genlab tune` with --trials 4 --fraction 0.5 --by block_energy --space 'peak_lr=[7e-4,7e-3]', the
other settings fixed). The regression, a baseline, has the best of the same four rates by the same
score. Samplers, which only describe what is heard: the best of five per arm by word
error on 32 validation prompts (`python sweeps/sampling_settings.py RUN wer_ctc`).

    genlab compare configs/quickstart.py
"""

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.evaluate.context import EvaluationConfig
from genlab.experiment import Arm, Budget, Comparison, RegressionTraining, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.train import TrainSettings
from genlab.training.looks import CheckpointRule
from genlab.training.optim import OptimConfig


def config() -> Comparison:
    """Return the comparison."""
    tried = {"training_trials": 4, "tuning_flops": 1.6e13, "sampler_trials": 5}  # by each arm
    told = ConditionConfig(content="semantic", units_route="cross", speaker=False, dropout=0.1)
    return Comparison(
        name="quickstart",
        question="Which decoder continues speech best, left to right or in parallel?",
        data=TokenData(corpus=Embedded(minutes=36.0, test_fraction=0.2), num_frames=96),
        batch_size=8,
        backbone=BackboneConfig(width=192, layers=4, heads=4),
        condition=told,
        budget=Budget(mode="iso_flop", train_flops=8e12),
        optim=OptimConfig(peak_lr=2e-3, weight_decay=0.02, ema_decay=0.99),
        checkpoint=CheckpointRule(rule="best", looks=4, clips=32, draws=2),
        arms={
            "ar": Arm(
                decoder=ARConfig(infill_share=0.0, prefix_share=0.5),
                sampler=ARSampler(temperature=0.3, guidance=1.5),
                **tried,
            ),
            "latent_ar": Arm(
                decoder=LatentARConfig(infill_share=0.0),
                sampler=LatentARSampler(temperature=0.3),
                **tried,
            ),
            "masked": Arm(
                decoder=MaskedConfig(prefix_share=0.5),
                sampler=MaskedSampler(steps=(2, 1), temperature=0.3),
                peak_lr=2.1e-3,
                **tried,
            ),
            "diffusion": Arm(
                decoder=DiffusionConfig(prefix_share=0.5),
                sampler=DiffusionSampler(steps=2, guidance=2.0),
                peak_lr=6.6e-3,
                **tried,
            ),
        },
        num_prompts=32,
        evaluation=EvaluationConfig(
            token_prompts=200, score_draws=8, energy_draws=2, audio_draws=2
        ),
        regression=RegressionTraining(peak_lr=2e-3, training_trials=4, tuning_flops=1.6e13),
        settings=TrainSettings(log_every=20, save_every_s=60.0),
    )
