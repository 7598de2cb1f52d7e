"""Scores of a forecast of a block, from draws of it: the same for arms and for baselines.

In: draws of the block after each clip's middle, and the real one, in normalised latents. Out: per
score one value per clip. The estimators are unbiased for any number of draws from 2 on: pairs of
draws, never a draw with itself. Else few draws would favour a forecast without a spread.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from genlab.decoders.noise.heads import energy_score
from genlab.evaluate.energy import BARE_ENERGY, BARE_VARIOGRAM

ORDER: Final = 0.5  # of the variogram: the one that Scheuerer and Hamill found to tell most
LAGS: Final = (1, 2)  # frames between the values of a pair in time
MOST_SHIFTS: Final = 32  # of channels: all pairs of up to 65 of them, and a fixed part beyond


class Blocks(NamedTuple):
    """Forecasts of a block and what came: normalised latents, frames by channels."""

    draws: Float[np.ndarray, "n r f d"]
    """Of each clip, independent draws of the forecast; one where it is made for sure."""
    truth: Float[np.ndarray, "n f d"]
    """NaN where less than a block follows the middle of a clip."""

    def scores(self) -> dict[str, Float[np.ndarray, "n"]]:
        """Return the value of every clip by score, NaN where no block follows."""
        return {BARE_ENERGY: score_energy(self), BARE_VARIOGRAM: score_variogram(self)}

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


def score_variogram(blocks: Blocks) -> Float[np.ndarray, "n"]:
    """Return the variogram score of order 1/2 of each block, which sees how its values hang
    together, in deviations of the latents.

    Eq. mean over pairs i, j of (|y_i - y_j|^p - E|X_i - X_j|^p)^2, p = 1/2.

    Source: Scheuerer and Hamill (2015), equation 3. The pairs are those in which audio hangs
    together most: each channel one frame apart, and two frames apart; and two channels within a
    frame. Far pairs say little and add noise, so they are left out. The three groups count the
    same, else the pairs of channels, by far the most, would decide alone. Order 1/2 is the one that
    told most in their examples: roots of differences are nearly symmetric, so no single pair
    dominates.

    It is proper: no law has a lower expectation than the true one. It is not strictly so. It knows
    of a law the expected roots of those differences and nothing else: no shift of all values alike,
    no turned sign, no pairs further apart. So it never decides alone. With two draws instead of the
    expectation the square becomes the product of their errors, which is unbiased and may be
    negative.
    """
    truth = np.nan_to_num(np.asarray(blocks.truth, np.float64))
    draws = np.asarray(blocks.draws, np.float64)
    of_groups = []
    for pairs in (*_pairs_in_time(), _pairs_of_channels(truth.shape[2])):
        products = [
            _multiply_errors(
                _roots(truth, first, second)[:, None] - _roots(draws, first, second)
            ).reshape(len(truth), -1)
            for first, second in pairs
        ]
        values = np.concatenate([np.zeros((len(truth), 0)), *products], axis=1)
        if values.shape[1]:  # a block of few frames has no pairs of some lag
            of_groups.append(values.mean(axis=1))
    found = np.mean(of_groups, axis=0) if of_groups else np.zeros(len(truth))
    return np.where(blocks.has_block, found, np.nan)


def _multiply_errors(errors: Float[np.ndarray, "n r *p"]) -> Float[np.ndarray, "n *p"]:
    """Return the mean product of the errors of two different draws; of a sure forecast, whose draws
    are all the same one, the square.
    """
    num_draws = errors.shape[1]
    if num_draws == 1:
        return np.square(errors[:, 0])
    together = np.square(errors.sum(axis=1)) - np.square(errors).sum(axis=1)
    return together / (num_draws * num_draws - num_draws)


Place = tuple[slice | np.ndarray, slice | np.ndarray]  # frames and channels


def _pairs_in_time() -> Iterator[list[tuple[Place, Place]]]:
    every = slice(None)
    for lag in LAGS:
        yield [((slice(lag, None), every), (slice(None, -lag), every))]


def _pairs_of_channels(channels: int) -> list[tuple[Place, Place]]:
    """Return every pair of channels once, a shift round the circle at a time."""
    pairs: list[tuple[Place, Place]] = []
    for shift in range(1, min(channels // 2, MOST_SHIFTS) + 1):
        # Half a turn meets every pair twice.
        first = np.arange(channels // 2 if 2 * shift == channels else channels)
        pairs.append(((slice(None), first), (slice(None), (first + shift) % channels)))
    return pairs


def _roots(
    values: Float[np.ndarray, "*n f d"], first: Place, second: Place
) -> Float[np.ndarray, "*n _ _"]:
    return np.abs(values[..., first[0], first[1]] - values[..., second[0], second[1]]) ** ORDER
