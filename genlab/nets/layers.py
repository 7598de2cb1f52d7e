"""What `backbone.mixer` and `backbone.ffn` accept: the built-in kinds, and classes of your own that
meet the contracts in nets/layer.py.

A new built-in kind is one import and one name in a row below.
"""

from typing import Annotated

from genlab.config.open import Open
from genlab.nets.experts import Experts
from genlab.nets.feedforward import Gated
from genlab.nets.layer import FeedForward, Mixer
from genlab.nets.mixers.attention import Attention
from genlab.nets.mixers.dilated import Dilated
from genlab.nets.mixers.grouped import GroupedAttention
from genlab.nets.mixers.latent import LatentAttention
from genlab.nets.mixers.mamba2 import Mamba2
from genlab.nets.mixers.s4d import S4D
from genlab.nets.mixers.window import Window

AnyMixer = Annotated[
    Mixer, Open(Attention, GroupedAttention, LatentAttention, Window, S4D, Mamba2, Dilated)
]
AnyFeedForward = Annotated[FeedForward, Open(Gated, Experts)]
