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

from collections.abc import Iterator, Mapping

from genlab.config import ConfigError
from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.sweeps.page import Contrast, Point, Prediction, Sweep
from genlab.train import TrainSettings
from genlab.training.looks import CheckpointRule
from genlab.training.optim import OptimConfig

ENERGY, BITS = "block_energy", "bits_per_s"
# Width and training FLOPs of an arm: both grow, so that the updates of the sizes are about equal.
SIZES = {128: 6e12, 192: 1.2e13}
SEEDS = (0, 1, 2, 3, 4)
TRIALS, SHARE = 3, 0.5  # learning rates per arm, and the share of the budget that each had

Rates = Mapping[str, float]
TUNED: dict[int, Rates] = {}

# No arm fills holes here, and the loss of each is what its score weighs.
ARMS = {
    "ar_codes": Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler()),
    "ar_latents": Arm(decoder=LatentARConfig(infill_share=0.0), sampler=LatentARSampler()),
    "masked_codes": Arm(
        decoder=MaskedConfig(loss_weighting="bound"), sampler=MaskedSampler(steps=(8, 1))
    ),
    "diffusion_latents": Arm(decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=12)),
}


def config() -> Comparison:
    """Return the smaller size, untuned: what `genlab tune` starts from."""
    return comparison(
        "headline",
        TokenData(corpus=Embedded(minutes=60.0, test_fraction=0.12), num_frames=96),
        ConditionConfig(content="semantic", speaker=False, dropout=0.1),
        batch_size=8,
    )


def sweep() -> Sweep:
    """Return the page."""
    return page(config(), TUNED, better_token="latents", in_bits=("diffusion_latents",))


def comparison(
    name: str, data: TokenData, condition: ConditionConfig, batch_size: int
) -> Comparison:
    """Return the four arms on a corpus, at the smaller size."""
    width, flops = next(iter(SIZES.items()))
    return Comparison(
        name=name,
        question=(
            "With equal training compute, which decoder draws the next block best: left to right "
            "or in parallel, codes or latents?"
        ),
        seeds=SEEDS,
        data=data,
        batch_size=batch_size,
        backbone=BackboneConfig(width=width, layers=4, heads=4),
        condition=condition,
        budget=Budget(train_flops=flops),
        optim=OptimConfig(peak_lr=2e-3, weight_decay=0.02, ema_decay=0.99),
        checkpoint=CheckpointRule(rule="best", looks=8, clips=64, draws=2),
        arms=ARMS,
        num_prompts=32,
        evaluation=EvaluationConfig(
            token_prompts=200, energy_draws=8, audio_draws=2, dnsmos_clips=8
        ),
        settings=TrainSettings(log_every=20, save_every_s=60.0),
    )


def page(
    base: Comparison,
    tuned: Mapping[int, Rates],
    *,
    better_token: str,
    in_bits: tuple[str, ...] = (),
    sizes: Mapping[int, float] = SIZES,
) -> Sweep:
    """Return the page of a corpus: the sizes that are tuned, and what is predicted of them.

    Args:
        base: the comparison at any size.
        tuned: by width, the learning rate of every arm.
        better_token: codes or latents, whichever is predicted to have the less energy.
        in_bits: arms whose bound is predicted to lie below the exact bits of `ar_codes`.
        sizes: by width, the training FLOPs of an arm.

    Raises:
        ConfigError: if no size is tuned.
    """
    widths = [width for width in sizes if width in tuned]
    if not widths:
        raise ConfigError(
            f"TUNED: no size of {base.name} is tuned, expected learning rates by width; run the "
            "`genlab tune` of the docstring and write down what it prints"
        )
    labels = [f"width={width}" for width in widths]
    predictions: list[Prediction] = []
    for label in labels:
        predictions += _at_one_size(label, better_token, in_bits)
    if len(labels) > 1:
        predictions += _across_sizes(labels[0], labels[-1])
    points = tuple(_point(width, sizes[width], tuned[width]) for width in widths)
    return Sweep(
        name=base.name,
        question=base.question,
        fixed=(
            "Data and their order, codec, conditions, backbone, batch, training FLOPs of the four "
            "arms, trials per arm, looks at validation, seeds, prompts."
        ),
        varied="Width, and training FLOPs with it.",
        base=base,
        points=points,
        # Budgets and learning rates go with the width.
        names={path: "" for path in points[0]} | {"backbone.width": "width"},
        predictions=tuple(predictions),
        untested=(
            "Sizes beyond the larger one: two say which way it goes, not how far.",
            "Listeners: the energy of a block is proper, and nobody was asked.",
        ),
    )


def _point(width: int, flops: float, rates: Rates) -> Point:
    """Return what a size overrides; the ledger shows what its tuning took."""
    point: Point = {"backbone.width": width, "budget.train_flops": flops}
    for arm, rate in rates.items():
        point |= {f"arms.{arm}.peak_lr": rate, f"arms.{arm}.training_trials": TRIALS}
        point[f"arms.{arm}.tuning_flops"] = TRIALS * SHARE * flops
    return point


def _below(text: str, less: tuple[str, ...], more: tuple[str, ...], score: str) -> Contrast:
    """Predict that the mean of the rows `less` lies below that of `more`."""
    terms = {row: 1.0 / len(less) for row in less} | {row: -1.0 / len(more) for row in more}
    return Contrast(text=text, score=score, terms=terms, expect="below")


def _at_one_size(label: str, better: str, in_bits: tuple[str, ...]) -> Iterator[Contrast]:
    """Yield the four sides of the square, and what bits can show of it."""
    worse = "codes" if better == "latents" else "latents"
    parallel = {"codes": "masked_codes", "latents": "diffusion_latents"}
    for kind, other in parallel.items():
        text = f"{label}: over {kind}, left to right below parallel"
        yield _below(text, (f"ar_{kind} @ {label}",), (f"{other} @ {label}",), ENERGY)
    rows = {"left to right": (f"ar_{better}", f"ar_{worse}")}
    rows["in parallel"] = (parallel[better], parallel[worse])
    for order, (less, more) in rows.items():
        text = f"{label}: {order}, {better} below {worse}"
        yield _below(text, (f"{less} @ {label}",), (f"{more} @ {label}",), ENERGY)
    for arm in in_bits:
        text = f"{label}: the bound of {arm} below the bits of ar_codes"
        yield _below(text, (f"{arm} @ {label}",), (f"ar_codes @ {label}",), BITS)


def _across_sizes(small: str, large: str) -> Iterator[Contrast]:
    """Yield what the larger size does to each arm, and to the gap between the families."""
    for arm in ARMS:
        less, more = (f"{arm} @ {large}",), (f"{arm} @ {small}",)
        yield _below(f"{arm}: the larger size below the smaller", less, more, ENERGY)
    less, more = (f"ar_codes @ {large}",), (f"ar_codes @ {small}",)
    yield _below("ar_codes: fewer bits at the larger size", less, more, BITS)
    for kind, other in {"codes": "masked_codes", "latents": "diffusion_latents"}.items():
        less = (f"{other} @ {large}", f"ar_{kind} @ {small}")
        more = (f"ar_{kind} @ {large}", f"{other} @ {small}")
        # Means of two rows each, so half of how much the gap shrinks.
        yield _below(f"over {kind}, the gap shrinks with the size", less, more, ENERGY)
