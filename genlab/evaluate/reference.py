"""Choose the real speech that serves as the reference: training clips, and more of the voices that
they lack.

In: a manifest and its prompts. Out: clips of the training split behind the distances between sets
and the centroids of its speakers, and clips of prompted speakers whom those do not hold, from any
split but never a prompt itself: a generated clip resembles its own original beyond what belongs to
the voice. It needs no audio, so it is known before training which scores will be missing.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from genlab.data.manifest import Clip, Manifest
from genlab.evaluate.speaker import GROUP_S


class Reference(NamedTuple):
    """Real clips: `common` of training, `more` of prompted speakers that `common` lacks."""

    common: list[Clip]
    more: list[Clip]

    @property
    def speakers(self) -> set[str]:
        """Whose centroid is known."""
        return {clip.speaker for clip in (*self.common, *self.more)}


def choose_reference(
    manifest: Manifest,
    prompts: Collection[str],
    speakers: Sequence[str],
    reference_clips: int,
    centroid_groups: int,
) -> Reference:
    """Return the reference of a comparison.

    Args:
        manifest: the corpus.
        prompts: ids of the clips that are prompted.
        speakers: of the prompts.
        reference_clips: twice as many are taken from training, where there are as many.
        centroid_groups: stretches of 3 s wanted of each voice.
    """
    train = manifest.split("train")
    picked = np.random.default_rng(0).permutation(len(train))[: 2 * reference_clips]
    common = [train[i] for i in sorted(picked)]
    lacking = set(speakers) - {clip.speaker for clip in common}
    seconds = dict.fromkeys(lacking, 0.0)
    more = []
    for clip in manifest.clips:
        if (
            clip.speaker in lacking
            and clip.id not in prompts
            and seconds[clip.speaker] < centroid_groups * GROUP_S
        ):
            more.append(clip)
            seconds[clip.speaker] += clip.duration_s
    return Reference(common, more)
