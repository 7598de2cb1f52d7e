"""Units to speech from text alone: no frame-aligned units, each decoder must find the alignment
itself.

Question: does the ranking of units_to_speech survive when content arrives as characters? Expect far
higher content errors at the same budget: alignment is most of what has to be learnt, and minutes
are too few for it; that is why the other configs use semantic units. Give it more with
`budget.train_flops`.

    genlab compare configs/quickstart_text.py

Result (one seed, 12.0 TFLOP an arm, 401 s on two cores): nobody speaks the text yet. Word error
(CTC) is 1.02 [0.97, 1.09], 1.02 [1.00, 1.05] and 1.05 [1.02, 1.09] for AR, masked and diffusion,
and only AR passes the prompt swap under the grammar recogniser (+0.25 [0.15, 0.41]); all three pass
the speaker swap. The table says so in its controls.
"""

from genlab.experiment import Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return units_to_speech with text as its content."""
    base = call_base(__file__, "units_to_speech.py")
    condition = base.condition.model_copy(update={"content": "text", "route": "cross"})
    return base.model_copy(update={"name": "quickstart_text", "condition": condition})
