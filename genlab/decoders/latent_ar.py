"""Autoregressive decoder over normalised latents: a causal backbone and a head that draws one frame
at a time.

In: latents "b t d" of zero mean and unit variance. Step s sees the latent of step s - 1 plus the
conditions of its own frame, as the decoder of codes does (ar.py), and a head (noise/heads.py) says
which latents are likely in that frame: a mixture of Gaussians (GIVT, 2312.02116), a flow (MAR,
2406.11838; CALM, 2509.06926) or an implicit sampler trained by the energy score (SLED, 2505.13181).
The loss is the head's, averaged over frames. Sampling is one compiled loop over a preallocated
key-value cache; holes are filled by visiting the known frames first, as in ar.py.

`context_noise` is CALM's noise on the context: while training, each previous latent becomes
`sqrt(1 - k) latent + sqrt(k) noise` with k uniform in [0, context_noise], so that a model that
reads its own drawn frames has seen worse. Difference from CALM: no second, short-range
transformer reads the clean latents, so k should stay well below 1.
"""

import functools
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from genlab.config import Config, GenlabError
from genlab.decoders.conditioning import (
    Conditioner,
)
from genlab.decoders.guidance import GuidedSampler, num_copies, with_unconditional
from genlab.decoders.hole_rule import HoleRule, visited_hole_rule
from genlab.decoders.inputs import check_call, check_sample
from genlab.decoders.noise import code_given_latent
from genlab.decoders.noise.heads import BARE_STEPS, GaussianMixture, GaussianMixtureHead, Head
from genlab.decoders.prompt_rule import PromptRule
from genlab.decoders.steps.visiting import (
    draw_known,
    refuse_holes,
    refuse_reordering,
    refuse_untrained_holes,
    visit,
    visiting_order,
)
from genlab.decoders.task import Task
from genlab.nets.backbone import Backbone, Cache, DecodePlan, backbone_flops, decode_flops
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
    read_codes,
    read_latents,
)


class LatentARSampler(GuidedSampler):
    """How latents are drawn: exactly from the head at the defaults."""

    kind: Literal["latent_ar"] = "latent_ar"
    temperature: float = pydantic.Field(default=1.0, ge=0, le=1000)
    """Scales the noise that a head draws: the standard deviation of a mixture's component, of a
    flow's starting point, of the energy head's input.
    """
    steps: int = pydantic.Field(default=16, gt=0, le=10_000)
    """Euler steps of a flow head per frame; other heads need none."""


