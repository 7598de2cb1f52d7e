"""The ledger's rows that say how each arm knows the beginning of a clip that it continues, and both
sides of a gap that it fills.

In: the runs of a comparison. Out: one row each, by the word of each decoder itself
(`genlab.decoders.prompt_rule`, `genlab.decoders.hole_rule`).
"""

from collections.abc import Mapping

from genlab.decoders.hole_rule import describe_hole_rule
from genlab.decoders.prompt_rule import describe_prompt_rule, note_biased
from genlab.experiment import DecoderRun
from genlab.report.inputs import LedgerRow

KNOWN_PROMPT = "How a prompt is known"
KNOWN_SIDES = "How both sides of a gap are known"


def prompt_row(runs: Mapping[str, DecoderRun], has_energies: bool) -> LedgerRow:
    """Return the row.

    Args:
        runs: of every arm.
        has_energies: whether arms are compared by what they continue.
    """
    decoders = {name: run.arm.decoder for name, run in runs.items()}
    told = {name: describe_prompt_rule(decoder) for name, decoder in decoders.items()}
    note = "when an arm continues a clip, as the energy of the next block asks it to"
    if has_energies and (biased := note_biased(decoders)):
        # It stays out of the stamp: bits and whole clips do not depend on it, and the energy of
        # such an arm is biased, which decides nothing.
        note += f"; {biased}"
    is_equal = len(set(told.values())) == 1
    status = ("matched" if is_equal else "declared") if has_energies else "free"
    return {"item": KNOWN_PROMPT, "status": status, "values": dict(told), "note": note}


def gap_rows(runs: Mapping[str, DecoderRun], has_gaps: bool) -> list[LedgerRow]:
    """Return the row of gaps, of a comparison that scores them.

    Args:
        runs: of every arm.
        has_gaps: whether it does.
    """
    if not has_gaps:
        return []
    told = {name: describe_hole_rule(run.arm.decoder) for name, run in runs.items()}
    # Declared, since nothing is decided by gaps; the score of an arm that is not exact is biased.
    return [
        {
            "item": KNOWN_SIDES,
            "status": "matched" if len(set(told.values())) == 1 else "declared",
            "values": dict(told),
            "note": "when an arm fills a gap; scores of gaps that are not exact are biased",
        }
    ]
