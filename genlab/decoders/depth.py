"""Autoregressive over frames and, inside a frame, over its codes: RQ-Transformer (2203.01941),
Moshi, CSM.

In: codes "b t k". A temporal transformer sees the sum of the K code vectors of step s - 1 plus the
conditions of its own frame; its output h(s) predicts the first code of step s. A small depth
transformer then goes through the other levels of the step: position k sees h(s) and the code of
level k - 1 and predicts the code of level k (Moshi, 2410.00037 section 3.4.1, where the first level
is text):

    temporal   step s - 1's K codes + condition  ->  h(s)  ->  code 0
    depth      (h(s), code 0)  (h(s), code 1)  ...  (h(s), code K - 2)
                     |               |                      |
                   code 1          code 2    ...         code K - 1

Levels after the first may lag it by `acoustic_delay_frames` (Moshi section 3.4.2). Training may run
the depth transformer on a random share of the frames only (CSM: 1/16), weighted so that the loss is
the same in expectation; the first level is always trained. The loss is the mean over codes of -log
p and `score` is exact, as in `ar.py`.

With `plan` the first stream of a step is the semantic unit of its frame, as Moshi's text is, and
the depth transformer goes through all K codes after it; with `other` it continues through the K
codes of the other speaker, in training only (`steps/streams.py`).

Difference: RQ-Transformer and CSM give h(s) to the first depth position only.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, ConfigError, added
from genlab.decoders.conditioning import (
    Conditioner,
    Conditions,
)
from genlab.decoders.guidance import GuidedSampler, num_copies
from genlab.decoders.hole_rule import HoleRule, visited_hole_rule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.prefix import PrefixShare, check_delayed, make_mark, num_open, tell_prefix
from genlab.decoders.prompt_rule import PromptRule, delayed_rule
from genlab.decoders.steps.levels import Levels
from genlab.decoders.steps.logits import cross_entropy
from genlab.decoders.steps.patterns import AcousticDelayPattern, BehindPlan, LaggedPattern
from genlab.decoders.steps.stepwise import (
    KnownSteps,
    Step,
    StepSampler,
    choose,
    run_known,
    sample_codes,
    stream_codes,
)
from genlab.decoders.steps.streams import OtherStream, PlanStream, Streams
from genlab.decoders.steps.visiting import draw_known, refuse_reordering, refuse_untrained_holes
from genlab.decoders.task import Task
from genlab.machine.sharding import COLUMNS
from genlab.nets.backbone import (
    Backbone,
    BackboneConfig,
    Cache,
    DecodePlan,
    backbone_flops,
    decode_flops,
)
from genlab.nets.linear import CodeEmbedding, Linear, code_heads
from genlab.tokens import (
    Cond,
    LossOut,
    Prompt,
    SampleCost,
    SampleOut,
    ScoreOut,
    Tokens,
    TokenSpec,
    make_tokens,
)


class DepthSampler(GuidedSampler):
    """How codes are drawn: exactly from the model at the defaults."""

    kind: Literal["depth"] = "depth"
    temperature: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """Divides the logits; 0 takes the likeliest code."""
    top_k: int = pydantic.Field(default=0, ge=0)
    """Draw among this many likeliest entries; 0 keeps all."""
    top_p: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest entries that hold this probability together; 1 keeps all."""


