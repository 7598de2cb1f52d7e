"""A state space that speaks, after Cartesia's Sonic: S4D over the frames, a depth transformer
inside them, text across.

Question: does a decoder whose memory does not grow model speech as well as attention, and how much
sooner is the first frame there? Cartesia published ratios against a transformer and no
architecture, so everything below its one property is ours: a decoded frame costs the same however
many came before. `backbone.mixer.kind=attention` is the control, sweeps/claims/ssm_or_attention.py
the comparison. The preset sonic_like_mamba2 has states that choose what they keep.

    genlab compare configs/presets/sonic_like.py
"""

from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base
from genlab.nets.layer import Mixer
from genlab.nets.mixers.s4d import S4D


def speak(name: str, mixer: Mixer) -> Comparison:
    """Return the comparison with one arm of this name on backbones of one mixer."""
    base = call_base(__file__, "../units_to_speech.py")
    arm = Arm(
        decoder=DepthConfig(width=128, layers=2, heads=4, infill_share=0.0),
        sampler=DepthSampler(temperature=0.8),
    )
    update = {
        # What stands before the frames is out of reach of a mixer with a rule of its own.
        "condition": base.condition.model_copy(update={"content": "text", "route": "cross"}),
        "backbone": base.backbone.model_copy(update={"mixer": mixer}),
        "arms": {name: arm},
    }
    return base.model_copy(update={"name": name, **update})


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    return speak("sonic_like", S4D(states=32))
