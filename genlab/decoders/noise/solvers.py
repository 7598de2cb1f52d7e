"""Solvers: from noise to clean latents along a grid of noise levels, each one compiled loop.

In: a `Denoiser`, the noisy latents at the first level and the grid, falling to 0. Out: clean
latents. Two kinds:

- Euler, Heun (2206.00364 algorithm 1 without churn) and RK4 integrate the velocity over the path's
  time, on any path.
- DDIM (2010.02502), DPM-Solver++(2M) (2211.01095 algorithm 2) and the ancestral sampler (DDPM,
  2006.11239; Euler ancestral of k-diffusion) step from what the network thinks is clean. Each step
  is a combination of noisy latents, clean latents and fresh noise whose factors are known before
  the loop; they are worked out in float64 and are finite at both ends of a path, where log(alpha /
  sigma) is not.

`FlowMap` is neither: its network was trained to jump (`flow_map.py`), and one step may be all.

The first kind asks for velocities at the end of a step too. Where level 0 has none (predicted clean
latents: 0 / 0; the EDM path: ln 0) its last step is an Euler step, as in EDM.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jax import lax
from jaxtyping import Array, Bool, Float, Key, PyTree

from genlab.config import Config
from genlab.decoders.noise.paths import GaussianPath, Prediction

Estimate = Callable[[Float[Array, "b t d"], Float[Array, ""]], Float[Array, "b t d"]]
# At some noisy latents and their level, of the interval of this length below it.
Jump = Callable[[Float[Array, "b t d"], Float[Array, ""], Float[Array, ""]], Float[Array, "b t d"]]
Levels = Float[np.ndarray, "_"]
# Euler steps of a diffusion's bare law. From 16 to 32 the energy of a small trained model moved by
# -0.0002 +- 0.0004, from 32 to 64 by -0.0001 +- 0.0003, where its own standard error over 96 clips
# was 0.007 (sweeps/bare_steps.py).
BARE_STEPS = 32


class Denoiser(NamedTuple):
    """What a solver may ask: the velocity or the clean latents at some noisy latents and level, and
    the path.

    `is_defined_at_clean` says whether there is a velocity at level 0; `average` is the average
    velocity over an interval, of a network that has one.
    """

    path: GaussianPath
    velocity: Estimate
    clean: Estimate
    is_defined_at_clean: bool = True
    average: Jump | None = None


class OneCall(Config):
    """What solvers share that call the network once per step, at its start."""

    calls_per_step: ClassVar[int] = 1

    def call_levels(self, path: GaussianPath, levels: Levels, is_defined_at_clean: bool) -> Levels:
        """Return the level of every network call."""
        return levels[:-1]


class Euler(OneCall):
    """One velocity per step."""

    kind: Literal["euler"] = "euler"

    def solve(
        self,
        denoiser: Denoiser,
        noisy: Float[Array, "b t d"],
        levels: Levels,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the end of the trajectory that starts at `noisy`."""

        def step(noisy, interval):
            level, time, next_time = interval
            return noisy + (next_time - time) * denoiser.velocity(noisy, level), None

        times = _float32(denoiser.path.time(levels))
        return lax.scan(step, noisy, (_float32(levels[:-1]), times[:-1], times[1:]))[0]


