"""The page of the headline: four decoders as a square, order by token type, at several sizes.

In: a comparison whose arms are named ORDER_TOKEN (`ar_codes`, `ar_latents`, `masked_codes`,
`diffusion_latents`), and its sizes. Out: a `Sweep` with one point per size and what is predicted of
it: the four sides of the square, and what the larger size does to every arm and to the gap between
the families.
"""

from collections.abc import Iterator, Mapping, Sequence

from genlab.evaluate.energy import BARE_ENERGY
from genlab.experiment import Comparison
from genlab.fairness.evidence import BITS
from genlab.sweeps.page import Contrast, Gap, Prediction, Sweep

# By token: the arms that go left to right, and those that draw in parallel.
SQUARE = (
    {"codes": "ar_codes", "latents": "ar_latents"},
    {"codes": "masked_codes", "latents": "diffusion_latents"},
)


def square_page(
    base: Comparison,
    sizes: Mapping[int, float],
    *,
    better: str,
    looks: Sequence[str] = (),
) -> Sweep:
    """Return the page of a corpus.

    Args:
        base: the comparison at any size.
        sizes: by width, the training FLOPs of an arm, the smallest first.
        better: the type of token, codes or latents, that is predicted to have the less energy.
        looks: what was seen before the run.
    """
    labels = [f"width={width}" for width in sizes]
    predictions: list[Prediction] = []
    for label in labels:
        predictions += _at_one_size(label, better)
    if len(labels) > 1:
        predictions += _across_sizes(list(base.arms), labels[0], labels[-1])
    has_shapes = all(arm.shape is not None for arm in base.arms.values())
    points = [
        {"backbone.width": width, "budget.train_flops": flops} for width, flops in sizes.items()
    ]
    return Sweep(
        name=base.name,
        question=base.question,
        fixed=(
            "Data and their order, codec, conditions, backbone, batch, training FLOPs of the four "
            "arms, learning rates tried, looks at validation, seeds, prompts."
        ),
        varied="Width, and training FLOPs with it.",
        base=base,
        points=tuple(points),
        # A budget goes with its width.
        names={"backbone.width": "width", "budget.train_flops": ""},
        predictions=tuple(predictions),
        untested=(
            "Sizes beyond the larger one: two say which way it goes, not how far.",
            "Listeners: the energy of a block is proper, and nobody was asked.",
            *([] if has_shapes else ["Each family at a shape of its own: all have the same one."]),
        ),
        looks=tuple(looks),
    )


def _below(text: str, less: Sequence[str], more: Sequence[str], score: str) -> Contrast:
    """Predict that the mean of the rows `less` lies below that of `more`."""
    terms = {row: 1.0 / len(less) for row in less} | {row: -1.0 / len(more) for row in more}
    return Contrast(text=text, score=score, terms=terms, expect="below")


def _at_one_size(label: str, better: str) -> Iterator[Contrast]:
    """Yield what is predicted of the families, over both tokens and over each, and of the tokens.

    In energy alone: in bits all arms but `ar_codes` have upper bounds, which show no order.
    """
    left, right = ({kind: f"{arm} @ {label}" for kind, arm in row.items()} for row in SQUARE)
    text = f"{label}: over both tokens, left to right below parallel"
    yield _below(text, [*left.values()], [*right.values()], BARE_ENERGY)
    for kind in left:
        text = f"{label}: over {kind}, left to right below parallel"
        yield _below(text, [left[kind]], [right[kind]], BARE_ENERGY)
    worse = next(kind for kind in left if kind != better)
    for order, row in (("left to right", left), ("in parallel", right)):
        text = f"{label}: {order}, {better} below {worse}"
        side = _below(text, [row[better]], [row[worse]], BARE_ENERGY)
        yield side.model_copy(update={"about": "tokens"})


def _across_sizes(arms: Sequence[str], small: str, large: str) -> Iterator[Contrast | Gap]:
    """Yield what the larger size does to each arm, and to the gap between the families."""
    for arm in arms:
        text = f"{arm}: the larger size below the smaller"
        yield _below(text, [f"{arm} @ {large}"], [f"{arm} @ {small}"], BARE_ENERGY)
    text = "ar_codes: fewer bits at the larger size"
    yield _below(text, [f"ar_codes @ {large}"], [f"ar_codes @ {small}"], BITS)
    left, right = SQUARE
    for kind in left:
        gaps = [
            {f"{right[kind]} @ {label}": 1.0, f"{left[kind]} @ {label}": -1.0}
            for label in (small, large)
        ]
        text = f"over {kind}, the gap shrinks with the size"
        yield Gap(text=text, score=BARE_ENERGY, small=gaps[0], large=gaps[1])