class LatentARConfig(Config):
    """The autoregressive family over latents."""

    kind: Literal["latent_ar"] = "latent_ar"
    sampler: ClassVar[type[Config]] = LatentARSampler
    prompt_rule: ClassVar[PromptRule] = "exact"
    head: Head = GaussianMixture()
    """Draws a frame's latents from its hidden vector."""
    context_noise: float = pydantic.Field(default=0.0, ge=0, le=1)
    """In training, noise on the previous latents up to this share of their variance (CALM), so that
    a model that hears its own errors does not drift.
    """
    infill_share: float = pydantic.Field(default=0.1, ge=0, le=1)
    """Share of training examples that are visited in the order that fills a hole."""

    @property
    def loss_unit(self) -> str:
        """What one unit of the loss is: the head says."""
        return self.head.loss_unit

    def build(self, task: Task, *, key: Key[Array, ""]) -> "LatentAR":
        """Return the decoder with fresh weights, made in one compiled call.

        `code_vectors` are the codec's normalised entries; without them a mixture has no `score`.
        """
        family = MixtureAR if isinstance(self.head, GaussianMixture) else LatentAR
        return jax.jit(lambda key: family(self, task, key=key))(key)

    def train_flops(self, task: Task) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes and the
        head's.
        """
        forward = task.condition_flops + backbone_flops(
            task.backbone, task.num_frames, is_causal=True, **task.backbone_inputs
        )
        # Latents are data: nothing is propagated into them.
        embed = 2 * 2 * (task.num_frames - 1) * task.spec.latent_channels * task.backbone.width
        return (
            3 * forward
            + embed
            + task.num_frames
            * self.head.train_flops(task.backbone.width, task.spec.latent_channels)
        )

    @property
    def hole_rule(self) -> HoleRule:
        """How the frames around a gap are known (`hole_rule.py`)."""
        return visited_hole_rule(self.infill_share)

    def bare_sampler(self, task: Task) -> LatentARSampler:
        """Return the sampler of the bare law; only a flow head needs steps."""
        return LatentARSampler(steps=BARE_STEPS)

    def sample_cost(self, sampler: LatentARSampler, task: Task) -> SampleCost:
        """Return the cost of drawing one clip.

        Raises:
            GenlabError: if the sampler asks for guidance and the head has none.
        """
        self.check_guidance(sampler)
        copies = num_copies(sampler)
        per_frame = 2 * task.spec.latent_channels * task.backbone.width
        per_frame += self.head.draw_flops(task.backbone.width, task.spec.latent_channels, sampler)
        flops = (
            task.condition_flops
            + decode_flops(task.backbone, task.num_frames, **task.backbone_inputs)
            + task.num_frames * per_frame
        )
        return SampleCost(copies * self.num_calls(sampler, task.num_frames), copies * flops)

    def num_calls(self, sampler: LatentARSampler, num_frames: int) -> int:
        """Return the sequential network calls of drawing one clip without guidance."""
        return num_frames * (1 + self.head.draw_calls(sampler))

    def check_guidance(self, sampler: LatentARSampler) -> None:
        """Refuse a guidance that the head cannot give.

        Raises:
            GenlabError: if the sampler asks for guidance and the head has none.
        """
        if num_copies(sampler) > 1 and not self.head.takes_guidance:
            raise GenlabError(
                f"sampler.guidance={sampler.guidance:g}: a head of kind {self.head.kind!r} has no "
                "guided density to draw from; set sampler.guidance=1 or use "
                "decoder.head.kind='flow', whose velocity can be guided"
            )


class _Carry(NamedTuple):
    """What one frame hands to the next: cache and embedded latent, doubled under guidance."""

    cache: Cache
    embedded: Float[Array, "b2 h"]


class _Frames(NamedTuple):
    """What the loop over frames reads, time first and in visiting order."""

    features: Float[Array, "t b2 h"]
    positions: Int[Array, "t b2"]
    given: Float[Array, "t b d"]
    is_given: Bool[Array, "t b"]
    keys: Key[Array, "t"]


class LatentAR(nnx.Module):
    """Latent projection, causal backbone, a head for continuous frames. Without a density it has no
    bits.
    """

    reads: ClassVar[Literal["codes", "latents"]] = "latents"
    has_bits: ClassVar[bool] = False

    def __init__(self, config: LatentARConfig, task: Task, *, key: Key[Array, ""]):
        embed_key, begin_key, condition_key, backbone_key, head_key = jax.random.split(key, 5)
        self.config = config
        self.spec = task.spec
        self.deterministic = False
        self.embed = Linear(task.spec.latent_channels, task.backbone.width, key=embed_key)
        # What the first step sees in place of a latent.
        width = task.backbone.width
        self.begin = vector(width**-0.5 * jax.random.normal(begin_key, (width,)))
        self.conditioner = Conditioner(task.condition, task.vocab, task.backbone, key=condition_key)
        refuse_reordering(task.backbone, config.infill_share)
        self.backbone = Backbone(
            task.backbone,
            key=backbone_key,
            is_causal=True,
            is_modulated=task.condition.is_modulating,
            text_route=task.condition.text_route,
        )
        self.head = config.head.build(task.backbone.width, task.spec.latent_channels, key=head_key)
        self.code_vectors = code_given_latent.keep_entries(task.code_vectors)

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return each example's mean loss of the head per frame, and its number of frames."""
        check_call(self, tokens, cond)
        hole_key, condition_key, noise_key, dropout_key, head_key = jax.random.split(key, 5)
        share = 0.0 if self.deterministic else self.config.infill_share
        is_known = draw_known(hole_key, tokens.is_valid, share)
        noise_key = None if self.deterministic else noise_key
        hidden, latents, is_target = self._hidden(
            tokens, cond, is_known, condition_key, noise_key, dropout_key
        )
        losses = jnp.where(is_target, self.head.loss(hidden, latents, key=head_key), 0)
        weight = tokens.num_frames.astype(jnp.float32)
        return LossOut(losses.sum(axis=1) / jnp.maximum(weight, 1), weight, {})

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: LatentARSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw latents; the frames that the prompt knows are kept.

        Raises:
            GenlabError: if frames follow a hole and the model was trained with infill_share=0, or
                the sampler asks for guidance and the head has none.
        """
        check_sample(self, cond, num_frames, sampler, LatentARSampler, prompt)
        self.config.check_guidance(sampler)
        refuse_untrained_holes(prompt, self.config.infill_share)
        latents = _sample_latents(self, cond, num_frames, key, prompt, sampler)
        calls = self.config.num_calls(sampler, latents.shape[1]) * (num_copies(sampler))
        return SampleOut(make_tokens(latents=latents, num_frames=num_frames), calls)

    def score(
        self,
        tokens: Tokens,
        cond: Cond,
        *,
        key: Key[Array, ""],
        num_draws: int = 1,
        width: float | Array = 1.0,
    ) -> ScoreOut:
        """Refuse: a head without a density says nothing of the bits of codes.

        Raises:
            GenlabError: always.
        """
        raise GenlabError(
            f"score: decoder.head.kind={self.config.head.kind!r} draws latents but has no "
            "density, so codes have no bits under it; use decoder.head.kind='gmm', or compare by "
            "the energy of the next block"
        )

    def stream(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: LatentARSampler,
        chunk_frames: int,
        prompt: Prompt | None = None,
    ) -> Iterator[Float[Array, "b c d"]]:
        """Return the latents of `sample` in chunks, each drawn when asked for; a hole in the prompt
        is refused.
        """
        check_sample(self, cond, num_frames, sampler, LatentARSampler, prompt)
        self.config.check_guidance(sampler)
        refuse_holes(prompt)
        _, plan, first_carry, frames = _begin(self, cond, num_frames, key, prompt, sampler)

        def chunks(carry):
            for first in range(0, cond.content.shape[1], chunk_frames):
                chunk = jax.tree.map(
                    lambda array, first=first: array[first : first + chunk_frames], frames
                )
                carry, latents = _draw_frames(self, plan, carry, chunk, sampler)
                yield latents

        return chunks(first_carry)

    def _hidden(
        self,
        tokens: Tokens,
        cond: Cond,
        is_known: Bool[Array, "b t"],
        condition_key: Key[Array, ""] | None,
        noise_key: Key[Array, ""] | None,
        dropout_key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "b t h"], Float[Array, "b t d"], Bool[Array, "b t"]]:
        """Return hidden vectors, latents and which of them count, all in visiting order."""
        is_valid = tokens.is_valid
        order = visiting_order(is_known, is_valid)
        latents = visit(jnp.where(is_valid[:, :, None], read_latents(tokens), 0), order)
        conditions = self.conditioner(cond, is_valid, key=condition_key)
        features = visit(conditions.frames, order)
        previous = self.embed(self._noisy(latents[:, :-1], noise_key).astype(features.dtype))
        begin = jnp.broadcast_to(
            self.begin[...].astype(features.dtype), (latents.shape[0], 1, features.shape[2])
        )
        hidden = self.backbone(
            jnp.concatenate([begin, previous], axis=1) + features,
            positions=order,
            is_valid=jnp.ones(order.shape, bool),
            text=conditions.text,
            clip=conditions.clip,
            key=dropout_key,
        )
        return hidden, latents, visit(is_valid, order)

    def _noisy(
        self, latents: Float[Array, "b t d"], key: Key[Array, ""] | None
    ) -> Float[Array, "b t d"]:
        if key is None or self.config.context_noise == 0:
            return latents
        share_key, noise_key = jax.random.split(key)
        share = jax.random.uniform(
            share_key, (*latents.shape[:2], 1), maxval=self.config.context_noise
        )
        return jnp.sqrt(1 - share) * latents + jnp.sqrt(share) * jax.random.normal(
            noise_key, latents.shape
        )


class MixtureAR(LatentAR):
    """The family with a mixture head, which alone has a density, and so a bound on the bits of
    codes.
    """

    has_bits: ClassVar[bool] = True
    bound_widths: ClassVar[tuple[float, ...]] = code_given_latent.WIDTHS

    def latent_log_density(self, tokens: Tokens, cond: Cond) -> Float[Array, "b"]:
        """Return the exact log density of each example's latents in nats, frame by frame from the
        left.
        """
        assert isinstance(self.head, GaussianMixtureHead), (
            "build gives this class to mixtures alone"
        )
        hidden, latents, is_target = self._hidden(tokens, cond, tokens.is_valid, None, None, None)
        return jnp.where(is_target, self.head.log_density(hidden, latents), 0).sum(axis=1)

    def score(
        self,
        tokens: Tokens,
        cond: Cond,
        *,
        key: Key[Array, ""],
        num_draws: int = 1,
        width: float | Array = 1.0,
    ) -> ScoreOut:
        """Return an upper bound on the bits of each example's codes, from `num_draws` draws of
        latents around them.

        The latents are drawn, see `noise/code_given_latent.py`; one draw says nothing of the error
        and gives inf.

        Raises:
            GenlabError: if the decoder was built without the codec's entries.
        """
        check_call(self, tokens, cond, reads="codes")
        bits = _bound_nats(self, tokens, cond, jax.random.split(key, num_draws), width) / jnp.log(
            2.0
        )
        error = (
            jnp.full(bits.shape[1:], jnp.inf)
            if num_draws == 1
            else bits.std(axis=0, ddof=1) / num_draws**0.5
        )
        return ScoreOut(bits.mean(axis=0), error, "upper bound")


@jax.jit
def _bound_nats(
    model: MixtureAR,
    tokens: Tokens,
    cond: Cond,
    keys: Key[Array, "n"],
    width: code_given_latent.Width,
) -> Float[Array, "n b"]:
    """Return unbiased draws of the bound on -log p(codes)."""
    codes = read_codes(tokens)
    vectors = code_given_latent.read_entries(model.code_vectors)
    std = code_given_latent.posterior_std(vectors, width)
    variances = code_given_latent.level_variances(vectors, std)

    def draw_bound(key):
        latents, log_posterior = code_given_latent.draw_latents(key, codes, vectors, std)
        paid_back = code_given_latent.code_log_probability(codes, latents, vectors, variances)
        per_frame = jnp.where(tokens.is_valid, log_posterior - paid_back, 0)
        return per_frame.sum(axis=1) - model.latent_log_density(
            tokens._replace(latents=latents), cond
        )

    return lax.map(draw_bound, keys)


@functools.partial(jax.jit, static_argnames="sampler")
def _sample_latents(
    model: LatentAR,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: LatentARSampler,
) -> Float[Array, "b t d"]:
    order, plan, carry, frames = _begin(model, cond, num_frames, key, prompt, sampler)
    _, latents = _draw_frames(model, plan, carry, frames, sampler)
    return visit(latents, jnp.argsort(order, axis=1))


@functools.partial(jax.jit, static_argnames="sampler")
def _begin(
    model: LatentAR,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: LatentARSampler,
) -> tuple[Int[Array, "b t"], DecodePlan, _Carry, _Frames]:
    """Return the visiting order and all that the loop over frames needs."""
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    is_known = jnp.zeros_like(is_valid) if prompt is None else prompt.is_known & is_valid
    known = (
        jnp.zeros((b, t, model.spec.latent_channels))
        if prompt is None
        else read_latents(prompt.tokens)
    )
    order = visiting_order(is_known, is_valid)

    copies = num_copies(sampler)
    conditions = model.conditioner(
        with_unconditional(cond, sampler), jnp.repeat(is_valid, copies, axis=0)
    )
    plan, cache = model.backbone.start(copies * b, t, conditions.text, conditions.clip)
    # What the loop must not draw: known latents, and zeros outside the clip.
    given = jnp.where(is_known[:, :, None], known, 0)
    visits = jnp.repeat(order, copies, axis=0)
    by_frame = (
        visit(conditions.frames, visits),
        visits,
        visit(given, order),
        visit(is_known | ~is_valid, order),
    )
    # b t ... -> t b ..., since the loop scans the first axis
    features, positions, given, is_given = (jnp.moveaxis(array, 1, 0) for array in by_frame)
    frames = _Frames(features, positions, given, is_given, jax.random.split(key, t))
    begin = jnp.broadcast_to(
        model.begin[...].astype(conditions.frames.dtype), frames.features.shape[1:]
    )
    return order, plan, _Carry(cache, begin), frames


@functools.partial(jax.jit, static_argnames="sampler")
def _draw_frames(
    model: LatentAR, plan: DecodePlan, carry: _Carry, frames: _Frames, sampler: LatentARSampler
) -> tuple[_Carry, Float[Array, "b c d"]]:
    """Draw the next frames in visiting order."""

    def step(carry: _Carry, frame: PyTree):
        x = (carry.embedded + frame.features)[:, None]
        hidden, cache = model.backbone.extend(
            x, plan, carry.cache, positions=frame.positions[:, None]
        )
        drawn = model.head.draw(frame.keys, hidden[:, 0], sampler)
        latents = jnp.where(frame.is_given[:, None], frame.given, drawn)
        copies = hidden.shape[0] // latents.shape[0]
        return _Carry(
            cache, model.embed(jnp.repeat(latents, copies, axis=0).astype(hidden.dtype))
        ), latents

    carry, latents = lax.scan(step, carry, frames)
    # t b d -> b t d
    return carry, jnp.moveaxis(latents, 0, 1)
