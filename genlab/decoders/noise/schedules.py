"""Noise-level schedules: how much is hidden in training, and in which order a sampler visits the
levels.

The noise level runs from 0 (clean) to 1 (all hidden, or pure noise) for masked and Gaussian
corruption alike. A `Hiding` schedule turns progress into the share of frames that stay hidden; a
`LevelDraw` draws training levels for the Gaussian path; `level_grid` lists the levels that a solver
steps through.

Papers: cosine hiding, MaskGIT 2202.04200 section 3.3; logit-normal draws and the shifted grid,
Stable Diffusion 3 2403.03206.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import Array, Float, Key

from genlab.config import Config


class CosineHiding(Config):
    """The share of frames still hidden is cos(pi/2 progress): 1 at progress 0, 0 at progress 1."""

    kind: Literal["cosine"] = "cosine"

    def hidden_share(self, progress: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Return the share hidden at `progress`."""
        # Exactly 0 at the end: cos(pi/2) in float32 is not.
        return jnp.where(progress >= 1, 0.0, jnp.cos(jnp.pi / 2 * progress))

    def progress_at(self, share: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Return the progress at which `share` is hidden."""
        return 2 / jnp.pi * jnp.arccos(share)

    def hiding_rate(self, progress: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Return how fast the hidden share falls at `progress`."""
        return jnp.pi / 2 * jnp.sin(jnp.pi / 2 * progress)


class LinearHiding(Config):
    """The share of frames still hidden is 1 - progress."""

    kind: Literal["linear"] = "linear"

    def hidden_share(self, progress: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Return the share hidden at `progress`."""
        return 1 - progress

    def progress_at(self, share: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Return the progress at which `share` is hidden."""
        return 1 - share

    def hiding_rate(self, progress: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Return how fast the hidden share falls at `progress`."""
        return jnp.ones_like(progress)


class PowerHiding(Config):
    """The share still hidden is (1 - progress) ** power."""

    kind: Literal["power"] = "power"
    power: float = pydantic.Field(default=2.0, gt=0, le=1000)
    """Above 1, more of the progress is spent near clean codes."""

    def hidden_share(self, progress: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Return the share hidden at `progress`."""
        return (1 - progress) ** self.power

    def progress_at(self, share: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Return the progress at which `share` is hidden."""
        return 1 - share ** (1 / self.power)

    def hiding_rate(self, progress: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Return how fast the hidden share falls at `progress`."""
        return self.power * (1 - progress) ** (self.power - 1)


Hiding = Annotated[CosineHiding | LinearHiding | PowerHiding, pydantic.Field(discriminator="kind")]


class UniformLevels(Config):
    """Every noise level equally often."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, key: Key[Array, ""], num_examples: int) -> Float[Array, "b"]:
        """Return one level in (0, 1) per example."""
        return jax.random.uniform(key, (num_examples,), minval=1e-5, maxval=1.0)


class LogitNormalLevels(Config):
    """sigmoid(mean + std * normal): middle levels more often than the ends."""

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = pydantic.Field(default=0.0, ge=-1000, le=1000)
    """Mean before the sigmoid; above 0 prefers noisy levels."""
    std: float = pydantic.Field(default=1.0, gt=0, le=1000)
    """Standard deviation before the sigmoid."""

    def draw(self, key: Key[Array, ""], num_examples: int) -> Float[Array, "b"]:
        """Return one level in (0, 1) per example."""
        return jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, (num_examples,)))


LevelDraw = Annotated[UniformLevels | LogitNormalLevels, pydantic.Field(discriminator="kind")]


def level_grid(num_steps: int, shift: float = 1.0) -> np.ndarray:
    """Return num_steps + 1 noise levels from 1 to 0; a shift above 1 spends more steps near pure
    noise.

    Eq. 23 of 2403.03206: level' = shift * level / (1 + (shift - 1) * level).
    """
    levels = np.linspace(1.0, 0.0, num_steps + 1)
    return shift * levels / (1 + (shift - 1) * levels)
