"""Numbers that change from frame to frame: loudness, pitch, chroma, or any curve in a file."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pydantic
from flax import nnx
from jaxtyping import Array, Float, Key, Shaped

from genlab.config import GenlabError
from genlab.data.curves import CHANNELS, measure
from genlab.data.valued import ClipFacts
from genlab.data.words import read_array, resample
from genlab.decoders.parts import Projection
from genlab.decoders.told.vectors import FromFiles


class Curve(FromFiles):
    """A curve in files of any rate, or one that is measured in the audio.

    Curves are read at the middle of every frame, on straight lines between their points.
    """

    kind: Literal["curve"] = "curve"
    option: ClassVar[str] = "curve"
    column: str = ""
    """The column that holds the path of a file of points, or channels of points, per clip; empty
    for a curve that is measured.
    """
    measured: Literal["loudness", "f0", "chroma"] | None = None
    """What is measured in the audio: the level in dB (loudness); octaves above 100 Hz where it is
    voiced, and whether it is (f0); the shares of the twelve pitch classes (chroma).
    """
    channels: int = pydantic.Field(default=1, gt=0, le=2**12)
    """Numbers of a frame, for curves in files."""
    mean: float = 0.0
    """Subtracted from every number of a file."""
    deviation: float = pydantic.Field(default=1.0, gt=0)
    """Numbers of a file are divided by it, so that they are about 1."""

    @pydantic.model_validator(mode="after")
    def _check_source(self) -> "Curve":
        if bool(self.column) == bool(self.measured):
            raise ValueError(
                f"column={self.column!r}, measured={self.measured!r}: expected one of the two; a "
                "column names the files of curves, measured what is found in the audio"
            )
        if self.measured and self.channels not in (1, CHANNELS[self.measured]):
            raise ValueError(
                f"channels={self.channels}: measured={self.measured!r} has "
                f"{CHANNELS[self.measured]}; leave channels out"
            )
        return self

    @property
    def is_per_frame(self) -> bool:
        """True."""
        return True

    @property
    def shape(self) -> tuple[int, ...]:
        """The channels of a frame."""
        return (CHANNELS[self.measured] if self.measured else self.channels,)

    def value(self, clip: ClipFacts) -> Float[np.ndarray, "t c"]:
        """Return the curve at every frame of the clip.

        Raises:
            GenlabError: as `array`, or if it has another number of channels.
        """
        if self.measured:
            return measure(self.measured, clip)
        return self._fit(self.array(clip), clip.num_frames)

    def from_words(self, words: str, num_frames: int) -> Float[np.ndarray, "t c"]:
        """Return the curve in a file, in the units of the training data."""
        return self._fit(read_array(Path(words)), num_frames)

    def build(self, width: int, *, key: Key[Array, ""]) -> nnx.Module:
        """Return a projection."""
        return Projection(self.shape[0], width, key=key)

    def _fit(self, values: Shaped[np.ndarray, "..."], num_frames: int) -> Float[np.ndarray, "t c"]:
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] != self.shape[0]:
            told = ", ".join(UNITS[self.measured]) if self.measured else "as channels says"
            raise GenlabError(f"shape {values.shape}, expected (points, {self.shape[0]}): {told}")
        return resample((values - self.mean) / self.deviation, num_frames)


UNITS = {
    "loudness": ("dB relative to full scale / 60 + 1: 0 is silence and 1 full scale",),
    "f0": ("octaves above 100 Hz where voiced, 0 elsewhere", "1 where voiced, 0 elsewhere"),
    "chroma": ("shares of the pitch classes C to B, which sum to 1",),
}
