"""Autoregressive decoder over codes: K codebooks per step under a delay pattern (MusicGen,
2306.05284), or one by one.

In: codes "b t k". The pattern spreads frames over steps; step s sees the sum of the code vectors of
step s - 1 plus the conditions of its own frame, and predicts its codes, one head per level. Under
the flat pattern a step holds one code, so only the head of its level is computed. The loss is the
mean over codes of -log p, so the sum over a clip is its exact negative log-likelihood. Sampling is
one compiled loop over a preallocated key-value cache (`steps/stepwise.py`).

With `plan` the semantic units of the frames are one more stream in front of the codes
(`steps/streams.py`), with vectors and a head of their own; with `other` the codes of the other
speaker are K more streams behind them. The loss is then the nats of the codes plus the weighted
nats of these streams, per code.

A step's numbers become logits by `output`: they are the logits, or the parameters of a density
(`steps/densities.py`).

To fill holes, frames can be visited out of order, the hole last (`steps/visiting.py`). A share of
the training examples is drawn this way.
"""

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, added
from genlab.decoders.conditioning import (
    Conditioner,
    Conditions,
)
from genlab.decoders.guidance import GuidedSampler, num_copies
from genlab.decoders.hole_rule import HoleRule, visited_hole_rule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.prefix import PrefixShare, check_delayed, make_mark, num_open, tell_prefix
from genlab.decoders.prompt_rule import PromptRule, delayed_rule
from genlab.decoders.steps.densities import Output, Softmax
from genlab.decoders.steps.logits import cross_entropy
from genlab.decoders.steps.patterns import DelayPattern, Pattern, StepPattern
from genlab.decoders.steps.stepwise import (
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
from genlab.machine.sharding import COLUMNS, compiled_platform
from genlab.nets.backbone import Backbone, Cache, DecodePlan, backbone_flops, decode_flops
from genlab.nets.linear import CodeEmbedding, Linear, matmul
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


class ARSampler(GuidedSampler):
    """How codes are drawn: exactly from the model at the defaults."""

    kind: Literal["ar"] = "ar"
    temperature: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """Divides the logits; 0 takes the likeliest code."""
    top_k: int = pydantic.Field(default=0, ge=0)
    """Draw among this many likeliest entries; 0 keeps all."""
    top_p: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest entries that hold this probability together; 1 keeps all."""


class ARConfig(Config):
    """The autoregressive family."""

    kind: Literal["ar"] = "ar"
    sampler: ClassVar[type[Config]] = ARSampler
    loss_unit: ClassVar[str] = "nats_per_code"
    pattern: Pattern = DelayPattern()
    """In which order the codes of a clip are visited, and how many in one step."""
    plan: PlanStream | None = None
    """Predict the semantic units as a stream before the codes; None leaves them out."""
    other: OtherStream | None = None
    """Predict the codes of the other speaker of a conversation too; None leaves them out."""
    infill_share: float = pydantic.Field(default=0.1, ge=0, le=1)
    """Share of training examples that are visited in the order that fills a hole."""
    input_masking: float = pydantic.Field(default=0.0, ge=0, le=1)
    """In training each example hides a share of the codes it has seen, drawn uniformly from 0 to
    this, and predicts all of them as before; 2510.04071 attributes the data efficiency of diffusion
    to this.
    """
    prefix_share: PrefixShare = added(0.0)
    """Share of training examples that read every frame of a beginning of the clip whole and learn
    the rest (`steps/stepwise.py`); 0 is none. A pattern with a delay hides fine codes of the last
    frames of a prompt from the first codes after it; above 0 it hides none.
    """
    starts_from_codec: bool = True
    """Start embeddings and heads from the codec's own entries (`nets/linear.py`), so that a model
    of codes knows at the start what a model of latents gets from its input: which codes are near
    each other.
    """
    output: Output = Softmax()
    """What a step says of its code (`steps/densities.py`): one logit per entry, or a density over
    ordered entries.
    """

    @pydantic.model_validator(mode="after")
    def _check_prefix(self) -> "ARConfig":
        check_delayed(self.prefix_share, self.pattern.hides_known, self.plan, self.other)
        return self

    @property
    def step_pattern(self) -> StepPattern:
        """Which streams a step predicts."""
        pattern = self.pattern if self.other is None else self.pattern.beside_other()
        return pattern if self.plan is None else pattern.behind_plan(self.plan.lead_frames)

    def streams(self, spec: TokenSpec) -> Streams:
        """Return what a frame holds."""
        return Streams(spec=spec, plan=self.plan, other=self.other)

    def build(self, task: Task, *, key: Key[Array, ""]) -> "AR":
        """Return the decoder with fresh weights, made in one compiled call.

        `code_vectors` are the codec's normalised entries; `starts_from_codec` says whether they are
        used.

        Raises:
            ConfigError: if the conditions, the streams or the output do not suit the data.
        """
        self.output.check(task.spec, self.streams(task.spec).count, task.code_vectors)
        start = task if self.starts_from_codec else task._replace(code_vectors=None)
        return jax.jit(lambda key: AR(self, start, key=key))(key)

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes."""
        streams = self.streams(task.spec)
        steps = self.step_pattern.num_steps(task.num_frames, streams.count)
        numbers = np.array([self.output.numbers(size) for size in streams.sizes])
        heads = numbers[self.step_pattern.levels(steps, streams.count)].sum()
        forward = (
            task.condition_flops
            + backbone_flops(task.backbone, steps, is_causal=True, **task.backbone_inputs)
            + 2.0 * task.backbone.width * heads
        )
        return 3 * forward

    @property
    def prompt_rule(self) -> PromptRule:
        """How a prompt is known (`prompt_rule.py`)."""
        return delayed_rule(self.prefix_share, self.pattern.hides_known, self.plan)

    @property
    def hole_rule(self) -> HoleRule:
        """How the frames around a gap are known (`hole_rule.py`)."""
        hides = self.pattern.hides_known or self.plan is not None
        return visited_hole_rule(self.infill_share, hides)

    def bare_sampler(self, task: Task) -> ARSampler:
        """Return the sampler of the bare law: one code after another from the softmax, exactly."""
        return ARSampler()

    def sample_cost(self, sampler: ARSampler, task: Task) -> SampleCost:
        """Return the cost of drawing one clip."""
        streams = self.streams(task.spec)
        copies = num_copies(sampler)
        steps = self.step_pattern.num_steps(task.num_frames, streams.count)
        # A flat step has one code head, and that of the plan whether it is wanted or not.
        code_heads = min(task.spec.codebooks, self.step_pattern.levels(1, streams.count).size)
        heads = code_heads * self.output.numbers(task.spec.entries) + (
            0 if self.plan is None else self.plan.num_units + 1
        )
        flops = (
            task.condition_flops
            + decode_flops(task.backbone, steps, **task.backbone_inputs)
            + 2.0 * steps * task.backbone.width * heads
        )
        return SampleCost(copies * steps, copies * flops)


class AR(nnx.Module):
    """Code embeddings, causal backbone, one head per codebook (j: the codes of a step)."""

    reads: ClassVar[Literal["codes", "latents"]] = "codes"

    def __init__(self, config: ARConfig, task: Task, *, key: Key[Array, ""]):
        embed_key, condition_key, backbone_key, head_key = jax.random.split(key, 4)
        self.config = config
        self.spec = task.spec
        self.streams = config.streams(task.spec)
        self.streams.check(task.condition, task.vocab)
        self.deterministic = False
        levels = self.streams.codebooks
        vectors = self.streams.vectors(task.code_vectors)
        self.embed = CodeEmbedding(
            levels, task.spec.entries, task.backbone.width, key=embed_key, code_vectors=vectors
        )
        # Folded in rather than split off: keys without a plan stay what they were.
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
        self.heads = config.output.build(
            levels, task.spec.entries, task.backbone.width, key=head_key, code_vectors=vectors
        )
        # The plan's head starts at zero, so that before training every unit is equally likely.
        head = partial(Linear, task.backbone.width, key=head_key, scale=0.0, split=COLUMNS)
        self.plan_head = head(config.plan.num_units + 1) if config.plan else None

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the mean nats per code of each example, weighted by its number of codes, those
        told as a prefix apart.
        """
        check_call(self, tokens, cond)
        hole_key, condition_key, dropout_key = jax.random.split(key, 3)
        share = 0.0 if self.deterministic else self.config.infill_share
        is_known = draw_known(hole_key, tokens.is_valid, share)
        masking = 0.0 if self.deterministic else self.config.input_masking
        is_known, is_told = tell_prefix(self, key, tokens.is_valid, is_known)
        nats, is_target = self._nats(
            tokens, cond, is_known, condition_key, dropout_key, masking, is_told
        )
        levels = self.pattern.levels(nats.shape[1], self.streams.count)
        per_stream = (
            self.pattern.revert(nats, self.streams.count).sum(axis=1)
            / jnp.maximum(num_open(tokens, is_told), 1)[:, None]
        )
        weight = (
            (is_target & self.streams.is_code(levels)[None]).sum(axis=(1, 2)).astype(jnp.float32)
        )
        total = self.streams.weigh(nats, levels).sum(axis=(1, 2))
        return LossOut(total / jnp.maximum(weight, 1), weight, self.streams.name(per_stream))

    def score(
        self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""] | None = None, num_draws: int = 1
    ) -> ScoreOut:
        """Return the exact bits of each example's codes, frame by frame from the left; nothing is
        drawn.

        With a plan they are the bits of the codes and of the data's own plan, an upper bound. With
        another speaker they are those of the own codes, each given what was heard before it.
        """
        check_call(self, tokens, cond, reads="codes")
        nats, _ = self._nats(tokens, cond, tokens.is_valid)
        bits = self.streams.drawn_nats(
            nats, self.pattern.levels(nats.shape[1], self.streams.count)
        ) / jnp.log(2.0)
        return ScoreOut(bits, jnp.zeros_like(bits), self.streams.validity)

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: ARSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw codes, and a plan with them if there is one; the frames that the prompt knows are
        kept.

        Raises:
            GenlabError: if frames follow a hole and the model was trained with infill_share=0, or
                it hears another speaker and `cond` has none.
        """
        check_sample(self, cond, num_frames, sampler, ARSampler, prompt)
        refuse_untrained_holes(prompt, self.config.infill_share)
        codes = sample_codes(self, cond, num_frames, key, prompt, sampler)
        steps = self.pattern.num_steps(codes.shape[1], self.streams.count)
        return SampleOut(
            make_tokens(codes=codes, num_frames=num_frames), steps * num_copies(sampler)
        )

    def stream(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: ARSampler,
        chunk_frames: int,
    ) -> Iterator[Int[Array, "b t k"]]:
        """Yield the codes that `sample` draws from the same key, a frame as soon as all its levels
        are known.
        """
        check_sample(self, cond, num_frames, sampler, ARSampler)
        return stream_codes(self, cond, num_frames, key, sampler, chunk_frames)

    @property
    def pattern(self) -> StepPattern:
        """Which codes a step predicts."""
        return self.config.step_pattern

    def embed_codes(
        self, codes: Int[Array, "b s j"], levels: Int[Array, "s j"]
    ) -> Float[Array, "b s h"]:
        """Return the sum of the vectors of each step's codes."""
        return self.streams.embed(self.embed.tables.table[...], codes, levels)

    def start(
        self, num_examples: int, num_steps: int, conditions: Conditions
    ) -> tuple[DecodePlan, Cache]:
        """Return what does not change in the loop, and the cache."""
        return self.backbone.start(num_examples, num_steps, conditions.text, conditions.clip)

    def draw_step(
        self,
        plan: DecodePlan,
        cache: Cache,
        x: Float[Array, "c 1 h"],
        step: Step,
        sampler: StepSampler,
    ) -> tuple[Int[Array, "b j"], Cache]:
        """Return the codes of a step, those given among them, and the cache after it."""
        hidden, cache = self.backbone.extend(x, plan, cache, positions=step.position[:, None])
        drawn = choose(step.key, self._step_logits(hidden, step.levels)[:, 0], sampler)
        if self.plan_head is not None:
            unit = choose(jax.random.fold_in(step.key, 1), self.plan_head(hidden), sampler)
            has_both = self._has_all_levels
            drawn = (
                jnp.concatenate([unit, drawn], 1)
                if has_both
                else jnp.where(step.levels[0] == 0, unit, drawn)
            )
        if self._has_all_levels:
            drawn = jnp.concatenate([drawn, step.given[:, self.streams.drawn :]], 1)
        return jnp.where(step.is_given, step.given, drawn), cache

    def _nats(
        self,
        tokens: Tokens,
        cond: Cond,
        is_known: Bool[Array, "b t"],
        condition_key: Key[Array, ""] | None = None,
        dropout_key: Key[Array, ""] | None = None,
        input_masking: float = 0.0,
        is_told: Bool[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b s j"], Bool[Array, "b s j"]]:
        hidden, codes, is_target = run_known(
            self, tokens, cond, is_known, condition_key, dropout_key, input_masking, is_told
        )
        nats = self._cross_entropies(hidden, jnp.where(is_target, codes, 0))
        return jnp.where(is_target, nats, 0), is_target

    def _cross_entropies(
        self, hidden: Float[Array, "b s h"], codes: Int[Array, "b s j"]
    ) -> Float[Array, "b s j"]:
        if self.plan_head is None and self._has_all_levels and compiled_platform() == "tpu":
            # Cutting the numbers of all levels into levels, and joining their gradients, are passes
            # over memory.
            of_levels = self.heads.parts(hidden, codes.shape[2])
            nats = [
                self.config.output.nats(numbers, codes[:, :, level], self.spec.entries)
                for level, numbers in enumerate(of_levels)
            ]
            return jnp.stack(nats, axis=2)
        if self.plan_head is None:
            return self.config.output.nats(self._numbers(hidden), codes, self.spec.entries)
        b = hidden.shape[0]
        j = self.streams.count
        if self._has_all_levels:
            of_plan = cross_entropy(self.plan_head(hidden), codes[:, :, 0])
            of_codes = cross_entropy(self._logits(hidden), codes[:, :, 1:])
            return jnp.concatenate([of_plan[:, :, None], of_codes], axis=2)
        # Each row of steps is a unit and its codes: [b rows*j ...] -> [b rows j ...].
        hidden = hidden.reshape(b, -1, j, hidden.shape[2])
        codes = codes.reshape(b, -1, j)
        of_plan = cross_entropy(self.plan_head(hidden[:, :, 0]), codes[:, :, 0])
        of_codes = cross_entropy(
            self._logits(hidden[:, :, 1:].reshape(b, -1, hidden.shape[3])),
            codes[:, :, 1:].reshape(b, -1, 1),
        )
        # b t 1 and b (t j-1) 1 -> b (t j) 1
        return jnp.concatenate(
            [of_plan[:, :, None], of_codes.reshape(b, -1, j - 1)], axis=2
        ).reshape(b, -1, 1)

    def _logits(self, hidden: Float[Array, "b s h"]) -> Float[Array, "b s j v"]:
        return self.config.output.logits(self._numbers(hidden), self.spec.entries)

    def _numbers(self, hidden: Float[Array, "b s h"]) -> Float[Array, "b s j o"]:
        """Return what the output makes logits of, o numbers per code."""
        b, s, h = hidden.shape
        k = self.streams.codebooks
        o = self.config.output.numbers(self.spec.entries)
        if self._has_all_levels:
            return self.heads(hidden).reshape(b, s, k, o)
        # Each step has one level: [b t*k h] x [h k o] -> [b t*k 1 o], level by level.
        heads = self.heads.kernel[...].astype(hidden.dtype).reshape(h, k, o)
        numbers = jax.vmap(matmul, in_axes=(2, 1), out_axes=2)(
            hidden.reshape(b, s // k, k, h), heads
        )
        return numbers.reshape(b, s, 1, o)

    def _step_logits(
        self, hidden: Float[Array, "b 1 h"], levels: Int[Array, "j"]
    ) -> Float[Array, "b 1 l v"]:
        output, k = self.config.output, self.spec.codebooks
        o = output.numbers(self.spec.entries)
        if self._has_all_levels:
            # What is heard needs no head.
            own = self.heads.kernel[:, : k * o].astype(hidden.dtype)
            return output.logits(
                matmul(hidden, own).reshape(*hidden.shape[:2], k, o), self.spec.entries
            )
        level = levels[0] if self.plan_head is None else jnp.maximum(levels[0] - 1, 0)
        head = lax.dynamic_slice_in_dim(self.heads.kernel[...], level * o, o, axis=1)
        return output.logits(
            matmul(hidden, head.astype(hidden.dtype))[:, :, None], self.spec.entries
        )

    @property
    def _has_all_levels(self) -> bool:
        return self.pattern.levels(1, self.streams.count).size == self.streams.count
