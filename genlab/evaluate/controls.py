"""Controls: does the audio follow its own prompt better than another one?

In: transcripts or per-clip values of one row. Out: `Control`, over the same clips, with a 95 %
interval over prompts, and over training seeds where there are several.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from genlab.config import GenlabError
from genlab.data.text import has_symbols
from genlab.evaluate.content import ContentErrors
from genlab.evaluate.entries import ControlEntry
from genlab.evaluate.scores import ClipValues, Direction
from genlab.statistics.bootstrap import (
    Estimate,
    bootstrap_statistic,
    finite_or_none,
    ratio_of_sums,
    sum_clusters,
)
from genlab.statistics.crossed import estimate_crossed

ControlStatus = Literal["passed", "failed", "not applicable", "not judged"]
CountErrors = Callable[[Sequence[str], Sequence[str]], ContentErrors]


class Control(NamedTuple):
    """The same audio scored against another prompt: `difference` = swapped - own, `passed` if
    significantly worse.

    A control that could not be made is neither passed nor failed, nor is one that shows nothing:
    `reason` says why, in words for a person.
    """

    control: str
    score: str
    difference: float
    low: float
    high: float
    passed: bool
    reason: str = ""

    @property
    def status(self) -> ControlStatus:
        """What became of it: a control without a number was not made, and one with a number and a
        reason shows nothing.
        """
        if self.passed:
            return "passed"
        if not math.isfinite(self.difference):
            return "not applicable"
        return "not judged" if self.reason else "failed"

    def to_dict(self, arm: str) -> ControlEntry:
        """Return the entry of results.json for `arm`."""
        return {
            "arm": arm,
            "control": self.control,
            "score": self.score,
            "difference": finite_or_none(self.difference),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "passed": self.passed,
            "reason": self.reason,
            "status": self.status,
        }


def derange_texts(texts: Sequence[str], seed: int = 0) -> Int[np.ndarray, "n"]:
    """Return a permutation that gives every prompt the text of another prompt, different from its
    own.

    Raises:
        GenlabError: if one text fills more than half of the prompts, so that no such permutation
            exists.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(texts))
    rank = dict(zip(names, rng.permutation(len(names))))
    # Equal texts are adjacent in this order; turning it by the largest group moves each out of its
    # own group.
    shuffled: list[int] = rng.permutation(len(texts)).tolist()
    order = sorted(shuffled, key=lambda i: rank[texts[i]])
    largest = max((list(texts).count(name) for name in names), default=0)
    if not texts or 2 * largest > len(texts):
        raise GenlabError(
            f"prompts: {largest} of {len(texts)} have the same text; the prompt-swap control "
            "needs prompts where no text occurs in more than half"
        )
    other = np.empty(len(texts), np.intp)
    other[order] = np.roll(order, -largest)
    return other


def prompt_swap(
    score_name: str,
    hypotheses: Sequence[str],
    texts: Sequence[str],
    clusters: Sequence[object],
    count_errors: CountErrors,
    seed: int = 0,
    runs: tuple[int, ...] = (),
) -> Control:
    """Score transcripts against another prompt's text, paired with their own text.

    Prompts that allow no swap (no texts, one prompt, one text in the majority) make the control not
    applicable. Prompts without text are left out of it.
    """
    has_text = [has_symbols(text) for text in texts]
    if not any(has_text):
        return not_applicable("prompt_swap", score_name, "the prompts have no text")
    if not all(has_text):
        # A prompt without text is as far from its own text as from any other, so swapping it shows
        # nothing.
        kept = [i for i, keep in enumerate(has_text) if keep]
        hypotheses = [hypotheses[i] for i in kept]
        texts = [texts[i] for i in kept]
        clusters = [clusters[i] for i in kept]
        runs = tuple(runs[i] for i in kept) if runs else runs
    try:
        other = derange_texts(list(texts), seed)
    except GenlabError as error:
        return not_applicable("prompt_swap", score_name, str(error).removeprefix("prompts: "))
    own = count_errors(hypotheses, texts)
    swapped = count_errors(hypotheses, [texts[int(i)] for i in other])
    # Several seeds: pseudo-values make a ratio of sums additive, which crossed intervals need.
    if len(set(runs)) > 1:
        grids = [
            ClipValues(*errors, tuple(clusters), runs=runs).pseudo_values()
            for errors in (swapped, own)
        ]
        return _make_control(
            "prompt_swap", score_name, estimate_crossed(grids[0] - grids[1]), "lower"
        )

    def difference(*sums: Float[np.ndarray, "*r c"]) -> np.ndarray:
        return np.asarray(ratio_of_sums(sums[0], sums[1]) - ratio_of_sums(sums[2], sums[3]))

    estimate = bootstrap_statistic(difference, *sum_clusters(clusters, *swapped, *own), seed=seed)
    return _make_control("prompt_swap", score_name, estimate, "lower")


