"""Heads of continuous frames: what a hidden vector says about the latent of its frame.

In: hidden vectors "b t h" and, for training, latents "b t d". Out: a loss per frame "b t", or one
drawn latent per hidden vector. Each head is a config, which is the choice, and a module, which
holds the weights:

    gmm     a mixture of diagonal Gaussians with its exact density (GIVT, 2312.02116)
    flow    a residual network that carries noise to the latent along a learned velocity (MAR,
            2406.11838, with flow matching, 2210.02747, in the place of DDPM); several noise draws
            share one hidden vector
    energy  a residual network that turns the hidden vector and noise into a latent, trained by the
            energy score (SLED, 2505.13181; a proper scoring rule, Gneiting and Raftery 2007)

The residual networks are MAR's: blocks modulated by adaLN-zero, here with RMSNorm.
"""

from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Key

from genlab.config import Config
from genlab.decoders.guidance import guide, num_copies
from genlab.decoders.noise.denoisers import LEVEL_CHANNELS, LevelEmbedding
from genlab.decoders.noise.schedules import LevelDraw, LogitNormalLevels
from genlab.machine.sharding import COLUMNS, ROWS
from genlab.nets.linear import Linear
from genlab.nets.norm import RMSNorm

# The spread of the first means, weights and log deviations: components that start equal would stay
# equal.
FIRST_SPREAD = 0.3
# Euler steps of a flow head's bare law. From 8 to 16 the energy of a small trained mar moved by
# -0.0002 +- 0.0004 (sweeps/bare_steps.py).
BARE_STEPS = 32


@runtime_checkable
class HeadSampler(Protocol):
    """How a decoder draws from its head."""

    @property
    def temperature(self) -> float:
        """Scales the noise that is drawn."""
        ...

    @property
    def steps(self) -> int:
        """Of solving a flow."""
        ...

    @property
    def guidance(self) -> float:
        """1 is off."""
        ...


class GaussianMixture(Config):
    """A mixture of diagonal Gaussians."""

    kind: Literal["gmm"] = "gmm"
    loss_unit: ClassVar[str] = "nats_per_frame"
    components: int = pydantic.Field(default=16, gt=0, le=1024)
    """Components of the mixture."""
    min_std: float = pydantic.Field(default=0.01, gt=0)
    """Least standard deviation of a component, which bounds the density. Latents are normalised, so
    0.01 is a hundredth of their deviation; GIVT has 1e-6.
    """
    takes_guidance: ClassVar[bool] = False

    def build(self, width: int, channels: int, *, key: Key[Array, ""]) -> "GaussianMixtureHead":
        """Return the head with fresh weights."""
        return GaussianMixtureHead(self, width, channels, key=key)

    def train_flops(self, width: int, channels: int) -> float:
        """Return the FLOPs of one frame's loss and its gradient."""
        return 3 * self.draw_flops(width, channels, None)

    def draw_flops(self, width: int, channels: int, sampler: HeadSampler | None) -> float:
        """Return the FLOPs of drawing one frame."""
        return 2.0 * width * self.components * (1 + 2 * channels)

    def draw_calls(self, sampler: HeadSampler) -> int:
        """Return the sequential calls of drawing one frame: none beside the backbone's, the head is
        one product.
        """
        return 0


