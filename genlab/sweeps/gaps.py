"""Whether a gap between families shrinks, whichever of them is ahead.

In: a `Gap` and the finished runs that it is about. Out: `Draft`. With gaps g and G, |G| < |g| just
where g - G and g + G have one sign, so it takes both: the p-value is the larger of the two
(intersection-union test, Berger 1982). Opposite signs say that the gap grows.
"""

import math
from collections.abc import Mapping, Sequence

from genlab.fairness.verdict import merge_gates
from genlab.sweeps.drafts import Draft, Loaded, draft_contrast
from genlab.sweeps.finding import Finding, Verdict
from genlab.sweeps.page import Gap


def draft_gap(
    prediction: Gap, labels: Sequence[str], loaded: Mapping[str, Loaded], level: float
) -> Draft:
    """Return by how much the gap shrank, with its interval; below zero it grew. `level` as in
    `draft_contrast`.

    Raises:
        GenlabError: if a row lacks the score, or two rows were scored on different prompts.
    """
    drafts = [draft_contrast(one, labels, loaded, level) for one in prediction.sums]
    change, both = (draft.finding for draft in drafts)
    # In units of the wider gap: turned round if what was ahead was the other family.
    sign = math.copysign(1.0, both.value)
    ends = sorted((sign * change.low, sign * change.high))
    verdicts = {change.verdict, both.verdict}
    verdict: Verdict = "inconclusive"
    if "inconclusive" not in verdicts:
        verdict = "reproduced" if len(verdicts) == 1 else "reversed"
    note = "; ".join(dict.fromkeys(filter(None, (change.note, both.note))))
    finding = Finding(
        prediction.text,
        "gap",
        prediction.score,
        "shrinks",
        verdict,
        sign * change.value,
        *ends,
        seeds=change.seeds,
        note=note,
        gates=tuple(merge_gates({"change": change.gates, "both gaps": both.gates})),
    )
    p_values = [draft.p_value for draft in drafts if draft.p_value is not None]
    return Draft(finding, max(p_values))
