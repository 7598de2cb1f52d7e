"""Root-mean-square normalisation (1910.07467)."""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from genlab.nets.param import vector


class RMSNorm(nnx.Module):
    """Divide by the root mean square of the last axis, in float32, and scale."""

    def __init__(self, width: int):
        self.scale = vector(jnp.ones((width,)))

    def __call__(self, x: Float[Array, "*rows h"]) -> Float[Array, "*rows h"]:
        """Return the normalised `x` in its own dtype."""
        wide = x.astype(jnp.float32)
        wide = wide * lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + 1e-6)
        return (wide * self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)
