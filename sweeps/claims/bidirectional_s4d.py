"""Claim card 12: a denoiser of state spaces in both directions draws as well as one of attention,
for fewer FLOPs (SaShiMi).

Goel et al. 2022 (arXiv 2202.09729) put their state-space backbone, run in both directions, into
DiffWave: it needed fewer parameters and updates, and listeners preferred it. Here the denoiser is
of a codec's latents and its opponent is attention, which the source did not try. The score is the
energy of the real next block under a model's own law, which is proper and asks no listener. Task,
arm and conditions are those of configs/headline.py.

    genlab sweep run sweeps/claims/bidirectional_s4d.py
    genlab sweep report sweeps/claims/bidirectional_s4d.py --card
"""

from genlab.data.corpus import Embedded
from genlab.evaluate.energy import BARE_ENERGY
from genlab.experiment import Budget
from genlab.load import call_base
from genlab.sweeps.page import Contrast, Ratio, Sweep

UPDATES = 2400
WIDTHS = (128, 192)
LENGTHS_S = (10.0, 30.0)
MARGIN = 0.02  # of energies around a half
# The feed-forward width that gives a layer the parameters of one with attention, over the width.
MULTIPLES = {"attention": (8 / 3, 8 / 3), "s4d": (416 / 128, 608 / 192)}


def sweep() -> Sweep:
    """Return the page."""
    base = call_base(__file__, "../../configs/headline.py")
    # A seed of its own: nobody has seen its prompts.
    corpus = Embedded(minutes=48.0, seed=3, developed=(0, 1, 2), test_fraction=0.2)
    update = {
        "seeds": (0, 1, 2),
        "data": base.data.model_copy(update={"corpus": corpus}),
        "budget": Budget(mode="iso_step", steps=UPDATES),
        "arms": {"diffusion": base.arms["diffusion_latents"]},
        "shape_grid": None,
        "evaluation": base.evaluation.model_copy(update={"lengths_s": LENGTHS_S}),
    }
    fields = {
        mixer: {
            width: {"mixer.kind": mixer, "ffn_multiple": multiple}
            for width, multiple in zip(WIDTHS, multiples)
        }
        for mixer, multiples in MULTIPLES.items()
    }

    def at(mixer: str, width: int) -> str:
        return f"diffusion @ mixer={mixer}, width={width}"

    def near(width: int) -> Contrast:
        return Contrast(
            text=f"{width} channels: energy of S4D within {MARGIN:g} of attention's",
            score=BARE_ENERGY,
            terms={at("s4d", width): 1.0, at("attention", width): -1.0},
            expect="within",
            margin=MARGIN,
        )

    def flops(width: int, length_s: float) -> Ratio:
        return Ratio(
            text=f"{width} channels: attention takes above 1 x the FLOPs of S4D, {length_s:g} s",
            cost="flops",
            length_s=length_s,
            over=at("attention", width),
            under=at("s4d", width),
            expect="above",
        )

    return Sweep(
        name="bidirectional_s4d",
        question="Does a denoiser need attention, or do state spaces in both directions suffice?",
        claim="State spaces in both directions are as good a backbone of diffusion, for less.",
        source="Goel et al. 2022, arXiv 2202.09729 (in DiffWave, against dilated convolutions)",
        faithful=(
            "Latents of synthetic speech in place of samples, one rate of time, half of the channels "
            "in either direction, attention in the place of DiffWave's convolutions, 2,400 updates; "
            "the energy of a block in place of listeners."
        ),
        fixed=(
            "Corpus, codec, conditions, denoising path, sampler, batch, updates, parameters of a "
            "layer to 3 %, learning rates tried, looks at validation, three training seeds, prompts."
        ),
        varied="What moves information between frames, and the size.",
        base=base.model_copy(update=update),
        points=call_base(__file__, "mixers.py", "points", by_mixer=fields),
        names=call_base(__file__, "mixers.py", "names"),
        predictions=(
            *(near(width) for width in WIDTHS),
            *(flops(width, length_s) for width in WIDTHS for length_s in LENGTHS_S),
        ),
        untested=(
            "Fewer updates until it is good: all are trained equally long.",
            "Listeners prefer it: nobody was asked.",
        ),
        looks=(
            "Before this page was written nobody had compared S4D and attention on speech.",
            "Weights and rates are chosen on validation; nobody has seen these prompts, and none of "
            "their texts is held out by the corpora of seeds 0, 1 and 2.",
        ),
    )
