"""Autoregressive decoder over codes: K codebooks per step under a delay pattern (MusicGen, 2306.05284).

In: codes "b t k". The pattern spreads frames over steps; step s sees the sum of the K code vectors of step s - 1 plus
the conditions of its own frame, and K heads predict step s. The loss is the mean over codes of -log p, so the sum
over a clip is its exact negative log-likelihood. Sampling is one compiled loop over a preallocated key-value cache.

To fill holes, frames can be visited out of order: known frames first, then the hole, each at its own rotary position,
which is the prefix-suffix-middle order of 2207.14255 for frames that carry positions. A share of the training
examples is drawn this way.
"""

import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import Config, GenlabError
from genlab.decoders.base import Cond, LossOut, Prompt, SampleCost, SampleOut, ScoreOut
from genlab.decoders.conditioning import (
    ConditionConfig,
    Conditioner,
    CondVocab,
    condition_flops,
    guide,
    with_unconditional,
)
from genlab.decoders.logits import cross_entropy, draw
from genlab.decoders.patterns import DelayPattern
from genlab.nets.backbone import Backbone, BackboneConfig, backbone_flops, decode_flops
from genlab.nets.linear import CodeEmbedding, Linear, code_heads
from genlab.tokens import Tokens, TokenSpec, make_tokens, read_codes


class ARSampler(Config):
    """How codes are drawn: exactly from the model at the defaults. `top_k` 0 keeps all entries; `guidance` 1 is off."""

    kind: Literal["ar"] = "ar"
    temperature: float = pydantic.Field(default=1.0, ge=0)
    top_k: int = pydantic.Field(default=0, ge=0)
    top_p: float = pydantic.Field(default=1.0, gt=0, le=1)
    guidance: float = pydantic.Field(default=1.0, ge=0)


