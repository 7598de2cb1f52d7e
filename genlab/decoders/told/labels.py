"""Several names at once, each with a weight: two instruments, a style between two styles."""

from typing import ClassVar, Literal

import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Key, Shaped

from genlab.data.valued import ClipFacts
from genlab.data.words import WEIGHT_TOLERANCE, read_weights
from genlab.decoders.parts import PlainPart, Table


class Labels(PlainPart):
    """Names in a column of the corpus, mixed by weights that sum to 1.

    A cell holds one name, a list of names of equal weight, `piano:0.7,flute:0.3`, or a mapping from
    names to weights.
    """

    kind: Literal["labels"] = "labels"
    option: ClassVar[str] = "label"
    column: str
    """A label of the clips: a column of the table they came with."""
    names: tuple[str, ...] = pydantic.Field(min_length=1, max_length=2**16)
    """All that may occur, in the order of their numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One weight per name."""
        return (len(self.names),)

    def value(self, clip: ClipFacts) -> Float[np.ndarray, "n"]:
        """Return the weights of the clip.

        Raises:
            GenlabError: if the clip has no such column, or names that are not listed.
        """
        return read_weights(clip.label(self.column), self.names)

    def check(self, value: Shaped[np.ndarray, "..."]) -> None:
        """Refuse what is no mixture."""
        if value.min() < 0 or abs(float(value.sum()) - 1) > 2 * WEIGHT_TOLERANCE:
            raise ValueError(f"weights {value.min():g} and up that sum to {value.sum():g}, not 1")

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a table with one vector per name."""
        return Table(len(self.names), width, key=key)

    def from_words(self, words: str, num_frames: int) -> Float[np.ndarray, "n"]:
        """Return the weight of every name, from words such as `piano:0.7,flute:0.3`."""
        return read_weights(words, self.names)
