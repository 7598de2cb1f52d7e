"""Claim card 11: beyond its training length a window goes on modelling, with a sink better than
without one, and full attention does not (StreamingLLM, gpt-oss).

Xiao et al. 2023 (arXiv 2309.17453, sections 3.1 and 3.3): the perplexity of full attention rises
past the length it was trained at, a plain window's rises as soon as its first tokens leave it, and
a model trained with a sink of its own streams on. gpt-oss (2508.10925) has such a sink as one
learned logit per head. Here all of them are trained on crops of one second and scored on clips of
up to four.

    genlab sweep run sweeps/claims/sinks.py
    genlab sweep report sweeps/claims/sinks.py --card
"""

from genlab.experiment import Budget
from genlab.load import call_base
from genlab.sweeps.page import Contrast, Sweep

UPDATES = 1600
TRAINED, SCORED, WINDOW = 48, 208, 16
WIDTHS = (128, 192)
KINDS = {
    "attention": {"mixer.kind": "attention"},
    "window": {"mixer.kind": "window", "mixer.frames": WINDOW, "mixer.sinks": False},
    "sinks": {"mixer.kind": "window", "mixer.frames": WINDOW, "mixer.sinks": True},
}
ROWS = {
    "attention": "mixer=attention",
    "window": "mixer=window, sinks=false",
    "sinks": "mixer=window, sinks=true",
}


def sweep() -> Sweep:
    """Return the page."""
    base = call_base(
        __file__,
        "mixers.py",
        "base",
        budget=Budget(mode="iso_step", steps=UPDATES),
        num_frames=SCORED,
    )
    data = base.data.model_copy(update={"train_frames": TRAINED})
    fields = {name: dict.fromkeys(WIDTHS, of_kind) for name, of_kind in KINDS.items()}

    def below(width: int, better: str, worse: str, text: str) -> Contrast:
        rows = [f"ar @ {ROWS[name]}, width={width}" for name in (better, worse)]
        return Contrast(
            text=f"{width} channels: {text}",
            score="bits_per_s",
            terms=dict(zip(rows, (1.0, -1.0))),
            expect="below",
        )

    return Sweep(
        name="sinks",
        question="What is modelled beyond the training length, with a window, a sink, or neither?",
        claim="A window with a learned sink streams past its training length; full attention does not.",
        source="Xiao et al. 2023, arXiv 2309.17453, sections 3.1 and 3.3",
        faithful=(
            "Codes of synthetic speech in place of text, 2.7 M and 5 M parameters, crops of 48 frames "
            "and clips of at most 208 in place of 4,096 tokens and millions. The window is there in "
            "training too, where the source puts it around a model that was trained without; the "
            "sink is a logit, not a token. Rotated positions, as there."
        ),
        fixed=(
            "Corpus, codec, delay pattern, batch, updates, width and layers, learning rates tried, "
            "checkpoint rule, three training seeds, 200 clips of the test split; no conditions. A "
            "sink is one number per head and layer, so parameters are equal to 0.01 %. Rates and "
            "weights are chosen on whole validation clips, for all alike."
        ),
        varied="Full attention, a window of 16 frames, or one with sinks; and the size.",
        base=base.model_copy(update={"data": data}),
        points=call_base(__file__, "mixers.py", "points", by_mixer=fields),
        names=call_base(__file__, "mixers.py", "names"),
        predictions=tuple(
            one
            for width in WIDTHS
            for one in (
                below(width, "sinks", "window", "a window with sinks below one without"),
                below(width, "window", "attention", "a window below full attention"),
                below(width, "sinks", "attention", "a window with sinks below full attention"),
            )
        ),
        untested=(
            "A window around a model that was trained without one collapses: every model here is "
            "scored with the mixer that it was trained with.",
            "Streams of millions of frames: the longest clips last four seconds.",
        ),
        looks=(
            "Before this page was written nobody had compared windows and sinks on speech.",
            "Weights and rates are chosen on validation; nobody has seen these prompts, and none of "
            "their texts is held out by the corpora of seed 0.",
        ),
    )
