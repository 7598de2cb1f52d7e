"""DeepSeek-V2's attention (2405.04434 section 2.1) under the delay pattern: heads read keys and
values that are projected from one latent per frame.

Question: at which cost in bits does a cache shrink to 28 % of its size? Latent and rotated key have
the paper's proportions, four heads' and half a head's channels. `backbone.mixer.kind=attention` is
the control. Unlike DeepSeek-V2: queries are not compressed, and the feed-forward parts are dense,
which the preset dsv2_moe changes.

    genlab compare configs/presets/dsv2_attention.py
"""

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base
from genlab.nets.mixers.latent import LatentAttention


def at(name: str, **backbone: object) -> Comparison:
    """Return the comparison with one arm of this name, on eight heads of 24 channels."""
    base = call_base(__file__, "../units_to_speech.py")
    mixer = LatentAttention(latent=96, rope_channels=12)
    shape = base.backbone.model_copy(update={"heads": 8, "mixer": mixer, **backbone})
    arm = Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler(temperature=0.3, guidance=1.5))
    return base.model_copy(update={"name": name, "backbone": shape, "arms": {name: arm}})


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    return at("dsv2_attention")
