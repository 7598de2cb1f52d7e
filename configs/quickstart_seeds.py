"""The quick start on three training seeds, with an audit of its metrics and prompts heard while the
arms learn.

Question: does the order of the three decoders in configs/quickstart.py hold beyond the luck of one
initialisation? Two arms count as equivalent if their word errors differ by less than 0.05, declared
here before the run.

    genlab compare configs/quickstart_seeds.py --pareto
"""

from genlab.experiment import Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison."""
    base = call_base(__file__, "quickstart.py")
    margins = {"wer_ctc": 0.05, "wer_grammar": 0.05}
    settings = base.settings.model_copy(update={"previews": 4})
    update = {"name": "quickstart_seeds", "seeds": (0, 1, 2), "audit": True, "equivalence": margins}
    return base.model_copy(update={**update, "settings": settings})
