"""Ten kinds of everyday sounds: left to right or in parallel, on codes or on latents.

Question: which decoder continues a sound best when its class is told, from a barking dog to rain?
Folds of ESC-10 divide it, so recordings of the test are none of the training's; the clip is the
unit of the statistics, though a recording may have given more than one. What decides is the energy
of the next block; the control swaps the class. The accuracy of a classifier that is fitted to the
training clips describes what is heard; if it is right on less than half of the real clips, its row
says so and decides nothing.

The audio is yours: ESC-50 in its own layout (Piczak 2015, doi 10.1145/2733373.2806390), of which
ESC-10 is the part under CC BY.

    export ESC50_DIR=path/to/ESC-50-master
    genlab compare configs/sounds_esc10.py --dry-run      # prompts, scores, gates: trains nothing
    genlab compare configs/sounds_esc10.py

Sounds are kept at 16 kHz mono, the rate of the codec that ships with genlab: above 8 kHz nothing is
heard. That codec was trained on speech. Budget, rates and samplers are those of
configs/real_speech.py; more is one override away, budget.train_flops=2.4e13. A hundred clips or two
are repeated many times by then, so look at the column `epochs` first.
"""

import os

from genlab.data.classes import ESC50
from genlab.decoders.conditioning import ConditionConfig
from genlab.experiment import Comparison, TokenData
from genlab.load import call_base

VARIABLE = "ESC50_DIR"


def config() -> Comparison:
    """Return the comparison. Without the variable, `data.corpus.path` names the folder."""
    path = os.environ.get(VARIABLE) or "ESC-50-master"
    sounds = ESC50(path=path, esc10=True, sample_rate_hz=16_000)
    base = call_base(__file__, "real_speech.py", "square")
    return base.model_copy(
        update={
            "name": "sounds_esc10",
            "question": "Which decoder best continues a sound whose class is told?",
            "data": TokenData(corpus=sounds, num_frames=256),
            "batch_size": 4,
            "condition": ConditionConfig(content="none", speaker=True),
        }
    )
