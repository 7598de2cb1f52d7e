"""Noise paths: how clean latents become noise, and what the network is asked to predict on the way.

In: clean latents, Gaussian noise and a noise level from 0 (clean) to 1. Out: noisy latents,
prediction targets, and the clean latents, noise and velocity that a prediction implies. A path is
two functions of the level and one of time:

    noisy = alpha(level) * clean + sigma(level) * noise        velocity = d noisy / d time

Straight (flow matching, 2210.02747; rectified flow, 2209.03003) and cosine (2102.09672 section 3.2
without its offset, 2202.00512) reach pure noise at level 1, and time is the level itself. On the
EDM path (2206.00364) noise is added to clean latents that stay as large as they are, so time is
sigma, without end; its level is sigma / (1 + sigma), the share of the noise in the sum of both
standard deviations, which the straight path has at the same signal-to-noise ratio. Latents are
normalised, so EDM's sigma_data is 1.

Every prediction is a combination of clean latents and noise. With noisy latents, the other one,
these are two equations for two unknowns, so one formula converts between all of them (`recover`);
it fails where the two say the same: predicted noise at alpha = 0, predicted clean latents at sigma
= 0.
"""

import abc
from typing import Annotated, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import Array, Float

from genlab.config import Config, GenlabError
from genlab.decoders.noise.schedules import level_grid

Prediction = Literal["velocity", "v", "noise", "clean"]
Level: TypeAlias = Array | np.ndarray | np.floating | float  # in a program, or of a grid before it
# An array of jax for one of jax, of numpy for one of numpy: no type of a method can say so.
LikeLevel: TypeAlias = Any


