"""The page of the headline: four decoders as a square, order by token type, at several sizes.

In: a comparison whose arms are named ORDER_TOKEN (`ar_codes`, `ar_latents`, `masked_codes`,
`diffusion_latents`), and its sizes. Out: a `Sweep` with one point per size and what is predicted of
it: the four sides of the square, what bits can show, and what the larger size does to every arm and
to the gap between the families.
"""

from collections.abc import Iterator, Mapping, Sequence

from genlab.evaluate.energy import BARE_ENERGY
from genlab.experiment import Comparison
from genlab.fairness.verdict import BITS
from genlab.sweeps.page import Contrast, Prediction, Sweep

TOKENS = ("codes", "latents")
PARALLEL = {"codes": "masked_codes", "latents": "diffusion_latents"}


def square_page(
    base: Comparison,
    sizes: Mapping[int, float],
    *,
    better: str,
    in_bits: Sequence[str] = (),
    looks: Sequence[str] = (),
) -> Sweep:
    """Return the page of a corpus.

    Args:
        base: the comparison at any size.
        sizes: by width, the training FLOPs of an arm, the smallest first.
        better: the type of token, codes or latents, that is predicted to have the less energy.
        in_bits: arms whose bound is predicted to lie below the exact bits of `ar_codes`.
        looks: what was seen before the run.
    """
    labels = [f"width={width}" for width in sizes]
    predictions: list[Prediction] = []
    for label in labels:
        predictions += _at_one_size(label, better, in_bits)
    if len(labels) > 1:
        predictions += _across_sizes(list(base.arms), labels[0], labels[-1])
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
        ),
        looks=tuple(looks),
    )


def _below(text: str, less: tuple[str, ...], more: tuple[str, ...], score: str) -> Contrast:
    """Predict that the mean of the rows `less` lies below that of `more`."""
    terms = {row: 1.0 / len(less) for row in less} | {row: -1.0 / len(more) for row in more}
    return Contrast(text=text, score=score, terms=terms, expect="below")


def _at_one_size(label: str, better: str, in_bits: Sequence[str]) -> Iterator[Contrast]:
    """Yield the four sides of the square, and what bits can show of it."""
    worse = next(kind for kind in TOKENS if kind != better)
    for kind, other in PARALLEL.items():
        text = f"{label}: over {kind}, left to right below parallel"
        yield _below(text, (f"ar_{kind} @ {label}",), (f"{other} @ {label}",), BARE_ENERGY)
    rows = {"left to right": (f"ar_{better}", f"ar_{worse}")}
    rows["in parallel"] = (PARALLEL[better], PARALLEL[worse])
    for order, (less, more) in rows.items():
        text = f"{label}: {order}, {better} below {worse}"
        yield _below(text, (f"{less} @ {label}",), (f"{more} @ {label}",), BARE_ENERGY)
    for arm in in_bits:
        text = f"{label}: the bound of {arm} below the bits of ar_codes"
        yield _below(text, (f"{arm} @ {label}",), (f"ar_codes @ {label}",), BITS)


def _across_sizes(arms: Sequence[str], small: str, large: str) -> Iterator[Contrast]:
    """Yield what the larger size does to each arm, and to the gap between the families."""
    for arm in arms:
        less, more = (f"{arm} @ {large}",), (f"{arm} @ {small}",)
        yield _below(f"{arm}: the larger size below the smaller", less, more, BARE_ENERGY)
    less, more = (f"ar_codes @ {large}",), (f"ar_codes @ {small}",)
    yield _below("ar_codes: fewer bits at the larger size", less, more, BITS)
    for kind, other in PARALLEL.items():
        less = (f"{other} @ {large}", f"ar_{kind} @ {small}")
        more = (f"ar_{kind} @ {large}", f"{other} @ {small}")
        # Means of two rows each, so half of how much the gap shrinks.
        yield _below(f"over {kind}, the gap shrinks with the size", less, more, BARE_ENERGY)
