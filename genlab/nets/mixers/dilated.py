"""Dilated convolutions in the place of attention (WaveNet, 1609.03499 section 2).

In: frames "b t h", normalised. Out: the same, to be added to the stream. Layer l reads the frame 2
** (l mod cycle) before its own (and, if not causal, the one as far after it), through the gate
tanh(A x) * sigmoid(B x) of eq. 2. A causal stack of one cycle sees 2 ** cycle frames. We differ in
the rest of the block: a norm before it and SwiGLU after it, as in all our blocks, and no skip
connections to the output, because the residual stream carries them.
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config
from genlab.machine.sharding import COLUMNS, ROWS
from genlab.nets.context import Context
from genlab.nets.layer import LayerShape
from genlab.nets.linear import Linear


class Dilated(Config):
    """Layer l reads the frame 2 ** (l mod cycle) away (WaveNet); `heads` is then unused."""

    kind: Literal["dilated"] = "dilated"
    cycle: int = pydantic.Field(default=10, ge=1, le=20)
    """Layers until the distance starts again at one frame; a causal stack of one cycle sees 2 **
    cycle frames.
    """
    part: ClassVar[str] = "conv"
    chooses: ClassVar[bool] = False

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> "DilatedConv":
        """Return the mixer of one layer."""
        reach = 2 ** (self.cycle - 1)
        return DilatedConv(
            shape.width, reach, key=key, output_scale=shape.output_scale, is_causal=shape.is_causal
        )

    def number(self, stacked: "DilatedConv", places: Int[Array, "l"]) -> None:
        """Tell stacked layers how far each of them reaches: 1, 2, 4, ..., 2 ** (cycle - 1), and
        again.
        """
        stacked.dilation[...] = 2 ** (places.astype(jnp.int32) % self.cycle)

    def empty(self, shape: LayerShape, num_examples: int, num_slots: int) -> Float[Array, "b s h"]:
        """Return silence before the first frame."""
        return jnp.zeros((num_examples, num_slots, shape.width), shape.dtype)

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return 0: there is no kernel."""
        return 0

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return those of the taps, two or three of them, and of the output."""
        taps = 2 if shape.is_causal else 3
        return 2.0 * positions * (2 * taps + 1) * shape.width**2

    def step_flops(self, shape: LayerShape, positions: int, slots: int) -> float:
        """Return as many as all at once."""
        return self.flops(shape, positions, positions * slots)

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return all of them: the cache holds the layer's inputs."""
        return self.flops(shape, 1, slots)


class Dilation(nnx.Variable):
    """Frames between the taps of a layer: a number per layer of the stack, and not a parameter."""


class DilatedConv(nnx.Module):
    """One gated layer of two taps (past and own frame), or three (also the future one), at most
    `reach` frames away.
    """

    def __init__(
        self, width: int, reach: int, *, key: Key[Array, ""], output_scale: float, is_causal: bool
    ):
        in_key, out_key = jax.random.split(key)
        self.is_causal = is_causal
        self.reach = reach
        self.dilation = Dilation(jnp.ones((), jnp.int32))
        taps = 2 if is_causal else 3
        self.project_in = Linear(taps * width, 2 * width, key=in_key, split=COLUMNS)
        self.project_out = Linear(width, width, key=out_key, scale=output_scale, split=ROWS)

    def __call__(
        self, x: Float[Array, "b t h"], context: Context, cache: Float[Array, "b s h"] | None = None
    ) -> tuple[Float[Array, "b t h"], Float[Array, "b s h"] | None]:
        """Mix all frames at once, or, with a cache, the next ones with those before them."""
        if cache is not None:
            return self._step(x, cache, context.position)
        return self._whole(x, context.is_valid), None

    def _whole(
        self, x: Float[Array, "b t h"], is_valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t h"]:
        # What lies outside the clip is silence.
        x = jnp.where(is_valid[:, :, None], x, 0)
        padded = jnp.pad(x, ((0, 0), (self.reach, self.reach), (0, 0)))
        # Slices, not gathers: the gradient of a slice whose start is traced is a copy, that of a
        # gather a scatter.
        past, future = (
            lax.dynamic_slice_in_dim(padded, self.reach + sign * self.dilation[...], x.shape[1], 1)
            for sign in (-1, 1)
        )
        return self._gate([past, x] if self.is_causal else [past, x, future])

    def _step(
        self,
        x: Float[Array, "b q h"],
        history: Float[Array, "b s h"],
        position: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "b q h"], Float[Array, "b s h"]]:
        """Mix the frames at `position`, the first of them, with those in `history`, and write them
        there.
        """
        history = lax.dynamic_update_slice_in_dim(history, x, position, 1)
        frames = position + jnp.arange(x.shape[1]) - self.dilation[...]
        past = jnp.take(history, jnp.maximum(frames, 0), axis=1)
        return self._gate([jnp.where((frames >= 0)[None, :, None], past, 0), x]), history

    def _gate(self, taps: list[Float[Array, "b t h"]]) -> Float[Array, "b t h"]:
        first, second = self.project_in.parts(jnp.concatenate(taps, axis=-1), 2)
        return self.project_out(jnp.tanh(first) * jax.nn.sigmoid(second))