class GaussianMixtureHead(nnx.Module):
    """One product from the hidden vector to weights, means and standard deviations."""

    def __init__(self, config: GaussianMixture, width: int, channels: int, *, key: Key[Array, ""]):
        self.config = config
        self.channels = channels
        self.project = Linear(
            width, config.components * (1 + 2 * channels), key=key, scale=FIRST_SPREAD
        )

    def loss(
        self, hidden: Float[Array, "b t h"], latents: Float[Array, "b t d"], *, key: Key[Array, ""]
    ) -> Float[Array, "b t"]:
        """Return -log p of each frame in nats; nothing is drawn."""
        return -self.log_density(hidden, latents)

    def log_density(
        self, hidden: Float[Array, "b t h"], latents: Float[Array, "b t d"]
    ) -> Float[Array, "b t"]:
        """Return the exact log density of each frame in nats."""
        log_weights, means, stds = self._components(hidden)
        squares = jnp.square((latents[:, :, None] - means) / stds)
        log_normals = -0.5 * (squares + jnp.log(2 * jnp.pi)) - jnp.log(stds)
        return jax.nn.logsumexp(log_weights + log_normals.sum(axis=-1), axis=-1)

    def draw(
        self, key: Key[Array, ""], hidden: Float[Array, "b h"], sampler: HeadSampler
    ) -> Float[Array, "b d"]:
        """Draw a component, then a latent from it; temperature scales its deviation."""
        component_key, noise_key = jax.random.split(key)
        log_weights, means, stds = (parts[:, 0] for parts in self._components(hidden[:, None]))
        drawn = jax.random.categorical(component_key, log_weights)[:, None, None]
        mean, std = (jnp.take_along_axis(parts, drawn, axis=1)[:, 0] for parts in (means, stds))
        return mean + sampler.temperature * std * jax.random.normal(noise_key, mean.shape)

    def _components(
        self, hidden: Float[Array, "b t h"]
    ) -> tuple[Float[Array, "b t m"], Float[Array, "b t m d"], Float[Array, "b t m d"]]:
        """Return log weights, means and standard deviations of the m components; deviations start
        near 1.
        """
        m = self.config.components
        d = self.channels
        weights, means, stds = jnp.split(
            self.project(hidden).astype(jnp.float32), [m, m + m * d], axis=-1
        )
        shape = (*hidden.shape[:2], m, d)
        stds = self.config.min_std + jax.nn.softplus(stds.reshape(shape) + jnp.log(jnp.e - 1))
        return jax.nn.log_softmax(weights, axis=-1), means.reshape(shape), stds


class FlowMatching(Config):
    """A flow on the straight path from latent (level 0) to noise (level 1)."""

    kind: Literal["flow"] = "flow"
    loss_unit: ClassVar[str] = "mse_of_velocity"
    width: int = pydantic.Field(default=256, gt=0)
    """Channels of the head's MLP."""
    layers: int = pydantic.Field(default=3, gt=0, le=1024)
    """Layers of the MLP."""
    draws: int = pydantic.Field(default=4, gt=0, le=1024)
    """Noise levels that each frame is trained on; they share its hidden vector."""
    levels: LevelDraw = LogitNormalLevels()
    """Draws the noise levels of training."""
    takes_guidance: ClassVar[bool] = True

    def build(self, width: int, channels: int, *, key: Key[Array, ""]) -> "FlowMatchingHead":
        """Return the head with fresh weights."""
        return FlowMatchingHead(self, width, channels, key=key)

    def train_flops(self, width: int, channels: int) -> float:
        """Return the FLOPs of one frame's loss and gradient: one condition, `draws` velocities."""
        # Noisy latents and sinusoids are data: nothing is propagated into them.
        first_layers = 2 * self.width * (channels + LEVEL_CHANNELS)
        return 6.0 * width * self.width + self.draws * (
            3 * self._velocity_flops(channels) - first_layers
        )

    def draw_flops(self, width: int, channels: int, sampler: HeadSampler) -> float:
        """Return the FLOPs of drawing one frame."""
        return 2.0 * width * self.width + self.draw_calls(sampler) * self._velocity_flops(channels)

    def draw_calls(self, sampler: HeadSampler) -> int:
        """Return the sequential calls of drawing one frame."""
        return sampler.steps

    def _velocity_flops(self, channels: int) -> float:
        level = 2 * self.width * (LEVEL_CHANNELS + self.width)
        return 2 * self.width * channels + level + _network_flops(self.width, self.layers, channels)


