"""An in-lab codec for music and sound: 44.1 kHz stereo, 50 frames/s, 8 x 10 bits = 4.0 kbit/s, 32
latent channels.

Question: does the codec whose layers all run at the frame rate carry over to full-band stereo? Its
encoder sees left, right and mid of each frame side by side, and its decoder makes mid and side, so
stereo costs two wider layers and no second stream of tokens. The audio is yours: a folder of WAV,
FLAC, OGG or MP3 files of any rate, mono or stereo, kept at 44.1 kHz stereo.

    export AUDIO_DIR=path/to/audio
    genlab train configs/codec_44khz_stereo.py --out runs/codec44
    genlab codec export runs/codec44 my_codec_44khz.safetensors

Then data.codec=my_codec_44khz.safetensors in a comparison on a corpus with domain="music". No
weights ship. At 48 kHz: sample_rate_hz=48_000, hop_samples=960, window_samples=1920.
"""

import os

from genlab.codecs.convnext import StackConfig
from genlab.codecs.spectral import SpectralCodecConfig
from genlab.data.folder import Folder
from genlab.data.waves import AugmentConfig
from genlab.runs import CodecRun, CorpusShare
from genlab.training.optim import OptimConfig


def config() -> CodecRun:
    """Return the training run."""
    audio = Folder(
        path=os.environ.get("AUDIO_DIR", "audio"), domain="music", sample_rate_hz=44_100, channels=2
    )
    return CodecRun(
        name="codec_44khz_stereo",
        codec=SpectralCodecConfig(
            sample_rate_hz=44_100,
            channels=2,
            hop_samples=882,
            window_samples=1764,
            encoder=StackConfig(width=224, blocks=4),
            decoder=StackConfig(width=320, blocks=6),
        ),
        data=(CorpusShare(corpus=audio, share=1.0),),
        crop_samples=64 * 882,
        batch_size=8,
        steps=3600,
        augment=AugmentConfig(speed_probability=0.3, noise_probability=0.0),
        optim=OptimConfig(peak_lr=1.5e-3, weight_decay=0.01, ema_decay=0.998),
    )
