"""Qwen2.5-Omni's token2wav (2503.20215): flow matching over continuous frames in blocks, from units
and a speaker.

Question: what does speech in blocks of 240 ms, ready to be streamed, cost against the
diffusion arm of units_to_speech?

    genlab compare configs/presets/token2wav_blocks.py

Blocks are as long as in its published code, and so is the guidance. Unlike it: our codec's latents
in place of mel frames; a block sees all blocks before it and sees them finished, where theirs sees
two that are as noisy as itself; no look-ahead, where theirs is one block; the level is a feature of
every frame and not adaLN; Euler on an even grid in place of RK4 on a swayed one; the speaker is a
label, not an embedding and a reference clip.
"""

from genlab.decoders.latent_blocks import LatentBlocksConfig, LatentBlocksSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    arm = Arm(
        decoder=LatentBlocksConfig(block_frames=12),
        sampler=LatentBlocksSampler(steps=16, guidance=1.5),
    )
    name, question = (
        "token2wav_blocks",
        "With equal training compute, what does flow matching in blocks reach?",
    )
    return base.model_copy(update={"name": name, "question": question, "arms": {name: arm}})
