"""The preset sonic_like on Mamba-2 (2405.21060), whose states choose what they keep.

Question: what is it worth that step, input and output of a state depend on the frame? All else is
that of sonic_like, which has filters that are the same for every frame.

    genlab compare configs/presets/sonic_like_mamba2.py
"""

from genlab.experiment import Comparison
from genlab.load import call_base
from genlab.nets.mixers.mamba2 import Mamba2


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    return call_base(__file__, "sonic_like.py", "speak", name="sonic_like_mamba2", mixer=Mamba2())
