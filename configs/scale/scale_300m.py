"""Three hundred million parameters at 24 kHz; see scale_30m.py.

Question: does the ranking of families change with ten times the parameters?

    genlab aot configs/scale/scale_300m.py --topology v5e-16
    genlab compare configs/scale/scale_300m.py data.corpus.path=/path/to/speech
"""

from genlab.experiment import Comparison
from genlab.load import call_base


def config() -> Comparison:
    """Return the comparison."""
    size = {"width": 1024, "layers": 24, "batch_size": 512, "accumulate": 8, "peak_lr": 5e-4}
    return call_base(__file__, "scale_30m.py", "at", name="scale_300m", **size)
