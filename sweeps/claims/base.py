"""What the pages of bits share: the regime in which models may be compared at all.

Question: none of its own; each page beside it asks one and changes what it must.

An earlier version of these pages compared models that lost to counts of single codes. So here every
arm tries three learning rates on validation, stops where validation is best, and is run at two
sizes; and the prompts are new. The corpus has a seed of its own, and no text that the corpora of
seed 0 hold out (those of the quick start, of the presets and of all earlier cards) is held out
here. Nothing is told to the arms, as in the language models of the sources, so bits need no control
by a swapped prompt, and audio is drawn of two prompts only.
"""

from genlab.data.corpus import Embedded
from genlab.decoders.conditioning import ConditionConfig
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Comparison, TokenData
from genlab.load import call_base
from genlab.training.looks import CheckpointRule

RATES = (1e-3, 3e-3, 9e-3)


def config() -> Comparison:
    """Return the comparison that a page starts from; its arms are those of units_to_speech."""
    base = call_base(__file__, "../../configs/units_to_speech.py")
    corpus = Embedded(minutes=120.0, seed=1, developed=(0,))
    update = {
        "data": TokenData(corpus=corpus, num_frames=96),
        "seeds": (0, 1, 2),
        "num_prompts": 2,
        "condition": ConditionConfig(content="none", speaker=False),
        "optim": base.optim.model_copy(update={"peak_lrs": RATES}),
        "checkpoint": CheckpointRule(rule="best", by="bits", looks=8, clips=64, draws=2),
        "baselines": ("uniform", "unigram", "bigram"),
    }
    # Only bits are asked for: what serves audio alone is kept small.
    evaluation = EvaluationConfig(
        energy_draws=0, dnsmos_clips=0, reference_clips=16, score_draws=8, token_prompts=200
    )
    return base.model_copy(update={**update, "evaluation": evaluation})
