"""A billion parameters at 24 kHz; see scale_30m.py.

Question: does the ranking of families change with ten times the parameters?

    genlab aot configs/scale/scale_1b.py --topology v5e-16
    genlab compare configs/scale/scale_1b.py data.corpus.path=/path/to/speech
"""

from genlab.experiment import Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison."""
    size = {"width": 2048, "layers": 20, "batch_size": 256, "accumulate": 4, "peak_lr": 3e-4}
    return call_base(__file__, "scale_30m.py", "at", name="scale_1b", **size)
