"""Masked parallel decoder over codes, level by level: SoundStorm (2305.09636).

In: codes "b t k". Training draws one level q per example, uniformly as in the paper; the levels
below q are given, a share of level q is hidden by the cosine schedule, everything above q is
hidden. The network sees the sum of the K code vectors of a frame and predicts the hidden codes of
level q alone, so only that level's head is computed. Sampling goes from coarse to fine in one
compiled loop; within a level each step reveals the draws it is most confident of. MAGNeT
(2401.04577) and MaskGCT's acoustic stage (2409.00750) are the same decoder with other settings:

    3 codebooks x 4 frames, steps (2, 1, 1)           a to l are known codes, ? is hidden
    start      level 0, step 1    level 0, step 2     level 1     level 2
    ? ? ? ?        a ? ? d            a b c d          a b c d     a b c d
    ? ? ? ?        ? ? ? ?            ? ? ? ?          e f g h     e f g h
    ? ? ? ?        ? ? ? ?            ? ? ? ?          ? ? ? ?     i j k l

`prefix_share` trains with random prompts, which show all their levels: in every example of the
paper (1.0), in none by default. Without them a prompt's levels above q stay hidden while q is
drawn, as in training, so a continuation is drawn without a part of what is known.

Differences from the paper: a plain transformer instead of a Conformer. MAGNeT's narrow attention
for levels above the first and its rescoring by a second model are left out.
"""

import functools
from typing import Annotated, ClassVar, Literal

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
from genlab.decoders.guidance import GuidedSampler, guide, num_copies, with_unconditional
from genlab.decoders.hole_rule import HoleRule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.noise.schedules import CosineHiding, Hiding, LinearHiding
from genlab.decoders.noise.unmasking import (
    SINGLE,
    Order,
    Spans,
    bound_from_draws,
    count_hidden,
    draw_hidden,
    draw_places,
    draw_revealed,
)
from genlab.decoders.prefix import PrefixShare, leading, shown_prefix
from genlab.decoders.prompt_rule import PromptRule
from genlab.decoders.steps.logits import cross_entropy, draw
from genlab.decoders.task import Task
from genlab.machine.sharding import COLUMNS
from genlab.nets.backbone import Backbone, backbone_flops
from genlab.nets.linear import CodeEmbedding, code_heads, matmul
from genlab.nets.param import matrix
from genlab.tokens import (
    Cond,
    LossOut,
    Prompt,
    SampleCost,
    SampleOut,
    ScoreOut,
    Tokens,
    make_tokens,
    read_codes,
)

# Calls of the bare law: of the first level, which holds most of the energy, and of each further
# one. More of them did not move the energy of a trained quick start beyond its standard error.
BARE_STEPS = (16, 4)


