r"""Variants of the in-lab codec on equal terms: what a semantic level 1, a side channel or a
variational bottleneck do.

Question: does distillation make level 1 say more of what is spoken and less of who speaks, at what
cost in reconstruction? Every variant is one run of this config, 2000 steps without a critic, from
the same first parameters:

    export SPEECH_DIR=path/to/librispeech FLITE_DIR=path/to/flite
    genlab train configs/codec_study.py --out runs/plain
    genlab train configs/codec_study.py 'codec.distillation={}' --out runs/distilled
    genlab train configs/codec_study.py 'codec.distillation={}' codec.semantic_channels=8 \
        --out runs/split
    genlab train configs/codec_study.py codec.side_channels=16 --out runs/side
    genlab train configs/codec_study.py codec.kl_weight=0.01 --out runs/vae

and again with seed=1, and with 'codec.distillation={"weight": 1}' for a weaker pull. `genlab codec
export` each, then `genlab codec probe SPEECH_DIR --codec A,B,...`. Result: docs/codecs.md.
"""

from genlab.load import call_base
from genlab.runs import CodecRun


def config() -> CodecRun:
    """Return the training run of the plain variant."""
    base = call_base(__file__, "codec_16khz.py")
    codec = base.codec.model_copy(update={"adversarial": None})
    return base.model_copy(
        update={"name": "codec_study", "codec": codec, "steps": 2000, "batch_size": 12}
    )
