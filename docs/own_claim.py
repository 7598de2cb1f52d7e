"""A claim card: a published statement, what it predicts, and the smallest comparison that could
prove it wrong here.

It is a page of a sweep with three more fields: `claim`, `source` with its section, and `faithful`,
how far the test is from the original. Everything is written down before the run; the card says what
came of it, also when the claim fails.

    genlab sweep run docs/own_claim.py && genlab sweep report docs/own_claim.py --card
"""

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.steps.patterns import DelayPattern, FlatPattern
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.sweeps.page import Contrast, Sweep
from genlab.train import TrainSettings


def sweep() -> Sweep:
    """Return the page: one run of two arms that differ in the order of their codes and in nothing
    else.
    """
    question = "Are codes modelled better one after the other than all codes of a frame at once?"
    patterns = {"flat": FlatPattern(), "parallel": DelayPattern(delay_frames=0)}
    base = Comparison(
        name="own_claim",
        question=question,
        data=TokenData(corpus=Embedded(minutes=1.5), num_frames=96),
        batch_size=4,
        seeds=(0, 1, 2),
        backbone=BackboneConfig(width=32, layers=1, heads=2),
        condition=ConditionConfig(content="none", layers=1),
        budget=Budget(mode="iso_step", steps=150),
        arms={
            name: Arm(decoder=ARConfig(pattern=pattern), sampler=ARSampler())
            for name, pattern in patterns.items()
        },
        num_prompts=2,
        evaluation=EvaluationConfig(energy_draws=0, dnsmos_clips=0, reference_clips=8),
        settings=TrainSettings(log_every=20),
    )
    lead = {"flat": 1.0, "parallel": -1.0}
    return Sweep(
        name="own_claim",
        question=question,
        claim="Flattened codes are modelled better than parallel ones.",
        source=(
            "Copet et al. 2023, arXiv 2306.05284, section 4, ablation of the codebook "
            "interleaving patterns"
        ),
        faithful=(
            "Not at all: a minute and a half of speech, two prompts. sweeps/claims asks in earnest."
        ),
        fixed="Corpus, codec, backbone, conditions, batch, updates, seeds, prompts.",
        varied="The order of the codes.",
        base=base,
        predictions=(
            Contrast(text="flat below parallel", score="bits_per_s", terms=lead, expect="below"),
        ),
    )
