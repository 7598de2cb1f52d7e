"""Claim card 9: a state space models speech better than attention of as many parameters, and draws
it faster (Cartesia's Sonic).

Cartesia's announcement of Sonic (May 2024) states five ratios of a state space against a
transformer of as many parameters on the same data: validation perplexity 20 % lower, word error
half, time to first audio 1.5 times shorter, inference twice as fast, throughput four times. It
names no architecture; here S4D (2206.11893) and Mamba-2 (2405.21060) stand for it. Perplexity is
asked as bits of held-out clips, speed as seconds and FLOPs of one long clip.

    genlab sweep run sweeps/claims/ssm_or_attention.py
    genlab sweep report sweeps/claims/ssm_or_attention.py --card
"""

from genlab.experiment import Budget
from genlab.load import call_base
from genlab.sweeps.page import Contrast, Ratio, Sweep

UPDATES = 1200
WIDTHS = (128, 192)
LENGTHS_S = (10.0, 60.0)
# The feed-forward width that gives a layer the parameters of one with attention, over the width.
MULTIPLES = {
    "attention": (8 / 3, 8 / 3),
    "s4d": (416 / 128, 608 / 192),
    "mamba2": (224 / 128, 320 / 192),
}
TITLES = {"s4d": "S4D", "mamba2": "Mamba-2"}


def sweep() -> Sweep:
    """Return the page."""
    base = call_base(
        __file__,
        "mixers.py",
        "base",
        budget=Budget(mode="iso_step", steps=UPDATES),
        num_frames=208,
    )
    evaluation = base.evaluation.model_copy(update={"lengths_s": LENGTHS_S})
    fields = {
        mixer: {
            width: {"mixer.kind": mixer, "ffn_multiple": multiple}
            for width, multiple in zip(WIDTHS, multiples)
        }
        for mixer, multiples in MULTIPLES.items()
    }

    def at(mixer: str, width: int) -> str:
        return f"ar @ mixer={mixer}, width={width}"

    def bits(mixer: str, width: int) -> Contrast:
        return Contrast(
            text=f"{width} channels: {TITLES[mixer]} below attention, equal parameters and updates",
            score="bits_per_s",
            terms={at(mixer, width): 1.0, at("attention", width): -1.0},
            expect="below",
        )

    def cost(mixer: str, cost: str, length_s: float, times: float) -> Ratio:
        told = {"flops": "FLOPs", "latency_s": "time"}[cost]
        return Ratio(
            text=f"attention takes above {times:g} x the {told} of {TITLES[mixer]}, {length_s:g} s",
            cost=cost,
            length_s=length_s,
            over=at("attention", WIDTHS[-1]),
            under=at(mixer, WIDTHS[-1]),
            expect="above",
            times=times,
        )

    return Sweep(
        name="ssm_or_attention",
        question="Does a state space of as many parameters model speech better than attention?",
        claim=(
            "At equal parameters a state space has the lower perplexity, and draws long clips twice "
            "as fast."
        ),
        source="Cartesia 2024, announcement of Sonic (no paper, no code, no weights)",
        faithful=(
            "Two hours of synthetic speech and 1,200 updates of 2.7 M and 5 M parameters in place of "
            "a product; S4D and Mamba-2 in place of an architecture that is not published; bits of a "
            "codec's codes in place of perplexity; two CPU cores, where ratios of seconds are of "
            "this machine."
        ),
        fixed=(
            "Corpus, codec, delay pattern, batch, updates, parameters of a layer to 3 %, learning "
            "rates tried, checkpoint rule, three training seeds, 200 clips of the test split; no "
            "conditions."
        ),
        varied="What moves information between frames, and the size.",
        base=base.model_copy(update={"evaluation": evaluation}),
        points=call_base(__file__, "mixers.py", "points", by_mixer=fields),
        names=call_base(__file__, "mixers.py", "names"),
        predictions=(
            *(bits(mixer, width) for width in WIDTHS for mixer in TITLES),
            *(cost(mixer, "flops", 60.0, 1.0) for mixer in TITLES),
            *(cost(mixer, "latency_s", 10.0, 1.0) for mixer in TITLES),
            *(cost(mixer, "latency_s", 60.0, 2.0) for mixer in TITLES),
        ),
        untested=(
            "Word error is halved: the arms are told nothing here, so they say no words.",
            "The first audio is there 1.5 times sooner: these arms read no prompt, and the first frame "
            "of any of them is one step.",
            "Throughput is four times as high: one clip at a time is drawn.",
            "A frame costs as much after 60 s as after one: sweeps/mixer_decode.py measures it.",
        ),
        looks=(
            "Before this page was written nobody had compared these mixers on speech.",
            "Weights and rates are chosen on validation; nobody has seen these prompts, and none of "
            "their texts is held out by the corpora of seed 0.",
        ),
    )
