"""Code patterns: which codes an autoregressive decoder predicts together at each step.

In: codes "b t k" per frame. Out: codes "b s k" per step, and back. The delay pattern (MusicGen, 2306.05284 section
2.1) shifts codebook k by k * delay frames, so that a code is predicted after the coarser codes of its own frame:

    3 codebooks x 4 frames, delay 1                  delay 0
    frame     0  1  2  3       step  0  1  2  3  4  5      step  0  1  2  3
    level 0   a  b  c  d             a  b  c  d  .  .            a  b  c  d
    level 1   e  f  g  h             .  e  f  g  h  .            e  f  g  h
    level 2   i  j  k  l             .  .  i  j  k  l            i  j  k  l

A dot is `fill`: nothing is predicted there. With delay 0 all levels of a frame are predicted at once (parallel heads).
"""

from typing import Literal

import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Shaped

from genlab.config import Config


class DelayPattern(Config):
    """Codebook k lags codebook 0 by `k * delay_frames`."""

    kind: Literal["delay"] = "delay"
    delay_frames: int = pydantic.Field(default=1, ge=0)

    def num_steps(self, num_frames: int, codebooks: int) -> int:
        """Return the number of steps that `num_frames` frames take."""
        return num_frames + (codebooks - 1) * self.delay_frames

    def build(self, frames: Shaped[Array, "b t k"], fill: int | bool) -> Shaped[Array, "b s k"]:
        """Spread frames over steps."""
        codebooks = frames.shape[2]
        lags = [level * self.delay_frames for level in range(codebooks)]
        levels = [
            jnp.pad(frames[:, :, level], ((0, 0), (lag, lags[-1] - lag)), constant_values=fill)
            for level, lag in enumerate(lags)
        ]
        return jnp.stack(levels, axis=2)

    def revert(self, steps: Shaped[Array, "b s k"]) -> Shaped[Array, "b t k"]:
        """Gather the codes of each frame again."""
        codebooks = steps.shape[2]
        num_frames = steps.shape[1] - (codebooks - 1) * self.delay_frames
        levels = [
            steps[:, level * self.delay_frames : level * self.delay_frames + num_frames, level]
            for level in range(codebooks)
        ]
        return jnp.stack(levels, axis=2)
