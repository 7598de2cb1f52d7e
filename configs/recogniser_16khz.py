"""The in-lab CTC recogniser that ships with genlab: 16 kHz, 28 characters, 1.5 M parameters, and
its semantic units.

Question: how small a recogniser, trained in minutes on two CPU cores, is accurate enough to score
the embedded corpus and to give units that keep the words and drop the speaker? The flite voices
(CMU, BSD-like) add open sentences; name a folder of them to retrain, because without it the
recogniser hears only the embedded corpus:

    FLITE_DIR=path/to/flite genlab train configs/recogniser_16khz.py --out runs/recogniser

`genlab.recognisers.export.export_recogniser` fits the units, measures, and writes the files. The
corpus is 60 minutes of seed 0: its train split holds none of the held-out texts of the 30 minutes
that the quick start scores. The voice "slt" is never trained on. The scores of the shipped weights
stand in genlab/recognisers/weights/recogniser_16khz.json.
"""

import os

from genlab.data.corpus import Embedded, Folder
from genlab.data.waves import AugmentConfig
from genlab.recognisers.ctc import RecogniserConfig
from genlab.runs import CorpusShare, RecogniserRun
from genlab.training.optim import OptimConfig


def config() -> RecogniserRun:
    """Return the training run of the shipped recogniser."""
    data = [CorpusShare(corpus=Embedded(minutes=60.0), share=0.8)]
    if flite := os.environ.get("FLITE_DIR"):
        folder = Folder(
            path=flite,
            manifest="manifest_open.csv",
            licence="CMU Flite (BSD-like)",
            held_out_speakers=("slt",),
            test_fraction=0.0,
            valid_fraction=0.03,
        )
        data.append(CorpusShare(corpus=folder, share=0.2))
    return RecogniserRun(
        name="recogniser_16khz",
        recogniser=RecogniserConfig(),
        data=tuple(data),
        max_samples=54_400,
        batch_size=12,
        steps=2400,
        # Noise is drawn inside the compiled step; the loader changes speed, level and tilt.
        augment=AugmentConfig(noise_probability=0.0, speed_probability=0.4),
        optim=OptimConfig(peak_lr=2e-3, warmup_fraction=0.08, weight_decay=0.02, ema_decay=0.995),
    )
