"""A mixer of your own in the place of attention: a frame reads the few around it.

A causal decoder sees past frames alone. `empty` and the cache are for decoding step by step, which
only the autoregressive families do. Mixers may take turns over depth, as here.

    genlab check docs/own_mixer.py:ShortConvolution
    genlab compare configs/quickstart.py backbone.mixer.kind=docs/own_mixer.py:ShortConvolution
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.masked import MaskedConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.nets.layer import PlainMixer
from genlab.nets.linear import Linear
from genlab.nets.mixers.attention import Attention
from genlab.nets.param import vector

ARMS = [Arm(decoder=each, sampler=each.sampler()) for each in (ARConfig(), MaskedConfig())]


class ShortConvolution(PlainMixer):
    kind: ClassVar[str] = "short_convolution"
    reach: int = 3

    def build(self, shape, *, key):
        return DepthwiseConvolution(self.reach, shape, key=key)

    def empty(self, shape, num_examples, num_slots):
        return jnp.zeros((num_examples, num_slots, shape.width), shape.dtype)


class DepthwiseConvolution(nnx.Module):
    def __init__(self, reach, shape, *, key):
        kernel_key, out_key = jax.random.split(key)
        # Frames before its own one, and, where the future may be seen, as many after it.
        self.distances = tuple(range(-reach, 1 if shape.is_causal else reach + 1))
        taps = len(self.distances)
        # A parameter is a `matrix`, which decays and is split over chips, or a `vector`.
        self.kernel = vector(taps**-0.5 * jax.random.normal(kernel_key, (taps, shape.width)))
        self.project_out = Linear(shape.width, shape.width, key=out_key, scale=shape.output_scale)

    def __call__(self, x, context, cache=None):
        if cache is None:
            frames, start = jnp.where(context.is_valid[..., None], x, 0), 0
        else:
            frames = cache = lax.dynamic_update_slice_in_dim(cache, x, context.position, 1)
            start = context.position
        # Silence lies around the clip.
        reach = -self.distances[0]
        padded = jnp.pad(frames, ((0, 0), (reach, reach), (0, 0)))
        kernel, mixed = self.kernel[...].astype(x.dtype), 0
        for tap, distance in enumerate(self.distances):
            read = lax.dynamic_slice_in_dim(padded, start + reach + distance, x.shape[1], 1)
            mixed += read * kernel[tap][None, None]
        return self.project_out(jax.nn.silu(mixed)), cache


def config():
    mixers = (ShortConvolution(), Attention())
    return Comparison(
        name="own_mixer",
        question="Which family needs attention in every layer?",
        data=TokenData(corpus=Embedded(minutes=1.5), num_frames=96),
        batch_size=8,
        backbone=BackboneConfig(width=64, layers=2, heads=2, mixer=mixers),
        condition=ConditionConfig(layers=1),
        budget=Budget(mode="iso_step", steps=300),
        arms={arm.decoder.kind: arm for arm in ARMS},
    )
