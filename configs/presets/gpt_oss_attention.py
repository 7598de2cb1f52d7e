"""gpt-oss's attention (2508.10925): windows and whole clips take turns, eight heads share one head
of keys and values, and every head has a sink.

Question: what does a cache cost in bits that is an eighth as wide, and in half of the layers no
longer than a window? `backbone.mixer.kind=attention` is the control. Unlike gpt-oss: queries and
keys are normalised, the window is a third of the clip where gpt-oss has 128 of many thousand
tokens, and the feed-forward parts are dense.

    genlab compare configs/presets/gpt_oss_attention.py
"""

from genlab.decoders.ar import ARConfig, ARSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base
from genlab.nets.mixers.window import Window

WHOLE = 4096  # frames; longer than any clip, so a window of them is plain attention with a sink


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    turns = tuple(Window(frames=frames, sinks=True, kv_heads=1) for frames in (32, WHOLE))
    backbone = base.backbone.model_copy(update={"heads": 8, "mixer": turns})
    arm = Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler(temperature=0.3, guidance=1.5))
    name = "gpt_oss_attention"
    return base.model_copy(update={"name": name, "backbone": backbone, "arms": {name: arm}})
