"""Claim card 10: a latent per frame models no worse than all heads' keys and values, and shared
heads do worse (DeepSeek-V2).

DeepSeek-V2 (arXiv 2405.04434, appendix D) compares 7 B models of text: multi-head attention is
better than heads shared by groups, which are better than one shared head (D.1); latent attention is
better than multi-head attention at a fraction of its cache (D.2). Here the same four are backbones
of autoregression over codes, with eight heads; latent and rotated key have the paper's proportions.

    genlab sweep run sweeps/claims/mla_or_gqa.py
    genlab sweep report sweeps/claims/mla_or_gqa.py --card
"""

from genlab.experiment import Budget
from genlab.load import call_base
from genlab.sweeps.page import Contrast, Sweep

UPDATES = 1200
MARGIN = 30.0  # bits/s, less than 1 % of what such models reach
# Fields of the backbone at either width; the feed-forward width makes up for a smaller mixer.
WHOLE, WIDER = {128: 8 / 3, 192: 8 / 3}, {128: 416 / 128, 192: 608 / 192}
FIELDS = {
    "attention": {
        width: {"mixer.kind": "attention", "ffn_multiple": WHOLE[width]} for width in WHOLE
    },
    "mla": {
        width: {
            "mixer.kind": "mla",
            "mixer.latent": width // 2,
            "mixer.rope_channels": width // 16,
            "ffn_multiple": WHOLE[width],
        }
        for width in WHOLE
    },
    **{
        f"gqa, kv_heads={heads}": {
            width: {
                "mixer.kind": "gqa",
                "mixer.kv_heads": heads,
                "ffn_multiple": WIDER[width],
            }
            for width in WIDER
        }
        for heads in (2, 1)
    },
}


def sweep() -> Sweep:
    """Return the page."""
    base = call_base(
        __file__, "mixers.py", "base", budget=Budget(mode="iso_step", steps=UPDATES), heads=8
    )

    def contrast(width: int, better: str, worse: str, text: str, **expect: object) -> Contrast:
        rows = [f"ar @ mixer={mixer}, width={width}" for mixer in (better, worse)]
        return Contrast(
            text=f"{width} channels: {text}",
            score="bits_per_s",
            terms=dict(zip(rows, (1.0, -1.0))),
            **(expect or {"expect": "below"}),
        )

    def order(width: int) -> tuple[Contrast, ...]:
        two, one = "gqa, kv_heads=2", "gqa, kv_heads=1"
        near = {"expect": "within", "margin": MARGIN}
        return (
            contrast(width, "mla", "attention", "a latent below all heads"),
            contrast(width, "mla", "attention", "a latent within 30 bits/s of all heads", **near),
            contrast(width, "attention", two, "all heads below two shared ones"),
            contrast(width, two, one, "two shared heads below one"),
        )

    return Sweep(
        name="mla_or_gqa",
        question="What does a smaller cache cost in bits: a latent, two shared heads, or one?",
        claim=(
            "Latent attention models better than multi-head attention, which is better than shared "
            "heads; fewer shared heads are worse."
        ),
        source="DeepSeek-AI 2024, arXiv 2405.04434, appendix D",
        faithful=(
            "Codes of synthetic speech in place of text, 2.7 M and 5 M parameters in place of 7 B "
            "and more, clips of at most two seconds: so short a memory is easily kept. Queries are "
            "not compressed. A margin of our own stands beside the source's order, because we expect "
            "no difference that matters."
        ),
        fixed=(
            "Corpus, codec, delay pattern, eight heads, batch, updates, parameters of a layer to 3 %, "
            "learning rates tried, checkpoint rule, three training seeds, 200 clips of the test "
            "split; no conditions. The numbers kept of a frame and layer follow from the configs: 2 h "
            "of width h with all heads, 9 h / 16 with a latent, h / 2 with two heads, h / 4 with one."
        ),
        varied="What a frame leaves for later ones, and the size.",
        base=base,
        points=call_base(__file__, "mixers.py", "points", by_mixer=FIELDS),
        names=call_base(__file__, "mixers.py", "names"),
        predictions=tuple(one for width in WHOLE for one in order(width)),
        untested=(
            "Benchmarks of knowledge and reasoning: bits alone are scored.",
            "Throughput of generation, which the smaller cache multiplies where many long clips are "
            "drawn at once.",
        ),
        looks=(
            "Before this page was written nobody had compared these mixers on speech.",
            "Weights and rates are chosen on validation; nobody has seen these prompts, and none of "
            "their texts is held out by the corpora of seed 0.",
        ),
    )
