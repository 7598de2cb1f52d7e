"""Claim card: prompt influence is guidance; more of it is heard as the class that was asked for, and
costs variety.

Ho and Salimans 2022 (arXiv 2207.12598), section 5 and figure 1: classifier-free guidance trades
variety for fidelity. Makers of sound effects offer it as a dial, prompt influence. Here the dial is
`sampler.guidance` on the embedded sounds, and the fidelity is the share of clips that a classifier
trained on the corpus's own training clips hears as the class that was asked for. Variety within
clips is the entropy of their codes; coverage, which is of sets, is in the table and no test is made
of it.

All arms sample one training per family, so nothing but the dial differs.

    genlab sweep run sweeps/claims/guidance_and_classes.py
    genlab sweep report sweeps/claims/guidance_and_classes.py --card
"""

from genlab.data.sounds import Sounds
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, TokenData
from genlab.load import call_base
from genlab.sweeps.page import Contrast, Sweep

GUIDANCES = (1.0, 2.0, 4.0)
FAMILIES = ("diffusion", "masked")


def sweep() -> Sweep:
    """Return the page."""
    base = call_base(__file__, "../../configs/units_to_speech.py")
    arms = {}
    for guidance in GUIDANCES:
        arms[f"diffusion_{guidance:g}"] = Arm(
            decoder=DiffusionConfig(), sampler=DiffusionSampler(steps=16, guidance=guidance)
        )
        arms[f"masked_{guidance:g}"] = Arm(
            decoder=MaskedConfig(), sampler=MaskedSampler(steps=(8, 1), guidance=guidance)
        )
    update = {
        "data": TokenData(corpus=Sounds(clips=1500, clip_s=1.5), num_frames=76),
        "condition": ConditionConfig(content="none", speaker=True, dropout=0.2),
        "arms": arms,
        "seeds": (0, 1, 2),
        "num_prompts": 60,
        "budget": Budget(train_flops=4e12),
        "baselines": ("lookup",),
        "evaluation": EvaluationConfig(energy_draws=0, reference_clips=160),
    }

    def rises(family: str, low: float, high: float) -> Contrast:
        return Contrast(
            text=f"{family}: guidance {high:g} is heard as the class more often than {low:g}",
            score="class_accuracy",
            terms={f"{family}_{high:g}": 1.0, f"{family}_{low:g}": -1.0},
            expect="above",
        )

    def narrows(family: str) -> Contrast:
        return Contrast(
            text=f"{family}: guidance 4 leaves less variety within a clip than none",
            score="clip_code_entropy",
            terms={f"{family}_4": 1.0, f"{family}_1": -1.0},
            expect="below",
        )

    return Sweep(
        name="guidance_and_classes",
        question="Is guidance a dial of prompt influence, and what does it cost?",
        claim="More guidance follows the class better and varies less.",
        source="Ho and Salimans 2022, arXiv 2207.12598, section 5",
        faithful=(
            "Five classes of sounds made by equations in place of ImageNet's thousand, models of "
            "three million parameters, a classifier trained on the same corpus in place of "
            "Inception."
        ),
        fixed=(
            "Corpus, codec, conditions, backbone, batch, training FLOPs, three training seeds, 60 "
            "prompts; one training per family and seed, which its arms share."
        ),
        varied="The guidance: none, 2 and 4.",
        base=base.model_copy(update=update),
        predictions=(
            *(rises(family, 1.0, 2.0) for family in FAMILIES),
            *(rises(family, 1.0, 4.0) for family in FAMILIES),
            *(narrows(family) for family in FAMILIES),
        ),
        untested=(
            "Coverage falls: it is of sets of clips, so it is in the table and no pair of arms is "
            "tested by it.",
            "There is a best guidance in between, above which what is heard gets worse: no score "
            "here is of how good a sound is.",
        ),
        looks=(
            "None: guidance was never run on this corpus. The guidances, the sampler's steps and "
            "the budget were set before the run.",
        ),
    )
