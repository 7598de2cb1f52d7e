"""Claim card 13: at equal FLOPs of a frame, many experts of which each frame runs through a few
model better than one dense part (Switch, DeepSeekMoE).

Fedus et al. 2021 (arXiv 2101.03961, section 2 and figure 1) find that at equal FLOPs per token the
loss falls with the number of experts; Dai et al. 2024 (DeepSeekMoE, 2401.06066) the same of several
small experts per token. Here a frame runs through 2 of 8 experts, which together are as wide as the
dense part. Speech of two hours is little data for four times the parameters, so this may well come
out the other way.

    genlab sweep run sweeps/claims/experts.py
    genlab sweep report sweeps/claims/experts.py --card
"""

from genlab.experiment import Budget
from genlab.load import call_base
from genlab.sweeps.page import Contrast, Sweep

BUDGETS = {128: 4.5e12, 192: 9e12}


def sweep() -> Sweep:
    """Return the page."""
    base = call_base(__file__, "mixers.py", "base", budget=Budget(train_flops=BUDGETS[128]))
    fields = {
        kind: {width: {"ffn.kind": kind} for width in BUDGETS} for kind in ("swiglu", "experts")
    }
    points = call_base(__file__, "mixers.py", "points", by_mixer=fields)
    points = tuple(
        {**point, "budget.train_flops": BUDGETS[point["backbone.width"]]} for point in points
    )

    def below(width: int) -> Contrast:
        rows = [f"ar @ ffn={kind}, width={width}" for kind in ("experts", "swiglu")]
        return Contrast(
            text=f"{width} channels: 2 of 8 experts below one dense part, equal training FLOPs",
            score="bits_per_s",
            terms=dict(zip(rows, (1.0, -1.0))),
            expect="below",
        )

    return Sweep(
        name="experts",
        question="Do four times the parameters help where a frame costs the same?",
        claim="At equal FLOPs per token a mixture of experts has the lower loss.",
        source="Fedus et al. 2021, arXiv 2101.03961, section 2 and figure 1",
        faithful=(
            "Codes of synthetic speech in place of text, 8 experts in place of up to 256, two of them "
            "per frame as in later work, balanced by a bias in place of a loss, no frame dropped, "
            "one epoch of two hours in place of a corpus that never repeats."
        ),
        fixed=(
            "Corpus, codec, delay pattern, attention, batch, training FLOPs of what a frame runs "
            "through, learning rates tried, checkpoint rule, three training seeds, 200 clips of the "
            "test split; no conditions. The routers' own product is paid from the same budget."
        ),
        varied="One dense feed-forward part or eight experts; and the size.",
        base=base,
        points=points,
        names=call_base(__file__, "mixers.py", "names"),
        predictions=tuple(below(width) for width in BUDGETS),
        untested=(
            "The loss falls with every doubling of the experts: one number of them is run.",
            "The load of the experts stays even: training moves their bias, and no score says how "
            "even.",
            "Seconds per update, in which experts lose where their products are small.",
        ),
        looks=(
            "Before this page was written nobody had compared experts and dense parts on speech.",
            "Weights and rates are chosen on validation; nobody has seen these prompts, and none of "
            "their texts is held out by the corpora of seed 0.",
        ),
    )
