"""Feed-forward parts: what transforms each frame by itself (SwiGLU, 2002.05202 equation 6).

In: frames [b t h], normalised. Out: the same, to be added to the stream.
"""

from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from genlab.config import Config
from genlab.machine.sharding import COLUMNS, ROWS
from genlab.nets.layer import LayerShape
from genlab.nets.linear import Linear


class Gated(Config):
    """SwiGLU with `backbone.ffn_multiple` times the width inside."""

    kind: Literal["swiglu"] = "swiglu"

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> "SwiGLU":
        """Return the feed-forward part of one layer."""
        return SwiGLU(shape.width, shape.ffn_width, key=key, output_scale=shape.output_scale)

    def flops(self, shape: LayerShape, positions: int) -> float:
        """Return those of its three products."""
        return 6.0 * positions * shape.width * shape.ffn_width


class SwiGLU(nnx.Module):
    """The gated feed-forward part: (silu(x A) * x B) C."""

    def __init__(self, width: int, inner: int, *, key: Key[Array, ""], output_scale: float):
        in_key, out_key = jax.random.split(key)
        self.project_in = Linear(width, 2 * inner, key=in_key, split=COLUMNS)
        self.project_out = Linear(inner, width, key=out_key, scale=output_scale, split=ROWS)

    def __call__(self, x: Float[Array, "b t h"]) -> Float[Array, "b t h"]:
        """Return the transformed frames."""
        gate, value = self.project_in.parts(x, 2)
        return self.project_out(jax.nn.silu(gate) * value)