class DepthConfig(Config):
    """The family with a depth transformer; what has no field here is the backbone's."""

    kind: Literal["depth"] = "depth"
    sampler: ClassVar[type[Config]] = DepthSampler
    loss_unit: ClassVar[str] = "nats_per_code"
    width: int = pydantic.Field(default=128, gt=0)
    """Channels of the depth transformer."""
    layers: int = pydantic.Field(default=2, gt=0, le=1024)
    """Layers of the depth transformer."""
    heads: int = pydantic.Field(default=4, gt=0)
    """Attention heads of the depth transformer."""
    is_per_level: bool = False
    """Give each level projections of its own in the depth transformer, as Moshi has them, at the
    same FLOPs.
    """
    has_own_position: bool = False
    """Give the temporal transformer's output the first position, as CSM does, at one more call per
    frame; otherwise it enters every position.
    """
    acoustic_delay_frames: int = pydantic.Field(default=0, ge=0, le=10_000)
    """Frames by which levels after the first lag it (Moshi section 3.4.2)."""
    plan: PlanStream | None = None
    """Predict the semantic units before the codes, as in the AR family."""
    other: OtherStream | None = None
    """Predict the codes of the other speaker too, as in the AR family."""
    trained_share: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Share of frames whose levels after the first are trained in one step (CSM: 1/16)."""
    infill_share: float = pydantic.Field(default=0.1, ge=0, le=1)
    """Share of training examples that are visited in the order that fills a hole."""
    prefix_share: PrefixShare = added(0.0)
    """Share of training examples that read a beginning of the clip whole, as in the AR family."""
    starts_from_codec: bool = True
    """Start embeddings and heads from the codec's entries, as in the AR family."""

    @pydantic.model_validator(mode="after")
    def _check_heads(self) -> "DepthConfig":
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width={self.width} must be a multiple of 2 * heads={2 * self.heads} (rotary "
                "channel pairs)"
            )
        is_delayed = self.acoustic_delay_frames > 0
        check_delayed(self.prefix_share, is_delayed, self.plan, self.other)
        return self

    @property
    def pattern(self) -> LaggedPattern:
        """Which streams belong to a step. The codes of a step see its unit, so a plan without a
        lead has no lag.
        """
        codes: LaggedPattern = AcousticDelayPattern(delay_frames=self.acoustic_delay_frames)
        codes = codes if self.other is None else codes.beside_other()
        return (
            codes
            if self.plan is None
            else BehindPlan(codes=codes, lag_frames=self.plan.lead_frames)
        )

    def depth_backbone(self, backbone: BackboneConfig) -> BackboneConfig:
        """Return the shape of the depth transformer; all else is that of the temporal one.

        Raises:
            ConfigError: if its layers are no multiple of the mixers that take turns.
        """
        if self.layers % (period := len(backbone.period)):
            raise ConfigError(
                f"decoder.layers={self.layers} must be a multiple of the {period} mixers of "
                f"backbone.mixer that take turns; set decoder.layers={period}"
            )
        return backbone.model_copy(
            update={"width": self.width, "layers": self.layers, "heads": self.heads}
        )

    def build(self, task: Task, *, key: Key[Array, ""]) -> "Depth":
        """Return the decoder with fresh weights, made in one compiled call.

        `code_vectors` are the codec's normalised entries; `starts_from_codec` says whether they are
        used.
        """
        start = task if self.starts_from_codec else task._replace(code_vectors=None)
        return jax.jit(lambda key: Depth(self, start, key=key))(key)

    def streams(self, spec: TokenSpec) -> Streams:
        """Return what a frame holds."""
        return Streams(spec=spec, plan=self.plan, other=self.other)

    def depth_positions(self, num_streams: int) -> int:
        """Return the positions of the depth transformer in one frame: all streams in training,
        drawn ones later.
        """
        return num_streams - 1 + self.has_own_position if num_streams > 1 else 0

    def num_trained(self, num_steps: int) -> int:
        """Return on how many of `num_steps` steps the depth transformer is trained."""
        return math.ceil(self.trained_share * num_steps)

    def depth_steps(self, num_frames: int, streams: Streams) -> slice:
        """Return the steps that have streams after the first: as many as frames, unless a plan
        leads a delay.
        """
        lags = self.pattern.lags(streams.count)
        return slice(min(lags[1:]), num_frames + lags[-1])

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes of both
        transformers.
        """
        streams = self.streams(task.spec)
        steps = self.pattern.num_steps(task.num_frames, streams.count)
        levels = streams.count - 1
        in_depth, trained = 0.0, 0
        if levels:
            positions = self.depth_positions(streams.count)
            in_depth = backbone_flops(self.depth_backbone(task.backbone), positions, is_causal=True)
            in_depth += self._edges_flops(levels, task)
            in_steps = self.depth_steps(task.num_frames, streams)
            trained = self.num_trained(in_steps.stop - in_steps.start)
        forward = (
            task.condition_flops
            + backbone_flops(task.backbone, steps, is_causal=True, **task.backbone_inputs)
            + 2 * task.num_frames * task.backbone.width * streams.sizes[0]
            + trained * in_depth
        )
        return 3 * forward

    @property
    def prompt_rule(self) -> PromptRule:
        """How a prompt is known (`prompt_rule.py`)."""
        return delayed_rule(self.prefix_share, self.acoustic_delay_frames > 0, self.plan)

    @property
    def hole_rule(self) -> HoleRule:
        """How the frames around a gap are known (`hole_rule.py`)."""
        hides = self.acoustic_delay_frames > 0 or self.plan is not None
        return visited_hole_rule(self.infill_share, hides)

    def bare_sampler(self, task: Task) -> DepthSampler:
        """Return the sampler of the bare law: one code after another from the softmax, exactly."""
        return DepthSampler()

    def sample_cost(self, sampler: DepthSampler, task: Task) -> SampleCost:
        """Return the cost of drawing one clip: every step is a call of the backbone and some of the
        depth one.
        """
        streams = self.streams(task.spec)
        copies = num_copies(sampler)
        steps = self.pattern.num_steps(task.num_frames, streams.count)
        positions = self.depth_positions(streams.drawn)
        in_depth = 0.0
        if positions:
            # Like a prefix, the temporal output's own position only fills the cache.
            route: dict[str, Any] = (
                {"text_route": "prefix", "num_symbols": 1} if self.has_own_position else {}
            )
            in_depth = decode_flops(self.depth_backbone(task.backbone), streams.drawn - 1, **route)
            in_depth += self._edges_flops(streams.drawn - 1, task)
        flops = (
            task.condition_flops
            + decode_flops(task.backbone, steps, **task.backbone_inputs)
            + steps * (2 * task.backbone.width * streams.sizes[0] + in_depth)
        )
        return SampleCost(copies * steps * (1 + positions), copies * flops)

    def _edges_flops(self, levels: int, task: Task) -> float:
        """Return the FLOPs of one frame's way into the depth transformer and out of it."""
        return 2.0 * task.backbone.width * self.width + 2 * levels * self.width * task.spec.entries


