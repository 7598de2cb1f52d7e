"""Discrete diffusion over all codes at once: D3PM (2107.03006) and MDLM (2406.07524), in random
order.

Question: what does a likelihood bound in place of SoundStorm's levels and confidence cost or bring?

    genlab compare configs/presets/d3pm_codes.py

Absorbing noise; `arms.d3pm_codes.decoder.noise.kind=uniform` with
`arms.d3pm_codes.decoder.hiding.kind=power` and `arms.d3pm_codes.sampler.order=ancestral` is the
uniform kind (UDLM, 2412.10193).
"""

from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison."""
    base = call_base(__file__, "../units_to_speech.py")
    arm = Arm(decoder=DiscreteConfig(), sampler=DiscreteSampler(steps=32, order="random"))
    question = "What do all levels at once in random order give at this budget?"
    return base.model_copy(
        update={"name": "d3pm_codes", "question": question, "arms": {"d3pm_codes": arm}}
    )
