"""Solvers of d noisy / d level = velocity(noisy, level), from noise (level 1) to clean latents (level 0).

In: a velocity function, the starting noise and a grid of levels. Out: clean latents. Each solver is one compiled loop
whatever the number of steps. Euler is exact where trajectories are straight lines, Heun (2206.00364, algorithm 1
without churn) where the velocity is linear in the level along them. `save_scheduler_config` writes the grid as a file
that diffusers can load.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from jax import lax
from jaxtyping import Array, Float

from genlab.config import Config

Velocity = Callable[[Float[Array, "b t d"], Float[Array, ""]], Float[Array, "b t d"]]


class Euler(Config):
    """One velocity per step."""

    kind: Literal["euler"] = "euler"
    calls_per_step: ClassVar[int] = 1

    def solve(
        self, velocity: Velocity, noise: Float[Array, "b t d"], levels: Float[Array, "n"]
    ) -> Float[Array, "b t d"]:
        """Return the end of the trajectory that starts at `noise`."""

        def step(noisy, interval):
            level, next_level = interval
            return noisy + (next_level - level) * velocity(noisy, level), None

        return lax.scan(step, noise, (levels[:-1], levels[1:]))[0]


class Heun(Config):
    """Two velocities per step, at its start and at the end that Euler predicts, averaged."""

    kind: Literal["heun"] = "heun"
    calls_per_step: ClassVar[int] = 2

    def solve(
        self, velocity: Velocity, noise: Float[Array, "b t d"], levels: Float[Array, "n"]
    ) -> Float[Array, "b t d"]:
        """Return the end of the trajectory that starts at `noise`."""

        def step(noisy, interval):
            level, next_level = interval
            first = velocity(noisy, level)
            second = velocity(noisy + (next_level - level) * first, next_level)
            return noisy + (next_level - level) * (first + second) / 2, None

        return lax.scan(step, noise, (levels[:-1], levels[1:]))[0]


Solver = Annotated[Euler | Heun, pydantic.Field(discriminator="kind")]


def scheduler_config(*, shift: float = 1.0, num_train_timesteps: int = 1000) -> dict[str, Any]:
    """Return the fields of diffusers' FlowMatchEulerDiscreteScheduler that describe the shifted Euler grid.

    diffusers calls the noise level sigma; `set_timesteps(sigmas=numpy.linspace(1, 1 / n, n))` then visits
    `level_grid(n, shift)`.
    """
    return {
        "num_train_timesteps": num_train_timesteps,
        "shift": float(shift),
        "use_dynamic_shifting": False,
        "invert_sigmas": False,
        "stochastic_sampling": False,
    }


def save_scheduler_config(directory: str | Path, *, shift: float = 1.0) -> Path:
    """Write scheduler_config.json into `directory` through diffusers, and return its path."""
    from diffusers.configuration_utils import ConfigMixin

    # The class name goes into the file: it is how diffusers finds the scheduler. The real class would need torch.
    scheduler = type("FlowMatchEulerDiscreteScheduler", (ConfigMixin,), {"config_name": "scheduler_config.json"})()
    scheduler.register_to_config(**scheduler_config(shift=shift))
    scheduler.save_config(str(directory))
    return Path(directory) / "scheduler_config.json"
