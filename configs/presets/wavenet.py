"""WaveNet (1609.03499): samples one by one, mu-law in 256 values, dilated causal convolutions.

Question: what does a decoder cost that has no codec between itself and the sound? Two cycles of ten
layers see 2,047 samples, a quarter of a second at 8 kHz. Content is the semantic unit under each
sample, the speaker is added; the paper conditions on linguistic features and fundamental frequency.

    genlab train configs/presets/wavenet.py --out runs/wavenet
"""

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.experiment import Arm, DecoderRun, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.nets.mixers.dilated import Dilated
from genlab.training.optim import OptimConfig


def config() -> DecoderRun:
    """Return the training run."""
    return DecoderRun(
        name="wavenet",
        steps=2000,
        batch_size=4,
        data=TokenData(corpus=Embedded(minutes=30.0), codec="mulaw:8000", num_frames=4000),
        backbone=BackboneConfig(
            width=64, layers=20, heads=1, ffn_multiple=2.0, mixer=Dilated(cycle=10)
        ),
        condition=ConditionConfig(content="semantic", dropout=0.0),
        # Neighbours in time are what a convolution reads, so no holes: they are filled out of
        # order.
        arm=Arm(decoder=ARConfig(infill_share=0.0), sampler=ARSampler()),
        optim=OptimConfig(peak_lr=1e-3, weight_decay=0.0, ema_decay=0.995),
    )
