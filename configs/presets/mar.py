"""MAR (2406.11838) on speech: a bidirectional transformer over latents with a flow head, frames in
random order.

Question: what does a free order buy a head on continuous frames? Read its content error beside the
presets calm (the same head, from left to right) and the masked arm of units_to_speech (the same
order, over codes).

    genlab compare configs/presets/mar.py
"""

from genlab.decoders.mar import MARConfig, MARSampler
from genlab.decoders.noise.heads import FlowMatching
from genlab.experiment import Arm, Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    arm = Arm(
        decoder=MARConfig(head=FlowMatching(width=192, draws=4)),
        sampler=MARSampler(rounds=16, steps=8, guidance=1.5),
    )
    question = (
        "With equal training compute, what does a flow head on latents reach in a random order?"
    )
    return base.model_copy(update={"name": "mar", "question": question, "arms": {"mar": arm}})
