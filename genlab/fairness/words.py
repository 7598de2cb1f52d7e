"""How a gate names what it speaks of: baselines, scores, controls and degradations, in the words of
a sentence.

In: names as results.json has them. Out: words. The names themselves stay in the files, where
programs look for them; no reader of a report should have to.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from genlab.evaluate.table import known_metric
from genlab.run.bounds import (
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

BASELINE_WORDS: Final[Mapping[Baseline, str]] = {
    LOOKUP: "the mean latents",
    REGRESSION: "the regression",
    CLIMATOLOGY: "blocks of training clips",
    LOOKUP_RESIDUALS: "the mean latents with residuals",
    REGRESSION_RESIDUALS: "the regression with residuals",
    UNIFORM: "uniform codes",
    UNIGRAM: "counts of single codes",
    BIGRAM: "counts of pairs of codes",
}
_FALSE_ALARMS: Final = "false alarms"  # what an audit calls differences between halves of one set


def list_words(words: Sequence[str], last: str = "and") -> str:
    """Return "a", "a and b", or "a, b and c"."""
    *before, end = words
    return f"{', '.join(before)} {last} {end}" if before else end


def score_words(name: str) -> str:
    """Return what a sentence calls a score."""
    metric = known_metric(name)
    title = name.replace("_", " ") if metric is None else metric.title
    return f"the {title[:1].lower()}{title[1:]}" if title[1:2].islower() else f"the {title}"


def control_words(name: str) -> str:
    """Return what a sentence calls a control."""
    return f"the {name.replace('_', ' ')}"


def miss_words(found: Sequence[str]) -> str:
    """Return what is wrong with a score by its audit.

    Args:
        found: the degradations that it misses, and false alarms.
    """
    missed = [name.replace("_", " ") for name in found if name != _FALSE_ALARMS]
    told = [f"it misses {list_words(missed, 'or')}"] if missed else []
    if _FALSE_ALARMS in found:
        told.append("it finds differences where there are none")
    return " and ".join(told)
