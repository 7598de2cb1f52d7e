"""Metrics of the user, tried on a few real clips before anything is encoded or trained.

In: rows of the user's own, and real clips of the corpus. Out: nothing, or one line that names the
metric and what is wrong: it raises, gives something else than a number per clip, or no clip a
number. Without this the error would come when the arms have been trained.
"""

from collections.abc import Sequence

import numpy as np

from genlab.config import GenlabError
from genlab.evaluate.context import EvaluationContext, Wanted
from genlab.evaluate.metric import Metric
from genlab.evaluate.metrics import score_clips

TRIED = 4  # clips


def try_rows(rows: Sequence[Metric], prompts: Sequence[Wanted], context: EvaluationContext) -> None:
    """Measure the real clips of `prompts`, a little noisy, as an arm's clips will be measured.

    A metric of sets of clips may need more clips than these, so it only must not fail.

    Raises:
        GenlabError: if a row fails, or gives no clip a finite number.
    """
    draw = np.random.default_rng(0)
    # Equal to the real clip, a clip could have a distance of which nobody can take the logarithm.
    waves = [
        (0.8 * prompt.wave + 1e-3 * draw.standard_normal(prompt.wave.shape)).astype(np.float32)
        for prompt in prompts
    ]
    found = score_clips(waves, prompts, context, metrics=rows)
    for row in rows:
        for name in row.score_names:
            if row.is_of_sets:
                continue
            values = found.per_clip[name].values if name in found.per_clip else np.array([])
            if not np.isfinite(values).any():
                raise GenlabError(
                    f"metrics: {name} gives none of {len(prompts)} real clips a number, so no arm "
                    "would have a score; expected NaN only where a clip has none"
                )
