"""A corpus of your own: vowels with known formants. `rows` says which clips there are, `wave` what
each sounds like.

`wave` may also read a file of any format: name it in `SourceRow.path`, and the corpus is built
again when it changes. For WAV, FLAC, OGG or MP3 in a layout of its own, derive from
`genlab.data.folder.ImportConfig` and define `listing`; a plain folder needs no class at all.

    genlab check docs/own_corpus.py:Vowels
    genlab data docs/own_corpus.py
    genlab compare docs/own_corpus.py
    genlab compare configs/quickstart.py data.corpus.kind=docs/own_corpus.py:Vowels
"""

from typing import ClassVar

import numpy as np

from genlab.data.audio import SAMPLE_RATE_HZ
from genlab.data.listing import SourceRow
from genlab.data.rendered import Rendered
from genlab.decoders.ar import ARConfig
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.masked import MaskedConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig

FORMANTS_HZ = {"a": (800, 1200, 2500), "i": (300, 2300, 3000), "u": (320, 800, 2300)}
# F0 in Hz, and a factor on the formants
VOICES = {"low": (110, 0.9), "middle": (160, 1.0), "high": (220, 1.15)}
ARMS = [Arm(decoder=each, sampler=each.sampler()) for each in (ARConfig(), MaskedConfig())]


class Vowels(Rendered):
    kind: ClassVar[str] = "vowels"
    licence: str = "CC0"
    clips: int = 90
    vowel_s: float = 0.3

    def rows(self):
        rows = []
        for number in range(self.clips):
            draw = np.random.default_rng((self.seed, number))
            vowels = "".join(draw.choice(list(FORMANTS_HZ), size=4))
            speaker = list(VOICES)[number % len(VOICES)]
            # Splits are drawn by text. Labels are kept with the clip; a condition can read them.
            labels = {"gain": float(draw.uniform(0.2, 0.8))}
            rows.append(SourceRow("", f"{number:05d}", vowels, speaker, labels=labels))
        return rows

    def wave(self, row):
        f0_hz, scale = VOICES[row.speaker]
        time_s = np.arange(int(self.vowel_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        harmonics_hz = f0_hz * np.arange(1, 7000 // f0_hz)
        parts = []
        for vowel in row.text:
            # Every formant is a resonance 90 Hz wide; a harmonic is as loud as it is near to one.
            distance = (harmonics_hz[:, None] - scale * np.array(FORMANTS_HZ[vowel])) / 90.0
            levels = (1.0 / (1.0 + distance**2)).sum(axis=1) + 1e-3
            parts.append(levels @ np.sin(2 * np.pi * harmonics_hz[:, None] * time_s))
        wave = np.concatenate(parts)
        return row.labels["gain"] * wave / np.abs(wave).max()


def config():
    return Comparison(
        name="own_corpus",
        question="Which family models vowels in fewer bits?",
        data=TokenData(corpus=Vowels(), num_frames=64),
        batch_size=8,
        backbone=BackboneConfig(width=64, layers=2, heads=2),
        condition=ConditionConfig(layers=1),
        budget=Budget(mode="iso_step", steps=300),
        num_prompts=6,
        arms={arm.decoder.kind: arm for arm in ARMS},
    )