def speaker_swap(own: ClipValues, others: Float[np.ndarray, "n"], seed: int = 0) -> Control:
    """Score the voice against all the other speakers instead of the prompted one, paired per group
    of clips.

    `others` is NaN for clips without such a comparison, which are left out.
    """
    return label_swap("speaker_swap", "speaker_similarity", own, others, seed)


def prefix_swap(
    score_name: str, own: ClipValues, swapped: Float[np.ndarray, "n"], seed: int = 0
) -> Control:
    """Score what follows a clip's beginning when another clip's beginning was heard, paired per
    group of clips.

    Args:
        score_name: a score of continuations; lower is better.
        own: of every clip, after its own beginning.
        swapped: the same after another one, with everything else that is told as before; NaN where
            none was drawn.
        seed: of the interval.
    """
    is_known = np.isfinite(swapped) & (own.weights > 0)
    if not is_known.any():
        reason = "no two prompts are long enough to exchange their beginnings"
        return not_applicable("prefix_swap", score_name, reason)
    totals = np.where(is_known, swapped, 0.0) - np.where(is_known, own.totals, 0.0)
    difference = own._replace(totals=totals, weights=np.where(is_known, own.weights, 0.0))
    return _make_control("prefix_swap", score_name, difference.estimate(seed), "lower")


def label_swap(
    control: str, score_name: str, own: ClipValues, others: Float[np.ndarray, "n"], seed: int = 0
) -> Control:
    """Score clips against all the other labels, speakers or classes, instead of the prompted one.

    Args:
        control: its name.
        score_name: the score whose label is swapped.
        own: of every clip, how well it fits its own label; higher is better.
        others: how well it fits the others on average, NaN where there are none.
        seed: of the interval.
    """
    is_known = np.isfinite(others) & (own.weights > 0)
    if not is_known.any():
        noun = control.removesuffix("_swap")
        return not_applicable(control, score_name, f"there is no other {noun} to compare with")
    totals = np.where(is_known, others, 0.0) - np.where(is_known, own.totals, 0.0)
    difference = own._replace(totals=totals, weights=np.where(is_known, own.weights, 0.0))
    return _make_control(control, score_name, difference.estimate(seed), "higher")


def not_applicable(control: str, score_name: str, reason: str) -> Control:
    """Return a control that could not be made, with the reason."""
    return Control(control, score_name, math.nan, math.nan, math.nan, False, reason)


def _make_control(control: str, score_name: str, estimate: Estimate, better: Direction) -> Control:
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        # One unit has a value but no interval, and without an interval nothing is shown either way.
        reason = f"an interval needs at least 2 units that differ, there are {estimate.n}"
        return Control(
            control, score_name, estimate.value, estimate.low, estimate.high, False, reason
        )
    is_worse = estimate.low > 0 if better == "lower" else estimate.high < 0
    return Control(control, score_name, estimate.value, estimate.low, estimate.high, bool(is_worse))
