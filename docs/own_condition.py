"""A condition of your own: how loud every frame is, told to all families alike.

`value` computes it on the host, from the audio (`clip.wave()`), from a column (`clip.label(...)`)
or from both; `build` returns the module that encodes it. Dropout and guidance need nothing: where
conditions are dropped, a learned vector takes the place of what the module returns. Labels, texts,
curves, vectors and codes need no class (docs/conditions.md).

    genlab check docs/own_condition.py:Loudness
    genlab compare docs/own_condition.py
"""

from typing import ClassVar

import numpy as np

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.masked import MaskedConfig
from genlab.decoders.parts import Label, PlainPart, Projection
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig

FAMILIES = (ARConfig(), MaskedConfig(), DiffusionConfig())


class Loudness(PlainPart):
    kind: ClassVar[str] = "loudness"
    is_per_frame: ClassVar[bool] = True
    shape: ClassVar[tuple[int, ...]] = (1,)
    name: str = "loudness"
    floor_db: float = -60.0

    def value(self, clip):
        wave = clip.wave()
        # As many parts as the codec has frames, whatever its frame rate.
        edges = np.linspace(0, len(wave), clip.num_frames + 1).astype(int)
        power = np.add.reduceat(wave.astype(np.float64) ** 2, edges[:-1]) / np.diff(edges)
        level_db = 10 * np.log10(np.maximum(power, 1e-10))
        return 1 - np.maximum(level_db, self.floor_db)[:, None] / self.floor_db

    def check(self, value):
        if value.max() > 1.01:
            raise ValueError(f"loudness {value.max():.3g}, expected at most 1, which is full scale")

    def build(self, width, *, key):
        return Projection(1, width, key=key)


def config():
    rate = Label(name="rate", column="rate", names=("0.85", "1.0", "1.2"))
    return Comparison(
        name="own_condition",
        question="Which family makes use of a loudness curve?",
        data=TokenData(corpus=Embedded(minutes=1.5), num_frames=96),
        batch_size=8,
        backbone=BackboneConfig(width=64, layers=2, heads=2),
        condition=ConditionConfig(layers=1, parts=(Loudness(), rate)),
        budget=Budget(mode="iso_step", steps=300),
        arms={each.kind: Arm(decoder=each, sampler=each.sampler()) for each in FAMILIES},
    )
