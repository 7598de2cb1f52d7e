"""Masked decoder over latents: a bidirectional backbone and a flow head, in random order (MAR,
2406.11838 section 3.4).

In: latents "b t d" of zero mean and unit variance. Training hides a share of the frames, and the
flow head (noise/heads.py) learns the latents of the hidden ones, each given its own hidden vector.
Sampling starts from the prompt and reveals frames in a random order, several at once, as many per
step as the cosine schedule of MaskGIT says; all frames that one step reveals are drawn
independently, so fewer steps trade dependence for speed.

Differences from the paper: a decoder alone in place of MAE's encoder and decoder, so a hidden frame
costs as much as a visible one; the hidden share follows the cosine schedule and not a truncated
Gaussian.
"""

import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, GenlabError
from genlab.decoders.conditioning import (
    Conditioner,
    Conditions,
)
from genlab.decoders.guidance import GuidedSampler, num_copies, with_unconditional
from genlab.decoders.hole_rule import HoleRule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.noise.heads import BARE_STEPS, FlowMatching
from genlab.decoders.noise.schedules import CosineHiding, Hiding, LinearHiding
from genlab.decoders.noise.unmasking import draw_hidden, rank
from genlab.decoders.prompt_rule import PromptRule
from genlab.decoders.task import Task
from genlab.nets.backbone import Backbone, backbone_flops
from genlab.nets.linear import Linear
from genlab.nets.param import vector
from genlab.tokens import (
    Cond,
    LossOut,
    Prompt,
    SampleCost,
    SampleOut,
    ScoreOut,
    Tokens,
    make_tokens,
    read_latents,
)

# Backbone calls of the bare law. Each doubling from 8 to 128 moved the energy of a small trained
# model by less than its standard error of 0.007 over 96 clips (sweeps/bare_steps.py), of 24 hidden
# frames.
BARE_ROUNDS = 16


class MARSampler(GuidedSampler):
    """How latents are drawn: in rounds of the backbone, each followed by the flow head."""

    kind: Literal["mar"] = "mar"
    rounds: int = pydantic.Field(default=16, gt=0, le=10_000)
    """Backbone calls per clip."""
    steps: int = pydantic.Field(default=16, gt=0, le=10_000)
    """Euler steps of the flow head per round."""
    hiding: Hiding = CosineHiding()
    """Share of frames still unknown after each round."""
    temperature: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """Scales the noise that the flow starts from."""


