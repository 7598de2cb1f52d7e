"""Waves of loops: decoded in a circle, so that the codec adds no seam of its own.

In: tokens of clips whose last frame is followed by their first one. Out: waves that repeat.
A codec hears nothing before a clip and nothing after it, and its first and last frames sound of
that. So each clip is decoded with its own end before it and its own beginning behind it, and these
are cut off again.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from genlab.codecs.frozen import FrozenCodec

CONTEXT_S = 0.5
"""What is heard on either side of a loop; more than any codec here looks back or ahead."""

View = Shaped[np.ndarray, "t _"]
Heard = Float[np.ndarray, "s *c"]


def decode_loops(
    decode: Callable[[Sequence[View]], Sequence[Heard]],
    views: Sequence[View],
    codec: FrozenCodec,
) -> list[Heard]:
    """Return the wave of each loop, as long as its frames.

    Args:
        decode: that of `codec`, of codes or of latents.
        views: of each loop.
        codec: says how long a frame is.
    """
    frame_hz, rate_hz = codec.spec.frame_hz, codec.wave_rate_hz
    margin = round(CONTEXT_S * frame_hz)
    # Modulo the length: a loop shorter than the context comes round more than once.
    around = [view[np.arange(-margin, len(view) + margin) % len(view)] for view in views]
    first = round(margin / frame_hz * rate_hz)
    return [
        wave[first : first + round(len(view) / frame_hz * rate_hz)]
        for view, wave in zip(views, decode(around))
    ]
