"""Distances of mono and stereo waves to their originals, for the scores of codecs.

In: pairs of aligned waves at 16 kHz, all mono or all stereo. Out: one number per pair. What
compares two mono waves is measured on the left and on the right channel and averaged over the two,
so a codec that mixes them is caught; a channel in which the original is silent does not count. The
difference of the channels, in which the stereo image is, has a score of its own.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from genlab.data.audio import fit_channels
from genlab.evaluate.reconstruction import mel_distances_db, pesq_stoi

Waves = Sequence[Float[np.ndarray, "_ *c"]]
Scores = dict[str, Float[np.ndarray, "n"]]


def distances(originals: Waves, decoded: Waves) -> Scores:
    """Return "mel_distance_db", those of `pesq_stoi`, and for stereo "side_mel_distance_db"; a pair
    that cannot be scored has NaN.
    """

    def measure(originals: Waves, decoded: Waves) -> Scores:
        return {"mel_distance_db": mel_distances_db(originals, decoded)} | pesq_stoi(
            originals, decoded
        )

    if originals[0].ndim == 1:
        return measure(originals, decoded)
    found = []
    for side in (0, 1):
        pairs = [[wave[:, side] for wave in waves] for waves in (originals, decoded)]
        found.append(_where_heard(measure, *pairs))
    scores = {name: _mean_of_two(found[0][name], found[1][name]) for name in found[0]}
    sides = [[(wave[:, 0] - wave[:, 1]) / 2 for wave in waves] for waves in (originals, decoded)]
    side = _where_heard(lambda a, b: {"side": mel_distances_db(a, b)}, *sides)
    return {**scores, "side_mel_distance_db": side["side"]}


def mixed(waves: Waves) -> list[Float[np.ndarray, "_"]]:
    """Return the waves in mono, as networks that hear speech are given them."""
    return [fit_channels(wave, 1) for wave in waves]


def _where_heard(measure: Callable[[Waves, Waves], Scores], a: Waves, b: Waves) -> Scores:
    """Return the scores, NaN for pairs whose original is silent: it has no loudest band."""
    is_heard = np.array([bool(wave.any()) for wave in a])
    return {name: np.where(is_heard, values, np.nan) for name, values in measure(a, b).items()}


def _mean_of_two(
    left: Float[np.ndarray, "n"], right: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Return the mean, or the one that is a number."""
    mean = (left + right) / 2
    return np.where(np.isnan(mean), np.where(np.isnan(left), right, left), mean)