class MARConfig(Config):
    """The masked family over latents."""

    kind: Literal["mar"] = "mar"
    sampler: ClassVar[type[Config]] = MARSampler
    prompt_rule: ClassVar[PromptRule] = "exact"
    hole_rule: ClassVar[HoleRule] = "exact"
    head: FlowMatching = FlowMatching()
    """Draws a frame's latents from its hidden vector."""
    hiding: Hiding = CosineHiding()
    """Draws the share of frames that a training example hides."""

    @property
    def loss_unit(self) -> str:
        """What one unit of the loss is: the head says."""
        return self.head.loss_unit

    def build(self, task: Task, *, key: Key[Array, ""]) -> "MAR":
        """Return the decoder with fresh weights, made in one compiled call. Latents need no
        `code_vectors`.
        """
        return jax.jit(lambda key: MAR(self, task, key=key))(key)

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes and the
        head's.
        """
        inputs = task.backbone_inputs
        forward = task.condition_flops
        forward += backbone_flops(task.backbone, task.num_frames, **inputs)
        # Latents are data: nothing is propagated into them.
        embed = 2 * 2 * task.num_frames * task.spec.latent_channels * task.backbone.width
        return (
            3 * forward
            + embed
            + task.num_frames
            * self.head.train_flops(task.backbone.width, task.spec.latent_channels)
        )

    def bare_sampler(self, task: Task) -> MARSampler:
        """Return the sampler of the bare law: one frame per round in random order, up to
        `BARE_ROUNDS`, and the head's bare steps.
        """
        return MARSampler(
            rounds=min(task.num_frames, BARE_ROUNDS), steps=BARE_STEPS, hiding=LinearHiding()
        )

    def sample_cost(self, sampler: MARSampler, task: Task) -> SampleCost:
        """Return the cost of drawing one clip; every round draws all frames and keeps those that it
        reveals.
        """
        copies = num_copies(sampler)
        inputs = task.backbone_inputs
        per_frame = 2 * task.spec.latent_channels * task.backbone.width
        per_frame += self.head.draw_flops(task.backbone.width, task.spec.latent_channels, sampler)
        per_round = (
            backbone_flops(task.backbone, task.num_frames, **inputs) + task.num_frames * per_frame
        )
        flops = task.condition_flops + sampler.rounds * per_round
        return SampleCost(copies * self.num_calls(sampler), copies * flops)

    def num_calls(self, sampler: MARSampler) -> int:
        """Return the sequential network calls of drawing a batch without guidance."""
        return sampler.rounds * (1 + self.head.draw_calls(sampler))


class MAR(nnx.Module):
    """Latent projection with a vector for hidden frames, bidirectional backbone, flow head."""

    reads: ClassVar[Literal["codes", "latents"]] = "latents"
    has_bits: ClassVar[bool] = False

    def __init__(self, config: MARConfig, task: Task, *, key: Key[Array, ""]):
        embed_key, absent_key, condition_key, backbone_key, head_key = jax.random.split(key, 5)
        self.config = config
        self.spec = task.spec
        self.embed = Linear(task.spec.latent_channels, task.backbone.width, key=embed_key)
        width = task.backbone.width
        self.absent = vector(width**-0.5 * jax.random.normal(absent_key, (width,)))
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=condition_key)
        self.backbone = Backbone(
            task.backbone,
            key=backbone_key,
            is_modulated=task.condition.is_modulating,
            text_route=task.condition.text_route,
        )
        self.head = config.head.build(task.backbone.width, task.spec.latent_channels, key=head_key)

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return each example's mean loss of the head over hidden frames, and their number."""
        check_call(self, tokens, cond)
        share_key, frame_key, condition_key, dropout_key, head_key = jax.random.split(key, 5)
        is_valid = tokens.is_valid
        latents = read_latents(tokens)
        share = self.config.hiding.hidden_share(
            jax.random.uniform(share_key, tokens.num_frames.shape)
        )
        is_masked = draw_hidden(
            frame_key, is_valid, jnp.maximum(jnp.ceil(share * is_valid.sum(axis=1)), 1)
        )
        conditions = self.conditioner(cond, is_valid, key=condition_key)
        hidden = self._hidden(latents, is_valid & ~is_masked, conditions, is_valid, dropout_key)
        latents = jnp.where(is_valid[:, :, None], latents, 0)
        losses = jnp.where(is_masked, self.head.loss(hidden, latents, key=head_key), 0)
        weight = is_masked.sum(axis=1).astype(jnp.float32)
        return LossOut(losses.sum(axis=1) / jnp.maximum(weight, 1), weight, {"hidden_share": share})

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: MARSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw latents; the frames that the prompt knows are kept, in any pattern."""
        check_sample(self, cond, num_frames, sampler, MARSampler, prompt)
        latents = _sample_latents(self, cond, num_frames, key, prompt, sampler)
        calls = self.config.num_calls(sampler) * num_copies(sampler)
        return SampleOut(make_tokens(latents=latents, num_frames=num_frames), calls)

    def score(
        self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""], num_draws: int = 1
    ) -> ScoreOut:
        """Refuse: a flow per frame, drawn in random order, says nothing of the bits of codes.

        Raises:
            GenlabError: always.
        """
        raise GenlabError(
            "score: decoder.kind='mar' draws latents with a flow and has no density, so codes "
            "have no bits under it; use decoder.kind='latent_ar' with a 'gmm' head, or compare by "
            "the energy of the next block"
        )

    def _hidden(
        self,
        latents: Float[Array, "b t d"],
        is_visible: Bool[Array, "b t"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t h"]:
        dtype = conditions.frames.dtype
        absent = self.absent[...].astype(dtype)[None, None]
        embedded = jnp.where(is_visible[:, :, None], self.embed(latents.astype(dtype)), absent)
        return self.backbone(
            embedded + conditions.frames,
            positions=jnp.broadcast_to(jnp.arange(is_valid.shape[1])[None, :], is_valid.shape),
            is_valid=is_valid,
            text=conditions.text,
            clip=conditions.clip,
            key=key,
        )


@functools.partial(jax.jit, static_argnames="sampler")
def _sample_latents(
    model: MAR,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: MARSampler,
) -> Float[Array, "b t d"]:
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    is_known = jnp.zeros_like(is_valid) if prompt is None else prompt.is_known & is_valid
    latents = jnp.zeros((b, t, model.spec.latent_channels))
    if prompt is not None:
        latents = jnp.where(is_known[:, :, None], read_latents(prompt.tokens), latents)
    order_key, draw_key = jax.random.split(key)
    # Known frames come first, padding last: what is not yet revealed is a tail of the order.
    place = jax.random.uniform(order_key, (b, t)) + jnp.where(
        is_valid, jnp.where(is_known, 0, 1), 2
    )
    turn = rank(place)
    num_unknown = (is_valid & ~is_known).sum(axis=1)

    copies = num_copies(sampler)
    is_attended = jnp.repeat(is_valid, copies, axis=0)
    conditions = model.conditioner(with_unconditional(cond, sampler), is_attended)

    def step(carry, inputs):
        latents, is_visible = carry
        progress, step_key = inputs
        doubled = jnp.repeat(latents, copies, axis=0), jnp.repeat(is_visible, copies, axis=0)
        hidden = model._hidden(*doubled, conditions, is_attended)
        # (b copies) t h -> b t copies h: every frame beside itself without conditions
        pairs = hidden.reshape(b, copies, t, -1).swapaxes(1, 2)
        drawn = model.head.draw(step_key, pairs.reshape(b * t * copies, -1), sampler).reshape(
            latents.shape
        )
        num_hidden = jnp.floor(sampler.hiding.hidden_share(progress) * num_unknown).astype(
            jnp.int32
        )
        is_shown = is_valid & (turn < (num_frames - num_hidden)[:, None])
        latents = jnp.where((is_shown & ~is_visible)[:, :, None], drawn, latents)
        return (latents, is_shown), None

    progress = jnp.arange(1, sampler.rounds + 1) / sampler.rounds
    (latents, _), _ = lax.scan(
        step, (latents, is_known), (progress, jax.random.split(draw_key, sampler.rounds))
    )
    return latents
