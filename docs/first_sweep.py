"""A first sweep: how many bits per second of audio do twice the updates save a small autoregressive
decoder?

genlab sweep run docs/first_sweep.py && genlab sweep report docs/first_sweep.py
"""

from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.sweeps.page import Contrast, Sweep, product
from genlab.train import TrainSettings


def sweep() -> Sweep:
    """Return the page: one `Comparison`, what varies, and what is predicted beforehand."""
    question = "How many bits per second do twice the updates save?"
    base = Comparison(
        name="first_sweep",
        question=question,
        data=TokenData(corpus=Embedded(minutes=1.5), num_frames=96),
        batch_size=4,
        seeds=(0, 1, 2),
        backbone=BackboneConfig(width=16, layers=1, heads=2),
        condition=ConditionConfig(layers=1),
        budget=Budget(mode="iso_step", steps=300),
        arms={"ar": Arm(decoder=ARConfig(), sampler=ARSampler())},
        num_prompts=2,
        baselines=("unigram", "bigram"),
        evaluation=EvaluationConfig(dnsmos_clips=0, reference_clips=8),
        settings=TrainSettings(log_every=20, save_every_steps=50, save_every_s=None),
    )
    saved = {"ar @ steps=600": 1.0, "ar @ steps=300": -1.0}
    return Sweep(
        name="first_sweep",
        question=question,
        fixed="Corpus, codec, decoder, prompts, seeds.",
        varied="Updates.",
        base=base,
        points=tuple(product({"budget.steps": [300, 600]})),
        predictions=(
            Contrast(
                text="twice the updates save bits", score="bits_per_s", terms=saved, expect="below"
            ),
        ),
    )
