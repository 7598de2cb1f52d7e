"""Scores of a forecast of a block, from draws of it: the same for arms and for baselines.

In: draws of the block after each clip's middle, and the real one, in normalised latents. Out: per
score one value per clip. The estimators are unbiased for any number of draws from 2 on: pairs of
draws, never a draw with itself. Else few draws would favour a forecast without a spread.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from genlab.decoders.noise.heads import energy_score
from genlab.evaluate.energy import BARE_ENERGY


class Blocks(NamedTuple):
    """Forecasts of a block and what came: normalised latents, frames by channels."""

    draws: Float[np.ndarray, "n r f d"]
    """Of each clip, independent draws of the forecast; one where it is made for sure."""
    truth: Float[np.ndarray, "n f d"]
    """NaN where less than a block follows the middle of a clip."""

    def scores(self) -> dict[str, Float[np.ndarray, "n"]]:
        """Return the value of every clip by score, NaN where no block follows."""
        return {BARE_ENERGY: score_energy(self)}

    @property
    def has_block(self) -> np.ndarray:
        """Which clips have one."""
        return np.asarray(np.isfinite(self.truth).all(axis=(1, 2)))


def score_energy(blocks: Blocks) -> Float[np.ndarray, "n"]:
    """Return E|X - y| - 1/2 E|X - X'| of each block in deviations of the latents: the distance over
    the root of the block's number of values. Of a forecast that is made for sure it is |x - y|.

    Source: Gneiting and Raftery (2007), section 4.3, with the sign turned.
    """
    n, num_draws = blocks.draws.shape[:2]
    size = blocks.truth[0].size if n else 1
    draws = jnp.asarray(blocks.draws, jnp.float32).reshape(n, 1, num_draws, size)
    truth = jnp.asarray(np.nan_to_num(blocks.truth), jnp.float32).reshape(n, 1, size)
    if num_draws == 1:
        # Two draws of a sure forecast are the same one.
        draws = jnp.concatenate([draws, draws], axis=2)
    found = np.asarray(energy_score(draws, truth)[:, 0], np.float64) / np.sqrt(size)
    return np.where(blocks.has_block, found, np.nan)
