"""Diffusion of latents through state spaces that run in both directions of time, as SaShiMi does in
DiffWave's place (2202.09729, on digits of SC09).

Question: a denoiser needs to see the whole clip, but does it need to compare all pairs of frames?
`backbone.mixer.kind=attention` is the control; sweeps/claims/bidirectional_s4d.py compares them.
Unlike SaShiMi's: latents of a codec in place of samples, one rate of time, and half of the channels
run in each direction where the paper adds two filters of all of them.

    genlab compare configs/presets/ssm_diffusion.py
"""

from genlab.experiment import Comparison
from genlab.load import call_base
from genlab.nets.mixers.s4d import S4D


def config() -> Comparison:
    """Return the comparison with this arm alone."""
    base = call_base(__file__, "../units_to_speech.py")
    backbone = base.backbone.model_copy(update={"mixer": S4D(states=32)})
    arm = base.arms["diffusion"].model_copy(update={"sampler_trials": 1})
    name = "ssm_diffusion"
    return base.model_copy(update={"name": name, "backbone": backbone, "arms": {name: arm}})
