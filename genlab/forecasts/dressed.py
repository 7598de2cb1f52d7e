"""Baselines with a spread: forecasts of a block that are made of data and cost nothing.

In: a point forecast of each block, or none, and real blocks. Out: as many draws as arms are scored
with, for the same scores. A point forecast has no spread, so any arm that has one may beat it by
that alone. Forecasters therefore dress it with its own past errors (Roulston and Smith 2003), and a
draw is the forecast plus a whole block of what it missed in a validation clip: all frames and
channels together, so that the errors keep how they hang together. Validation, because a regression
knows its training clips; never the test clips. `climatology` draws real blocks of training clips
and reads nothing of what is told.

No draw is used twice in one clip, so pairs of draws are independent, and the scores are unbiased.
All clips are dressed from one pool, and the intervals do not cover its choice.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from genlab.data.store import TokenClip, TokenStore
from genlab.evaluate.blocks import Blocks
from genlab.evaluate.energy import BLOCK_S
from genlab.experiment import Comparison
from genlab.fairness.lookup import fit_lookup
from genlab.prompts import choose_validation

MOST_RESIDUALS: Final = 400  # validation clips behind the errors

Block = Float[np.ndarray, "n f d"]


def choose_residual_clips(store: TokenStore, config: Comparison) -> Sequence[TokenClip]:
    """Return the validation clips whose errors dress a forecast; none without two of them."""
    return choose_validation(store, config.data, config.prompts_split, MOST_RESIDUALS)


def cut_blocks(
    latents: Sequence[Float[np.ndarray, "t d"]], store: TokenStore
) -> Float[np.ndarray, "n f d"]:
    """Return the normalised block after the middle of each clip, NaN where no whole one follows.

    Args:
        latents: of every clip, in the codec's units.
        store: says how to normalise them, and how many frames a block has.
    """
    frames = round(BLOCK_S * store.info.spec.frame_hz)
    found = np.full((len(latents), frames, store.info.spec.latent_channels), np.nan, np.float32)
    for number, clip in enumerate(latents):
        block = store.normalise(clip)[len(clip) // 2 :][:frames]
        if len(block) == frames:
            found[number] = block
    return found


def look_up_blocks(
    store: TokenStore, config: Comparison, clips: Sequence[TokenClip]
) -> Float[np.ndarray, "n f d"]:
    """Return the mean latents of the block of each clip, by the conditions that arms are told."""
    lookup = fit_lookup(store, config.condition, config.data.train_clips)
    return cut_blocks([lookup.predict(clip) for clip in clips], store)


def dress(
    forecast: Block, truth: Block, residuals: Block, *, num_draws: int, seed: int
) -> Blocks | None:
    """Return a point forecast with a spread; None if there are fewer than two whole residuals.

    Args:
        forecast: of the clips that are scored.
        truth: their real blocks.
        residuals: real blocks minus their forecasts, of other clips; NaN where there is no block.
        num_draws: draws per clip, or as many as there are residuals.
        seed: of the draws.
    """
    pool = residuals[np.isfinite(residuals).all(axis=(1, 2))]
    if len(pool) < 2:
        return None
    chosen = _choose(len(forecast), len(pool), min(num_draws, len(pool)), seed)
    return Blocks(forecast[:, None] + pool[chosen], truth)


def draw_climatology(
    store: TokenStore, config: Comparison, truth: Block, *, num_draws: int, seed: int
) -> Blocks | None:
    """Return blocks at random places of random training clips as forecasts of every clip; None if
    fewer than two training clips hold a block.
    """
    frames = truth.shape[1]
    numbers = store.numbers("train", config.data.train_clips)
    long = [number for number in numbers if len(store.clip(number).units) >= frames]
    if len(long) < 2:
        return None
    chosen = _choose(len(truth), len(long), min(num_draws, len(long)), seed)
    places = np.random.default_rng([seed, 1]).random(chosen.shape)
    draws = np.zeros((*chosen.shape, *truth.shape[1:]), np.float32)
    for at in np.ndindex(chosen.shape):
        latents = store.normalise(store.clip(long[chosen[at]]).latents)
        first = int(places[at] * (len(latents) - frames + 1))
        draws[at] = latents[first : first + frames]
    return Blocks(draws, truth)


def _choose(num_clips: int, num_pool: int, num_draws: int, seed: int) -> np.ndarray:
    """Return per clip the numbers of its draws in a pool, no two of them alike."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(num_pool, num_draws, replace=False) for _ in range(num_clips)])