class GaussianPath(Config):
    """What the paths share."""

    @property
    @abc.abstractmethod
    def noisiest_level(self) -> float:
        """The highest level that is trained on, where sampling starts from noise alone."""

    @abc.abstractmethod
    def alpha(self, level: Level) -> LikeLevel:
        """Return the factor of the clean latents; like the other functions of the level, for jax
        and numpy alike.
        """

    @abc.abstractmethod
    def sigma(self, level: Level) -> LikeLevel:
        """Return the factor of the noise."""

    @abc.abstractmethod
    def alpha_slope(self, level: Level) -> LikeLevel:
        """Return d alpha / d time."""

    @abc.abstractmethod
    def sigma_slope(self, level: Level) -> LikeLevel:
        """Return d sigma / d time."""

    def time(self, level: Level) -> LikeLevel:
        """Return the time at `level`: what a solver of the velocity integrates over."""
        return level

    def level_at_time(self, time: Level) -> LikeLevel:
        """Return the level at `time`."""
        return time

    @abc.abstractmethod
    def level_at_ratio(self, ratio: Level) -> LikeLevel:
        """Return the level at which sigma / alpha is `ratio`."""

    def input_scale(self, level: Level) -> LikeLevel:
        """Return what noisy latents are multiplied by before the network reads them."""
        return jnp.ones_like(level)

    def embedded(self, level: Level) -> LikeLevel:
        """Return the number that gives the network the level."""
        return level

    @abc.abstractmethod
    def grid(self, num_steps: int, shift: float = 1.0) -> np.ndarray:
        """Return the num_steps + 1 levels that a sampler visits, falling to 0; a shift multiplies
        sigma / alpha.
        """

    def noisy(
        self, clean: Float[Array, "b t d"], noise: Float[Array, "b t d"], level: Float[Array, "b"]
    ) -> Float[Array, "b t d"]:
        """Return the point at `level` between clean and noise."""
        level = level[:, None, None]
        return self.alpha(level) * clean + self.sigma(level) * noise

    def target(
        self,
        predicts: Prediction,
        clean: Float[Array, "b t d"],
        noise: Float[Array, "b t d"],
        level: Float[Array, "b"],
    ) -> Float[Array, "b t d"]:
        """Return what a network that `predicts` this is asked for."""
        of_clean, of_noise = self._parts(predicts, level[:, None, None])
        return of_clean * clean + of_noise * noise

    def recover(
        self,
        predicts: Prediction,
        predicted: Float[Array, "b t d"],
        noisy: Float[Array, "b t d"],
        level: Float[Array, "b"],
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t d"]]:
        """Return the clean latents and the noise that a prediction at `noisy` implies."""
        level = level[:, None, None]
        alpha, sigma = self.alpha(level), self.sigma(level)
        of_clean, of_noise = self._parts(predicts, level)
        determinant = alpha * of_noise - sigma * of_clean
        clean = (of_noise * noisy - sigma * predicted) / determinant
        noise = (alpha * predicted - of_clean * noisy) / determinant
        return clean, noise

    def convert(
        self,
        predicted: Float[Array, "b t d"],
        noisy: Float[Array, "b t d"],
        level: Float[Array, "b"],
        *,
        predicts: Prediction,
        wanted: Prediction,
    ) -> Float[Array, "b t d"]:
        """Return the prediction of one kind as that of another."""
        if predicts == wanted:
            return predicted
        return self.target(wanted, *self.recover(predicts, predicted, noisy, level), level)

    def min_snr_weight(
        self, predicts: Prediction, level: Float[Array, "b"], gamma: float
    ) -> Float[Array, "b"]:
        """Return min-SNR-gamma's weight of the squared error of a prediction (2303.09556, eq. 6).

        The weight is min(snr, gamma) on the squared error of the clean latents, which is (sigma /
        determinant)^2 times the squared error of the prediction: 1 for clean, 1 / snr for noise, 1
        / (snr + 1) for v, level^2 for velocity on the straight path.
        """
        alpha, sigma = self.alpha(level), self.sigma(level)
        of_clean, of_noise = self._parts(predicts, level)
        snr = jnp.square(alpha / jnp.maximum(sigma, 1e-12))
        return jnp.minimum(snr, gamma) * jnp.square(sigma / (alpha * of_noise - sigma * of_clean))

    @abc.abstractmethod
    def check(self, predicts: Prediction) -> None:
        """Refuse a prediction that says nothing on this path.

        Raises:
            ValueError: naming the field, the reason and the way out.
        """

    def is_defined_at_clean(self, predicts: Prediction) -> bool:
        """Return whether the velocity at level 0 follows from a prediction; if not, solvers do not
        ask for it.
        """
        return predicts != "clean"

    def _parts(self, predicts: Prediction, level: Level) -> tuple[LikeLevel, LikeLevel]:
        """Return what a prediction holds of the clean latents and of the noise."""
        one = jnp.ones_like(level)
        if predicts == "velocity":
            return self.alpha_slope(level), self.sigma_slope(level)
        if predicts == "v":
            # 2202.00512 appendix D, at the size it has on a variance-preserving path.
            alpha, sigma = self.alpha(level), self.sigma(level)
            size = jnp.sqrt(jnp.square(alpha) + jnp.square(sigma))
            return -sigma / size, alpha / size
        return (0 * one, one) if predicts == "noise" else (one, 0 * one)


class BoundedPath(GaussianPath):
    """A path that reaches pure noise at level 1, unless it ends before that."""

    last_level: float = pydantic.Field(default=1.0, gt=0, le=1)
    """The noisiest level that training and sampling visit."""

    @property
    def noisiest_level(self) -> float:
        """The last level."""
        return self.last_level

    def check(self, predicts: Prediction) -> None:
        """Refuse "noise" where there is nothing but noise: the clean latents do not follow from it.

        Raises:
            ValueError: naming the field, the reason and the way out.
        """
        if predicts == "noise" and self.alpha(self.last_level) == 0:
            raise ValueError(
                "predicts='noise': the path ends in pure noise, where the noise says nothing "
                "about the clean latents; predict 'v' or 'velocity', or end the path before that "
                "with path.last_level=0.999"
            )


class StraightPath(BoundedPath):
    """The straight line from clean latents to noise."""

    kind: Literal["straight"] = "straight"

    def alpha(self, level: Level) -> LikeLevel:
        """Return 1 - level."""
        return 1 - level

    def sigma(self, level: Level) -> LikeLevel:
        """Return the level."""
        return level

    def alpha_slope(self, level: Level) -> LikeLevel:
        """Return -1."""
        return -jnp.ones_like(level)

    def sigma_slope(self, level: Level) -> LikeLevel:
        """Return 1."""
        return jnp.ones_like(level)

    def level_at_ratio(self, ratio: Level) -> LikeLevel:
        """Return ratio / (1 + ratio)."""
        return ratio / (1 + ratio)

    def grid(self, num_steps: int, shift: float = 1.0) -> np.ndarray:
        """Return evenly spaced levels, shifted."""
        return self.last_level * level_grid(num_steps, shift)


class CosinePath(BoundedPath):
    """A quarter of a circle from clean latents to noise: alpha^2 + sigma^2 = 1, and the velocity is
    pi/2 v.
    """

    kind: Literal["cosine"] = "cosine"

    def alpha(self, level: Level) -> LikeLevel:
        """Return cos(pi/2 level), as a sine because the cosine of pi/2 in float32 is not 0."""
        return _sin(np.pi / 2 * (1 - level))

    def sigma(self, level: Level) -> LikeLevel:
        """Return sin(pi/2 level)."""
        return _sin(np.pi / 2 * level)

    def alpha_slope(self, level: Level) -> LikeLevel:
        """Return -pi/2 sigma."""
        return -np.pi / 2 * self.sigma(level)

    def sigma_slope(self, level: Level) -> LikeLevel:
        """Return pi/2 alpha."""
        return np.pi / 2 * self.alpha(level)

    def level_at_ratio(self, ratio: Level) -> LikeLevel:
        """Return the angle, in quarters of a circle."""
        return 2 / np.pi * (jnp.arctan(ratio) if isinstance(ratio, jax.Array) else np.arctan(ratio))

    def grid(self, num_steps: int, shift: float = 1.0) -> np.ndarray:
        """Return evenly spaced levels, shifted."""
        levels = level_grid(num_steps)
        with np.errstate(divide="ignore"):
            shifted = np.asarray(
                self.level_at_ratio(shift * self.sigma(levels) / self.alpha(levels))
            )
        return self.last_level * (levels if shift == 1 else shifted)


class EDMPath(GaussianPath):
    """Noise added to clean latents, with EDM's grid (eq. 5), input scale and level embedding (table
    1).

    Predicting "v" is EDM's preconditioned network with the sign turned: c_skip and c_out are what
    `recover` computes. Training levels come from `LogitNormalLevels(mean=-1.2, std=1.2)`, which is
    EDM's log-normal sigma in these levels. Sampling starts at sigma_max from noise alone, as if the
    clean latents, 1 / sigma_max of it, were zero.
    """

    kind: Literal["edm"] = "edm"
    sigma_min: float = pydantic.Field(default=0.002, gt=0, le=1e6)
    """Smallest noise of the sampling grid, in standard deviations of normalised latents."""
    sigma_max: float = pydantic.Field(default=80.0, gt=0, le=1e6)
    """Largest noise of the grid, where sampling starts."""
    rho: float = pydantic.Field(default=7.0, gt=0, le=1000)
    """Power that spaces the grid: above 1 it is finer at small noise (eq. 5)."""

    @pydantic.model_validator(mode="after")
    def _check_sigmas(self) -> "EDMPath":
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min={self.sigma_min}: expected less than sigma_max={self.sigma_max}"
            )
        return self

    @property
    def noisiest_level(self) -> float:
        """The level of sigma_max."""
        return self.level_at_time(self.sigma_max)

    def alpha(self, level: Level) -> LikeLevel:
        """Return 1."""
        return 0 * level + 1

    def sigma(self, level: Level) -> LikeLevel:
        """Return level / (1 - level)."""
        return level / (1 - level)

    def alpha_slope(self, level: Level) -> LikeLevel:
        """Return 0."""
        return jnp.zeros_like(level)

    def sigma_slope(self, level: Level) -> LikeLevel:
        """Return 1."""
        return jnp.ones_like(level)

    def time(self, level: Level) -> LikeLevel:
        """Return sigma."""
        return self.sigma(level)

    def level_at_time(self, time: Level) -> LikeLevel:
        """Return sigma / (1 + sigma)."""
        return time / (1 + time)

    def level_at_ratio(self, ratio: Level) -> LikeLevel:
        """Return the level of this sigma."""
        return self.level_at_time(ratio)

    def input_scale(self, level: Level) -> LikeLevel:
        """Return c_in = 1 / sqrt(1 + sigma^2)."""
        return 1 / jnp.sqrt(1 + jnp.square(self.sigma(level)))

    def embedded(self, level: Level) -> LikeLevel:
        """Return c_noise = ln(sigma) / 4."""
        return jnp.log(self.sigma(level)) / 4

    def grid(self, num_steps: int, shift: float = 1.0) -> np.ndarray:
        """Return the levels of num_steps sigmas that fall as `rho` says, and 0.

        Raises:
            GenlabError: if asked for a shift.
        """
        if shift != 1:
            raise GenlabError(
                f"sampler.shift={shift}: the EDM path spaces its levels by path.rho; use shift=1"
            )
        progress = np.linspace(0, 1, num_steps) if num_steps > 1 else np.zeros(1)
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return self.level_at_time(np.append((first + progress * (last - first)) ** self.rho, 0.0))

    def check(self, predicts: Prediction) -> None:
        """Refuse "velocity", which on this path is the noise.

        Raises:
            ValueError: naming the field, the reason and the way out.
        """
        if predicts == "velocity":
            raise ValueError(
                "predicts='velocity': the velocity of the EDM path is the noise itself; predict "
                "'noise', or 'v' for EDM's own preconditioning"
            )

    def is_defined_at_clean(self, predicts: Prediction) -> bool:
        """Return False: the network cannot take the level, ln(0)."""
        return False


def _sin(angle: Level) -> LikeLevel:
    return jnp.sin(angle) if isinstance(angle, jax.Array) else np.sin(angle)


Path = Annotated[StraightPath | CosinePath | EDMPath, pydantic.Field(discriminator="kind")]
