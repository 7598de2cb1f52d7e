"""Hiding and revealing: what the families that hide codes share, in training, when scoring and when sampling.

In: which positions may be hidden and how many. Out: positions to hide, and a bound on the bits of what was hidden.
Positions are frames, or all codes of a clip in one row.

The likelihood is that of a decoder that reveals one position at a time in an order drawn uniformly (1310.1757; eq. 4
of 2110.02037): with n of N positions hidden, n uniform, N/n times the nats of the hidden ones estimates, without bias,
the mean over orders of -log p, which lies above -log of the mean over orders of p. The loss of absorbing diffusion in
continuous time is the same number, whatever its schedule (2406.07524).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.decoders.base import ScoreOut


def rank(values: Float[Array, "b n"]) -> Int[Array, "b n"]:
    """Return the place of each value in ascending order."""
    return jnp.argsort(jnp.argsort(values, axis=1), axis=1)


def draw_hidden(
    key: Key[Array, ""], may_hide: Bool[Array, "b n"], num_hidden: Int[Array, "b"] | Float[Array, "b"]
) -> Bool[Array, "b n"]:
    """Hide that many random positions among those that may be hidden."""
    place = rank(jnp.where(may_hide, jax.random.uniform(key, may_hide.shape), jnp.inf))
    return may_hide & (place < num_hidden[:, None])


def draw_places(key: Key[Array, ""], num_draws: int, num_examples: int) -> Float[Array, "r b"]:
    """Return uniform draws in [0, 1) for each example, one from each of `num_draws` equal strata."""
    strata = jnp.arange(num_draws)[:, None]
    return (strata + jax.random.uniform(key, (num_draws, num_examples))) / num_draws


def count_hidden(place: Float[Array, "b"], num_positions: Int[Array, "b"]) -> Int[Array, "b"]:
    """Turn a uniform draw into a number from 1 to `num_positions`, each equally often."""
    # Rounding may give a draw of exactly 1, and padding an example without positions.
    return jnp.clip(1 + jnp.floor(place * num_positions).astype(jnp.int32), 1, jnp.maximum(num_positions, 1))


def bound_from_draws(nats: Float[Array, "r p b"]) -> ScoreOut:
    """Return the bits of each example from r stratified draws of p parts, whose errors are independent.

    The error takes the draws for independent, so it errs on the large side; one draw tells nothing of it and gives inf.
    """
    num_draws = nats.shape[0]
    bits = nats.mean(axis=0).sum(axis=0) / jnp.log(2.0)
    if num_draws == 1:
        return ScoreOut(bits, jnp.full_like(bits, jnp.inf), "upper bound")
    variance = nats.var(axis=0, ddof=1).sum(axis=0) / num_draws
    return ScoreOut(bits, jnp.sqrt(variance) / jnp.log(2.0), "upper bound")
