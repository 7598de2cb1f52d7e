"""The ledger's row that says how each arm knows the beginning of a clip that it continues.

In: the runs of a comparison. Out: one row, by the word of each decoder itself
(`genlab.decoders.prompt_rule`).
"""

from collections.abc import Mapping

from genlab.decoders.prompt_rule import describe_prompt_rule, note_biased
from genlab.experiment import DecoderRun
from genlab.report.inputs import LedgerRow

KNOWN_PROMPT = "How a prompt is known"


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