class MaskedSampler(GuidedSampler):
    """How codes are drawn: level by level, coarse to fine, some frames in each step."""

    kind: Literal["masked"] = "masked"
    steps: tuple[Annotated[int, pydantic.Field(gt=0, le=10_000)], ...] = pydantic.Field(
        default=(16, 1), min_length=1, max_length=256
    )
    """Network calls of each level, coarse to fine; the last number serves all further levels."""
    hiding: Hiding = CosineHiding()
    """Share of frames still hidden after each step of a level."""
    order: Order = "confidence"
    """Which frames are revealed: the most confident, random ones, or each on its own with the
    schedule's probability (ancestral).
    """
    order_temperature: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """Scale of the Gumbel noise on confidence, which shrinks to 0 over the steps of a level."""
    spans: Spans = SINGLE
    """How many frames are revealed together."""
    is_last_greedy: bool = True
    """Take the likeliest code in the last step of every level, as the paper does."""
    temperature: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """Divides the logits; 0 takes the likeliest code."""
    is_annealed: bool = False
    """Lower the temperature step by step, from `temperature` in the first of n steps to an n-th of
    it in the last (MAGNeT, MaskGCT).
    """
    top_k: int = pydantic.Field(default=0, ge=0)
    """Draw among this many likeliest entries; 0 keeps all."""
    top_p: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest entries that hold this probability together; 1 keeps all."""

    def steps_per_level(self, codebooks: int) -> tuple[int, ...]:
        """Return the number of network calls of each level."""
        return tuple(self.steps[min(level, len(self.steps) - 1)] for level in range(codebooks))


class MaskedConfig(Config):
    """The masked parallel family."""

    kind: Literal["masked"] = "masked"
    sampler: ClassVar[type[Config]] = MaskedSampler
    hole_rule: ClassVar[HoleRule] = "part hidden"
    hiding: Hiding = CosineHiding()
    """Draws the share of frames that a training example hides, under `loss_weighting="published"`.
    """
    spans: Spans = SINGLE
    """How many frames training hides together."""
    starts_from_codec: bool = True
    """Start embeddings and heads from the codec's entries, as in the AR family."""
    loss_weighting: Literal["published", "bound"] = added("published")
    """published: the share hidden follows `hiding` and every hidden code counts alike (SoundStorm).
    bound: every number of hidden frames comes up equally often and every clip counts by its frames,
    so that the expected loss is the bound of `score`, in nats per code.
    """
    prefix_share: PrefixShare = added(0.0)
    """Share of training examples that show all levels of a beginning of the clip and learn the rest
    (`prefix.py`); 0 is none, 1 is SoundStorm. Above 0 a prompt shows all levels too.
    """

    @pydantic.model_validator(mode="after")
    def _check_weighting(self) -> "MaskedConfig":
        if self.loss_weighting == "bound" and self.spans.frames > 1:
            raise ValueError(
                f"loss_weighting='bound': the bound hides single frames, got spans.frames="
                f"{self.spans.frames}; set spans.frames=1, or loss_weighting='published'"
            )
        return self

    @property
    def loss_unit(self) -> str:
        """What one unit of the loss is."""
        return "nats_per_code" if self.loss_weighting == "bound" else "nats_per_hidden_code"

    def build(self, task: Task, *, key: Key[Array, ""]) -> "Masked":
        """Return the decoder with fresh weights, made in one compiled call.

        `code_vectors` are the codec's normalised entries; `starts_from_codec` says whether they are
        used.
        """
        start = task if self.starts_from_codec else task._replace(code_vectors=None)
        return jax.jit(lambda key: Masked(self, start, key=key))(key)

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes with
        one head.
        """
        forward = task.condition_flops + _call_flops(task)
        return 3 * forward

    @property
    def prompt_rule(self) -> PromptRule:
        """How a prompt is known (`prompt_rule.py`)."""
        return "clean prefixes" if self.prefix_share > 0 else "part hidden"

    def bare_sampler(self, task: Task) -> MaskedSampler:
        """Return the sampler of the bare law, the order of the bound: level by level, the frames of
        a level in random order.

        With as many steps per level as frames it would be that law exactly; fewer approximate it.
        """
        return MaskedSampler(
            steps=tuple(min(task.num_frames, steps) for steps in BARE_STEPS),
            hiding=LinearHiding(),  # as many frames in every step
            order="random",
            is_last_greedy=False,
        )

    def sample_cost(self, sampler: MaskedSampler, task: Task) -> SampleCost:
        """Return the cost of drawing one clip."""
        steps = sum(sampler.steps_per_level(task.spec.codebooks))
        copies = num_copies(sampler)
        flops = task.condition_flops + steps * _call_flops(task)
        return SampleCost(copies * steps, copies * flops)


class Masked(nnx.Module):
    """Code embeddings, bidirectional backbone, one head per level of which each call uses one."""

    reads: ClassVar[Literal["codes", "latents"]] = "codes"

    def __init__(self, config: MaskedConfig, task: Task, *, key: Key[Array, ""]):
        embed_key, condition_key, backbone_key, head_key = jax.random.split(key, 4)
        self.config = config
        self.spec = task.spec
        self.deterministic = False
        self.embed = CodeEmbedding(
            task.spec.codebooks,
            task.spec.entries,
            task.backbone.width,
            key=embed_key,
            code_vectors=task.code_vectors,
        )
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=condition_key)
        self.backbone = Backbone(
            task.backbone,
            key=backbone_key,
            is_modulated=task.condition.is_modulating,
            text_route=task.condition.text_route,
        )
        # k h v and not one matrix: a step needs the head of one level only.
        self.heads = matrix(
            code_heads(
                task.spec.codebooks,
                task.spec.entries,
                task.backbone.width,
                key=head_key,
                code_vectors=task.code_vectors,
            ),
            COLUMNS,
        )

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the mean nats of each example's hidden codes of one level, weighted by their
        number, or, as the bound weighs, by the example's frames, those shown as a prefix apart.
        """
        check_call(self, tokens, cond)
        level_key, share_key, frame_key, condition_key, dropout_key = jax.random.split(key, 5)
        b = tokens.num_frames.shape[0]
        is_valid = tokens.is_valid
        level = jax.random.randint(level_key, (b,), 0, self.spec.codebooks)
        is_known = shown_prefix(self, key, is_valid)
        is_open = is_valid & ~is_known
        num_open = is_open.sum(axis=1)
        is_bound = self.config.loss_weighting == "bound"
        place = jax.random.uniform(share_key, (b,))
        if is_bound:
            num_hidden = count_hidden(place, num_open)
            hidden_share = num_hidden / jnp.maximum(num_open, 1)
            is_masked = draw_hidden(frame_key, is_open, num_hidden)
        else:
            hidden_share = self.config.hiding.hidden_share(place)
            is_masked = _draw_masked(frame_key, is_open, hidden_share, self.config.spans)
        codes = read_codes(tokens)
        conditions = self.conditioner(cond, is_valid, key=condition_key)
        visible = _hide(codes, level, is_masked, self.spec.entries)
        visible = jnp.where(is_known[:, :, None], codes, visible)
        hidden = self._hidden(visible, conditions, is_valid, key=dropout_key)
        heads = self.heads[...][level].astype(hidden.dtype)
        labels = jnp.take_along_axis(codes, level[:, None, None], axis=2)[:, :, 0]
        nats = jnp.where(is_masked, cross_entropy(jax.vmap(matmul)(hidden, heads), labels), 0)
        num_masked = is_masked.sum(axis=1).astype(jnp.float32)
        # The mean over the hidden codes of a uniform number of frames and level is an unbiased draw
        # of the bound per code (eq. 4 of 2110.02037): the bound is K levels x n frames of it.
        # After a prefix it is one of the bound of the rest given the prefix.
        weight = num_open.astype(jnp.float32) if is_bound else num_masked
        return LossOut(
            nats.sum(axis=1) / jnp.maximum(num_masked, 1), weight, {"hidden_share": hidden_share}
        )

    def score(
        self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""], num_draws: int = 1
    ) -> ScoreOut:
        """Return an upper bound on the bits of each example's codes, level by level with the
        coarser levels given.

        Within a level the order of the frames is random (`noise/unmasking.py`); each level is
        estimated `num_draws` times.
        """
        check_call(self, tokens, cond, reads="codes")
        return bound_from_draws(_bound_draws(self, tokens, cond, key, num_draws))

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: MaskedSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw codes; the frames that the prompt knows are kept, in any pattern. A beginning shows
        all its levels in every call if the model was trained so.
        """
        check_sample(self, cond, num_frames, sampler, MaskedSampler, prompt)
        codes = _sample_codes(self, cond, num_frames, key, prompt, sampler)
        steps = sum(sampler.steps_per_level(self.spec.codebooks))
        return SampleOut(
            make_tokens(codes=codes, num_frames=num_frames),
            steps * num_copies(sampler),
        )

    def _hidden(
        self,
        visible: Int[Array, "b t k"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t h"]:
        return self.backbone(
            self.embed(visible).astype(conditions.frames.dtype) + conditions.frames,
            positions=_frame_numbers(is_valid),
            is_valid=is_valid,
            text=conditions.text,
            clip=conditions.clip,
            key=key,
        )


@functools.partial(jax.jit, static_argnames="num_draws")
def _bound_draws(
    model: Masked, tokens: Tokens, cond: Cond, key: Key[Array, ""], num_draws: int
) -> Float[Array, "r k b"]:
    """Return unbiased draws of the any-order bound of each level in nats."""
    codes = read_codes(tokens)
    is_valid = tokens.is_valid
    (b, _, k), num_frames = codes.shape, tokens.num_frames
    conditions = model.conditioner(cond, is_valid)

    def draw_bound(_, inputs):
        level, place, frame_key = inputs
        num_hidden = count_hidden(place, num_frames)
        # With i of n frames hidden, n / i times the nats of the hidden ones is an unbiased draw of
        # the level's bound: each i is one of the n steps of an any-order model.
        is_masked = draw_hidden(frame_key, is_valid, num_hidden)
        visible = _hide(codes, jnp.broadcast_to(level, (b,)), is_masked, model.spec.entries)
        hidden = model._hidden(visible, conditions, is_valid)
        logits = matmul(hidden, model.heads[...][level].astype(hidden.dtype))
        nats = jnp.where(is_masked, cross_entropy(logits, codes[:, :, level]), 0).sum(axis=1)
        return None, nats * num_frames / num_hidden

    place_key, frame_key = jax.random.split(key)
    places = jax.vmap(lambda key: draw_places(key, num_draws, b))(jax.random.split(place_key, k))
    levels = jnp.repeat(jnp.arange(k), num_draws)
    inputs = (levels, places.reshape(k * num_draws, b), jax.random.split(frame_key, k * num_draws))
    _, draws = lax.scan(draw_bound, None, inputs)
    # (k r) b -> r k b
    return draws.reshape(k, num_draws, b).swapaxes(0, 1)


@functools.partial(jax.jit, static_argnames="sampler")
def _sample_codes(
    model: Masked,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: MaskedSampler,
) -> Int[Array, "b t k"]:
    absent = model.spec.entries
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    codes = jnp.full((b, t, model.spec.codebooks), absent)
    is_known = jnp.zeros_like(is_valid) if prompt is None else prompt.is_known & is_valid
    is_whole = leading(is_known)[:, :, None] & (model.config.prefix_share > 0)
    if prompt is not None:
        codes = jnp.where(is_known[:, :, None], read_codes(prompt.tokens), codes)
    # Counted on level 0: a prompt gives all levels of a frame or none.
    num_unknown = (
        sampler.spans.group(is_valid & (codes[:, :, 0] == absent), False).any(axis=2).sum(axis=1)
    )

    copies = num_copies(sampler)
    conditions = model.conditioner(
        with_unconditional(cond, sampler), jnp.repeat(is_valid, copies, axis=0)
    )
    is_attended = jnp.repeat(is_valid, copies, axis=0)

    def step(codes, inputs):
        level, progress, previous, is_last, step_key = inputs
        code_key, order_key = jax.random.split(step_key)
        # Finer levels stay hidden where training hid them, even if a prompt knows them.
        is_shown = (jnp.arange(codes.shape[2])[None, None, :] <= level) | is_whole
        visible = jnp.where(is_shown, codes, absent)
        hidden = model._hidden(jnp.repeat(visible, copies, axis=0), conditions, is_attended)
        logits = matmul(hidden, model.heads[...][level].astype(hidden.dtype)).astype(jnp.float32)
        logits = guide(logits, sampler)
        # The temperature falls by the factor 1 - previous: from 1 in the first of n steps to 1/n in
        # the last.
        heated = logits / (1 - previous) if sampler.is_annealed else logits
        drawn = draw(
            code_key,
            heated,
            temperature=sampler.temperature,
            top_k=sampler.top_k,
            top_p=sampler.top_p,
        )
        drawn = jnp.where(is_last & sampler.is_last_greedy, jnp.argmax(logits, axis=-1), drawn)
        at_level = codes[:, :, level]
        is_revealed = draw_revealed(
            order_key,
            cross_entropy(logits, drawn),
            is_valid & (at_level == absent),
            num_unknown,
            progress,
            previous,
            hiding=sampler.hiding,
            order=sampler.order,
            order_temperature=sampler.order_temperature,
            spans=sampler.spans,
        )
        return codes.at[:, :, level].set(jnp.where(is_revealed, drawn, at_level)), None

    inputs = (*_plan(sampler.steps_per_level(model.spec.codebooks)),)
    # One scan over the steps of all levels: the level is an input, so the program is compiled once.
    codes, _ = lax.scan(step, codes, (*inputs, jax.random.split(key, len(inputs[0]))))
    return jnp.where(is_valid[:, :, None], codes, 0)


def _plan(steps_per_level: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return the level of each step, the progress through it after and before the step, and whether
    it is the last.
    """
    level = np.repeat(np.arange(len(steps_per_level), dtype=np.int32), steps_per_level)
    progress = np.concatenate(
        [np.arange(1, steps + 1) / steps for steps in steps_per_level]
    ).astype(np.float32)
    previous = np.concatenate([np.arange(steps) / steps for steps in steps_per_level]).astype(
        np.float32
    )
    return level, progress, previous, progress == 1