class Heun(Config):
    """Two velocities per step, at its start and at the end that Euler predicts, averaged."""

    kind: Literal["heun"] = "heun"
    calls_per_step: ClassVar[int] = 2

    def call_levels(self, path: GaussianPath, levels: Levels, is_defined_at_clean: bool) -> Levels:
        """Return the level of every network call."""
        calls = np.stack([levels[:-1], levels[1:]], axis=1).reshape(-1)
        return calls if _reaches_end(levels, is_defined_at_clean) else calls[:-1]

    def solve(
        self,
        denoiser: Denoiser,
        noisy: Float[Array, "b t d"],
        levels: Levels,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the end of the trajectory that starts at `noisy`."""

        def step(noisy, interval):
            (level, next_level), (time, next_time) = interval
            first = denoiser.velocity(noisy, level)
            second = denoiser.velocity(noisy + (next_time - time) * first, next_level)
            return noisy + (next_time - time) * (first + second) / 2, None

        return _scan_to_the_end(step, denoiser, noisy, levels)


class RK4(Config):
    """Four velocities per step: the classical Runge-Kutta method."""

    kind: Literal["rk4"] = "rk4"
    calls_per_step: ClassVar[int] = 4

    def call_levels(self, path: GaussianPath, levels: Levels, is_defined_at_clean: bool) -> Levels:
        """Return the level of every network call."""
        times = path.time(levels)
        middle = path.level_at_time((times[:-1] + times[1:]) / 2)
        calls = np.stack([levels[:-1], middle, middle, levels[1:]], axis=1).reshape(-1)
        return calls if _reaches_end(levels, is_defined_at_clean) else calls[:-3]

    def solve(
        self,
        denoiser: Denoiser,
        noisy: Float[Array, "b t d"],
        levels: Levels,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the end of the trajectory that starts at `noisy`."""

        def step(noisy, interval):
            (level, next_level), (time, next_time) = interval
            span = next_time - time
            middle = denoiser.path.level_at_time((time + next_time) / 2)
            first = denoiser.velocity(noisy, level)
            second = denoiser.velocity(noisy + span / 2 * first, middle)
            third = denoiser.velocity(noisy + span / 2 * second, middle)
            fourth = denoiser.velocity(noisy + span * third, next_level)
            return noisy + span * (first + 2 * second + 2 * third + fourth) / 6, None

        return _scan_to_the_end(step, denoiser, noisy, levels)


class DDIM(OneCall):
    """Keep the noise that the network sees and replace the clean latents by its own: eta 0 of
    2010.02502.
    """

    kind: Literal["ddim"] = "ddim"

    def solve(
        self,
        denoiser: Denoiser,
        noisy: Float[Array, "b t d"],
        levels: Levels,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the end of the trajectory that starts at `noisy`."""

        def step(noisy, inputs):
            level, of_noisy, of_clean = inputs
            return of_noisy * noisy + of_clean * denoiser.clean(noisy, level), None

        of_noisy, of_clean, _ = _step_factors(denoiser.path, levels, eta=0.0)
        return lax.scan(
            step, noisy, (_float32(levels[:-1]), _float32(of_noisy), _float32(of_clean))
        )[0]


class DPMSolver(OneCall):
    """DPM-Solver++(2M): DDIM with clean latents extrapolated from this step and the one before
    (midpoint form).

    The first step has none before it and the last ends at infinite log(alpha / sigma): both are
    DDIM steps, and so is the second if the first started at pure noise.
    """

    kind: Literal["dpm_solver"] = "dpm_solver"

    def solve(
        self,
        denoiser: Denoiser,
        noisy: Float[Array, "b t d"],
        levels: Levels,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the end of the trajectory that starts at `noisy`."""

        def step(carry, inputs):
            noisy, previous = carry
            level, of_noisy, of_clean, beyond = inputs
            clean = denoiser.clean(noisy, level)
            extrapolated = clean + beyond * (clean - previous)
            return (of_noisy * noisy + of_clean * extrapolated, clean), None

        of_noisy, of_clean, _ = _step_factors(denoiser.path, levels, eta=0.0)
        factors = (of_noisy, of_clean, _extrapolation(denoiser.path, levels))
        inputs = (_float32(levels[:-1]), *(_float32(factor) for factor in factors))
        return lax.scan(step, (noisy, jnp.zeros_like(noisy)), inputs)[0][0]


class Ancestral(OneCall):
    """Steps of the reverse process: some of the noise is replaced by fresh noise.

    In units of sigma / alpha this is k-diffusion's Euler ancestral step, which equals DDPM's
    posterior on a variance-preserving path.
    """

    kind: Literal["ancestral"] = "ancestral"
    eta: float = pydantic.Field(default=1.0, ge=0, le=1)
    """Share of the replaced noise: 1 is DDPM, 0 is DDIM."""

    def solve(
        self,
        denoiser: Denoiser,
        noisy: Float[Array, "b t d"],
        levels: Levels,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the end of the trajectory from `noisy`; the key draws the fresh noise."""
        if key is None:
            raise ValueError(
                "solver.kind='ancestral': draws fresh noise in every step and needs a key"
            )

        def step(noisy, inputs):
            level, of_noisy, of_clean, of_fresh, step_key = inputs
            fresh = jax.random.normal(step_key, noisy.shape)
            return of_noisy * noisy + of_clean * denoiser.clean(
                noisy, level
            ) + of_fresh * fresh, None

        factors = [_float32(factor) for factor in _step_factors(denoiser.path, levels, self.eta)]
        inputs = (_float32(levels[:-1]), *factors, jax.random.split(key, len(levels) - 1))
        return lax.scan(step, noisy, inputs)[0]


class FlowMap(OneCall):
    """One jump per step, by the average velocity over it (MeanFlow, 2505.13447, algorithm 2): exact
    at any number of steps if the network is, and made for 1 to 4 of them.
    """

    kind: Literal["flow_map"] = "flow_map"

    def solve(
        self,
        denoiser: Denoiser,
        noisy: Float[Array, "b t d"],
        levels: Levels,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the end of the trajectory that starts at `noisy`.

        Raises:
            ValueError: if the network has no average velocity.
        """
        average = denoiser.average
        if average is None:
            raise ValueError(
                "solver.kind='flow_map': needs a decoder that learned average velocities; set "
                "decoder.objective.kind='mean_flow', or solver.kind='euler'"
            )

        def step(noisy, interval):
            level, span = interval
            return noisy - span * average(noisy, level, span), None

        return lax.scan(step, noisy, (_float32(levels[:-1]), _float32(levels[:-1] - levels[1:])))[0]


Solver = Annotated[
    Euler | Heun | RK4 | DDIM | DPMSolver | Ancestral, pydantic.Field(discriminator="kind")
]
MapSolver = Annotated[
    Euler | Heun | RK4 | DDIM | DPMSolver | Ancestral | FlowMap,
    pydantic.Field(discriminator="kind"),
]


def fill_in(
    solver: MapSolver,
    path: GaussianPath,
    predicts: Prediction,
    predict: Estimate,
    noise: Float[Array, "b t d"],
    levels: Levels,
    *,
    known: Float[Array, "b t d"],
    is_known: Bool[Array, "b t"],
    key: Key[Array, ""],
    jump: Jump | None = None,
) -> Float[Array, "b t d"]:
    """Return the clean latents to which a network's predictions lead from `noise`.

    Known frames follow their own path from their noise, which is replacement at every level, and
    come back exactly. `jump` is the average velocity of a flow map, on a straight path.
    """
    is_kept = is_known[:, :, None]
    b = noise.shape[0]

    def velocity(noisy, level):
        every = jnp.broadcast_to(level, (b,))
        predicted = path.convert(
            predict(noisy, level), noisy, every, predicts=predicts, wanted="velocity"
        )
        return jnp.where(is_kept, path.target("velocity", known, noise, every), predicted)

    def clean(noisy, level):
        every = jnp.broadcast_to(level, (b,))
        return jnp.where(
            is_kept, known, path.recover(predicts, predict(noisy, level), noisy, every)[0]
        )

    def average(noisy, level, span):
        assert jump is not None
        # The velocity of a known frame is the same all the way.
        every = jnp.broadcast_to(level, (b,))
        known_velocity = path.target("velocity", known, noise, every)
        return jnp.where(is_kept, known_velocity, jump(noisy, level, span))

    start = path.noisy(jnp.where(is_kept, known, 0), noise, jnp.full((b,), levels[0], jnp.float32))
    denoiser = Denoiser(
        path, velocity, clean, path.is_defined_at_clean(predicts), average if jump else None
    )
    return jnp.where(is_kept, known, solver.solve(denoiser, start, levels, key=key))


def _reaches_end(levels: Levels, is_defined_at_clean: bool) -> bool:
    return is_defined_at_clean or bool(levels[-1] > 0)


def _scan_to_the_end(
    step: Callable[[Array, PyTree], tuple[Array, None]],
    denoiser: Denoiser,
    noisy: Float[Array, "b t d"],
    levels: Levels,
) -> Float[Array, "b t d"]:
    """Scan `step` over the intervals; the last one is left to Euler if nothing is defined at its
    end.
    """
    is_whole = _reaches_end(levels, denoiser.is_defined_at_clean)
    inner = levels if is_whole else levels[:-1]
    steps = _float32(inner)
    times = _float32(denoiser.path.time(inner))
    noisy = lax.scan(step, noisy, ((steps[:-1], steps[1:]), (times[:-1], times[1:])))[0]
    return noisy if is_whole else Euler().solve(denoiser, noisy, levels[-2:])


def _step_factors(path: GaussianPath, levels: Levels, eta: float) -> tuple[Levels, Levels, Levels]:
    """Return what each step takes of the noisy latents, of the clean ones and of fresh noise.

    With q = (sigma' / alpha') (alpha / sigma), the share of the noise that a step leaves in units
    of sigma / alpha: fresh = eta sigma' sqrt(1 - q^2), noisy = sqrt(sigma'^2 - fresh^2) / sigma,
    clean = alpha' - alpha noisy.
    """
    levels = levels.astype(np.float64)
    alpha, sigma = path.alpha(levels), path.sigma(levels)
    left = sigma[1:] / alpha[1:] * alpha[:-1] / sigma[:-1]
    fresh = eta * sigma[1:] * np.sqrt(1 - np.square(left))
    of_noisy = np.sqrt(np.square(sigma[1:]) - np.square(fresh)) / sigma[:-1]
    return of_noisy, alpha[1:] - alpha[:-1] * of_noisy, fresh


def _extrapolation(path: GaussianPath, levels: Levels) -> Levels:
    """Return h / (2 h_before) for each step, h being its length in log(alpha / sigma)."""
    levels = levels.astype(np.float64)
    beyond = np.zeros(len(levels) - 1)
    # Infinite lengths, at pure noise and at clean, are meant: nothing is extrapolated from or over
    # them.
    with np.errstate(divide="ignore", invalid="ignore"):
        lengths = np.diff(np.log(path.alpha(levels)) - np.log(path.sigma(levels)))
        beyond[1:] = np.where(np.isinf(lengths[1:]), 0, lengths[1:] / (2 * lengths[:-1]))
    return beyond


def _float32(values: Levels) -> Float[Array, "_"]:
    return jnp.asarray(values, jnp.float32)
