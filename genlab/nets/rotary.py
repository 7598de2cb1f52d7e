"""Rotary positions (RoPE, 2104.09864)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genlab.machine.sharding import compiled_platform

ROPE_BASE = 10_000.0


class Rotation(NamedTuple):
    """The cosine and sine of each position's angles."""

    cos: Float[Array, "b t c"]
    sin: Float[Array, "b t c"]


def rotation(positions: Int[Array, "b t"], head_channels: int) -> Rotation:
    """Return the rotary angles of `positions`, channel i turning at ROPE_BASE ** (-2 i /
    head_channels).
    """
    rates = ROPE_BASE ** (-jnp.arange(0, head_channels, 2) / head_channels)
    angles = positions[:, :, None] * rates[None, None, :]
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "b t a c"], angles: Rotation) -> Float[Array, "b t a c"]:
    """Turn channel pairs (i, i + c/2) of every head by the angles of its position."""
    cos, sin = (part[:, :, None, :].astype(x.dtype) for part in angles)
    if compiled_platform() == "tpu":
        # Half a head fills half a tile, and would be written to memory on the way; a product with
        # signs is exact.
        turned = jnp.matmul(x, _quarter_turn(x.shape[-1]).astype(x.dtype), precision="highest")
        return x * jnp.concatenate([cos, cos], axis=-1) + turned * jnp.concatenate(
            [sin, sin], axis=-1
        )
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def _quarter_turn(channels: int) -> Float[np.ndarray, "c c"]:
    """Return the matrix that takes channel pairs (first, second) to (-second, first)."""
    half = np.eye(channels // 2, dtype=np.float32)
    return np.block([[np.zeros_like(half), half], [-half, np.zeros_like(half)]])
