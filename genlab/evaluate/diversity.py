"""Diversity: does a set of generated clips spread as real clips do, or does it repeat itself?

In: one embedding per clip (the mean of its window vectors, standardised as in distribution.py),
real and generated, or the codes that a codec gives the generated audio. Out: `coverage`, the share
of real clips with a generated clip within the distance of their k-th nearest real neighbour, and
`density`, how many such balls hold a generated clip on average, over k (Naeem et al. 2020,
2002.09797, eq. 3 and 4; k = 5 as there); `spread`, the mean distance between generated clips over
that between the real ones; and the entropy of the codec's codes, of the set and within each clip.

None of them looks at the prompts: a decoder that ignores its prompts can do well in all of them.
"""

from collections.abc import Sequence

import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Float, Int

from genlab.config import GenlabError
from genlab.statistics.bootstrap import Estimate, bootstrap_statistic

NEIGHBOURS = 5
NUM_RESAMPLES = 500


def coverage_density(
    generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"], *, seed: int = 0
) -> tuple[Estimate, Estimate]:
    """Return coverage and density with intervals over the generated clips; the real ones and their
    balls are fixed.

    Raises:
        GenlabError: if there are no `NEIGHBOURS` other real clips around each.
    """
    if len(real) <= NEIGHBOURS:
        raise GenlabError(f"coverage: {len(real)} real clips, expected at least {NEIGHBOURS + 1}")
    within = scipy.spatial.distance.cdist(real, real)
    radius = np.partition(within, NEIGHBOURS, axis=1)[:, NEIGHBOURS]  # column 0 is the clip itself
    is_inside = scipy.spatial.distance.cdist(generated, real) < radius[None, :]

    def coverage(picks: Int[np.ndarray, "*r n"]) -> Float[np.ndarray, "*r"]:
        return is_inside[picks].any(axis=-2).mean(axis=-1)

    covered = bootstrap_statistic(
        coverage,
        np.arange(len(generated)),
        interval="spread",
        seed=seed,
        num_resamples=NUM_RESAMPLES,
    )
    held = is_inside.sum(axis=1) / NEIGHBOURS
    return covered, bootstrap_statistic(_mean, held, seed=seed)


def relative_spread(
    generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"], *, seed: int = 0
) -> Estimate:
    """Return the mean distance between two generated clips, 1 where real clips lie as far apart."""
    within = scipy.spatial.distance.cdist(generated, generated)
    pairs = len(real) * (len(real) - 1)
    expected = scipy.spatial.distance.cdist(real, real).sum() / pairs

    def spread(picks: Int[np.ndarray, "*r n"]) -> Float[np.ndarray, "*r"]:
        # Copies of one clip in a resample are no pair: their distance of 0 would say nothing.
        is_pair = picks[..., :, None] != picks[..., None, :]
        total = (within[picks[..., :, None], picks[..., None, :]] * is_pair).sum(axis=(-1, -2))
        return total / np.maximum(is_pair.sum(axis=(-1, -2)), 1) / expected

    clips = np.arange(len(generated))
    return bootstrap_statistic(
        spread,
        clips,
        interval="percentile",
        seed=seed,
        num_resamples=NUM_RESAMPLES,
        cells=len(clips) ** 2,
    )


def code_entropy(
    codes: Sequence[Int[np.ndarray, "_ k"]], entries: int, *, seed: int = 0
) -> Estimate:
    """Return the entropy of level-1 codes in bits, with the correction of Miller (1955) for few
    observations.
    """
    counts = np.stack([np.bincount(clip[:, 0], minlength=entries) for clip in codes]).astype(
        np.float64
    )

    def entropy(picks: Int[np.ndarray, "*r n"]) -> Float[np.ndarray, "*r"]:
        total = counts[picks].sum(axis=-2)
        share = total / total.sum(axis=-1, keepdims=True)
        nats = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=-1)
        return (nats + ((total > 0).sum(axis=-1) - 1) / (2 * total.sum(axis=-1))) / np.log(2)

    return bootstrap_statistic(
        entropy, np.arange(len(codes)), interval="spread", seed=seed, num_resamples=NUM_RESAMPLES
    )


def clip_entropies(codes: Sequence[Int[np.ndarray, "_ k"]]) -> Float[np.ndarray, "n"]:
    """Return the entropy in bits of the frequencies of each clip's own codes, the mean over levels
    (2409.02908).

    t frames have log2 t at most, and t draws of the same law less than that law, so it compares
    clips of equal length only, such as those of one prompt, whose bias is nearly the same: nothing
    is corrected. NaN where there is no code.
    """
    return np.array(
        [
            np.mean([_entropy_bits(level) for level in clip.T]) if len(clip) else np.nan
            for clip in codes
        ]
    )


def _entropy_bits(codes: Int[np.ndarray, "t"]) -> float:
    share = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(-(share * np.log2(share)).sum())


def _mean(values: Float[np.ndarray, "*r n"]) -> Float[np.ndarray, "*r"]:
    return np.asarray(values.mean(axis=-1))