class _Plan(NamedTuple):
    """What does not change in the loop over steps: both transformers' layers, and the depth one's
    empty cache.
    """

    temporal: DecodePlan
    depth: tuple[DecodePlan, Cache] | None


class Depth(nnx.Module):
    """Code embeddings, causal backbone with the head of the first level, and the depth transformer
    for the others.
    """

    reads: ClassVar[Literal["codes", "latents"]] = "codes"

    def __init__(self, config: DepthConfig, task: Task, *, key: Key[Array, ""]):
        embed_key, condition_key, backbone_key, head_key, depth_key = jax.random.split(key, 5)
        self.config = config
        self.spec = task.spec
        self.streams = config.streams(task.spec)
        self.streams.check(task.condition, task.vocab)
        self.deterministic = False
        vectors = self.streams.vectors(task.code_vectors)
        self.embed = CodeEmbedding(
            self.streams.codebooks,
            task.spec.entries,
            task.backbone.width,
            key=embed_key,
            code_vectors=vectors,
        )
        self.streams.add_units(self.embed, jax.random.fold_in(embed_key, 1))
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=condition_key)
        refuse_reordering(task.backbone, config.infill_share)
        self.backbone = Backbone(
            task.backbone,
            key=backbone_key,
            is_causal=True,
            is_modulated=task.condition.is_modulating,
            text_route=task.condition.text_route,
        )
        self.mark = make_mark(config.prefix_share, task.backbone.width, embed_key)
        # With a plan the first stream holds units, for which the codec has no entries.
        first = (
            None if task.code_vectors is None or config.plan is not None else task.code_vectors[:1]
        )
        entries = self.streams.sizes[0]
        self.head = Linear(task.backbone.width, entries, key=head_key, split=COLUMNS)
        self.head.kernel[...] = code_heads(
            1, entries, task.backbone.width, key=head_key, code_vectors=first
        )[0]
        # One stream has no depth: the family is then autoregressive over frames.
        self.depth = (
            Levels(
                config.depth_backbone(task.backbone),
                self.streams,
                entering_width=task.backbone.width,
                key=depth_key,
                has_own_position=config.has_own_position,
                is_per_level=config.is_per_level,
                code_vectors=vectors,
            )
            if self.streams.count > 1
            else None
        )

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the mean nats per code of each example, weighted by its number of codes.

        Levels after the first are estimated from a share of the frames, drawn from the key;
        evaluation uses all.
        """
        check_call(self, tokens, cond)
        hole_key, condition_key, dropout_key, frame_key, depth_key = jax.random.split(key, 5)
        share = 0.0 if self.deterministic else self.config.infill_share
        is_known = draw_known(hole_key, tokens.is_valid, share)
        is_known, is_told = tell_prefix(self, key, tokens.is_valid, is_known)
        known = run_known(self, tokens, cond, is_known, condition_key, dropout_key, 0.0, is_told)
        is_sampled = self.config.trained_share < 1 and not self.deterministic
        nats = self._nats(known, frame_key if is_sampled else None, depth_key)
        levels = np.arange(self.streams.count)[None]
        weight = (
            (known.is_target & self.streams.is_code(levels)[None])
            .sum(axis=(1, 2))
            .astype(jnp.float32)
        )
        total = self.streams.weigh(nats[:, None], levels)[:, 0].sum(axis=1)
        metrics = self.streams.name(nats / jnp.maximum(num_open(tokens, is_told), 1)[:, None])
        return LossOut(total / jnp.maximum(weight, 1), weight, metrics)

    def score(
        self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""] | None = None, num_draws: int = 1
    ) -> ScoreOut:
        """Return the exact bits of each example's codes, frame by frame from the left; nothing is
        drawn.

        With a plan they are the bits of the codes and of the data's own plan, an upper bound. With
        another speaker they are those of the own codes, each given what was heard before it.
        """
        check_call(self, tokens, cond, reads="codes")
        known = run_known(self, tokens, cond, tokens.is_valid, None, None)
        bits = self._nats(known, None, None)[:, : self.streams.drawn].sum(axis=1) / jnp.log(2.0)
        return ScoreOut(bits, jnp.zeros_like(bits), self.streams.validity)

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: DepthSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw codes, and a plan with them if there is one; the frames that the prompt knows are
        kept.

        Raises:
            GenlabError: if frames follow a hole and the model was trained with infill_share=0, or
                it hears another speaker and `cond` has none.
        """
        check_sample(self, cond, num_frames, sampler, DepthSampler, prompt)
        refuse_untrained_holes(prompt, self.config.infill_share)
        codes = sample_codes(self, cond, num_frames, key, prompt, sampler)
        per_step = num_copies(sampler) * (1 + self.config.depth_positions(self.streams.drawn))
        calls = per_step * self.pattern.num_steps(codes.shape[1], self.streams.count)
        return SampleOut(make_tokens(codes=codes, num_frames=num_frames), calls)

    def stream(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: DepthSampler,
        chunk_frames: int,
    ) -> Iterator[Int[Array, "b t k"]]:
        """Yield the codes that `sample` draws from the same key, a frame as soon as all its levels
        are known.
        """
        check_sample(self, cond, num_frames, sampler, DepthSampler)
        return stream_codes(self, cond, num_frames, key, sampler, chunk_frames)

    @property
    def pattern(self) -> LaggedPattern:
        """Which codes belong to a step."""
        return self.config.pattern

    def embed_codes(
        self, codes: Int[Array, "b s j"], levels: Int[Array, "s j"]
    ) -> Float[Array, "b s h"]:
        """Return the sum of the vectors of each step's codes."""
        return self.streams.embed(self.embed.tables.table[...], codes, levels)

    def start(
        self, num_examples: int, num_steps: int, conditions: Conditions
    ) -> tuple[_Plan, Cache]:
        """Return what does not change in the loop, and the cache of the temporal transformer."""
        plan, cache = self.backbone.start(num_examples, num_steps, conditions.text, conditions.clip)
        if self.depth is None or self.streams.drawn == 1:
            return _Plan(plan, None), cache
        positions = self.config.depth_positions(self.streams.drawn)
        return _Plan(plan, self.depth.backbone.start(num_examples, positions, None)), cache

    def draw_step(
        self, plan: _Plan, cache: Cache, x: Float[Array, "c 1 h"], step: Step, sampler: StepSampler
    ) -> tuple[Int[Array, "b j"], Cache]:
        """Return the codes of a step, those given among them, and the cache after it."""
        hidden, cache = self.backbone.extend(
            x, plan.temporal, cache, positions=step.position[:, None]
        )
        first = jnp.where(
            step.is_given[:, 0],
            step.given[:, 0],
            choose(step.key, self.head(hidden)[:, 0], sampler),
        )
        codes = [first[:, None]]
        heard = step.given[:, self.streams.drawn :]
        if self.depth is not None and plan.depth is not None:
            codes.append(self.depth.draw(*plan.depth, hidden, first, step, sampler))
        return jnp.concatenate([*codes, heard], axis=1), cache

    def _nats(
        self,
        known: KnownSteps,
        frame_key: Key[Array, ""] | None,
        depth_key: Key[Array, ""] | None,
    ) -> Float[Array, "b j"]:
        """Return the nats of each stream over the clip; with `frame_key` those after the first are
        estimated.
        """
        hidden, codes, is_target = known
        b = hidden.shape[0]
        t = self.pattern.num_frames(hidden.shape[1], self.streams.count)
        first = _nats_where(self.head(hidden[:, :t]), codes[:, :t, 0], is_target[:, :t, 0]).sum(
            axis=1
        )[:, None]
        if self.depth is None:
            return first
        steps = self.config.depth_steps(t, self.streams)
        hidden = hidden[:, steps]
        codes = codes[:, steps]
        is_target = is_target[:, steps, 1:]
        # As CSM does, the depth transformer runs on a random share of the frames, and the sum is
        # scaled up so that its expectation stays the same.
        scale = jnp.ones((b,))
        if frame_key is not None:
            num_trained = self.config.num_trained(hidden.shape[1])
            is_full = is_target.any(axis=2)
            # A random subset of the frames with targets: the others are drawn last.
            draws = jnp.where(is_full, jax.random.uniform(frame_key, is_full.shape), jnp.inf)
            chosen = jnp.argsort(draws, axis=1)[:, :num_trained, None]
            hidden, codes, is_target = (
                jnp.take_along_axis(array, chosen, axis=1) for array in (hidden, codes, is_target)
            )
            num_full = is_full.sum(axis=1)
            scale = num_full / jnp.maximum(jnp.minimum(num_full, num_trained), 1)
        # b t h -> (b t) h: the frames of a clip are independent sequences over levels.
        logits = self.depth(
            hidden.reshape(-1, hidden.shape[2]), codes.reshape(-1, codes.shape[2]), key=depth_key
        )
        # (b t) j v -> b t j v
        logits = logits.reshape(b, -1, *logits.shape[1:])
        others = _nats_where(logits, codes[:, :, 1:], is_target).sum(axis=1)
        return jnp.concatenate([first, scale[:, None] * others], axis=1)


def _nats_where(
    logits: Float[Array, "*n v"], codes: Int[Array, "*n"], is_target: Bool[Array, "..."]
) -> Float[Array, "*n"]:
    return jnp.where(is_target, cross_entropy(logits, jnp.where(is_target, codes, 0)), 0)
