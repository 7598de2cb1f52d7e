"""Seams: is a clip, where one part of it meets the next, no more discontinuous than elsewhere?

In: a wave and a place in it. Out: the rank of the jump there among all jumps between neighbouring
frames of 20 ms: 0.5 on average where the place is like any other, near 1 at a cut. Two jumps are
ranked and their mean taken: of the level in dB, and of the log spectrum. Ranks need no threshold
and no real clip: a clip is its own measure. `LoopSeam` is the metric of the place where a clip that
is repeated begins anew.

    genlab compare CONFIG 'metrics=[{"kind": "genlab.evaluate.seams:LoopSeam"}]'
"""

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Float

from genlab.config import Config
from genlab.data.audio import SPEECH_AUDIO
from genlab.evaluate.context import Wanted
from genlab.evaluate.metric import Metric, each_clip

FRAME_S: Final = 0.02
FEWEST_FRAMES: Final = 8  # of a clip: fewer jumps rank nothing
QUIETEST: Final = 1e-6  # power below which frames are alike: silence has no spectrum


def rank_seams(
    wave: Float[np.ndarray, "s"], rate_hz: int, seams: Sequence[int], *, is_loop: bool = False
) -> Float[np.ndarray, "k"]:
    """Return the rank of the jump at each seam among the jumps elsewhere, from 0 to 1.

    Args:
        wave: one channel.
        rate_hz: its sample rate.
        seams: sample numbers; the jump is that from the frame before one to the frame from it on.
        is_loop: the first sample follows the last one, so that 0 is a seam too.
    """
    size = round(FRAME_S * rate_hz)
    if len(wave) < FEWEST_FRAMES * size:
        return np.full(len(seams), np.nan)
    # Every second frame's border, from the middle of the first frame on: no seam need be at one.
    inner = np.arange(size, len(wave) - size + 1, size)
    far = inner[[all(abs(place - seam) > size for seam in seams) for place in inner]]
    around = np.concatenate([wave[-size:], wave, wave[:size]]) if is_loop else wave
    shift = size if is_loop else 0
    jumps = np.stack([_jumps(around, place + shift, size) for place in (*far, *seams)])
    elsewhere, here = jumps[: len(far)], jumps[len(far) :]
    below = (elsewhere[None] < here[:, None]).mean(axis=1)
    ties = (elsewhere[None] == here[:, None]).mean(axis=1)
    return (below + ties / 2).mean(axis=1)


def _jumps(wave: np.ndarray, place: int, size: int) -> Float[np.ndarray, "2"]:
    """Return the jump of the level and that of the log spectrum between two frames."""
    before, after = wave[place - size : place], wave[place : place + size]
    window = np.hanning(size)
    spectra = [np.abs(np.fft.rfft(window * frame)) ** 2 / size for frame in (before, after)]
    levels = [10 * np.log10(np.square(frame).mean() + QUIETEST) for frame in (before, after)]
    logs = [10 * np.log10(spectrum + QUIETEST) for spectrum in spectra]
    return np.array([abs(levels[1] - levels[0]), np.sqrt(np.square(logs[1] - logs[0]).mean())])


class LoopSeam(Config):
    """The metric of clips that are repeated: the rank of the jump where they begin anew."""

    kind: ClassVar[str] = "loop_seam"

    def metrics(self) -> list[Metric]:
        """Return its row of the table."""
        return [
            Metric(
                name="loop_seam",
                unit="share of jumps that are smaller",
                direction="lower",
                range=(0.0, 1.0),
                needs="audio",
                measure=each_clip("loop_seam", self.rank),
            )
        ]

    def rank(self, wave: Float[np.ndarray, "s"], prompt: Wanted) -> float:
        """Return the rank of the seam of one clip, at 16 kHz, NaN of a clip that is too short."""
        return float(rank_seams(wave, SPEECH_AUDIO.sample_rate_hz, [0], is_loop=True)[0])
