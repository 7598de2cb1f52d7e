"""What a diffusion model says about data: an upper bound in bits of the codes, and the log density
of latents.

`codes_bound` puts a model of continuous latents on the scale of the discrete families (Plaid,
2305.18619; VDM, 2107.00630). With x(c) the sum of the code vectors and z = x(c) + s n, the
variational bound for codes c is

    -log p(c) <= E_q(z|c) [ log q(z|c) - log p(z) - log p(c|z) ]
              <= KL at the noisiest level
                 + 1/2 integral E |x(c) - clean(z_r, r)|^2 d(1 / r^2)
                 - E log p(c|z)

with the integral over the noise ratio r = sigma / alpha, from s to the noisiest level; the path
enters through r alone (VDM eq. 17). The chain starts at q(z|c) itself, as in Plaid, so it needs no
likelihood of latents at its end. q, its standard deviation s and p(c|z) are those of
code_given_latent.py.

`log_density` integrates the probability flow (2011.13456 eq. 39). It compares models of the same
latents; a density is not comparable with bits of codes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.decoders.noise.code_given_latent import (
    chosen_vectors,
    code_log_probability,
    level_variances,
)
from genlab.decoders.noise.paths import GaussianPath
from genlab.tokens import ScoreOut

# sigma / alpha where the chain ends: what is left of the clean latents costs 2e-5 nats per unit of
# variance.
HIGHEST_RATIO = float(np.exp(5.0))
# Densities are of latents at this level, where every kind of prediction has a velocity.
LOWEST_LEVEL = 1e-3

Clean = Callable[[Float[Array, "b t d"], Float[Array, "b"]], Float[Array, "b t d"]]
Velocity = Callable[[Float[Array, "b t d"], Float[Array, ""]], Float[Array, "b t d"]]


def codes_bound(
    path: GaussianPath,
    clean: Clean,
    codes: Int[Array, "b t k"],
    is_valid: Bool[Array, "b t"],
    code_vectors: Float[Array, "k v d"],
    std: Float[Array, ""],
    *,
    key: Key[Array, ""],
    num_draws: int,
) -> ScoreOut:
    """Return an upper bound of the bits of each example's codes.

    The noise ratios of an example's draws are spread evenly in log r from a random start (VDM
    appendix I.1), so `std_error`, the error of independent draws, overstates theirs; one draw has
    no known error, and it is infinite.

    Args:
        path: relates levels to noise ratios.
        clean: the model's estimate of the clean latents.
        codes: what is scored.
        is_valid: the frames that count.
        code_vectors: the codec's entries in normalised latent units.
        std: the standard deviation of q.
        key: draws levels and noise.
        num_draws: network calls per example.
    """
    is_counted = is_valid[:, :, None]
    latents = jnp.where(is_counted, chosen_vectors(codes, code_vectors).sum(axis=2), 0)
    lowest = jnp.log(std)
    variances = level_variances(code_vectors, std)
    highest = jnp.log(min(HIGHEST_RATIO, _ratio(path, path.noisiest_level)))
    start_key, draw_key = jax.random.split(key)
    start = jax.random.uniform(start_key, (codes.shape[0],))

    def draw(_, inputs):
        number, key = inputs
        noise_key, code_key = jax.random.split(key)
        log_ratio = lowest + (highest - lowest) * ((start + number / num_draws) % 1)
        level = path.level_at_ratio(jnp.exp(log_ratio))
        noisy = path.noisy(latents, jax.random.normal(noise_key, latents.shape), level)
        errors = jnp.where(is_counted, jnp.square(latents - clean(noisy, level)), 0).sum(
            axis=(1, 2)
        )
        # 1/2 d(1 / r^2) = -(1 / r^2) d log r, at a density of 1 / (highest - lowest).
        denoising = (highest - lowest) * jnp.exp(-2 * log_ratio) * errors
        noisy = latents + std * jax.random.normal(code_key, latents.shape)
        gained = jnp.where(is_valid, code_log_probability(codes, noisy, code_vectors, variances), 0)
        return None, denoising - gained.sum(axis=1)

    _, drawn = lax.scan(draw, None, (jnp.arange(num_draws), jax.random.split(draw_key, num_draws)))
    variance = jnp.exp(2 * highest)
    prior = (variance + jnp.square(latents)) / (variance + 1) - 1 + jnp.log1p(1 / variance)
    nats = drawn.mean(axis=0) + 0.5 * jnp.where(is_counted, prior, 0).sum(axis=(1, 2))
    errors = (
        jnp.full_like(nats, jnp.inf)
        if num_draws == 1
        else drawn.std(axis=0, ddof=1) / np.sqrt(num_draws)
    )
    return ScoreOut(nats / np.log(2), errors / np.log(2), "upper bound")


def log_density(
    path: GaussianPath,
    velocity: Velocity,
    latents: Float[Array, "b t d"],
    is_valid: Bool[Array, "b t"],
    *,
    key: Key[Array, ""],
    num_steps: int,
    num_probes: int,
) -> Float[Array, "b"]:
    """Return log p of each example's valid latents, in nats.

    Heun steps from `LOWEST_LEVEL` to the noisiest level, where latents count as normal with
    variance alpha^2 + sigma^2. The divergence is estimated from `num_probes` random signs per
    example, the same in all steps (2011.13456 eq. 40); 0 takes its exact trace, one derivative per
    latent value.
    """
    is_counted = is_valid[:, :, None]
    probes = _probes(key, latents.shape, num_probes) * is_counted[None, :, :, :]

    def slope(noisy, level):
        # Reverse mode, since the gradients of matrix products are written out: probe^T J probe is
        # the same from J^T.
        moved, pull_back = jax.vjp(lambda noisy: velocity(noisy, level), noisy)
        products = lax.map(lambda probe: (probe * pull_back(probe)[0]).sum(axis=(1, 2)), probes)
        return jnp.where(is_counted, moved, 0), products.sum(axis=0) / max(num_probes, 1)

    def step(carry, interval):
        (noisy, total), (level, next_level), span = carry, interval[:2], interval[2]
        first, first_divergence = slope(noisy, level)
        second, second_divergence = slope(noisy + span * first, next_level)
        moved = noisy + span * (first + second) / 2
        return (moved, total + span * (first_divergence + second_divergence) / 2), None

    levels = np.append(path.grid(num_steps)[:-1], LOWEST_LEVEL)[::-1]
    as_float = [
        jnp.asarray(array, jnp.float32)
        for array in (levels[:-1], levels[1:], np.diff(path.time(levels)))
    ]
    scale = path.alpha(LOWEST_LEVEL)
    size = is_valid.sum(axis=1) * latents.shape[2]
    start = jnp.where(is_counted, scale * latents, 0), jnp.zeros(latents.shape[0])
    (noisy, total), _ = lax.scan(step, start, tuple(as_float))
    variance = path.alpha(levels[-1]) ** 2 + path.sigma(levels[-1]) ** 2
    normal = -0.5 * (
        jnp.square(noisy).sum(axis=(1, 2)) / variance + size * np.log(2 * np.pi * variance)
    )
    return normal + total + size * np.log(scale)


def _ratio(path: GaussianPath, level: float) -> float:
    return path.sigma(level) / path.alpha(level) if path.alpha(level) > 0 else float("inf")


def _probes(
    key: Key[Array, ""], shape: tuple[int, ...], num_probes: int
) -> Float[Array, "n b t d"]:
    """Return random signs, or every unit vector if `num_probes` is 0."""
    if num_probes:
        return jax.random.rademacher(key, (num_probes, *shape), jnp.float32)
    size = shape[1] * shape[2]
    units = jnp.eye(size).reshape(size, 1, *shape[1:])
    return jnp.broadcast_to(units, (size, *shape))
