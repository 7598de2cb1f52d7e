"""A billion parameters at 24 kHz; see scale_30m.py.

Question: does the ranking of families change with ten times the parameters?

    genlab aot configs/scale/scale_1b.py --topology v5e-16
    genlab compare configs/scale/scale_1b.py data.corpus.path=/path/to/speech
"""

import runpy
from pathlib import Path

from genlab.experiment import Comparison


def config() -> Comparison:
    """Return the comparison."""
    at = runpy.run_path(str(Path(__file__).with_name("scale_30m.py")))["at"]
    return at("scale_1b", width=2048, layers=20, batch_size=256, accumulate=4, peak_lr=3e-4)
