"""A page of two small runs, as a file for processes and as an object for tests."""

from pathlib import Path

from comparison_toys import make_comparison

from genlab.sweeps.page import Sweep, product

PAGE = """
from genlab.data.corpus import Embedded
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.evaluate.metrics import EvaluationConfig
from genlab.experiment import Arm, Budget, Comparison, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.sweeps.page import Contrast, Sweep, product
from genlab.train import TrainSettings


def sweep():
    base = Comparison(
        name="tiny",
        question="Is no run lost and none done twice?",
        data=TokenData(corpus=Embedded(minutes=1.5), num_frames=96),
        batch_size=4,
        backbone=BackboneConfig(width=16, layers=1, heads=2),
        condition=ConditionConfig(layers=1),
        budget=Budget(mode="iso_step", steps=300),
        arms={"ar": Arm(decoder=ARConfig(), sampler=ARSampler())},
        num_prompts=2,
        evaluation=EvaluationConfig(dnsmos_clips=0, reference_clips=8),
        settings=TrainSettings(log_every=20, save_every_steps=50, save_every_s=None),
    )
    better = {"ar @ steps=400": 1.0, "ar @ steps=300": -1.0}
    return Sweep(
        name="tiny", question=base.question, fixed="All but the steps.", varied="Steps.", base=base,
        points=tuple(product({"budget.steps": [300, 400]})),
        predictions=(Contrast(text="longer is better", score="bits_per_s", terms=better, expect="below"),),
    )
"""


def write_page(folder: Path) -> Path:
    """Write the page and return its path."""
    path = folder / "page.py"
    path.write_text(PAGE)
    return path


def make_sweep(**update):
    """Return a page over the budgets of the toy comparison."""
    values = {
        "name": "toy", "question": "Which?", "fixed": "all", "varied": "FLOPs", "base": make_comparison(),
        "points": tuple(product({"budget.train_flops": [2e10, 4e10]})), "names": {"budget.train_flops": "FLOPs"},
    }  # fmt: skip
    return Sweep(**{**values, **update})
