"""What the report says of the baselines: what they are, and which of them a run lacks.

In: names of rows, or results.json. Out: sentences. Runs of earlier versions have no baselines, and
a comparison may leave some out.
"""

from collections.abc import Sequence
from typing import Final

from genlab.report.inputs import Scored
from genlab.report.text import name_title
from genlab.run.bounds import (
    BASELINES,
    BIGRAM,
    CLIMATOLOGY,
    LOOKUP,
    LOOKUP_RESIDUALS,
    REGRESSION,
    REGRESSION_RESIDUALS,
    UNIFORM,
    UNIGRAM,
    Baseline,
)

_WHAT: Final[dict[Baseline, str]] = {
    LOOKUP: "the mean of all training latents whose conditions are the same, no network",
    REGRESSION: "the diffusion network trained by squared error with as many FLOPs, so that it "
    "predicts the mean latents of its conditions",
    CLIMATOLOGY: "blocks of random training clips, whatever is told",
    LOOKUP_RESIDUALS: "mean latents plus whole blocks of what they miss in validation clips",
    REGRESSION_RESIDUALS: "the regression with a spread of the same kind",
    UNIFORM: "every code alike",
    UNIGRAM: "counts of each level's codes in the training clips",
    BIGRAM: "the same counts given the code of the frame before",
}


def describe_baselines(names: Sequence[Baseline]) -> list[str]:
    """Return a paragraph that says what each baseline is, none without baselines."""
    if not names:
        return []
    told = "; ".join(f"{name_title(name)}: {_WHAT[name]}" for name in BASELINES if name in names)
    return [
        f"Baselines, which are never ranked. {told}. Each arm is compared with each of them on the "
        "same prompts, with Holm's correction for those pairs, apart from that of the arms."
    ]


def missing_baselines(results: Scored) -> str:
    """Return a sentence that names the baselines which the table lacks, empty if it has all."""
    found = {row["name"] for row in results["arms"]}
    missing = [name_title(name) for name in BASELINES if name not in found]
    if not missing:
        return ""
    return (
        f"Not in this run: {', '.join(missing)}. No arm is shown to be better than a baseline that "
        "is missing."
    )
