"""Values of conditions as people write them: in a cell of a table, in a file, on a command line.

In: `piano`, `piano:0.7,flute:0.3`, `0.5,1.2`, or the path of a .npy, .csv or .txt file. Out: numpy
arrays, and for curves one row per frame.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from genlab.config import GenlabError
from genlab.config.errors import meant, one_line, shorten

TEXT_SUFFIXES = (".csv", ".txt")
WEIGHT_TOLERANCE = 1e-3  # of a sum of weights, which people round


def read_weights(found: object, names: Sequence[str]) -> Float[np.ndarray, "n"]:
    """Return the weight of every name; weights sum to 1.

    Args:
        found: one name, `piano:0.7,flute:0.3`, a list of names of equal weight, or a mapping from
            names to weights.
        names: all that there are, in the order of the result.

    Raises:
        GenlabError: if a name is unknown or stands twice, or weights are no shares of 1.
    """
    pairs = _pairs(found, names)
    weights = np.zeros(len(names), np.float32)
    for name, weight in pairs:
        if name not in names:
            few = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise GenlabError(
                f"{shorten(name)}: not a known name{meant(name, names)} expected one of {few}"
            )
        if weights[names.index(name)]:
            raise GenlabError(f"{shorten(found)}: {name!r} stands there twice; add up its weights")
        if not 0 < weight <= 1:
            raise GenlabError(f"{shorten(found)}: weight {weight:g} of {name!r}, expected 0 to 1")
        weights[names.index(name)] = weight
    if not math.isclose(float(weights.sum()), 1, abs_tol=WEIGHT_TOLERANCE):
        raise GenlabError(
            f"{shorten(found)}: the weights sum to {weights.sum():g}, expected 1; for example "
            f"{_halves([name for name, _ in pairs])}"
        )
    return weights


def _halves(names: Sequence[str]) -> str:
    weights = [f"{name}:{1 / len(names):.3g}" for name in names[:3]]
    return ",".join(weights) or "NAME:1"


def _pairs(found: object, names: Sequence[str]) -> list[tuple[str, float]]:
    if isinstance(found, Mapping):
        parts = [f"{name}:{weight}" for name, weight in found.items()]
    elif isinstance(found, list | tuple):
        return [(str(name), 1 / len(found)) for name in found]
    elif str(found) in names:  # may hold commas and colons of its own
        return [(str(found), 1.0)]
    else:
        parts = [part.strip() for part in str(found).split(",")]
    pairs = []
    for part in parts:
        if part in names:
            pairs.append((part, math.nan))
            continue
        name, colon, weight = part.rpartition(":")
        try:
            pairs.append((name, float(weight)) if colon else (part, math.nan))
        except ValueError:
            pairs.append((part, math.nan))
    if len(pairs) == 1 and math.isnan(pairs[0][1]):
        return [(pairs[0][0], 1.0)]
    unknown = [name for name, _ in pairs if name not in names]
    if not unknown and any(math.isnan(weight) for _, weight in pairs):
        raise GenlabError(
            f"{shorten(found)}: several names need a weight each, for example "
            f"{_halves([name for name, _ in pairs])}"
        )
    return pairs


def read_numbers(words: str) -> Float[np.ndarray, "..."]:
    """Return numbers with commas between them, or what the file of this path holds.

    Raises:
        GenlabError: if it is neither.
    """
    try:
        return np.array([float(part) for part in words.split(",")], np.float32)
    except ValueError:
        return read_array(Path(words)).astype(np.float32)


def read_array(path: Path) -> Shaped[np.ndarray, "..."]:
    """Return the numbers of a .npy file, or of a .csv or .txt file with a row per line.

    Raises:
        GenlabError: if there is no such file, or something else than finite numbers in it.
    """
    # Loaded without pickles: a file may be a stranger's.
    known = f"expected the path of a .npy, {' or '.join(TEXT_SUFFIXES)} file of numbers"
    if path.suffix not in (".npy", *TEXT_SUFFIXES):
        raise GenlabError(f"{shorten(str(path))}: {known}")
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            content = path.read_text()
            values = np.loadtxt(content.splitlines(), delimiter="," if "," in content else None)
    except FileNotFoundError:
        raise GenlabError(f"{shorten(str(path))}: no such file; {known}") from None
    except (OSError, ValueError, EOFError) as error:
        raise GenlabError(
            f"{shorten(str(path))}: cannot be read ({one_line(str(error))}); {known}"
        ) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise GenlabError(f"{shorten(str(path))}: holds something else; {known}")
    if not values.size or not np.isfinite(values).all():
        raise GenlabError(
            f"{shorten(str(path))}: shape {values.shape} with "
            f"{int((~np.isfinite(values)).sum())} numbers that are not finite; {known}"
        )
    return values


def resample(values: Float[np.ndarray, "n c"], num_frames: int) -> Float[np.ndarray, "t c"]:
    """Return a curve at the middle of each of `num_frames` frames, on straight lines between its
    points, which lie at the middles of equal parts of the same clip.
    """
    places = (np.arange(num_frames) + 0.5) / max(num_frames, 1) * len(values) - 0.5
    channels = [np.interp(places, np.arange(len(values)), channel) for channel in values.T]
    return np.stack(channels, axis=1).astype(np.float32)


def repeat_codes(codes: Int[np.ndarray, "n k"], num_frames: int) -> Int[np.ndarray, "t k"]:
    """Return the codes that lie at the middle of each of `num_frames` frames of the same clip."""
    places = ((np.arange(num_frames) + 0.5) / max(num_frames, 1) * len(codes)).astype(int)
    return codes[places].astype(np.int32)
