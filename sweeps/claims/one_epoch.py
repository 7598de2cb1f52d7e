"""Claim card 1: while no clip is seen twice, autoregression has the fewer bits at equal training
FLOPs.

Prabhudesai et al. 2025 (arXiv 2507.15857, section 4 and figure 1): at equal training FLOPs an
autoregressive language model has the lower validation loss in its first epochs, and masked
diffusion passes it only when data repeat. What comes with repetition is asked by repeated_data.py;
here two hours of speech last for every update of the longest run. Their loss of diffusion is an
upper bound, and they compare it with the exact one as it is; so does the verdict, and says so.
Absorbing discrete diffusion (MDLM) over the codes is the audio counterpart, unconditional but for
the speaker.

    genlab sweep run sweeps/claims/one_epoch.py
    genlab sweep report sweeps/claims/one_epoch.py --card
"""

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, TokenData
from genlab.load import call_base
from genlab.sweeps.page import Contrast, Sweep, product

BUDGETS = [1.16e12, 4.64e12]


def sweep() -> Sweep:
    """Return the page."""
    base = call_base(__file__, "../../configs/quickstart.py")
    arms = {
        "ar": Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler()),
        "absorbing": Arm(decoder=DiscreteConfig(), sampler=DiscreteSampler(steps=8)),
    }
    update = {
        "arms": arms,
        "seeds": (0, 1, 2),
        "num_prompts": 24,
        "condition": ConditionConfig(content="none"),
    }
    update |= {"backbone": base.backbone.model_copy(update={"width": 128, "layers": 3, "heads": 4})}
    update |= {"data": TokenData(corpus=Embedded(minutes=120.0), num_frames=96)}
    update |= {
        "budget": Budget(train_flops=BUDGETS[0]),
        "evaluation": EvaluationConfig(energy_draws=0, dnsmos_clips=0, reference_clips=64),
    }

    def lead(flops: float, text: str) -> Contrast:
        terms = {f"ar @ FLOPs={flops:g}": 1.0, f"absorbing @ FLOPs={flops:g}": -1.0}
        return Contrast(
            text=text, score="bits_per_s", terms=terms, expect="below", bounds_as_values=True
        )

    return Sweep(
        name="one_epoch",
        question=(
            "Which learns more from every FLOP while no clip repeats, autoregression or diffusion "
            "over codes?"
        ),
        claim="At equal training FLOPs and at most one epoch autoregression models the data better.",
        source="Prabhudesai et al. 2025, arXiv 2507.15857, section 4 and figure 1",
        faithful=(
            "Codes of synthetic speech in place of text, 2.7 M parameters, two hours in place of "
            "100 M tokens."
        ),
        fixed="Corpus, codec, backbone, conditions, batch, training FLOPs of both arms, three "
        "training seeds, 24 "
        "prompts of the test split.",
        varied="Training FLOPs: a quarter of an epoch, and a whole one.",
        base=base.model_copy(update=update),
        points=tuple(product({"budget.train_flops": BUDGETS})),
        names={"budget.train_flops": "FLOPs"},
        predictions=(
            lead(BUDGETS[0], "a quarter of an epoch: AR leads"),
            lead(BUDGETS[1], "a whole epoch: AR leads"),
        ),
        untested=("What a downstream task makes of the lead: bits alone are scored.",),
        noticed=(
            "The lead grows from 107 to 152 bits/s. Diffusion, whose update is cheaper, sees 7 % "
            "of the clips twice in the longer run, which is to its advantage if anything.",
        ),
    )
