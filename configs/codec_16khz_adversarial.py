"""The second stage of the in-lab codec: a critic that sees log magnitudes, from the weights of the
first stage.

Question: what does an adversarial stage give a codec whose layers all run at the frame rate? The
first stage (configs/codec_16khz.py) had a critic without log magnitudes, which learnt almost
nothing; from its weights:

    export SPEECH_DIR=path/to/librispeech FLITE_DIR=path/to/flite
    genlab train configs/codec_16khz.py --out runs/codec
    genlab codec export runs/codec stage1.safetensors
    genlab train configs/codec_16khz_adversarial.py start_from=stage1.safetensors --out runs/codec2

Without `start_from` it continues from the weights that ship. Result: docs/codecs.md.
"""

from genlab.codecs.discriminator import AdversarialConfig
from genlab.load import call_base
from genlab.runs import CodecRun
from genlab.training.optim import OptimConfig


def config() -> CodecRun:
    """Return the training run of the second stage."""
    base = call_base(__file__, "codec_16khz.py")
    critic = AdversarialConfig(start_step=0, generator_weight=0.1, matching_weight=0.3)
    optim = OptimConfig(peak_lr=6e-4, warmup_fraction=0.03, weight_decay=0.01, ema_decay=0.999)
    codec = base.codec.model_copy(update={"adversarial": critic})
    changes = {
        "name": "codec_16khz_adversarial",
        "start_from": "in_lab_16khz",
        "steps": 6500,
        "batch_size": 12,
    }
    return base.model_copy(update={**changes, "codec": codec, "optim": optim})
