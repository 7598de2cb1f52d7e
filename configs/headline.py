"""The headline: left to right or in parallel, over codes or over latents, at two sizes.

Question: with equal training FLOPs, which of four decoders lies nearest to the real next block, and
does the order hold at the larger size? Task: frame-aligned semantic units in, the voice withheld,
so that who speaks has to be heard from what is known, or sampled. All arms see all units. Half of
the training examples show a beginning of their clip clean, as in configs/quickstart.py.

Shapes: each arm may have its own of the grid `small` (`shape_grid`), once `genlab tune` has tried
all of them in every arm: ten trials of each at a quarter of the budget, 120 TFLOP at the smaller
size and 240 at the larger, about as much as the five seeds of two arms train. Until the arms below
have a `shape`, all share the backbone, and the page lists shapes as not tested; with shapes of
their own a width below is the name of a budget:

    genlab tune configs/headline.py optim.peak_lrs=null --trials 10 --fraction 0.25

Tuning: every arm tries three learning rates with its whole budget and keeps the best by its own
loss on validation; so does each training with its weights at eight moments. Five training seeds
follow, 200 test prompts, two continuations of each per seed. Width and budget grow together, so
that the updates of the two sizes are about equal. The budgets: at 8 TFLOP autoregression on codes
had an energy of 0.50 to 0.52 on 64 validation prompts with batches of 2 to 8, and 0.45 at 24 TFLOP
(width 192); in the quick start a regression with residuals has 0.48.

The page may be stopped whenever you like; the same command goes on, one seed after the other:

    genlab sweep run configs/headline.py && genlab sweep report configs/headline.py
    genlab compare configs/headline.py --dry-run      # what the smaller size would measure

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
from genlab.sweeps.square import square_page
from genlab.train import TrainSettings
from genlab.training.looks import CheckpointRule
from genlab.training.optim import OptimConfig

SIZES = {128: 1.2e13, 192: 2.4e13}  # width, and training FLOPs of an arm
PREFIX_SHARE = 0.5
AR = ARConfig(infill_share=0.0, prefix_share=PREFIX_SHARE)
MASKED = MaskedConfig(loss_weighting="bound", prefix_share=PREFIX_SHARE)  # as its bound weighs
DIFFUSION = DiffusionConfig(prefix_share=PREFIX_SHARE)
# No text that corpora of these seeds hold out is held out here.
CORPUS = Embedded(minutes=48.0, seed=2, developed=(0, 1), test_fraction=0.2)
LOOKS = (
    "A probe of one seed and one setting saw latents lead here and codes lead on people.",
    "Budgets were doubled after arms on codes lost to a regression with residuals (quick start).",
)


def config() -> Comparison:
    """Return the smaller size."""
    return Comparison(
        name="headline",
        question="With equal training compute, which decoder draws the next block best?",
        seeds=(0, 1, 2, 3, 4),
        data=TokenData(corpus=CORPUS, num_frames=96),
        batch_size=8,
        backbone=BackboneConfig(width=128, layers=4, heads=4),
        condition=ConditionConfig(content="semantic", units_route="cross", speaker=False),
        budget=Budget(train_flops=SIZES[128]),
        optim=OptimConfig(peak_lrs=(8e-4, 2.2e-3, 6e-3), weight_decay=0.02, ema_decay=0.99),
        checkpoint=CheckpointRule(rule="best", draws=2),
        shape_grid="small",
        arms={
            "ar_codes": Arm(decoder=AR, sampler=ARSampler()),
            "ar_latents": Arm(decoder=LatentARConfig(infill_share=0.0), sampler=LatentARSampler()),
            "masked_codes": Arm(decoder=MASKED, sampler=MaskedSampler(steps=(8, 1))),
            "diffusion_latents": Arm(decoder=DIFFUSION, sampler=DiffusionSampler(steps=12)),
        },
        evaluation=EvaluationConfig(
            token_prompts=200, score_draws=8, energy_draws=2, audio_draws=2
        ),
        settings=TrainSettings(log_every=20, save_every_s=60.0),
    )


def sweep(base=None, better="latents", looks=LOOKS):
    """Return the page of the embedded corpus, or of another one."""
    return square_page(base or config(), SIZES, better=better, looks=looks)
