"""SaShiMi (2202.09729): samples one by one, mu-law in 256 values, through diagonal state spaces.

Question: what do states bring a decoder that has no codec between itself and the sound? Beside the
preset wavenet: the same sound, in a layer that remembers the whole clip in 64 numbers per channel
where WaveNet's convolutions see 2,047 samples. Unlike SaShiMi: one rate of time, without pooling by
four and back; content is the semantic unit under each sample, where the paper has none.

    genlab train configs/presets/sashimi.py --out runs/sashimi
"""

from genlab.experiment import DecoderRun
from genlab.load import call_base
from genlab.nets.backbone import BackboneConfig
from genlab.nets.mixers.s4d import S4D


def config() -> DecoderRun:
    """Return the training run."""
    base = call_base(__file__, "wavenet.py")
    # The paper's states of 64 numbers are 32 modes and their conjugates.
    backbone = BackboneConfig(width=64, layers=8, heads=1, ffn_multiple=2.0, mixer=S4D(states=32))
    return base.model_copy(update={"name": "sashimi", "backbone": backbone})
