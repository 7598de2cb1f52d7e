"""The audit of the energy score: it must find what really followed better than anything that was
done to it.

In: the latents of real blocks. Out: one `MetricAudit`, as audio metrics get it (audit.py). A
forecast is a few draws; the clean one is certain of what followed, and the others are spoiled by
known amounts. Over-smoothing is what the score must never prefer: the local mean of the latents is
where a model ends that was trained to predict and not to draw.
"""

from collections.abc import Callable
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
NOISE = (0.1, 0.32, 1.0)  # deviations of the latents: 20, 10 and 0 dB
SHUFFLED = (1 / 3, 2 / 3, 1.0)  # of the frames

Blocks = Float[np.ndarray, "n f d"]


def audit_energy(blocks: Blocks, frame_hz: float, seed: int = 0) -> MetricAudit:
    """Return which spoiled forecasts of real blocks the energy score ranks below the true ones.

    Gaussian noise at 20, 10 and 0 dB; a third, two thirds and all of the frames in random order;
    time reversed; the mean of the latents over 60, 120 and 240 ms.

    Args:
        blocks: normalised latents of what followed, one block per clip.
        frame_hz: frames per second.
        seed: of noise and order.
    """
    rng = np.random.default_rng(seed)

    def frames(seconds: float) -> int:
        return max(1, round(seconds * frame_hz))

    spoiled: dict[Degradation, list[Callable[[], Blocks]]] = {
        "noise": [_noisy(blocks, scale, rng) for scale in NOISE],
        "shuffle": [_shuffled(blocks, share, rng) for share in SHUFFLED],
        "reversal": [lambda: blocks[:, ::-1]],
        "smoothing": [_smoothed(blocks, frames(seconds)) for seconds in MEAN_S],
    }
    # A forecast that is certain of what followed has no energy in any clip, so halves of the clips
    # do not differ and there are no false alarms to count.
    rows: dict[str, list[RowResult]] = {"clean": [_score(blocks, lambda: blocks)], "half": []}
    for name, steps in spoiled.items():
        rows[name] = [_score(blocks, step) for step in steps]
    return judge_rows(find_metric(BARE_ENERGY), BARE_ENERGY, rows, seed)


def _noisy(blocks: Blocks, scale: float, rng: np.random.Generator) -> Callable[[], Blocks]:
    return lambda: blocks + scale * rng.standard_normal(blocks.shape)


def _shuffled(blocks: Blocks, share: float, rng: np.random.Generator) -> Callable[[], Blocks]:
    n, frames, _ = blocks.shape
    shuffled = blocks.copy()
    for clip in range(n):
        moved = rng.permutation(frames)[: round(share * frames)]
        shuffled[clip, np.sort(moved)] = blocks[clip, moved]
    return lambda: shuffled


def _smoothed(blocks: Blocks, size: int) -> Callable[[], Blocks]:
    mean: Any = scipy.ndimage.uniform_filter1d(blocks, size, axis=1, mode="nearest")
    return lambda: mean


def _score(blocks: Blocks, draw: Callable[[], Blocks]) -> RowResult:
    """Return the energy of forecasts of `NUM_DRAWS` draws, one value per clip."""
    n = len(blocks)
    # r n f d -> n r (f d)
    draws = np.stack([draw() for _ in range(NUM_DRAWS)], axis=1).reshape(n, NUM_DRAWS, -1)
    truth = blocks.reshape(n, -1)
    found = energy_score(jnp.asarray(draws, jnp.float32)[:, None], jnp.asarray(truth)[:, None])
    values = clip_means(
        np.asarray(found[:, 0], np.float64) / np.sqrt(truth.shape[1]), tuple(range(n))
    )
    score = make_score(BARE_ENERGY, values.estimate(), seeds=1)
    return RowResult({BARE_ENERGY: score}, {BARE_ENERGY: values}, {}, ())
