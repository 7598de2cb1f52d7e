"""The in-lab codec that ships with genlab: 16 kHz, 50 frames/s, 8 x 10 bits = 4.0 kbit/s, 32 latent
channels.

Question: can a codec whose layers all run at the frame rate be trained on two CPU cores and stay
intelligible on voices it never heard? Real speech: a folder of LibriSpeech (CC BY 4.0, V. Panayotov
et al. 2015) and one of flite voices.

    export SPEECH_DIR=path/to/librispeech FLITE_DIR=path/to/flite
    genlab train configs/codec_16khz.py --out runs/codec
    genlab codec export runs/codec my_codec.safetensors

Without the folders it hears only the embedded corpus. Result:
genlab/codecs/weights/in_lab_16khz.json, where `genlab codec score` measured the held-out speakers.
"""

import os

from genlab.codecs.discriminator import AdversarialConfig
from genlab.codecs.spectral import SpectralCodecConfig
from genlab.data.corpus import Embedded, Folder
from genlab.data.waves import AugmentConfig
from genlab.runs import CodecRun, CorpusShare
from genlab.training.optim import OptimConfig

# Every sixth speaker of the 120-clip LibriSpeech sample that the shipped weights were trained on.
HELD_OUT = tuple(
    "27 83 150 211 254 322 412 460 730 1034 1116 1355 1578 1841 "
    "1992 2182 2436 2836 2989 3436".split()
)


def config() -> CodecRun:
    """Return the training run of the shipped codec."""
    data = [CorpusShare(corpus=Embedded(minutes=30.0), share=0.3)]
    if speech := os.environ.get("SPEECH_DIR"):
        folder = Folder(
            path=speech,
            manifest="metadata.csv",
            valid_fraction=0.0,
            test_fraction=0.0,
            held_out_speakers=HELD_OUT,
        )
        data.append(CorpusShare(corpus=folder, share=0.5))
    if flite := os.environ.get("FLITE_DIR"):
        data.append(CorpusShare(corpus=Folder(path=flite, manifest="manifest.csv"), share=0.2))
    return CodecRun(
        name="codec_16khz",
        codec=SpectralCodecConfig(adversarial=AdversarialConfig(start_step=2000)),
        data=tuple(data),
        crop_samples=20_480,
        batch_size=16,
        steps=3600,
        augment=AugmentConfig(),
        optim=OptimConfig(peak_lr=1.5e-3, weight_decay=0.01, ema_decay=0.998),
    )
