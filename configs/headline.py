r"""The headline: left to right or in parallel, over codes or over latents, at two sizes.

Question: with equal training FLOPs, tuned arms, five training seeds and 200 test prompts, which of
the four decoders lies nearest to the real next block, and does the order hold at the larger size?
Task: frame-aligned semantic units in, the voice withheld, so that who speaks has to be drawn.

Tuning: `genlab tune` tries three learning rates in every arm alike, at half of the budget and with
the best weights on validation; the least energy on validation prompts chooses. What it printed is
frozen in TUNED, and the page leaves out a size that is not tuned yet:

    genlab tune configs/headline.py num_prompts=100 --trials 3 --fraction 0.5 --by block_energy \
        --seed 5 --space peak_lr=[5e-4,8e-3] --space warmup_fraction=[0.05,0.05] \
        --space weight_decay=[0.02,0.02] --space ema_decay=[0.99,0.99] --space dropout=[0,0]

with `backbone.width=192 budget.train_flops=1.2e13` for the larger size. The page can be stopped
whenever you like and goes on where it was, one training seed after the other:

    genlab sweep run configs/headline.py && genlab sweep report configs/headline.py
    genlab compare configs/headline.py --dry-run      # what one size would measure

configs/headline_people.py asks the same of real people.
"""

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.sweeps.square import Tuned, square_page
from genlab.train import TrainSettings
from genlab.training.looks import CheckpointRule
from genlab.training.optim import OptimConfig

# Width and training FLOPs of an arm: both grow, so that the updates of the sizes are about equal.
SIZES = {128: 6e12, 192: 1.2e13}
TUNED = {}  # by width the learning rate of every arm, as `genlab tune` prints it
MASKED = MaskedConfig(loss_weighting="bound")  # every loss weighs what the score of its arm weighs


def config() -> Comparison:
    """Return the smaller size, untuned: what `genlab tune` starts from."""
    return Comparison(
        name="headline",
        question="With equal training compute, which decoder draws the next block best?",
        seeds=(0, 1, 2, 3, 4),
        data=TokenData(corpus=Embedded(minutes=60.0, test_fraction=0.12), num_frames=96),
        batch_size=8,
        backbone=BackboneConfig(width=128, layers=4, heads=4),
        condition=ConditionConfig(content="semantic", speaker=False),
        budget=Budget(train_flops=SIZES[128]),
        optim=OptimConfig(peak_lr=2e-3, weight_decay=0.02, ema_decay=0.99),
        checkpoint=CheckpointRule(rule="best", draws=2),
        arms={
            "ar_codes": Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler()),
            "ar_latents": Arm(decoder=LatentARConfig(infill_share=0.0), sampler=LatentARSampler()),
            "masked_codes": Arm(decoder=MASKED, sampler=MaskedSampler(steps=(8, 1))),
            "diffusion_latents": Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=12)),
        },
        evaluation=EvaluationConfig(token_prompts=200, energy_draws=2, audio_draws=2),
        settings=TrainSettings(log_every=20, save_every_s=60.0),
    )


def sweep(base=None, rates=TUNED, better="latents", in_bits=("diffusion_latents",)):
    """Return the page of the embedded corpus, or of another one."""
    tuned = Tuned(rates, trials=3, share=0.5)
    return square_page(base or config(), SIZES, tuned, better=better, in_bits=in_bits)
