"""What computes the value of a clip that a decoder is told, and what such a value may depend on.

Apart from what gathers values (told.py), so that the contract of conditions loads no corpus.
"""

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int, Shaped

from genlab.config import GenlabError
from genlab.config.errors import shorten

if TYPE_CHECKING:
    from genlab.data.manifest import Clip, Manifest


class ClipFacts(NamedTuple):
    """What a value may depend on: a clip's row in the manifest, its frames in the token space, and
    its audio.
    """

    row: "Clip"
    num_frames: int
    frame_hz: float
    manifest: "Manifest"
    other: Int[np.ndarray, "t k"] | None = None  # codes of the other side, once clips are encoded

    def wave(self) -> Float[np.ndarray, "s *c"]:
        """Return the audio in [-1, 1] in the format of the corpus (`manifest.audio_format`); it is
        read when this is called.
        """
        return self.manifest.audio(self.row) / np.float32(32768)

    def label(self, column: str) -> object:
        """Return what the corpus says about the clip in a column: speaker, text, licence, or one of
        its labels.

        Raises:
            GenlabError: if the clip has no such column.
        """
        if column in ("speaker", "text", "licence"):
            return getattr(self.row, column)
        if column not in self.row.labels:
            known = ", ".join(["speaker", "text", "licence", *sorted(self.row.labels)])
            raise GenlabError(
                f"clip {self.row.id!r}: no column {shorten(column)}, expected one of {known}"
            )
        return self.row.labels[column]


class Valued(Protocol):
    """What computes the values of one name."""

    @property
    def name(self) -> str:
        """The name under which decoders find it."""
        ...

    @property
    def is_per_frame(self) -> bool:
        """True if a value has one entry per frame, False if it holds for the whole clip."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a value, without its frames."""
        ...

    @property
    def dtype(self) -> str:
        """float32 or int32."""
        ...

    def value(self, clip: ClipFacts) -> Shaped[np.ndarray, "..."]:
        """Return the value of a clip."""
        ...

    def check(self, value: Shaped[np.ndarray, "..."]) -> None:
        """Raise `ValueError` if the decoder could not read this value."""
        ...

    def digest(self) -> str:
        """Return a hash of everything the values depend on beside the clip."""
        ...