class ARConfig(Config):
    """The autoregressive family. `infill_share` of the training examples are drawn in the order that fills a hole.

    `starts_from_codec`: embeddings and heads start from the codec's own entries (`nets/linear.py`), so that a model
    of codes knows at the start what a model of latents is told by its input: which codes are near each other.
    """

    kind: Literal["ar"] = "ar"
    pattern: DelayPattern = DelayPattern()
    infill_share: float = pydantic.Field(default=0.1, ge=0, le=1)
    starts_from_codec: bool = True

    def build(
        self,
        spec: TokenSpec,
        vocab: CondVocab,
        backbone: BackboneConfig,
        condition: ConditionConfig,
        *,
        key: Key[Array, ""],
        code_vectors: Float[Array, "k v d"] | None = None,
    ) -> "AR":
        """Return the decoder with fresh weights, made in one compiled call.

        `code_vectors` are the codec's normalised entries; `starts_from_codec` says whether they are used.
        """
        vectors = code_vectors if self.starts_from_codec else None
        return jax.jit(lambda key: AR(self, spec, vocab, backbone, condition, key=key, code_vectors=vectors))(key)

    def train_flops_per_clip(
        self,
        spec: TokenSpec,
        backbone: BackboneConfig,
        condition: ConditionConfig,
        *,
        num_frames: int,
        num_symbols: int = 0,
    ) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes."""
        steps = self.pattern.num_steps(num_frames, spec.codebooks)
        forward = (
            condition_flops(condition, backbone, num_frames, num_symbols)
            + backbone_flops(backbone, steps, is_causal=True, text_route=condition.text_route, num_symbols=num_symbols)
            + 2 * steps * backbone.width * spec.codebooks * spec.entries
        )
        return 3 * forward

    def sample_cost(
        self,
        sampler: ARSampler,
        spec: TokenSpec,
        backbone: BackboneConfig,
        condition: ConditionConfig,
        *,
        num_frames: int,
        num_symbols: int = 0,
    ) -> SampleCost:
        """Return the cost of drawing one clip."""
        steps = self.pattern.num_steps(num_frames, spec.codebooks)
        copies = 1 if sampler.guidance == 1 else 2
        flops = (
            condition_flops(condition, backbone, num_frames, num_symbols)
            + decode_flops(backbone, steps, text_route=condition.text_route, num_symbols=num_symbols)
            + 2 * steps * backbone.width * spec.codebooks * spec.entries
        )
        return SampleCost(copies * steps, copies * flops)


class AR(nnx.Module):
    """Code embeddings, causal backbone, one head per codebook."""

    reads: ClassVar[Literal["codes", "latents"]] = "codes"

    def __init__(
        self,
        config: ARConfig,
        spec: TokenSpec,
        vocab: CondVocab,
        backbone: BackboneConfig,
        condition: ConditionConfig,
        *,
        key: Key[Array, ""],
        code_vectors: Float[Array, "k v d"] | None = None,
    ):
        embed_key, condition_key, backbone_key, head_key = jax.random.split(key, 4)
        self.config = config
        self.spec = spec
        self.deterministic = False
        self.embed = CodeEmbedding(
            spec.codebooks, spec.entries, backbone.width, key=embed_key, code_vectors=code_vectors
        )
        self.conditioner = Conditioner(condition, vocab, backbone, key=condition_key)
        self.backbone = Backbone(backbone, key=backbone_key, is_causal=True, text_route=condition.text_route)
        self.heads = Linear(backbone.width, spec.codebooks * spec.entries, key=head_key, scale=0.0)
        heads = code_heads(spec.codebooks, spec.entries, backbone.width, key=head_key, code_vectors=code_vectors)
        self.heads.kernel[...] = heads.swapaxes(0, 1).reshape(backbone.width, -1)

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the mean nats per code of each example, weighted by its number of codes."""
        hole_key, condition_key, dropout_key = jax.random.split(key, 3)
        share = 0.0 if self.deterministic else self.config.infill_share
        is_known = _draw_known(hole_key, tokens.is_valid, share)
        nats, is_target = self._nats(tokens, cond, is_known, condition_key, dropout_key)
        per_level = nats.sum(axis=1) / jnp.maximum(tokens.num_frames, 1)[:, None]
        weight = is_target.sum(axis=(1, 2)).astype(jnp.float32)
        metrics = {f"nats_level_{level}": per_level[:, level] for level in range(self.spec.codebooks)}
        return LossOut(nats.sum(axis=(1, 2)) / jnp.maximum(weight, 1), weight, metrics)

    def score(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""] | None = None, num_draws: int = 1) -> ScoreOut:
        """Return the exact bits of each example's codes, frame by frame from the left; nothing is drawn."""
        nats, _ = self._nats(tokens, cond, tokens.is_valid, None, None)
        bits = nats.sum(axis=(1, 2)) / jnp.log(2.0)
        return ScoreOut(bits, jnp.zeros_like(bits), "exact")

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: ARSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw codes; the frames that the prompt knows are kept.

        Raises:
            GenlabError: if frames follow a hole and the model was trained with infill_share=0.
        """
        if prompt is not None and self.config.infill_share == 0 and _has_hole(prompt):
            raise GenlabError(
                "prompt.is_known: this autoregressive decoder was trained with infill_share=0 and can only continue a "
                "prefix, not fill a hole; train it with decoder.infill_share=0.1, or use a masked or diffusion decoder"
            )
        codes = _sample_codes(self, cond, num_frames, key, prompt, sampler)
        steps = self.config.pattern.num_steps(codes.shape[1], codes.shape[2])
        return SampleOut(make_tokens(codes=codes, num_frames=num_frames), steps * (1 if sampler.guidance == 1 else 2))

    def _nats(
        self,
        tokens: Tokens,
        cond: Cond,
        is_known: Bool[Array, "b t"],
        condition_key: Key[Array, ""] | None,
        dropout_key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "b s k"], Bool[Array, "b s k"]]:
        pattern, absent = self.config.pattern, self.spec.entries
        is_valid = tokens.is_valid
        order = _visiting_order(is_known, is_valid)
        codes = pattern.build(_visit(read_codes(tokens), order), fill=0)
        is_target = pattern.build(jnp.repeat(_visit(is_valid, order)[:, :, None], codes.shape[2], axis=2), fill=False)
        codes = jnp.where(is_target, codes, absent)
        conditions = self.conditioner(cond, is_valid, key=condition_key)
        features, positions = _per_step(conditions.frames, order, codes.shape[1])
        previous = jnp.pad(codes[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=absent)
        hidden = self.backbone(
            self.embed(previous).astype(features.dtype) + features,
            positions=positions,
            is_valid=jnp.ones(positions.shape, bool),
            text=conditions.text,
            key=dropout_key,
        )
        nats = cross_entropy(self._logits(hidden), jnp.where(is_target, codes, 0))
        return jnp.where(is_target, nats, 0), is_target

    def _logits(self, hidden: Float[Array, "b s h"]) -> Float[Array, "b s k v"]:
        return self.heads(hidden).reshape(*hidden.shape[:2], self.spec.codebooks, self.spec.entries)


@functools.partial(jax.jit, static_argnames="sampler")
def _sample_codes(
    model: AR,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: ARSampler,
) -> Int[Array, "b t k"]:
    pattern, absent = model.config.pattern, model.spec.entries
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    is_known = jnp.zeros_like(is_valid) if prompt is None else prompt.is_known & is_valid
    known = jnp.zeros((b, t, model.spec.codebooks), jnp.int32) if prompt is None else read_codes(prompt.tokens)
    order = _visiting_order(is_known, is_valid)
    # What the loop must not draw: known codes, and the absent ones outside the clip.
    given = jnp.where(is_known[:, :, None], known, absent)
    is_given = jnp.broadcast_to((is_known | ~is_valid)[:, :, None], given.shape)
    given = pattern.build(_visit(given, order), fill=absent)
    is_given = pattern.build(_visit(is_given, order), fill=True)

    copies = 1 if sampler.guidance == 1 else 2
    conditions = model.conditioner(cond if copies == 1 else with_unconditional(cond), jnp.tile(is_valid, (copies, 1)))
    features, positions = _per_step(conditions.frames, jnp.tile(order, (copies, 1)), given.shape[1])

    def step(carry, inputs):
        cache, previous = carry
        step_features, step_positions, step_given, step_is_given, step_key = inputs
        x = jnp.tile(model.embed(previous[:, None]), (copies, 1, 1)).astype(step_features.dtype)
        hidden, cache = model.backbone.extend(
            x + step_features[:, None], plan, cache, positions=step_positions[:, None]
        )
        logits = model._logits(hidden)[:, 0].astype(jnp.float32)
        logits = logits if copies == 1 else guide(logits, sampler.guidance)
        drawn = draw(step_key, logits, temperature=sampler.temperature, top_k=sampler.top_k, top_p=sampler.top_p)
        codes = jnp.where(step_is_given, step_given, drawn)
        return (cache, codes), codes

    plan, cache = model.backbone.start(copies * b, given.shape[1], conditions.text)
    by_step = [jnp.moveaxis(array, 1, 0) for array in (features, positions, given, is_given)]
    inputs = (*by_step, jax.random.split(key, given.shape[1]))
    _, steps = lax.scan(step, (cache, jnp.full((b, model.spec.codebooks), absent)), inputs)
    codes = _visit(pattern.revert(jnp.moveaxis(steps, 0, 1)), jnp.argsort(order, axis=1))
    return jnp.where(is_valid[:, :, None], codes, 0)


def _visiting_order(is_known: Bool[Array, "b t"], is_valid: Bool[Array, "b t"]) -> Int[Array, "b t"]:
    """Return the frames in the order they are predicted: known ones, then the others, then padding."""
    return jnp.argsort(jnp.where(is_valid, jnp.where(is_known, 0, 1), 2), axis=1, stable=True)


def _visit(frames: Shaped[Array, "b t *rest"], order: Int[Array, "b t"]) -> Shaped[Array, "b t *rest"]:
    return jnp.take_along_axis(frames, order.reshape(*order.shape, *[1] * (frames.ndim - 2)), axis=1)


def _per_step(
    frames: Float[Array, "b t h"], order: Int[Array, "b t"], num_steps: int
) -> tuple[Float[Array, "b s h"], Int[Array, "b s"]]:
    """Return the condition features and frame number of each step; the steps after the last frame have no features."""
    b, t = order.shape
    extra = jnp.broadcast_to(jnp.arange(t, num_steps)[None, :], (b, num_steps - t))
    features = jnp.pad(_visit(frames, order), ((0, 0), (0, num_steps - t), (0, 0)))
    return features, jnp.concatenate([order, extra], axis=1)


def _draw_known(key: Key[Array, ""], is_valid: Bool[Array, "b t"], share: float) -> Bool[Array, "b t"]:
    """Leave a random hole in a `share` of the examples; everything else counts as known, which is the plain order."""
    if share == 0:
        return is_valid
    b, t = is_valid.shape
    choice_key, ends_key = jax.random.split(key)
    has_hole = jax.random.bernoulli(choice_key, share, (b,))
    ends = jnp.sort(jax.random.uniform(ends_key, (b, 2)), axis=1) * is_valid.sum(axis=1, keepdims=True)
    frame = jnp.arange(t)[None, :]
    is_hole = (frame >= jnp.floor(ends[:, :1])) & (frame < jnp.ceil(ends[:, 1:])) & has_hole[:, None]
    return is_valid & ~is_hole


def _has_hole(prompt: Prompt) -> bool:
    """Return whether an unknown frame precedes a known one; inside a compiled caller this cannot be seen."""
    if isinstance(prompt.is_known, Tracer):
        return False
    is_known = np.asarray(prompt.is_known)
    return bool((is_known[:, 1:] & ~is_known[:, :-1]).any() or (is_known[:, 0] < is_known.any(axis=1)).any())
