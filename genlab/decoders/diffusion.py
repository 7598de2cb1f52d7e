"""Diffusion decoder over normalised latents: a diffusion transformer trained by flow matching.

In: latents "b t d" of zero mean and unit variance. The network sees a noisy clip and its noise level (DiT,
2212.09748) and predicts the velocity of the path from clean to noise (2210.02747). The loss is the mean squared error
over frames and channels. Sampling integrates the velocity from pure noise, level 1, to level 0 in one compiled loop.
Known frames follow their own straight path from the noise to the prompt, which is replacement at every level, and
come back exactly.
"""

import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config
from genlab.decoders.base import Cond, LossOut, Prompt, SampleCost, SampleOut
from genlab.decoders.conditioning import (
    ConditionConfig,
    Conditioner,
    Conditions,
    CondVocab,
    condition_flops,
    guide,
    with_unconditional,
)
from genlab.decoders.paths import StraightPath
from genlab.decoders.schedules import LevelDraw, LogitNormalLevels, level_grid
from genlab.decoders.solvers import Euler, Solver
from genlab.nets.backbone import Backbone, BackboneConfig, backbone_flops
from genlab.nets.linear import Linear
from genlab.tokens import Tokens, TokenSpec, make_tokens, read_latents

# Sinusoids that describe the noise level to the network.
LEVEL_CHANNELS = 256


class DiffusionSampler(Config):
    """How latents are drawn: `steps` of the solver on a grid of noise levels; `guidance` 1 is off."""

    kind: Literal["diffusion"] = "diffusion"
    solver: Solver = Euler()
    steps: int = pydantic.Field(default=32, gt=0)
    shift: float = pydantic.Field(default=1.0, gt=0)
    guidance: float = pydantic.Field(default=1.0, ge=0)


class DiffusionConfig(Config):
    """The latent diffusion family. `levels` draws the noise level of each training example."""

    kind: Literal["diffusion"] = "diffusion"
    path: StraightPath = StraightPath()
    levels: LevelDraw = LogitNormalLevels()

    def build(
        self,
        spec: TokenSpec,
        vocab: CondVocab,
        backbone: BackboneConfig,
        condition: ConditionConfig,
        *,
        key: Key[Array, ""],
        code_vectors: Float[Array, "k v d"] | None = None,
    ) -> "Diffusion":
        """Return the decoder with fresh weights, made in one compiled call. Latents need no `code_vectors`."""
        return jax.jit(lambda key: Diffusion(self, spec, vocab, backbone, condition, key=key))(key)

    def train_flops_per_clip(
        self,
        spec: TokenSpec,
        backbone: BackboneConfig,
        condition: ConditionConfig,
        *,
        num_frames: int,
        num_symbols: int = 0,
    ) -> float:
        """Return the FLOPs of one loss and its gradient over one clip: three forward passes, less unused gradients."""
        forward = condition_flops(condition, backbone, num_frames, num_symbols) + _call_flops(
            spec, backbone, condition, num_frames, num_symbols
        )
        # Latents and sinusoids are data: nothing is propagated into them.
        first_layers = 2 * backbone.width * (num_frames * spec.latent_channels + LEVEL_CHANNELS)
        return 3 * forward - first_layers

    def sample_cost(
        self,
        sampler: DiffusionSampler,
        spec: TokenSpec,
        backbone: BackboneConfig,
        condition: ConditionConfig,
        *,
        num_frames: int,
        num_symbols: int = 0,
    ) -> SampleCost:
        """Return the cost of drawing one clip."""
        steps = sampler.steps * sampler.solver.calls_per_step
        copies = 1 if sampler.guidance == 1 else 2
        flops = condition_flops(condition, backbone, num_frames, num_symbols) + steps * _call_flops(
            spec, backbone, condition, num_frames, num_symbols
        )
        return SampleCost(copies * steps, copies * flops)


