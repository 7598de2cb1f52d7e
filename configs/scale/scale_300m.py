"""Three hundred million parameters at 24 kHz; see scale_30m.py.

Question: does the ranking of families change with ten times the parameters?

    genlab aot configs/scale/scale_300m.py --topology v5e-16
    genlab compare configs/scale/scale_300m.py data.corpus.path=/path/to/speech
"""

import runpy
from pathlib import Path

from genlab.experiment import Comparison


def config() -> Comparison:
    """Return the comparison."""
    at = runpy.run_path(str(Path(__file__).with_name("scale_30m.py")))["at"]
    return at("scale_300m", width=1024, layers=24, batch_size=512, accumulate=8, peak_lr=5e-4)
