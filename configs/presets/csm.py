"""Sesame's CSM: a depth transformer without delay, trained on a random sixteenth of the frames;
text before the audio.

Question: what is lost when the levels after the first are trained on 1/16 of the frames, and what
do the FLOPs that this saves buy? `arms.csm.decoder.trained_share=1.0` is the control at the same
budget. Unlike CSM: no audio context before the clip.

    genlab compare configs/presets/csm.py
"""

from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    condition = base.condition.model_copy(update={"content": "text", "route": "prefix"})
    arm = Arm(
        decoder=DepthConfig(
            width=128,
            layers=2,
            heads=4,
            has_own_position=True,
            trained_share=1 / 16,
            infill_share=0.0,
        ),
        sampler=DepthSampler(temperature=0.9, top_k=50),
    )
    return base.model_copy(update={"name": "csm", "condition": condition, "arms": {"csm": arm}})
