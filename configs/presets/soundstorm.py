"""SoundStorm (2305.09636): level by level, the most confident frames first, the fine levels in one
step each.

Question: how good are 16 + K - 1 parallel steps at the budget of units_to_speech?

    genlab compare configs/presets/soundstorm.py

The paper's steps, its greedy last step and its prompts, which training never hides; its Conformer
and its size are not here.
"""

from genlab.decoders.masked import MaskedConfig, MaskedSampler
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison."""
    base = call_base(__file__, "../units_to_speech.py")
    decoder = MaskedConfig(prefix_share=1.0)  # section 3.2: every example has an unhidden prompt
    arm = Arm(decoder=decoder, sampler=MaskedSampler(steps=(16, 1)))
    question = "How good are 16 parallel steps for the first level and one for each further one?"
    return base.model_copy(
        update={"name": "soundstorm", "question": question, "arms": {"soundstorm": arm}}
    )
