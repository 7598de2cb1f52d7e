"""MusicGen (2306.05284): text by cross-attention, all levels in every step under delay 1, guidance
when sampling.

Question: how far does MusicGen's recipe come on the data and budget of units_to_speech? Conditions
are dropped in 20 % of the examples, guidance is 3 and top-k 250, as in the paper. Unlike MusicGen:
text is characters that the decoder learns to read, not the output of T5.

    genlab compare configs/presets/musicgen.py
"""

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.steps.patterns import DelayPattern
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    condition = base.condition.model_copy(
        update={"content": "text", "route": "cross", "dropout": 0.2}
    )
    arm = Arm(
        decoder=ARConfig(pattern=DelayPattern(delay_frames=1), infill_share=0.0),
        sampler=ARSampler(top_k=250, guidance=3.0),
    )
    return base.model_copy(
        update={"name": "musicgen", "condition": condition, "arms": {"musicgen": arm}}
    )
