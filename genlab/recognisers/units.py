"""Semantic units: one small integer per frame that says what is spoken and, as far as possible, not
who speaks.

In: waves. Out: units 1..U per 20 ms frame (0 is padding), the nearest of U k-means centroids of
standardised features of the recogniser (HuBERT's and AudioLM's recipe, Borsos et al. 2022 section
III-B, with an in-lab recogniser as the teacher).

Two numbers say whether units do their job. `transcribe_units` puts the centroids back in place of
the features and lets the rest of the recogniser read them: its word error rate beside the
recogniser's own is the content lost. `speaker_leakage` is how well a linear probe names the speaker
from a histogram of units: chance is ideal.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy  # loads its parts when they are first used
from jaxtyping import Array, Bool, Float, Int

from genlab.config import GenlabError
from genlab.recognisers.ctc import Recogniser
from genlab.recognisers.transcribe import FrozenRecogniser, collapse, map_speech, map_waves


class Codebook(NamedTuple):
    """Centroids in standardised feature space, and the statistics that standardise."""

    centroids: Float[np.ndarray, "u h"]
    mean: Float[np.ndarray, "h"]
    std: Float[np.ndarray, "h"]


class UnitEncoder:
    """Waves to units, with a frozen recogniser and its codebook.

    Attributes:
        num_units: U; units are 1..U.
        fingerprint: 10 hex digits that change with the recogniser or the codebook.
    """

    def __init__(self, recogniser: FrozenRecogniser, codebook: Codebook):
        self.recogniser = recogniser
        self.codebook = codebook
        self.num_units = len(codebook.centroids)
        self.fingerprint = recogniser.fingerprint  # of the file that holds both
        self._hop_samples = recogniser.config.hop_samples
        self._nearest = recogniser.compile(self._find_nearest)
        self._read = recogniser.compile(self._read_centroids)

    def encode_units(
        self,
        waves: Sequence[Float[np.ndarray, "s"]],
        num_samples: Int[np.ndarray, "b"] | None = None,
    ) -> list[Int[np.ndarray, "t"]]:
        """Return the units of each wave, ceil(num_samples / 320) of them; 0, none, in silence
        around the speech.
        """
        units = map_speech(self._nearest, waves, num_samples, self.recogniser.config)
        return [row.astype(np.int16) for row in units]

    def transcribe_units(self, units: Sequence[Int[np.ndarray, "t"]]) -> list[str]:
        """Return what the upper blocks of the recogniser read when all they get is centroids.

        Raises:
            GenlabError: if a unit lies outside 1..U.
        """
        texts = []
        units = [np.trim_zeros(row) for row in units]
        for row in units:
            if len(row) and not (1 <= int(np.min(row)) and int(np.max(row)) <= self.num_units):
                raise GenlabError(
                    f"units: expected 1..{self.num_units}, got "
                    f"{int(np.min(row))}..{int(np.max(row))}"
                )
        # Units travel through the batching of waves as "waves" with a hop of one.
        for row in map_waves(self._read, [np.asarray(row, np.float32) for row in units], None, 1):
            texts.append(collapse(row))
        return texts

    def _find_nearest(self, model: Recogniser, waves: Array, num_samples: Array) -> Array:
        features = (model.features(waves, num_samples) - _bth(self.codebook.mean)) / _bth(
            self.codebook.std
        )
        return find_nearest(features, self.codebook.centroids) + 1

    def _read_centroids(self, model: Recogniser, units: Array, num_frames: Array) -> Array:
        features = jnp.asarray(self.codebook.centroids)[units.astype(jnp.int32) - 1] * _bth(
            self.codebook.std
        )
        is_valid = jnp.arange(units.shape[1])[None] < num_frames[:, None]
        features = (features + _bth(self.codebook.mean)) * is_valid[..., None]
        return jnp.argmax(
            model.logits_from_features(features, num_frames * self._hop_samples), axis=-1
        )


def find_nearest(
    features: Float[Array, "b t h"], centroids: Float[np.ndarray, "u h"]
) -> Int[Array, "b t"]:
    """Return the index of the nearest centroid, by |x - c|^2 less |x|^2, which is the same for all
    c.
    """
    return jnp.argmin(_bth(np.sum(centroids**2, axis=1)) - 2.0 * features @ centroids.T, axis=-1)


def fit_codebook(
    recogniser: FrozenRecogniser,
    waves: Sequence[Float[np.ndarray, "s"]],
    *,
    num_units: int,
    seed: int,
    max_frames: int = 40_000,
    iterations: int = 30,
    block: int | None = None,
) -> Codebook:
    """Return `num_units` k-means centroids of the features of `waves`.

    Args:
        recogniser: gives the features.
        waves: training audio.
        num_units: U.
        seed: of the frames that are used and of the first centroids (k-means++).
        max_frames: frames to cluster, drawn without replacement.
        iterations: Lloyd iterations.
        block: the block whose output is clustered; the recogniser's `feature_block` if absent.

    Raises:
        GenlabError: if there are fewer frames than units.
    """
    compiled = recogniser.compile(lambda model, *batch: model.features(*batch, block=block))
    frames = np.concatenate(map_waves(compiled, waves, None, recogniser.config.hop_samples)).astype(
        np.float64
    )
    if len(frames) < num_units:
        raise GenlabError(
            f"num_units: {num_units} units need as many frames, the audio has {len(frames)}; give "
            "more audio"
        )
    generator = np.random.default_rng(seed)
    frames = frames[np.sort(generator.permutation(len(frames))[:max_frames])]
    mean = frames.mean(axis=0)
    std = frames.std(axis=0) + 1e-6
    standardised = (frames - mean) / std
    centroids, _ = scipy.cluster.vq.kmeans2(
        standardised, num_units, iter=iterations, minit="++", rng=generator, missing="warn"
    )
    return Codebook(*(array.astype(np.float32) for array in (centroids, mean, std)))


def speaker_leakage(
    units: Sequence[Int[np.ndarray, "t"]],
    speakers: Sequence[str],
    num_units: int,
    *,
    is_test: Sequence[bool],
) -> float:
    """Return the accuracy of a ridge probe that names the speaker of held-out clips from a
    histogram of their units.
    """
    return float(np.mean(speaker_hits(units, speakers, num_units, is_test=is_test)))


def speaker_hits(
    units: Sequence[Int[np.ndarray, "t"]],
    speakers: Sequence[str],
    num_units: int,
    *,
    is_test: Sequence[bool],
) -> Bool[np.ndarray, "n"]:
    """Return for each held-out clip whether the probe names its speaker.

    Eq. argmax of H W with W = (H'H + I)^-1 H'Y over square roots of unit frequencies H and one-hot
    speakers Y.
    """
    names = sorted(set(speakers))
    histograms = np.stack(
        [np.bincount(row, minlength=num_units + 1)[1:] / max(1, len(row)) for row in units]
    )
    inputs = np.concatenate([np.sqrt(histograms), np.ones((len(units), 1))], axis=1)
    targets = np.array([names.index(speaker) for speaker in speakers])
    held = np.asarray(is_test, bool)
    seen = inputs[~held]
    gram = seen.T @ seen + np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, seen.T @ np.eye(len(names))[targets[~held]])
    return np.argmax(inputs[held] @ weights, axis=1) == targets[held]


def _bth(vector: Float[np.ndarray, "h"]) -> Float[np.ndarray, "1 1 h"]:
    return vector[None, None]
