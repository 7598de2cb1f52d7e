"""MaskGCT, acoustic stage (2409.00750): semantic units to codes, level by level, at a temperature
that falls to 0.

Question: does annealing the temperature beat SoundStorm's noise on the order at equal steps and
budget?

    genlab compare configs/presets/maskgct.py

Masked decoding as in SoundStorm with guidance and a falling temperature, both with the figures of
its published code. Steps are those of our SoundStorm preset rather than its 25, 10 and then 1 per
level, so that the two differ in one thing. Left out: rescaled guidance, the cut to the top 2 % of
entries, and its text-to-semantic stage.
"""

from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison."""
    base = call_base(__file__, "../units_to_speech.py")
    sampler = MaskedSampler(
        steps=(16, 1),
        order_temperature=0.0,
        temperature=1.5,
        is_annealed=True,
        guidance=2.5,
        is_last_greedy=False,
    )
    arm = Arm(decoder=MaskedConfig(), sampler=sampler)
    question = "Does annealing the temperature beat noise on the order?"
    return base.model_copy(
        update={"name": "maskgct", "question": question, "arms": {"maskgct": arm}}
    )
