"""Whose beginning a clip may be continued from in its stead: the partners of the prefix swap.

In: clips. Out: for each of the first ones a clip of another speaker and another unit, where there
is one, that is long enough. A decoder that is given the partner's first half, and everything else
as before, must come less near to the real block, or it never listened to what it continues
(`genlab.evaluate.controls.prefix_swap`).
"""

from collections.abc import Sequence

from genlab.data.store import TokenClip

# Clips that are swapped; more would narrow the interval of a control that is passed by far.
PAIRS = 64


def swap_partners(
    clips: Sequence[TokenClip], units: Sequence[str], num_pairs: int = PAIRS
) -> list[TokenClip | None]:
    """Return a partner of each of the first `num_pairs` clips, the nearest in length; None where
    no clip of another unit has frames enough for the first half.

    Args:
        clips: what is continued.
        units: the unit of statistics of each, for example its text.
        num_pairs: how many are swapped at most.
    """
    frames = [len(clip.units) for clip in clips]
    partners = []
    for i in range(min(num_pairs, len(clips))):
        others = [
            j
            for j in range(len(clips))
            if units[j] != units[i] and frames[j] >= frames[i] // 2 and j != i
        ]
        # The voice of one speaker would tell much of what the other half of a clip needs.
        nearest = min(
            others,
            key=lambda j: (clips[j].speaker == clips[i].speaker, abs(frames[j] - frames[i]), j),
            default=None,
        )
        partners.append(None if nearest is None else clips[nearest])
    return partners
