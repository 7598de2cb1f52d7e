"""Encode a WAV, take one training step of a decoder on its tokens, sample, save: public modules
only.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from genlab.codecs.frozen import load_codec
from genlab.data.audio import read_wave, to_int16, write_audio
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.decoders.task import Task
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import Cond, make_tokens

source, target = sys.argv[1:]
codec = load_codec()  # the weights that ship with genlab
[(codes, latents)] = codec.encode([read_wave(source)])
tokens = make_tokens(codes=jnp.asarray(codes)[None], latents=jnp.asarray(latents)[None])
cond = Cond.none(1, len(codes))
task = Task(
    codec.spec,
    CondVocab(num_speakers=1),
    BackboneConfig(width=64, layers=2, heads=2),
    ConditionConfig(content="none"),
    code_vectors=jnp.asarray(codec.code_vectors),
)
model = MaskedConfig().build(task, key=jax.random.key(0))
graph, params, rest = nnx.split(model, nnx.Param, ...)


def loss(params):
    return nnx.merge(graph, params, rest).loss(tokens, cond, key=jax.random.key(1)).mean()


value, gradient = jax.jit(jax.value_and_grad(loss))(params)
adam = optax.adam(1e-3)
model = nnx.merge(
    graph, optax.apply_updates(params, adam.update(gradient, adam.init(params))[0]), rest
)
sampled = model.sample(
    cond, num_frames=tokens.num_frames, key=jax.random.key(2), sampler=MaskedSampler()
)
[wave] = codec.decode_codes([np.asarray(sampled.tokens.codes[0])])
write_audio(target, to_int16(wave), sample_rate_hz=codec.wave_rate_hz)
print(
    f"loss {float(value):.3f} nats per hidden code, {sampled.num_network_calls} network calls, "
    f"{target}"
)
