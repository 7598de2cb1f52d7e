"""Where in its clip or text a frame or symbol is, in sinusoids of the relative place."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def places_of(is_valid: Bool[Array, "b t"], width: int) -> Float[Array, "b t h"]:
    """Return sinusoids of the relative place of each position among the valid ones: the slowest
    makes a sixth of a turn over the clip, the fastest 1000 times that.
    """
    place = jnp.cumsum(is_valid, axis=1) / jnp.maximum(is_valid.sum(axis=1, keepdims=True), 1)
    rates = 1000.0 ** jnp.linspace(0, 1, width // 2)
    angles = place[:, :, None] * rates[None, None, :]
    return width**-0.5 * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
