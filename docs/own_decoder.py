"""All codes at once, given the conditions: try `genlab check docs/own_decoder.py:OnceConfig`."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from genlab.config import Config
from genlab.data.corpus import Embedded
from genlab.decoders.conditioning import ConditionConfig, Conditioner
from genlab.decoders.masked import MaskedConfig
from genlab.decoders.steps.logits import cross_entropy
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import Backbone, BackboneConfig
from genlab.nets.linear import Linear
from genlab.tokens import LossOut, SampleOut, ScoreOut, make_tokens, read_codes


class OnceSampler(Config):
    kind: ClassVar[str] = "once"


class OnceConfig(Config):
    kind: ClassVar[str] = "once"
    sampler: ClassVar[type] = OnceSampler
    loss_unit: ClassVar[str] = "nats_per_code"
    prompt_rule: ClassVar[str] = "exact"  # its frames are independent

    def build(self, task, *, key):
        return Once(task, key=key)

    def bare_sampler(self, task):
        return OnceSampler()  # it draws what it learned


class Once(nnx.Module):
    def __init__(self, task, *, key):
        told, body, head = jax.random.split(key, 3)
        self.spec, self.reads = task.spec, "codes"
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=told)
        self.backbone = Backbone(task.backbone, key=body, text_route=task.condition.text_route)
        self.heads = Linear(
            task.width, self.spec.codebooks * self.spec.entries, key=head, scale=0.0
        )

    def logits(self, cond, is_valid, keys=(None, None)):
        told = self.conditioner(cond, is_valid, key=keys[0])
        context = {"positions": jnp.cumsum(is_valid, 1), "is_valid": is_valid, "text": told.text}
        hidden = self.backbone(told.frames, **context, key=keys[1])
        return self.heads(hidden).reshape(*is_valid.shape, self.spec.codebooks, self.spec.entries)

    def nats(self, tokens, cond, keys=(None, None)):
        nats = cross_entropy(self.logits(cond, tokens.is_valid, keys), read_codes(tokens))
        return jnp.where(tokens.is_valid, nats.sum(axis=-1), 0).sum(axis=1)

    def loss(self, tokens, cond, *, key):
        num_codes = tokens.num_frames * self.spec.codebooks * 1.0
        return LossOut(self.nats(tokens, cond, jax.random.split(key)) / num_codes, num_codes, {})

    def score(self, tokens, cond, *, key=None, num_draws=1):
        return ScoreOut(self.nats(tokens, cond) / jnp.log(2.0), 0.0 * tokens.num_frames, "exact")

    def sample(self, cond, *, num_frames, key, sampler, prompt=None):
        is_valid = jnp.arange(cond.content.shape[1])[None] < num_frames[:, None]
        codes = jax.random.categorical(key, self.logits(cond, is_valid))
        if prompt is not None:
            codes = jnp.where(prompt.is_known[..., None], read_codes(prompt.tokens), codes)
        return SampleOut(make_tokens(codes=codes * is_valid[..., None], num_frames=num_frames), 1)


def config():
    arms = [Arm(decoder=each, sampler=each.sampler()) for each in (OnceConfig(), MaskedConfig())]
    return Comparison(
        name="own_decoder",
        question="What does looking at codes gain?",
        data=TokenData(corpus=Embedded(minutes=1.5), num_frames=96),
        batch_size=8,
        backbone=BackboneConfig(width=64, layers=2, heads=2),
        condition=ConditionConfig(layers=1),
        budget=Budget(mode="iso_step", steps=300),
        arms={arm.decoder.kind: arm for arm in arms},
    )
