"""Several frames through a mixer that decodes one at a time."""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from genlab.nets.context import Context
from genlab.nets.rotary import Rotation

Carry = TypeVar("Carry")
Step = Callable[
    [Float[Array, "b 1 h"], Context, Carry],
    tuple[Float[Array, "b 1 h"], Carry],
]


def one_by_one(
    step: Step[Carry], x: Float[Array, "b q h"], context: Context, cache: Carry
) -> tuple[Float[Array, "b q h"], Carry]:
    """Return what `step` makes of each frame after those before it, and the cache after the last.

    Decoders hand over one frame; a few are unrolled.
    """
    outputs = []
    for frame in range(x.shape[1]):
        angles = Rotation(*(part[:, frame : frame + 1] for part in context.rotation))
        now = context._replace(rotation=angles, position=context.position + frame)
        out, cache = step(x[:, frame : frame + 1], now, cache)
        outputs.append(out)
    return jnp.concatenate(outputs, axis=1), cache
