"""Add a decoder: all codes at once, in one network call, independent of each other given the conditions.

It is the floor under every family: whatever a family gains on it, it gains by looking at codes. Run this file to train
it for a minute on the embedded corpus and print its exact bits per second. To have it as an arm of comparisons, give
config and sampler `kind: Literal["once"] = "once"` and `guidance`, count FLOPs as masked.py does, move them to
genlab/decoders/once.py, and add them to `DecoderConfig` and `SamplerConfig` in genlab/experiment.py; the contract tests
(tests/decoders/decoder_toys.py) and the comparison then hold for it as for the others.

    python docs/own_decoder.py runs/once 300
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from genlab.data.batches import BatchSource
from genlab.data.corpus import Embedded
from genlab.decoders.conditioning import ConditionConfig, Conditioner, CondVocab
from genlab.experiment import TokenData
from genlab.nets.backbone import Backbone, BackboneConfig
from genlab.nets.linear import Linear
from genlab.tokens import LossOut, SampleOut, ScoreOut, make_tokens
from genlab.train import TrainSettings, train
from genlab.training.optim import OptimConfig


class Once(nnx.Module):
    """Conditions, bidirectional backbone, one softmax per code."""

    reads = "codes"

    def __init__(self, spec, vocab, backbone, condition, *, key):
        keys = jax.random.split(key, 3)
        self.spec = spec
        self.conditioner = Conditioner(condition, vocab, backbone, key=keys[0])
        self.backbone = Backbone(backbone, key=keys[1], text_route=condition.text_route)
        self.heads = Linear(backbone.width, spec.codebooks * spec.entries, key=keys[2], scale=0.0)

    def logits(self, cond, is_valid, keys=(None, None)):
        conditions = self.conditioner(cond, is_valid, key=keys[0])
        frames = jnp.arange(is_valid.shape[1])[None].repeat(is_valid.shape[0], axis=0)
        hidden = self.backbone(
            conditions.frames, positions=frames, is_valid=is_valid, text=conditions.text, key=keys[1]
        )
        return self.heads(hidden).reshape(*is_valid.shape, self.spec.codebooks, self.spec.entries)

    def nats(self, tokens, cond, keys=(None, None)):
        log_p = jax.nn.log_softmax(self.logits(cond, tokens.is_valid, keys))
        nats = -jnp.take_along_axis(log_p, tokens.codes[..., None], axis=-1)[..., 0].sum(axis=-1)
        return jnp.where(tokens.is_valid, nats, 0).sum(axis=1)

    def loss(self, tokens, cond, *, key):
        weight = (tokens.num_frames * self.spec.codebooks).astype(jnp.float32)
        return LossOut(self.nats(tokens, cond, jax.random.split(key)) / jnp.maximum(weight, 1), weight, {})

    def score(self, tokens, cond, *, key=None, num_draws=1):
        bits = self.nats(tokens, cond) / jnp.log(2.0)
        return ScoreOut(bits, jnp.zeros_like(bits), "exact")

    def sample(self, cond, *, num_frames, key, sampler=None, prompt=None):
        is_valid = jnp.arange(cond.content.shape[1])[None] < num_frames[:, None]
        codes = jax.random.categorical(key, self.logits(cond, is_valid))
        if prompt is not None:
            codes = jnp.where(prompt.is_known[:, :, None], prompt.tokens.codes, codes)
        return SampleOut(make_tokens(codes=codes, num_frames=num_frames), 1)


if __name__ == "__main__":
    out, steps = Path(sys.argv[1]), int(sys.argv[2])
    store = TokenData(corpus=Embedded(minutes=1.5), num_frames=96).open()
    vocab = CondVocab(num_speakers=len(store.info.speakers), num_units=store.info.num_units)
    shape, condition = BackboneConfig(width=64, layers=2, heads=2), ConditionConfig()
    source = BatchSource(store.dataset("train", num_frames=96, seed=0), 8)
    optim, settings = OptimConfig(peak_lr=5e-3), TrainSettings(save_every_s=60.0)
    build = lambda key: Once(store.info.spec, vocab, shape, condition, key=key)  # noqa: E731
    model = train(build, source, steps=steps, optim=optim, seed=0, settings=settings, run_dir=out).model
    tokens, cond = BatchSource(store.dataset("test", num_frames=96, seed=1), 8).batch_at(0).args
    bits = model.score(tokens, cond).bits.sum() / (tokens.num_frames.sum() / store.info.spec.frame_hz)
    drawn = model.sample(cond, num_frames=tokens.num_frames, key=jax.random.key(1)).tokens
    print(f"{float(bits):.0f} bits/s of {store.info.spec.bitrate_bps:.0f}; drew codes {drawn.codes.shape}")