class Diffusion(nnx.Module):
    """Latent projection, bidirectional backbone modulated by the noise level, velocity head."""

    reads: ClassVar[Literal["codes", "latents"]] = "latents"

    def __init__(
        self,
        config: DiffusionConfig,
        spec: TokenSpec,
        vocab: CondVocab,
        backbone: BackboneConfig,
        condition: ConditionConfig,
        *,
        key: Key[Array, ""],
    ):
        embed_key, condition_key, backbone_key, level_key, head_key = jax.random.split(key, 5)
        self.config = config
        self.spec = spec
        self.embed = Linear(spec.latent_channels, backbone.width, key=embed_key)
        self.conditioner = Conditioner(condition, vocab, backbone, key=condition_key)
        self.backbone = Backbone(backbone, key=backbone_key, is_modulated=True, text_route=condition.text_route)
        self.level_embedding = LevelEmbedding(backbone.width, key=level_key)
        self.head = Linear(backbone.width, spec.latent_channels, key=head_key, scale=0.0)

    def loss(self, tokens: Tokens, cond: Cond, *, key: Key[Array, ""]) -> LossOut:
        """Return the mean squared velocity error of each example, weighted by its number of latent values."""
        level_key, noise_key, condition_key, dropout_key = jax.random.split(key, 4)
        is_valid = tokens.is_valid
        clean = read_latents(tokens)
        noise = jax.random.normal(noise_key, clean.shape)
        level = self.config.levels.draw(level_key, clean.shape[0])
        conditions = self.conditioner(cond, is_valid, key=condition_key)
        noisy = self.config.path.noisy(clean, noise, level)
        velocity = self._velocity(noisy, level, conditions, is_valid, key=dropout_key)
        errors = jnp.square(velocity - self.config.path.velocity(clean, noise))
        errors = jnp.where(is_valid[:, :, None], errors, 0).sum(axis=(1, 2))
        weight = (tokens.num_frames * clean.shape[2]).astype(jnp.float32)
        return LossOut(errors / jnp.maximum(weight, 1), weight, {"noise_level": level})

    def sample(
        self,
        cond: Cond,
        *,
        num_frames: Int[Array, "b"],
        key: Key[Array, ""],
        sampler: DiffusionSampler,
        prompt: Prompt | None = None,
    ) -> SampleOut:
        """Draw latents; the frames that the prompt knows are kept, whatever their pattern."""
        latents = _sample_latents(self, cond, num_frames, key, prompt, sampler)
        steps = sampler.steps * sampler.solver.calls_per_step
        tokens = make_tokens(latents=latents, num_frames=num_frames)
        return SampleOut(tokens, steps * (1 if sampler.guidance == 1 else 2))

    def _velocity(
        self,
        noisy: Float[Array, "b t d"],
        level: Float[Array, "b"],
        conditions: Conditions,
        is_valid: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        positions = jnp.broadcast_to(jnp.arange(is_valid.shape[1])[None, :], is_valid.shape)
        hidden = self.backbone(
            self.embed(noisy.astype(conditions.frames.dtype)) + conditions.frames,
            positions=positions,
            is_valid=is_valid,
            text=conditions.text,
            clip=self.level_embedding(level) + (0 if conditions.clip is None else conditions.clip),
            key=key,
        )
        return self.head(hidden).astype(jnp.float32)


class LevelEmbedding(nnx.Module):
    """Sinusoids of the noise level through a two-layer network, in float32."""

    def __init__(self, width: int, *, key: Key[Array, ""]):
        in_key, out_key = jax.random.split(key)
        self.project_in = Linear(LEVEL_CHANNELS, width, key=in_key)
        self.project_out = Linear(width, width, key=out_key)

    def __call__(self, level: Float[Array, "b"]) -> Float[Array, "b h"]:
        """Return the embedding of each level."""
        # Angles of 1000 * level, from a period of 2 pi / 1000 up to 20 pi levels (DDPM, 2006.11239).
        rates = 1000.0 * 10_000.0 ** -jnp.linspace(0, 1, LEVEL_CHANNELS // 2)
        angles = level[:, None] * rates[None, :]
        sinusoids = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return self.project_out(jax.nn.silu(self.project_in(sinusoids)))


@functools.partial(jax.jit, static_argnames="sampler")
def _sample_latents(
    model: Diffusion,
    cond: Cond,
    num_frames: Int[Array, "b"],
    key: Key[Array, ""],
    prompt: Prompt | None,
    sampler: DiffusionSampler,
) -> Float[Array, "b t d"]:
    b, t = cond.content.shape
    is_valid = jnp.arange(t)[None, :] < num_frames[:, None]
    noise = jax.random.normal(key, (b, t, model.spec.latent_channels))
    is_known = jnp.zeros((b, t, 1), bool) if prompt is None else (prompt.is_known & is_valid)[:, :, None]
    known = jnp.zeros_like(noise) if prompt is None else read_latents(prompt.tokens)

    copies = 1 if sampler.guidance == 1 else 2
    is_attended = jnp.tile(is_valid, (copies, 1))
    conditions = model.conditioner(cond if copies == 1 else with_unconditional(cond), is_attended)

    def velocity(noisy, level):
        levels = jnp.broadcast_to(level, (copies * b,))
        predicted = model._velocity(jnp.tile(noisy, (copies, 1, 1)), levels, conditions, is_attended)
        predicted = predicted if copies == 1 else guide(predicted, sampler.guidance)
        return jnp.where(is_known, model.config.path.velocity(known, noise), predicted)

    latents = sampler.solver.solve(velocity, noise, jnp.asarray(level_grid(sampler.steps, sampler.shift)))
    return jnp.where(is_valid[:, :, None], jnp.where(is_known, known, latents), 0)


def _call_flops(
    spec: TokenSpec, backbone: BackboneConfig, condition: ConditionConfig, num_frames: int, num_symbols: int
) -> float:
    edges = 4 * num_frames * backbone.width * spec.latent_channels
    level = 2 * backbone.width * (LEVEL_CHANNELS + backbone.width)
    text = {"text_route": condition.text_route, "num_symbols": num_symbols}
    return backbone_flops(backbone, num_frames, is_modulated=True, **text) + edges + level
