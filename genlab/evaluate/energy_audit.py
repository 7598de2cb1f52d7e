"""The audit of the energy score: it must find the law that made a block better than anything that
was done to that law.

In: the latents of real blocks. Out: one `MetricAudit`, as audio metrics get it (audit.py). Around
each real block lies a Gaussian law: what followed is one draw of it, and a forecast is a few
others. The clean forecast knows the law, spread and all; the others are spoiled by known amounts.
Two are what the score must never prefer: draws that lose their spread, as those of a temperature
below 1 do, and the local mean of the latents, where a model ends that was trained to predict and
not to draw.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float

from genlab.decoders.noise.heads import energy_score
from genlab.evaluate.audit import MEAN_S, MetricAudit, judge_rows
from genlab.evaluate.energy import BARE_ENERGY
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.scores import Degradation, clip_means
from genlab.evaluate.table import find_metric, make_score

NUM_DRAWS = 4
SPREAD = 0.5  # of the law, in deviations of the latents
KEPT = (0.5, 0.25, 0.0)  # of the spread
NOISE = (0.1, 0.32, 1.0)  # deviations of the latents: 20, 10 and 0 dB
SHUFFLED = (1 / 3, 2 / 3, 1.0)  # of the frames

Blocks = Float[np.ndarray, "n f d"]


def audit_energy(blocks: Blocks, frame_hz: float, seed: int = 0) -> MetricAudit:
    """Return which spoiled forecasts around real blocks the energy score ranks below the true law.

    More noise, at 20, 10 and 0 dB; a third, two thirds and all of the frames in random order; time
    reversed; half, a quarter and none of the spread; the mean of the latents over 60, 120 and 240
    ms, without a spread.

    Args:
        blocks: normalised latents, one block per clip.
        frame_hz: frames per second.
        seed: of noise and order.
    """
    rng = np.random.default_rng(seed)

    def frames(seconds: float) -> int:
        return max(1, round(seconds * frame_hz))

    def spread(kept: float = 1.0) -> Blocks:
        return blocks + kept * SPREAD * rng.standard_normal(blocks.shape)

    truth = spread()
    spoiled: dict[Degradation, list[Callable[[], Blocks]]] = {
        "noise": [partial(_noisy, spread, scale, rng) for scale in NOISE],
        "shuffle": [partial(_shuffled, spread, share, rng) for share in SHUFFLED],
        "reversal": [lambda: spread()[:, ::-1]],
        "collapse": [partial(spread, kept) for kept in KEPT],
        "smoothing": [partial(_smoothed, blocks, frames(seconds)) for seconds in MEAN_S],
    }
    # Halves of the clips differ by what is hard in them and not by the forecast: there are no false
    # alarms to count.
    rows: dict[str, list[RowResult]] = {"clean": [_score(truth, spread)], "half": []}
    for name, steps in spoiled.items():
        rows[name] = [_score(truth, step) for step in steps]
    return judge_rows(find_metric(BARE_ENERGY), BARE_ENERGY, rows, seed)


def _noisy(draw: Callable[[], Blocks], scale: float, rng: np.random.Generator) -> Blocks:
    blocks = draw()
    return blocks + scale * rng.standard_normal(blocks.shape)


def _shuffled(draw: Callable[[], Blocks], share: float, rng: np.random.Generator) -> Blocks:
    blocks = draw()
    n, frames, _ = blocks.shape
    shuffled = blocks.copy()
    for clip in range(n):
        moved = rng.permutation(frames)[: round(share * frames)]
        shuffled[clip, np.sort(moved)] = blocks[clip, moved]
    return shuffled


def _smoothed(blocks: Blocks, size: int) -> Blocks:
    mean: Any = scipy.ndimage.uniform_filter1d(blocks, size, axis=1, mode="nearest")
    return mean


def _score(truth: Blocks, draw: Callable[[], Blocks]) -> RowResult:
    """Return the energy of forecasts of `NUM_DRAWS` draws, one value per clip."""
    n = len(truth)
    # r n f d -> n r (f d)
    draws = np.stack([draw() for _ in range(NUM_DRAWS)], axis=1).reshape(n, NUM_DRAWS, -1)
    flat = truth.reshape(n, -1)
    found = energy_score(
        jnp.asarray(draws, jnp.float32)[:, None], jnp.asarray(flat, jnp.float32)[:, None]
    )
    values = clip_means(
        np.asarray(found[:, 0], np.float64) / np.sqrt(flat.shape[1]), tuple(range(n))
    )
    score = make_score(BARE_ENERGY, values.estimate(), seeds=1)
    return RowResult({BARE_ENERGY: score}, {BARE_ENERGY: values}, {}, ())
