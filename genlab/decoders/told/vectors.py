"""What another model said about a clip: an embedding (CLAP, T5, a speaker), or the states of a
frozen text encoder, computed beforehand and read from files.

A column names the file of each clip. A changed file makes other values: its size and its time are
part of what they are named by (`stamp`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, Shaped

from genlab.config import GenlabError, digest
from genlab.config.errors import shorten
from genlab.data.valued import ClipFacts
from genlab.data.words import read_array, read_numbers
from genlab.decoders.parts import PlainPart, Projection, Route
from genlab.decoders.told.places import places_of
from genlab.nets.context import Text
from genlab.nets.linear import Linear

if TYPE_CHECKING:
    from genlab.data.manifest import Manifest


class FromFiles(PlainPart):
    """A value that a column names the file of, or holds as a list of numbers."""

    column: str
    """The column that holds the path of a .npy, .csv or .txt file per clip, or the numbers."""
    folder: str = "."
    """The folder that paths in the column start from."""

    def array(self, clip: ClipFacts) -> Shaped[np.ndarray, "..."]:
        """Return the numbers of the clip.

        Raises:
            GenlabError: if the column holds neither a path of numbers nor numbers.
        """
        found = clip.label(self.column)
        if isinstance(found, str):
            return read_array(Path(self.folder).expanduser() / found)
        try:
            return np.array(found, np.float64)
        except (TypeError, ValueError):
            raise GenlabError(
                f"{self.column}={shorten(found)}: expected the path of a file, or numbers"
            ) from None

    def stamp(self, manifest: "Manifest") -> str:
        """Return a digest of the state of every file that the column names."""
        states = []
        for row in manifest.clips:
            found = row.labels.get(self.column)
            path = Path(self.folder).expanduser() / found if isinstance(found, str) else None
            if path is not None and path.exists():
                stat = path.stat()
                states.append([found, stat.st_size, stat.st_mtime_ns])
        return digest(states)


class Vector(FromFiles):
    """One vector per clip, of a fixed number of channels."""

    kind: Literal["vector"] = "vector"
    channels: int = pydantic.Field(gt=0, le=2**16)
    """Numbers of a vector."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The channels."""
        return (self.channels,)

    def value(self, clip: ClipFacts) -> Float[np.ndarray, "c"]:
        """Return the vector of the clip; a file may hold it as one row.

        Raises:
            GenlabError: as `array`, or if it has another number of channels.
        """
        return self._fit(self.array(clip))

    def from_words(self, words: str, num_frames: int) -> Float[np.ndarray, "c"]:
        """Return the vector in a file, or of numbers with commas between them."""
        return self._fit(read_numbers(words))

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a projection."""
        return Projection(self.channels, width, key=key)

    def _fit(self, values: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "c"]:
        if values.size != self.channels or values.ndim > 2:
            raise GenlabError(
                f"shape {values.shape}, expected a vector of channels={self.channels}"
            )
        return values.reshape(-1).astype(np.float32)


class VectorSequence(FromFiles):
    """Vectors in an order of their own, such as the states of a text encoder."""

    kind: Literal["sequence"] = "sequence"
    channels: int = pydantic.Field(gt=0, le=2**16)
    """Numbers of each vector."""
    max_length: int = pydantic.Field(default=128, gt=0, le=2**14)
    """The most vectors of a clip; a store of values has room for as many of every clip."""
    route: Route = "cross"
    """By cross-attention, or as positions before the frames (prefix)."""

    @property
    def is_sequence(self) -> bool:
        """True."""
        return True

    @property
    def shape(self) -> tuple[int, ...]:
        """The vectors, padded; one more channel says which are there."""
        return (self.max_length, self.channels + 1)

    def value(self, clip: ClipFacts) -> Float[np.ndarray, "n c"]:
        """Return the vectors of the clip, padded.

        Raises:
            GenlabError: as `array`, or if there are too many, none, or of other channels.
        """
        return self._fit(self.array(clip))

    def from_words(self, words: str, num_frames: int) -> Float[np.ndarray, "n c"]:
        """Return the vectors in a file."""
        return self._fit(read_array(Path(words)))

    def check(self, value: Shaped[np.ndarray, "..."]) -> None:
        """Refuse what is not padded as it should be."""
        is_there = value[:, -1]
        if is_there[0] != 1 or not np.isin(np.diff(is_there), (0, -1)).all():
            raise ValueError("the last channel must be 1 for the first vectors, then 0")

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a projection of each vector."""
        return _States(self.channels, width, key=key)

    def _fit(self, values: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, "n c"]:
        if values.ndim != 2 or values.shape[1] != self.channels:
            raise GenlabError(f"shape {values.shape}, expected (vectors, channels={self.channels})")
        if not 0 < len(values) <= self.max_length:
            raise GenlabError(
                f"{len(values)} vectors, expected 1 to max_length={self.max_length}; raise it"
            )
        padded = np.zeros(self.shape, np.float32)
        padded[: len(values), :-1] = values
        padded[: len(values), -1] = 1
        return padded


class _States(nnx.Module):
    def __init__(self, channels: int, width: int, *, key: Key[Array, ""]):
        self.kernel = Linear(channels, width, key=key)

    def __call__(self, value: Float[Array, "b n c"], is_valid: Bool[Array, "b t"]) -> Text:
        is_there = jnp.asarray(value)[:, :, -1] > 0.5
        x = self.kernel(value[:, :, :-1])
        return Text(x + places_of(is_there, x.shape[-1]).astype(x.dtype), is_there)
