"""Claim card 3: on repeated data dropout, weight decay and hidden inputs do for autoregression what
masking does.

Gao et al. 2025 (arXiv 2510.04071) hold that masked diffusion learns more from repeated data because
its inputs are randomly hidden, and that dropout and weight decay bring similar gains; Prabhudesai
et al. 2025 (arXiv 2507.15857) found that such noise does not close the gap of autoregression. Here
all arms see a hundred clips many times over with equal training FLOPs, at settings that were chosen
before the run and not tuned.

    genlab sweep run sweeps/claims/regularised_ar.py
    genlab sweep report sweeps/claims/regularised_ar.py --card
"""

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget
from genlab.load import call_base
from genlab.sweeps.page import Contrast, Sweep

HELPS = {
    "dropout": "dropout 0.1",
    "decay": "weight decay 0.5",
    "masking": "hidden inputs, up to 0.3",
}

WHY_WITHDRAWN = (
    "every arm lies within 2 % of a unigram of the same 100 clips (3,815) and loses to a "
    "bigram (3,693): nothing was modelled whose order could be compared"
)
WITHDRAWN = {
    "dropout 0.1 helps autoregression": WHY_WITHDRAWN,
    "weight decay 0.5 helps autoregression": WHY_WITHDRAWN,
    "hidden inputs, up to 0.3 helps autoregression": WHY_WITHDRAWN,
    "autoregression with dropout 0.1 is below absorbing diffusion": WHY_WITHDRAWN,
    "autoregression with weight decay 0.5 is below absorbing diffusion": WHY_WITHDRAWN,
    "autoregression with hidden inputs, up to 0.3 is below absorbing diffusion": WHY_WITHDRAWN,
}


def sweep() -> Sweep:
    """Return the page."""
    base = call_base(__file__, "../../configs/quickstart.py")
    plain = ARConfig(infill_share=0.0)
    arms = {
        "ar": Arm(decoder=plain, sampler=ARSampler(), dropout=0.0, weight_decay=0.02),
        "dropout": Arm(decoder=plain, sampler=ARSampler(), dropout=0.1, weight_decay=0.02),
        "decay": Arm(decoder=plain, sampler=ARSampler(), dropout=0.0, weight_decay=0.5),
        "masking": Arm(
            decoder=ARConfig(infill_share=0.0, input_masking=0.3),
            sampler=ARSampler(),
            dropout=0.0,
            weight_decay=0.02,
        ),
        "absorbing": Arm(
            decoder=DiscreteConfig(),
            sampler=DiscreteSampler(steps=8),
            dropout=0.0,
            weight_decay=0.02,
        ),
    }
    update = {
        "arms": arms,
        "seeds": (0, 1, 2),
        "num_prompts": 24,
        "condition": ConditionConfig(content="none"),
    }
    update |= {"backbone": base.backbone.model_copy(update={"width": 128, "layers": 3, "heads": 4})}
    update |= {
        "budget": Budget(train_flops=2.32e12),
        "data": base.data.model_copy(update={"train_clips": 100}),
    }
    update |= {"evaluation": EvaluationConfig(energy_draws=0, dnsmos_clips=0, reference_clips=64)}

    def lower(better: str, worse: str, text: str, *, is_bound: bool = False) -> Contrast:
        terms = {better: 1.0, worse: -1.0}
        return Contrast(
            text=text, score="bits_per_s", terms=terms, expect="below", bounds_as_values=is_bound
        )

    return Sweep(
        name="regularised_ar",
        question="Is what masking gives diffusion on repeated data to be had for autoregression too?",
        claim=(
            "Dropout, weight decay and hidden inputs give autoregression the same benefit on "
            "repeated data."
        ),
        source=(
            "Gao et al. 2025, arXiv 2510.04071 (they do); Prabhudesai et al. 2025, arXiv "
            "2507.15857 (they do not)"
        ),
        faithful="Codes of synthetic speech in place of text, 2.7 M parameters, a hundred clips; one "
        "strength of each, "
        "chosen beforehand. The loss of diffusion is a bound; the sources hold it against the "
        "exact one as it is.",
        fixed=(
            "100 training clips, codec, backbone, batch, training FLOPs, three training seeds, 24 "
            "prompts."
        ),
        varied="What keeps autoregression from learning its clips by heart.",
        base=base.model_copy(update=update),
        predictions=(
            *(lower(name, "ar", f"{told} helps autoregression") for name, told in HELPS.items()),
            *(
                lower(
                    name,
                    "absorbing",
                    f"autoregression with {told} is below absorbing diffusion",
                    is_bound=True,
                )
                for name, told in HELPS.items()
            ),
        ),
        withdrawn=WITHDRAWN,
        untested=(
            "Each help at its best strength: one strength of each was run, chosen beforehand.",
        ),
        noticed=(
            "Hidden inputs close 86 of the 123 bits/s between autoregression and the bound of "
            "diffusion; dropout and decay a quarter each, and after the correction neither is "
            "certain.",
        ),
    )
