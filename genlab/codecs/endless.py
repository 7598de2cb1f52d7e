"""Waves of a stream of tokens without an end, in which the codec adds no seam of its own.

In: chunks of tokens. Out: their waves, a margin late: each chunk is decoded with what is around it,
and memory holds no more than that.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from genlab.codecs.loops import Heard, View


def decode_endless(
    decode: Callable[[Sequence[View]], Sequence[Heard]],
    chunks: Iterator[View],
    *,
    margin_frames: int,
    samples_per_frame: int,
) -> Iterator[Heard]:
    """Yield the wave of a stream of tokens, a chunk at a time and a margin late.

    Each chunk is decoded with `margin_frames` frames on either side of it, which are cut off again,
    so the seams are those of the whole. Frames that were heard are forgotten but for a margin.

    Args:
        decode: the codec's, of codes or of latents.
        chunks: of one clip, the first one longer than a margin.
        margin_frames: more than the codec looks back or ahead.
        samples_per_frame: of the waves.
    """
    held: View | None = None
    before = 0  # frames of `held` that were heard
    for chunk in chunks:
        held = chunk if held is None else np.concatenate([held, chunk])
        new = len(held) - margin_frames - before  # what a margin lies behind
        if new <= 0:
            continue
        wave = decode([held])[0]
        yield wave[before * samples_per_frame :][: new * samples_per_frame]
        kept = min(before + new, margin_frames)
        held, before = held[before + new - kept :], kept
