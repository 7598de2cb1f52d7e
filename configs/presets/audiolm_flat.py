"""AudioLM's acoustic stage (2209.03143): semantic units in, codes one by one, coarse to fine inside
each frame.

Question: what does predicting every code after all before it give, for as many steps as there are
codes? With the data and budget of units_to_speech, so its arms are comparable. Expect fewer bits
than the delay pattern at equal updates, and K times its sampling steps. Unlike AudioLM: one stage
for all levels, and the speaker is given by name.

    genlab compare configs/presets/audiolm_flat.py
"""

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.steps.patterns import FlatPattern
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    arm = Arm(decoder=ARConfig(pattern=FlatPattern()), sampler=ARSampler(temperature=0.8))
    return base.model_copy(update={"name": "audiolm_flat", "arms": {"audiolm_flat": arm}})
