"""Block-wise diffusion over codes, BD3-LM (2503.09573): blocks of 160 ms from the left, in parallel
inside a block.

Question: where between the autoregressive and the masked arm of units_to_speech does a block of 8
frames stand?

    genlab compare configs/presets/bd3_codes.py

Its paper is about text; the length of the block is ours. `arms.bd3_codes.decoder.block_frames`
moves it from one frame, autoregressive with diffusion over the levels, to the whole clip, which is
configs/presets/d3pm_codes.py.
"""

from genlab.decoders.blockwise import BlockwiseConfig, BlockwiseSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison."""
    base = call_base(__file__, "../units_to_speech.py")
    arm = Arm(decoder=BlockwiseConfig(block_frames=8), sampler=BlockwiseSampler(steps=8))
    question = "What do blocks of 8 frames give, in parallel inside and in order across?"
    return base.model_copy(
        update={"name": "bd3_codes", "question": question, "arms": {"bd3_codes": arm}}
    )
