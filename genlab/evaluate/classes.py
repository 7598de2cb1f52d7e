"""Which class of sound is it? A classifier of clips, fitted to the corpus's own training clips.

In: the timbre vectors (timbre.py) of labelled clips. Out: `ClassProbe`, which gives the posterior
of every class for a clip. It is a linear discriminant with one covariance for all classes, shrunk
towards its diagonal (Friedman 1989, regularised discriminant analysis, eq. 18), with equal priors:
a hundred clips are enough for it, it is fitted in milliseconds, and the same clips give the same
classifier. How often it is right on real clips that it was not fitted to is the score of the row of
real audio; where that is low, it judges no model.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from genlab.config import GenlabError

SHRINKAGE = 0.3
FEWEST_CLIPS = 2  # of a class; what has fewer is no class of the probe


class ClassProbe:
    """The discriminant of every class.

    Attributes:
        classes: their names, sorted.
    """

    def __init__(self, clips: Sequence[Float[np.ndarray, "_ d"]], labels: Sequence[str]):
        """Fit it.

        Args:
            clips: the vectors of each clip.
            labels: the class of each clip.

        Raises:
            GenlabError: if there are not two classes of `FEWEST_CLIPS` clips.
        """
        counts = {name: list(labels).count(name) for name in sorted(set(labels))}
        self.classes = tuple(name for name, count in counts.items() if count >= FEWEST_CLIPS)
        if len(self.classes) < 2:
            raise GenlabError(
                f"class_accuracy: {len(self.classes)} classes with {FEWEST_CLIPS} training clips "
                "or more, expected at least 2; give clips a label (the column speaker of the "
                "table, or a folder per class)"
            )
        means = np.stack([_summary(vectors) for vectors in clips])
        self._centre = means.mean(axis=0)
        self._scale = np.maximum(means.std(axis=0), 1e-6)
        scaled = (means - self._centre) / self._scale
        place = self.places(labels)
        centroids = np.stack([scaled[place == i].mean(axis=0) for i in range(len(self.classes))])
        known = place >= 0
        residuals = scaled[known] - centroids[place[known]]
        within = residuals.T @ residuals / max(1, known.sum() - len(self.classes))
        # Eq. 18: towards the diagonal, because there are more channels than clips of a class.
        target = np.diag(np.maximum(np.diag(within), 1e-6))
        precision = np.linalg.inv((1 - SHRINKAGE) * within + SHRINKAGE * target)
        self._weights = precision @ centroids.T
        self._bias = -0.5 * np.einsum("cd,de,ce->c", centroids, precision, centroids)

    def places(self, labels: Sequence[str]) -> Int[np.ndarray, "n"]:
        """Return the number of each label among the classes, -1 of one that is none."""
        number = {name: i for i, name in enumerate(self.classes)}
        return np.array([number.get(name, -1) for name in labels])

    def posteriors(self, vectors: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "c"]:
        """Return the probability of every class for one clip, given its vectors."""
        scaled = (_summary(vectors) - self._centre) / self._scale
        scores = scaled @ self._weights + self._bias
        shifted = np.exp(scores - scores.max())
        return shifted / shifted.sum()


def _summary(vectors: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "d"]:
    """Return one vector per clip: the mean over its windows."""
    return np.asarray(vectors).mean(axis=0)
