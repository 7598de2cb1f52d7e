"""Connected speech of real people, from text: left to right or in parallel, on codes or on latents.

Question: which decoder continues a spoken sentence best when its text is told and nothing says
which word is where? Alignment and voice have to be found. The corpus is small and its vocabulary
nearly closed; test voices are none of the training's, as far as a clustering of voices can tell.
The recogniser that comes with genlab mishears people, so no word error decides; the energy of the
next block does.

The audio is yours: a folder with metadata.csv (path, text, speaker, split) of sentences of up to 11
seconds (longer ones are left out and listed), for example the spoken orders of Picovoice's
speech-to-intent benchmark (Apache-2.0). Clips are never cut here, so that a text and its audio
belong together. If the table names no rows of split valid, no look can choose the weights: those of
the last update are handed over.

    export ORDERS_DIR=path/to/coffee_orders
    genlab compare configs/real_orders.py --dry-run      # prompts, scores, gates: trains nothing
    genlab compare configs/real_orders.py

Budget, rates and samplers are those of configs/real_speech.py. Three TFLOP are one to two passes
over 40 minutes: enough to see what the page says, too little to speak from text
(configs/quickstart_text.py). More is one override away, budget.train_flops=2.4e13.
"""

import os

from genlab.data.folder import Folder
from genlab.decoders.conditioning import ConditionConfig
from genlab.experiment import Comparison, TokenData
from genlab.load import call_base
from genlab.training.looks import CheckpointRule

VARIABLE = "ORDERS_DIR"
LONGEST_S = 11.0
FRAME_HZ = 50


def config() -> Comparison:
    """Return the comparison. Without the variable, `data.corpus.path` names the folder."""
    path = os.environ.get(VARIABLE) or "coffee_orders"
    orders = Folder(path=path, manifest="metadata.csv", max_clip_s=LONGEST_S)
    base = call_base(__file__, "real_speech.py", "square")
    return base.model_copy(
        update={
            "name": "real_orders",
            "question": "Which decoder best continues a sentence whose text is told?",
            "data": TokenData(corpus=orders, num_frames=round(LONGEST_S * FRAME_HZ)),
            "batch_size": 2,
            "condition": ConditionConfig(content="text", route="cross", speaker=False),
            "checkpoint": CheckpointRule(rule="last"),
        }
    )
