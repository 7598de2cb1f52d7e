"""Moshi's audio model (2410.00037 section 3.4): a depth transformer in each frame, delay 1,
monologue, two speakers.

Question: what do a depth transformer, one frame of delay between the first level and the others, a
stream of units in front of them and hearing the other speaker give on conversations made of the
clips of units_to_speech, at its budget? `arms.moshi.decoder.acoustic_delay_frames=0`,
`...is_per_level=false`, `...plan=null` and `...other=null` are its ablations. With the plan the
bits are an upper bound. Unlike Moshi: the inner monologue says semantic units, and the text itself
stands before the audio; conversations are two turns of unrelated clips, so there is something to
learn about when to speak and nothing about what to answer.

    genlab compare configs/presets/moshi.py
"""

from genlab.data.dialogue import Dialogue
from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.decoders.steps.streams import OtherStream, PlanStream
from genlab.experiment import Arm, Comparison, TokenData
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
            is_per_level=True,
            acoustic_delay_frames=1,
            infill_share=0.0,
            plan=PlanStream(),
            other=OtherStream(),
        ),
        sampler=DepthSampler(temperature=0.8, top_k=250),
    )
    data = TokenData(corpus=Dialogue(corpus=base.data.corpus), num_frames=208)
    return base.model_copy(
        update={"name": "moshi", "data": data, "condition": condition, "arms": {"moshi": arm}}
    )
