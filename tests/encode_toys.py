"""A corpus that workers open at once, with a codec in numpy and units that take their time."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from codec_toys import LoudnessUnits

from genlab.codecs.pieces import Material
from genlab.config import GenlabError
from genlab.data.manifest import Manifest
from genlab.tokens import TokenSpec

CLIPS = 394  # three pieces and a short one


class PlainCodec:
    """Codes frames of 320 samples by their loudness, in numpy: a worker has it at once."""

    spec = TokenSpec(
        sample_rate_hz=16_000, hop_samples=320, codebooks=2, entries=32, latent_channels=3
    )
    fingerprint = "plain00000"
    code_vectors = np.arange(2 * 32 * 3, dtype=np.float32).reshape(2, 32, 3)

    def encode(self, waves):
        """Return codes and latents of each wave."""
        coded = []
        for wave in waves:
            frames = np.pad(wave, (0, -len(wave) % 320)).reshape(-1, 320)
            level = np.sqrt((frames**2).mean(axis=1))
            codes = np.stack([level * 31, frames.max(axis=1) * 31], axis=1).astype(np.int16)
            coded.append((codes, np.stack([level, level**2, frames[:, 0]], axis=1)))
        return coded


class SlowUnits(LoudnessUnits):
    def __init__(self, pause_s):
        super().__init__()
        self.pause_s = pause_s

    def encode_units(self, waves):
        time.sleep(self.pause_s)
        return super().encode_units(waves)


class Toy(NamedTuple):
    """Opens the corpus of the tests in a worker."""

    root: str
    num_clips: int = CLIPS
    pause_s: float = 0.0

    def __call__(self):
        manifest = Manifest.load(Path(self.root))
        kept = Manifest(manifest.clips[: self.num_clips], manifest.root)
        return Material(kept, PlainCodec(), SlowUnits(self.pause_s))


class Broken(Toy):
    def __call__(self):
        raise GenlabError("codec: its weights are somewhere else")
