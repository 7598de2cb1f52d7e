"""RALL-E's chain of thought (2404.03204): told the text, the decoder first says which unit comes,
then the codes.

Question: does a plan of semantic units, drawn one step ahead of the codes it leads to, make the
words better than going from text to codes at once, on the data and budget of units_to_speech?
Control: `arms.ralle_cot.decoder.plan=null`, the same data and FLOPs and one step less. The bits are
those of codes and plan, an upper bound, so they do not show whether the plan harms; content errors
decide. Unlike RALL-E: the plan holds the units of a recogniser beside the codes, not pitch and
duration of phones before them, and attention is not restricted to the phones that the plan points
to.

    genlab compare configs/presets/ralle_cot.py
"""

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.steps.patterns import DelayPattern
from genlab.decoders.steps.streams import PlanStream
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    condition = base.condition.model_copy(update={"content": "text", "route": "prefix"})
    arm = Arm(
        decoder=ARConfig(
            pattern=DelayPattern(delay_frames=1), plan=PlanStream(lead_frames=0), infill_share=0.0
        ),
        sampler=ARSampler(temperature=0.8, top_k=250),
    )
    return base.model_copy(
        update={"name": "ralle_cot", "condition": condition, "arms": {"ralle_cot": arm}}
    )