def _draw_masked(
    key: Key[Array, ""],
    is_valid: Bool[Array, "b t"],
    hidden_share: Float[Array, "b"],
    spans: Spans = SINGLE,
) -> Bool[Array, "b t"]:
    """Hide ceil(share * spans) random spans of the valid frames, at least one."""
    may_hide = spans.group(is_valid, False).any(axis=2)
    num_hidden = jnp.maximum(jnp.ceil(hidden_share * may_hide.sum(axis=1)), 1)
    return is_valid & spans.spread(draw_hidden(key, may_hide, num_hidden), is_valid.shape[1])


def _hide(
    codes: Int[Array, "b t k"], level: Int[Array, "b"], is_masked: Bool[Array, "b t"], absent: int
) -> Int[Array, "b t k"]:
    """Hide the masked frames of `level` and all levels above it."""
    levels = jnp.arange(codes.shape[2])[None, None, :]
    level = level[:, None, None]
    return jnp.where((levels > level) | ((levels == level) & is_masked[:, :, None]), absent, codes)


def _frame_numbers(is_valid: Bool[Array, "b t"]) -> Int[Array, "b t"]:
    return jnp.broadcast_to(jnp.arange(is_valid.shape[1])[None, :], is_valid.shape)


def _call_flops(task: Task) -> float:
    head = 2 * task.num_frames * task.backbone.width * task.spec.entries
    return backbone_flops(task.backbone, task.num_frames, **task.backbone_inputs) + head
