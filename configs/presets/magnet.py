"""MAGNeT (2401.04577): spans of three frames are hidden and revealed whole, 20 steps for level 1
and 10 for others.

Question: do spans help a masked decoder of codes, against configs/presets/soundstorm.py at the same
budget?

    genlab compare configs/presets/magnet.py

Steps, spans, temperature and top-p are those of its published code. Left out: the narrow attention
of the levels above the first, guidance that falls from 10 to 1, and rescoring by a second model.
"""

from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.decoders.noise.unmasking import Spans
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison."""
    base = call_base(__file__, "../units_to_speech.py")
    spans = Spans(frames=3)
    sampler = MaskedSampler(
        steps=(20, 10),
        spans=spans,
        order_temperature=0.0,
        temperature=3.0,
        is_annealed=True,
        top_p=0.9,
        is_last_greedy=False,
    )
    arm = Arm(decoder=MaskedConfig(spans=spans), sampler=sampler)
    question = "Do spans of frames help a masked decoder?"
    return base.model_copy(update={"name": "magnet", "question": question, "arms": {"magnet": arm}})
