"""The audit of the scores of a block: they must find the law that made it better than anything that
was done to that law.

In: the latents of real blocks. Out: one `MetricAudit` per score, as audio metrics get it
(audit.py). Around each real block lies a law: what followed is one draw of it, and a forecast is a
few others. The clean forecast knows the law, spread and all; the others are spoiled by known
amounts. Some are what models do wrong: draws that lose their spread, as those of a temperature
below 1 do, or have too much; draws of which some are the mean; the local mean of the latents, where
a model ends that was trained to predict and not to draw; and draws whose every value is right by
itself while nothing hangs together. The energy may miss the last one if the variogram does not:
where both miss it neither is trusted.

For that one the law is made of what real blocks differ by from their mean, all frames and channels
of one clip together, so its dependence is that of audio. The others lie around a Gaussian law
without any.

It shows that a score finds known amounts of known faults with this many clips. It does not show
that two models which fail in different ways are ranked as a listener would, or that a fault nobody
thought of is found.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float

from genlab.evaluate.audit import MEAN_S, MetricAudit, judge_rows
from genlab.evaluate.blocks import Blocks
from genlab.evaluate.energy import BARE_ENERGY, BARE_VARIOGRAM
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.scores import Degradation, clip_means
from genlab.evaluate.table import find_metric, make_score

NUM_DRAWS = 4
SPREAD = 0.5  # of the law, in deviations of the latents
KEPT = (0.5, 0.25, 0.0)  # of the spread
WIDENED = (1.5, 2.0, 3.0)  # the spread
MEANS = (0.25, 0.5, 1.0)  # of the draws
LOOSE: Degradation = "independence"
NOISE = (0.1, 0.32, 1.0)  # deviations of the latents: 20, 10 and 0 dB
SHUFFLED = (1 / 3, 2 / 3, 1.0)  # of the frames

Latents = Float[np.ndarray, "n f d"]


def audit_blocks(blocks: Latents, frame_hz: float, seed: int = 0) -> dict[str, MetricAudit]:
    """Return by score which spoiled forecasts around real blocks it ranks below the true law.

    More noise, at 20, 10 and 0 dB; a third, two thirds and all of the frames in random order; time
    reversed; half, a quarter and none of the spread; one and a half times, twice and three times of
    it; a quarter, half and all of the draws replaced by the mean; the mean of the latents over 60,
    120 and 240 ms, without a spread; and every value drawn by itself.

    Args:
        blocks: normalised latents, one block per clip.
        frame_hz: frames per second.
        seed: of noise and order.
    """
    rng = np.random.default_rng(seed)

    def frames(seconds: float) -> int:
        return max(1, round(seconds * frame_hz))

    def spread(kept: float = 1.0) -> Latents:
        return blocks + kept * SPREAD * rng.standard_normal(blocks.shape)

    truth = spread()
    spoiled: dict[Degradation, list[Callable[[], Latents]]] = {
        "noise": [partial(_noisy, spread, scale, rng) for scale in NOISE],
        "shuffle": [partial(_shuffled, spread, share, rng) for share in SHUFFLED],
        "reversal": [lambda: spread()[:, ::-1]],
        "collapse": [partial(spread, kept) for kept in KEPT],
        "widening": [partial(spread, widened) for widened in WIDENED],
        "means": [partial(_partly_mean, blocks, spread, share, rng) for share in MEANS],
        "smoothing": [partial(_smoothed, blocks, frames(seconds)) for seconds in MEAN_S],
    }
    # Halves of the clips differ by what is hard in them and not by the forecast: there are no false
    # alarms to count.
    rows: dict[str, list[RowResult]] = {"clean": [_score(truth, spread)], "half": []}
    for name, steps in spoiled.items():
        rows[name] = [_score(truth, step) for step in steps]
    errors = blocks - blocks.mean(axis=0)
    whole = partial(_resampled, blocks, errors, rng)
    truth = whole()
    # Apart, because its clean forecast is another one.
    loose: dict[str, list[RowResult]] = {
        "clean": [_score(truth, whole)],
        "half": [],
        LOOSE: [_score(truth, partial(_loosened, blocks, errors, rng))],
    }
    names = (BARE_ENERGY, BARE_VARIOGRAM)
    return _trust({name: _join(name, rows, loose, seed) for name in names})


def _join(
    name: str,
    rows: dict[str, list[RowResult]],
    loose: dict[str, list[RowResult]],
    seed: int,
) -> MetricAudit:
    metric = find_metric(name)
    found, more = (judge_rows(metric, name, part, seed) for part in (rows, loose))
    verdicts = found.verdicts | more.verdicts
    failed = tuple(seen for seen in metric.must_notice if verdicts.get(seen) != "ranks")
    failed += tuple(lost for lost in found.failed if lost not in metric.must_notice)
    values = found.values | more.values
    return found._replace(verdicts=verdicts, values=values, failed=failed)


def _trust(found: dict[str, MetricAudit]) -> dict[str, MetricAudit]:
    """Return the audits; one score at least must notice a law without dependence."""
    if any(audit.verdicts[LOOSE] == "ranks" for audit in found.values()):
        return found
    return {
        name: audit._replace(failed=tuple(dict.fromkeys((*audit.failed, LOOSE))))
        for name, audit in found.items()
    }


def _resampled(blocks: Latents, errors: Latents, rng: np.random.Generator) -> Latents:
    """Return every block plus the errors of a random clip, whole."""
    return blocks + SPREAD * errors[rng.integers(len(errors), size=len(blocks))]


def _loosened(blocks: Latents, errors: Latents, rng: np.random.Generator) -> Latents:
    """Return every block plus errors of which each value is of another random clip."""
    chosen = rng.integers(len(errors), size=blocks.shape)
    return blocks + SPREAD * np.take_along_axis(errors, chosen, axis=0)


def _partly_mean(
    blocks: Latents, draw: Callable[[], Latents], share: float, rng: np.random.Generator
) -> Latents:
    """Return draws of which a share is the conditional mean."""
    is_mean = rng.random(len(blocks)) < share
    return np.where(is_mean[:, None, None], blocks, draw())


def _noisy(draw: Callable[[], Latents], scale: float, rng: np.random.Generator) -> Latents:
    blocks = draw()
    return blocks + scale * rng.standard_normal(blocks.shape)


def _shuffled(draw: Callable[[], Latents], share: float, rng: np.random.Generator) -> Latents:
    blocks = draw()
    n, frames, _ = blocks.shape
    shuffled = blocks.copy()
    for clip in range(n):
        moved = rng.permutation(frames)[: round(share * frames)]
        shuffled[clip, np.sort(moved)] = blocks[clip, moved]
    return shuffled


def _smoothed(blocks: Latents, size: int) -> Latents:
    mean: Any = scipy.ndimage.uniform_filter1d(blocks, size, axis=1, mode="nearest")
    return mean


def _score(truth: Latents, draw: Callable[[], Latents]) -> RowResult:
    """Return the scores of forecasts of `NUM_DRAWS` draws, one value per clip."""
    n = len(truth)
    draws = np.stack([draw() for _ in range(NUM_DRAWS)], axis=1)
    values = {
        name: clip_means(found, tuple(range(n)))
        for name, found in Blocks(draws, np.asarray(truth)).scores().items()
    }
    scores = {name: make_score(name, one.estimate(), seeds=1) for name, one in values.items()}
    return RowResult(scores, values, {}, ())
