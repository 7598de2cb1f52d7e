"""ConvNeXt blocks at the frame rate, over a whole clip or chunk by chunk.

In: frames "b t h". Out: the same shape. A causal block reads frames before its own only, and
streams with the few past frames it reads carried from chunk to chunk.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float

from genlab.config import Config
from genlab.machine.sharding import COLUMNS, ROWS, WHOLE
from genlab.nets.param import NORM_RULES, linear_rules, matrix, vector


class StackConfig(Config):
    """A stack of ConvNeXt blocks."""

    width: int = pydantic.Field(ge=1)
    """Channels of every block."""
    blocks: int = pydantic.Field(ge=1)
    """ConvNeXt blocks, one after the other, each added to its input."""
    expansion: int = pydantic.Field(default=3, ge=1)
    """Inner width of a block's MLP over `width`."""
    kernel_frames: int = pydantic.Field(default=7, ge=1)
    """Taps of the depthwise convolutions."""


class ConvNeXtBlock(nnx.Module):
    """Depthwise convolution over time, then a two-layer MLP, scaled and added (Liu et al. 2022,
    figure 4).
    """

    def __init__(self, config: StackConfig, causal: bool, rngs: nnx.Rngs):
        width = config.width
        hidden = config.width * config.expansion
        shape = (config.kernel_frames, width)
        kernel = jax.random.normal(rngs.params(), shape) * config.kernel_frames**-0.5
        self.depthwise = matrix(kernel, WHOLE)
        self.norm = nnx.LayerNorm(width, rngs=rngs, **NORM_RULES)
        self.up = nnx.Linear(width, hidden, rngs=rngs, **linear_rules(COLUMNS))
        self.down = nnx.Linear(hidden, width, rngs=rngs, **linear_rules(ROWS))
        self.scale = vector(jnp.full((width,), 1.0 / config.blocks))
        self.causal = causal

    def __call__(
        self, hidden: Float[Array, "b t h"], is_valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t h"]:
        """Return the frames after one residual update."""
        before = self.reach if self.causal else self.reach // 2
        # Padded frames enter as zeros, so an example sounds the same alone and in a batch of longer
        # ones.
        padded = jnp.pad(
            hidden * is_valid[..., None], ((0, 0), (before, self.reach - before), (0, 0))
        )
        return hidden + self._update(padded)

    @property
    def reach(self) -> int:
        """Frames beside its own that an output frame reads."""
        return self.depthwise.shape[0] - 1

    def stream(
        self, chunk: Float[Array, "b t h"], past: Float[Array, "b p h"]
    ) -> tuple[Float[Array, "b t h"], Float[Array, "b p h"]]:
        """Return the chunk after one residual update, and the `reach` frames to carry into the next
        one.
        """
        seen = jnp.concatenate([past, chunk], axis=1)
        return chunk + self._update(seen), seen[:, seen.shape[1] - self.reach :]

    def _update(self, padded: Float[Array, "b p h"]) -> Float[Array, "b t h"]:
        kernel = self.depthwise[...][:, None, None]
        frames = padded.shape[1] - self.reach
        # A sum of shifted slices: XLA:CPU runs grouped convolutions in a naive loop.
        shifted = [padded[:, i : i + frames] * kernel[i] for i in range(self.reach + 1)]
        mixed = functools.reduce(jnp.add, shifted)
        return self.down(jax.nn.gelu(self.up(self.norm(mixed)))) * self.scale[...][None, None]


def first_pasts(
    blocks: Sequence[ConvNeXtBlock], batch: int, width: int
) -> list[Float[Array, "b p h"]]:
    """Return the silence before the first chunk, one per block."""
    return [jnp.zeros((batch, block.reach, width)) for block in blocks]


def stream_blocks(
    blocks: Sequence[ConvNeXtBlock],
    hidden: Float[Array, "b t h"],
    pasts: Sequence[Float[Array, "b p h"]],
) -> tuple[Float[Array, "b t h"], list[Float[Array, "b p h"]]]:
    """Run a chunk through causal blocks; return it and what to carry into the next one."""
    carried = []
    for block, past in zip(blocks, pasts):
        hidden, past = block.stream(hidden, past)
        carried.append(past)
    return hidden, carried
