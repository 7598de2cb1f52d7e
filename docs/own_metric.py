"""A metric of your own: does an arm pause as much as the real speaker does?

`function` is given a wave at 16 kHz and its prompt (text, speaker, the real clip as `wave`), and
returns one number, NaN where there is none. What needs all clips of a row at once, or gives several
scores, defines a `measure` as `genlab/evaluate/measures.py` does.

    genlab check docs/own_metric.py:Pauses
    genlab compare docs/own_metric.py
    genlab compare configs/quickstart.py 'metrics=[{"kind": "docs/own_metric.py:Pauses"}]'
    genlab evaluate RUN_DIR 'metrics=[{"kind": "docs/own_metric.py:Pauses"}]'   # a finished run
"""

from typing import ClassVar

import numpy as np

from genlab.config import Config
from genlab.data.corpus import Embedded
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.masked import MaskedConfig
from genlab.evaluate.metric import Metric, each_clip
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig

FRAME_SAMPLES = 320  # 20 ms
FAMILIES = {"masked": MaskedConfig(), "diffusion": DiffusionConfig()}


class Pauses(Config):
    kind: ClassVar[str] = "pauses"
    quiet_db: float = 40.0
    """Frames this far below the loudest one are a pause."""

    def metrics(self):
        return [
            Metric(
                name="pause_error",
                unit="share of frames",
                direction="lower",
                range=(0.0, 1.0),  # math.inf where there is no limit
                needs="audio and the real clip",
                # `genlab evaluate CONFIG --audit` tests this on your corpus: noise fills pauses.
                must_notice=("noise",),
                measure=each_clip("pause_error", self.error),
            )
        ]

    def error(self, wave, prompt):
        return abs(self.pause_share(wave) - self.pause_share(prompt.wave))

    def pause_share(self, wave):
        frames = wave[: len(wave) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        power = (frames.astype(np.float64) ** 2).mean(axis=1)
        if not power.any():
            return float("nan")  # shorter than a frame, or silent throughout
        return float((power < power.max() * 10 ** (-self.quiet_db / 10)).mean())


def config():
    return Comparison(
        name="own_metric",
        question="Which family pauses as people do?",
        data=TokenData(corpus=Embedded(minutes=1.5), num_frames=96),
        batch_size=8,
        backbone=BackboneConfig(width=64, layers=2, heads=2),
        condition=ConditionConfig(layers=1),
        budget=Budget(mode="iso_step", steps=300),
        metrics=(Pauses(),),
        arms={
            name: Arm(decoder=decoder, sampler=decoder.sampler())
            for name, decoder in FAMILIES.items()
        },
    )
