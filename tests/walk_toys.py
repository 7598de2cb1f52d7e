"""A token store in memory, of latents that were drawn elsewhere, for tests of continuations."""

from types import SimpleNamespace

import numpy as np

from genlab.tokens import Cond, Tokens


class WalkStore:
    """Clips of 50 frames per second, all of one length, with conditions that say nothing."""

    info = SimpleNamespace(spec=SimpleNamespace(frame_hz=50.0))

    def __init__(self, latents):
        self.latents = latents
        num_clips, frames, _ = latents.shape
        self.clips = [
            SimpleNamespace(number=number, units=np.zeros(frames, int))
            for number in range(num_clips)
        ]

    def example(self, clip, num_frames):
        """Return a clip and its conditions."""
        cond = Cond(np.int32(0), np.zeros(1, np.int32), np.zeros(num_frames, np.int32), np.False_)
        return Tokens(None, self.latents[clip.number], np.int32(num_frames)), cond
