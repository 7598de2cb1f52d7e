"""DeepSeek's layer whole: latent attention (2405.04434) and many small experts, balanced by a bias
(DeepSeek-V3, 2412.19437 section 2.1.2).

Question: do four times the parameters at equal training FLOPs bring speech what they bring text? A
frame runs through 4 of 16 experts, which together are as wide as the dense part of dsv2_attention.
Unlike DeepSeek: no expert is shared by all frames, the first layer has experts too, and weights are
a softmax over the chosen logits.

    genlab compare configs/presets/dsv2_moe.py
"""

from genlab.experiment import Comparison
from genlab.load import call_base
from genlab.nets.experts import Experts


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    experts = Experts(count=16, active=4)
    return call_base(__file__, "dsv2_attention.py", "at", name="dsv2_moe", ffn=experts)