class FlowMatchingHead(nnx.Module):
    """A velocity network on a noisy latent, modulated by the hidden vector and the noise level."""

    def __init__(self, config: FlowMatching, width: int, channels: int, *, key: Key[Array, ""]):
        embed_key, condition_key, level_key, network_key = jax.random.split(key, 4)
        self.config = config
        self.channels = channels
        self.embed = Linear(channels, config.width, key=embed_key)
        self.condition = Linear(width, config.width, key=condition_key)
        self.level_embedding = LevelEmbedding(config.width, key=level_key)
        self.network = _ModulatedNetwork(config.width, config.layers, channels, key=network_key)

    def loss(
        self, hidden: Float[Array, "b t h"], latents: Float[Array, "b t d"], *, key: Key[Array, ""]
    ) -> Float[Array, "b t"]:
        """Return each frame's mean squared velocity error over channels and noise draws."""
        level_key, noise_key = jax.random.split(key)
        (b, t, d), m = latents.shape, self.config.draws
        # Each row is one draw of one frame: [(b t m) 1 d]
        clean = jnp.repeat(latents.reshape(b * t, 1, d), m, axis=0)
        condition = jnp.repeat(self.condition(hidden).reshape(b * t, self.config.width), m, axis=0)
        noise = jax.random.normal(noise_key, clean.shape)
        level = self.config.levels.draw(level_key, clean.shape[0])
        noisy = clean + level[:, None, None] * (noise - clean)
        errors = jnp.square(self._velocity(noisy, level, condition) - (noise - clean))
        return errors.reshape(b, t, m * d).mean(axis=-1)

    def draw(
        self, key: Key[Array, ""], hidden: Float[Array, "b2 h"], sampler: HeadSampler
    ) -> Float[Array, "b d"]:
        """Integrate the velocity from noise, scaled by the temperature; guidance reads a doubled
        batch.
        """
        copies = num_copies(sampler)
        condition = self.condition(hidden)
        noise = sampler.temperature * jax.random.normal(
            key, (hidden.shape[0] // copies, 1, self.channels)
        )

        def step(noisy, level):
            levels = jnp.broadcast_to(level, hidden.shape[:1])
            velocity = self._velocity(jnp.repeat(noisy, copies, axis=0), levels, condition)
            return noisy - guide(velocity, sampler) / sampler.steps, None

        return lax.scan(step, noise, jnp.arange(sampler.steps, 0, -1) / sampler.steps)[0][:, 0]

    def _velocity(
        self, noisy: Float[Array, "r 1 d"], level: Float[Array, "r"], condition: Float[Array, "r w"]
    ) -> Float[Array, "r 1 d"]:
        condition = condition + self.level_embedding(level).astype(condition.dtype)
        return self.network(self.embed(noisy.astype(condition.dtype)), condition[:, None]).astype(
            jnp.float32
        )


class EnergyScore(Config):
    """An implicit sampler trained on several draws per frame."""

    kind: Literal["energy"] = "energy"
    loss_unit: ClassVar[str] = "energy_score"
    width: int = pydantic.Field(default=256, gt=0)
    """Channels of the head's MLP."""
    layers: int = pydantic.Field(default=3, gt=0, le=1024)
    """Layers of the MLP."""
    noise_channels: int = pydantic.Field(default=64, gt=0)
    """Channels of the noise that the sampler transforms."""
    samples: int = pydantic.Field(default=2, ge=2, le=1024)
    """Draws per training frame."""
    beta: float = pydantic.Field(default=1.0, gt=0, lt=2)
    """Power of the distance, below 2 for the score to be strictly proper: at 2 only the mean would
    count.
    """
    takes_guidance: ClassVar[bool] = False

    def build(self, width: int, channels: int, *, key: Key[Array, ""]) -> "EnergyScoreHead":
        """Return the head with fresh weights."""
        return EnergyScoreHead(self, width, channels, key=key)

    def train_flops(self, width: int, channels: int) -> float:
        """Return the FLOPs of one frame's loss and its gradient."""
        # Noise is data: nothing is propagated into it.
        noise = 2 * 2 * self.noise_channels * self.width
        network = 3 * _network_flops(self.width, self.layers, channels)
        return 6.0 * width * self.width + self.samples * (noise + network)

    def draw_flops(self, width: int, channels: int, sampler: HeadSampler) -> float:
        """Return the FLOPs of drawing one frame."""
        inputs = 2.0 * self.width * (width + self.noise_channels)
        return inputs + _network_flops(self.width, self.layers, channels)

    def draw_calls(self, sampler: HeadSampler) -> int:
        """Return the sequential calls of drawing one frame."""
        return 1


class EnergyScoreHead(nnx.Module):
    """A network on the hidden vector, modulated by noise, whose output is the latent."""

    def __init__(self, config: EnergyScore, width: int, channels: int, *, key: Key[Array, ""]):
        embed_key, noise_key, network_key = jax.random.split(key, 3)
        self.config = config
        self.embed = Linear(width, config.width, key=embed_key)
        self.noise = Linear(config.noise_channels, config.width, key=noise_key)
        # Noise must reach the output from the start: samples that agree have nothing to push them
        # apart.
        self.network = _ModulatedNetwork(
            config.width, config.layers, channels, key=network_key, first_modulation=1.0
        )

    def loss(
        self, hidden: Float[Array, "b t h"], latents: Float[Array, "b t d"], *, key: Key[Array, ""]
    ) -> Float[Array, "b t"]:
        """Return the energy score of each frame, estimated without bias from the samples."""
        (b, t, _), n = hidden.shape, self.config.samples
        noise = jax.random.normal(key, (b * t, n, self.config.noise_channels))
        embedded = jnp.repeat(self.embed(hidden).reshape(b * t, 1, self.config.width), n, axis=1)
        # (b t) n d -> b t n d
        samples = self._latents(embedded, noise).reshape(b, t, n, -1)
        return energy_score(samples, latents, self.config.beta)

    def draw(
        self, key: Key[Array, ""], hidden: Float[Array, "b h"], sampler: HeadSampler
    ) -> Float[Array, "b d"]:
        """Draw a latent from noise scaled by the temperature; at 0 every frame is the one without
        noise.
        """
        noise = sampler.temperature * jax.random.normal(
            key, (hidden.shape[0], 1, self.config.noise_channels)
        )
        return self._latents(self.embed(hidden)[:, None], noise)[:, 0]

    def _latents(
        self, embedded: Float[Array, "r n w"], noise: Float[Array, "r n c"]
    ) -> Float[Array, "r n d"]:
        return self.network(embedded, self.noise(noise.astype(embedded.dtype))).astype(jnp.float32)


def energy_score(
    samples: Float[Array, "b t n d"], truth: Float[Array, "b t d"], beta: float = 1.0
) -> Float[Array, "b t"]:
    """Return mean |sample - truth|^beta - half the mean |sample - other sample|^beta, which is
    least at the truth.

    Eq. 22 of Gneiting and Raftery (2007) with its sign turned, so that lower is better; SLED's loss
    is twice it.
    """
    first, second = np.triu_indices(samples.shape[2], 1)
    to_truth = _distance(samples, truth[:, :, None], beta).mean(axis=-1)
    return to_truth - 0.5 * _distance(samples[:, :, first], samples[:, :, second], beta).mean(
        axis=-1
    )


def _distance(
    one: Float[Array, "b t n d"], other: Float[Array, "b t #n d"], beta: float
) -> Float[Array, "b t n"]:
    # The small term keeps the gradient finite where two points agree.
    return (jnp.square(one - other).sum(axis=-1) + 1e-12) ** (beta / 2)


class _ModulatedNetwork(nnx.Module):
    """Residual blocks of two products, each normalised, shifted, scaled and gated by a condition,
    then an output.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        outputs: int,
        *,
        key: Key[Array, ""],
        first_modulation: float = 0.0,
    ):
        modulation_key, *keys = jax.random.split(key, 1 + 2 * layers)
        self.modulation = Linear(
            width, (2 + 3 * layers) * width, key=modulation_key, scale=first_modulation
        )
        self.norms = nnx.List([RMSNorm(width) for _ in range(layers + 1)])
        inner = [Linear(width, width, key=key, split=COLUMNS) for key in keys[:layers]]
        outer = [Linear(width, width, key=key, split=ROWS) for key in keys[layers:]]
        self.inner = nnx.List(inner)
        self.outer = nnx.List(outer)
        self.project_out = Linear(width, outputs, key=key, scale=0.0)

    def __call__(
        self, x: Float[Array, "r n w"], condition: Float[Array, "r n w"]
    ) -> Float[Array, "r n o"]:
        """Return the outputs for each row."""
        parts = jnp.split(self.modulation(jax.nn.silu(condition)), 2 + 3 * len(self.inner), axis=-1)
        last_shift, last_scale, *parts = parts
        for layer, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True)):
            shift, scale, gate = parts[3 * layer : 3 * layer + 3]
            x = x + gate * outer(jax.nn.silu(inner(self.norms[layer](x) * (1 + scale) + shift)))
        return self.project_out(self.norms[-1](x) * (1 + last_scale) + last_shift)


def _network_flops(width: int, layers: int, outputs: int) -> float:
    return 2.0 * width * ((2 + 5 * layers) * width + outputs)


Head = Annotated[GaussianMixture | FlowMatching | EnergyScore, pydantic.Field(discriminator="kind")]
