"""Another signal's codes, frame by frame: a mixture to separate, a melody to follow, semantic
tokens to render.
"""

from pathlib import Path
from typing import ClassVar, Literal

import jax
import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from genlab.config import GenlabError
from genlab.data.valued import ClipFacts
from genlab.data.words import read_array, repeat_codes
from genlab.decoders.told.vectors import FromFiles
from genlab.nets.blocks import ConvBlock
from genlab.nets.linear import CodeEmbedding


class Codes(FromFiles):
    """Codes of a signal as long as the clip: those of its other side (the mixture of `Mixtures`,
    the partner of a dialogue), or of files.

    Codes of another frame rate are read at the middle of every frame.
    """

    kind: Literal["codes"] = "codes"
    option: ClassVar[str] = "codes"
    column: str = ""
    """The column that holds the path of a .npy file of codes per clip; empty for the other side."""
    codebooks: int = pydantic.Field(gt=0, le=1024)
    """Codes per frame."""
    entries: int = pydantic.Field(gt=0, le=2**20)
    """Entries of each codebook."""

    @property
    def reads_store(self) -> bool:
        """True if the values are known only once the clips are encoded."""
        return not self.column

    @property
    def is_per_frame(self) -> bool:
        """True."""
        return True

    @property
    def shape(self) -> tuple[int, ...]:
        """One code per codebook."""
        return (self.codebooks,)

    @property
    def dtype(self) -> str:
        """Numbers of entries."""
        return "int32"

    def value(self, clip: ClipFacts) -> Int[np.ndarray, "t k"]:
        """Return the codes of every frame.

        Raises:
            GenlabError: as `array`, if they have other codebooks, or if the clip has no other side.
        """
        if self.column:
            return self._fit(self.array(clip), clip.num_frames)
        if clip.other is None:
            raise GenlabError(
                "the clip has no other side; use a corpus of Mixtures or of dialogues, or name a "
                "column of files"
            )
        return self._fit(clip.other, clip.num_frames)

    def check(self, value: Shaped[np.ndarray, "..."]) -> None:
        """Refuse codes that no entry has."""
        if value.size and not 0 <= value.min() <= value.max() < self.entries:
            raise ValueError(
                f"codes {value.min()} to {value.max()}, expected 0 to entries-1={self.entries - 1}"
            )

    def from_words(self, words: str, num_frames: int) -> Int[np.ndarray, "t k"]:
        """Return the codes in a file."""
        return self._fit(read_array(Path(words)), num_frames)

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a table per codebook, and the short-range layer that units have."""
        return _Codes(self.codebooks, self.entries, width, key=key)

    def _fit(self, codes: Shaped[np.ndarray, "..."], num_frames: int) -> Int[np.ndarray, "t k"]:
        codes = codes[:, None] if codes.ndim == 1 else codes
        if (codes == codes.astype(np.int64)).all():  # lists and files of text hold floats
            codes = codes.astype(np.int64)
        if codes.ndim != 2 or codes.shape[1] != self.codebooks or codes.dtype.kind not in "iu":
            raise GenlabError(
                f"{codes.dtype} of shape {codes.shape}, expected integers of shape (frames, "
                f"codebooks={self.codebooks})"
            )
        return repeat_codes(codes, num_frames)


class _Codes(nnx.Module):
    def __init__(self, codebooks: int, entries: int, width: int, *, key: Key[Array, ""]):
        table_key, layer_key = jax.random.split(key)
        self.tables = CodeEmbedding(codebooks, entries, width, key=table_key)
        self.layer = ConvBlock(width, width, key=layer_key, output_scale=2**-0.5)

    def __call__(
        self, value: Int[Array, "b t k"], is_valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t h"]:
        return self.layer(self.tables(value), is_valid)
