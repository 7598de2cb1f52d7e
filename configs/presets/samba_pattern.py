"""Samba (2406.07522): a state space and a window of attention take turns, each before a
feed-forward part of its own.

Question: does a layer that remembers roughly and one that reads nearby frames exactly do together
what attention does, at a cost per frame that does not grow? `backbone.mixer.kind=window` and
`backbone.mixer.kind=mamba2` are its halves. Unlike Samba: Mamba-2 in place of Mamba, and the window
is a third of the clip where Samba's is half of its 4,096 tokens.

    genlab compare configs/presets/samba_pattern.py
"""

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base
from genlab.nets.mixers.mamba2 import Mamba2
from genlab.nets.mixers.window import Window


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    backbone = base.backbone.model_copy(update={"mixer": (Mamba2(), Window(frames=32))})
    arm = Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler(temperature=0.3, guidance=1.5))
    name = "samba_pattern"
    return base.model_copy(update={"name": name, "backbone": backbone, "arms": {name: arm}})
