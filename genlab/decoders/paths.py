"""Noise paths: how clean latents become noise, and what the network is asked to predict on the way.

In: clean latents, Gaussian noise and a noise level. Out: noisy latents and the velocity target. The straight path
(flow matching, 2210.02747; rectified flow, 2209.03003) goes from clean at level 0 to noise at level 1:

    noisy = (1 - level) * clean + level * noise        velocity = d noisy / d level = noise - clean
"""

from typing import Literal

from jaxtyping import Array, Float

from genlab.config import Config


class StraightPath(Config):
    """The straight line from clean latents to noise, with its velocity as the prediction target."""

    kind: Literal["straight"] = "straight"

    def noisy(
        self, clean: Float[Array, "b t d"], noise: Float[Array, "b t d"], level: Float[Array, "b"]
    ) -> Float[Array, "b t d"]:
        """Return the point at `level` between clean and noise."""
        level = level[:, None, None]
        return (1 - level) * clean + level * noise

    def velocity(self, clean: Float[Array, "b t d"], noise: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Return the derivative of the path with respect to the level."""
        return noise - clean

    def clean(
        self, noisy: Float[Array, "b t d"], velocity: Float[Array, "b t d"], level: Float[Array, "b"]
    ) -> Float[Array, "b t d"]:
        """Return the clean end of the line through `noisy` with this velocity."""
        return noisy - level[:, None, None] * velocity

    def noise(
        self, noisy: Float[Array, "b t d"], velocity: Float[Array, "b t d"], level: Float[Array, "b"]
    ) -> Float[Array, "b t d"]:
        """Return the noise end of the line through `noisy` with this velocity."""
        return noisy + (1 - level[:, None, None]) * velocity
