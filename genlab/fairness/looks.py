"""The validation clips that all arms look at while they train, the same at every look.

In: a run and its token store. Out: `Looks` for the training loop, or None if nothing is to be
chosen. The clips come from the validation split alone: what chooses is never what is reported.
"""

import jax
import numpy as np

from genlab.config import GenlabError
from genlab.data.batches import Batch, batch_digest
from genlab.data.held_out import larger_share
from genlab.data.store import TokenStore
from genlab.experiment import DecoderRun
from genlab.training.looks import SPLIT, Looks, Rows

FEWEST = 2


def open_looks(run: DecoderRun, store: TokenStore) -> Looks | None:
    """Return what a training looks at.

    Raises:
        GenlabError: if there are no clips to look at, or fewer updates than looks.
    """
    rule = run.checkpoint
    if not rule.looks_with(run.optim):
        return None
    steps = rule.steps_of(run.steps)
    sizes = {name: split.clips for name, split in store.info.splits.items()}
    if sizes.get(SPLIT, 0) < FEWEST:
        found = ", ".join(f"{name} {count}" for name, count in sorted(sizes.items()))
        larger = larger_share(run.data.corpus, SPLIT)
        drawn = larger and f"{larger} if its splits are drawn, or "
        last = "checkpoint.rule=last" if rule.rule != "last" else "optim.ema_powers=null"
        if rule.rule != "last" and run.optim.ema_powers is not None:
            last += " optim.ema_powers=null"
        raise GenlabError(
            f"checkpoint.rule={rule.rule!r}: the corpus has {sizes.get(SPLIT, 0)} clips of "
            f"validation to look at ({found}), expected at least {FEWEST}; hold out more: {drawn}"
            f"rows of split {SPLIT!r} in the table of the corpus; or set {last}"
        )
    numbers = store.numbers(SPLIT)
    # The same clips for every arm, seed and look.
    order = np.random.default_rng(0).permutation(len(numbers))[: rule.clips]
    examples = [store.example(store.clip(numbers[i]), run.data.num_frames) for i in order]
    size = min(run.batch_size, len(examples))
    batches: list[Rows] = []
    for first in range(0, len(examples), size):
        rows = np.arange(first, first + size)
        # A short last batch is filled up with clips that do not count: one compiled shape.
        counts = (rows < len(examples)).astype(np.float32)
        kept = [examples[i % len(examples)] for i in rows]
        batches.append((jax.tree.map(lambda *leaves: np.stack(leaves), *kept), counts))
    ids = np.asarray(order)
    whole = Batch(jax.tree.map(lambda *leaves: np.stack(leaves), *examples), ids)
    return Looks(rule, steps, batches, batch_digest(whole))
