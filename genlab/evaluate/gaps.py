"""What is scored where an arm fills a gap with both sides given, and where it continues a clip for
some length: the names of these scores, and their rows of the table.

A gap lies in the middle of a clip, and continuations begin there. Energies are estimated as that of
the next block (`genlab.evaluate.blocks`), so they are proper at the bare law of a decoder whose
rule is exact (`genlab.decoders.hole_rule`, `genlab.decoders.prompt_rule`). The seam is the jump
from the last given frame into the gap and out of it again: a law that fills a gap without looking
at both sides jumps too far, one that copies a neighbour not far enough. The energy of the jump, one
number per seam, is proper for its law.

The names end with the length. None of these scores decides a comparison.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from genlab.evaluate.metric import Metric

GAP: Final = "gap"
SEAM: Final = "seam"
CONTINUATION: Final = "continuation"
_UNIT: Final = "deviations of the latents"

OF_GAPS: tuple[Metric, ...] = (
    Metric(
        name=GAP,
        title="Energy of a gap",
        unit=_UNIT,
        direction="lower",
        needs="tokens",
        is_bare=True,
        endings=(),
    ),
    Metric(
        name=SEAM,
        title="Jump at the seams of a gap",
        unit=_UNIT,
        direction="lower",
        needs="tokens",
        is_bare=True,
        endings=(),
    ),
    Metric(
        name=CONTINUATION,
        title="Energy of a continuation",
        unit=_UNIT,
        direction="lower",
        needs="tokens",
        is_bare=True,
        endings=(),
    ),
)


def name_length(score: str, length_s: float) -> str:
    """Return the name of a score at a length, for example gap_250ms."""
    return f"{score}_{round(1000 * length_s)}ms"


def names_of_gaps(gaps_s: Sequence[float]) -> list[str]:
    """Return the scores of filled gaps."""
    return [name_length(score, length_s) for length_s in gaps_s for score in (GAP, SEAM)]


def names_of_continuations(continuations_s: Sequence[float]) -> list[str]:
    """Return the scores of continuations."""
    return [name_length(CONTINUATION, length_s) for length_s in continuations_s]


class Span(NamedTuple):
    """Frames in the middle of clips that are drawn and scored."""

    frames: int
    is_gap: bool
    """Both sides are given; else the first half is, and everything after it is drawn."""

    @classmethod
    def of(cls, length_s: float, frame_hz: float, *, is_gap: bool) -> "Span":
        """Return the span of a length, of a frame at least."""
        return cls(max(1, round(length_s * frame_hz)), is_gap)

    def first(self, num_frames: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Return where it begins in clips of these lengths."""
        return np.maximum((num_frames - self.frames) // 2 if self.is_gap else num_frames // 2, 0)

    def fits(self, num_frames: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Return which clips hold it, a gap with a frame on either side of it."""
        if self.is_gap:
            return num_frames >= self.frames + 2
        return (num_frames >= 2) & (self.first(num_frames) + self.frames <= num_frames)

    def is_given(self, num_frames: Int[np.ndarray, "n"], length: int) -> Bool[np.ndarray, "n t"]:
        """Return which of `length` frames are given."""
        frame, first = np.arange(length)[None, :], self.first(num_frames)[:, None]
        is_after = self.is_gap & (frame >= first + self.frames)
        return ((frame < first) | is_after) & (frame < num_frames[:, None])
