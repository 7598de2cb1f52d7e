"""The cells behind a mean over token types: does the difference of the families hold in each?

In: a contrast of families over codes and latents, and the families and tokens of its rows. Out: the
contrast of the interaction, in the unit of the mean: half of how much the difference on codes
exceeds that on latents. With a mean m and an interaction i the cells are m + i and m - i, so they
have one sign only if |i| < |m|. Where the interaction is significant, or may reach the mean, the
mean stands for no cell, and the sentence is about cells (Cox 1984, "Interaction", section 3).
"""

from collections.abc import Mapping

from genlab.fairness.verdict import Gate
from genlab.report.text import format_interval
from genlab.statistics.bootstrap import Ends
from genlab.statistics.crossed import Crossed
from genlab.sweeps.page import Contrast


def interaction_of(prediction: Contrast, reads: Mapping[str, str]) -> Contrast | None:
    """Return the contrast of the interaction, None if the prediction is not a mean over codes and
    latents: `reads` are the tokens of each row.
    """
    kinds = sorted(set(reads.values()))
    if prediction.about == "tokens" or len(kinds) != 2 or "" in kinds:
        return None
    sums = [
        sum(weight for row, weight in prediction.terms.items() if reads[row] == kind)
        for kind in kinds
    ]
    if any(abs(sum_) > 1e-9 for sum_ in sums):  # it is a comparison of the token types
        return None
    terms = {
        row: weight if reads[row] == kinds[0] else -weight
        for row, weight in prediction.terms.items()
    }
    return prediction.model_copy(update={"terms": terms})


def describe_interaction(found: Crossed) -> str:
    """Return the interaction with its 95 % interval, in words."""
    value, half = float(found.value), float(found.half_width)
    ends: Ends = {"value": value, "low": value - half, "high": value + half}
    return f"interaction of families and tokens {format_interval(ends)}"


def check_cells(mean: Crossed, interaction: Crossed) -> Gate:
    """Return the gate of the token type for a mean over codes and latents."""
    told = describe_interaction(interaction)
    value, half = float(interaction.value), float(interaction.half_width)
    if abs(value) > half:
        reason = f"codes and latents differ in the difference ({told}): read each by itself"
        return Gate("one token type", "failed", reason)
    if abs(value) + half >= abs(float(mean.value)):
        reason = f"codes and latents may differ in sign ({told}): read each by itself"
        return Gate("one token type", "failed", reason)
    return Gate("one token type", "passed", f"within each token type, {told}")
