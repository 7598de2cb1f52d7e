"""The sampler of a diffusion decoder as a scheduler_config.json that diffusers can load.

In: the configs of a decoder and of its sampler. Out: the fields of the scheduler class of diffusers
that takes the same steps from the same predictions; what it calls sigma is our level on the
straight path and sigma / alpha elsewhere.

| path | solver | diffusers class | grid |
| --- | --- | --- | --- |
| straight | euler | FlowMatchEulerDiscreteScheduler | ours, `sigmas=numpy.linspace(1, 1 / n, n)` |
| straight | heun | FlowMatchHeunDiscreteScheduler | from 1 to 1 / 1000 and then to 0 by Euler |
| straight | dpm_solver | DPMSolverMultistepScheduler | ours, ends at 0.999 before the shift |
| cosine | ddim | DDIMScheduler | ours, if n divides 1000 |
| cosine | dpm_solver | DPMSolverMultistepScheduler | ours, but starting at alpha = 2^-12 |
| cosine | ancestral, eta 1 | DDPMScheduler | ours, if n divides 1000 |
| edm | euler, ddim | EDMEulerScheduler | ours |
| edm | dpm_solver | EDMDPMSolverMultistepScheduler | ours |
"""

from pathlib import Path
from typing import Any

import numpy as np

from genlab.config import GenlabError
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.noise.paths import CosinePath, EDMPath, StraightPath
from genlab.decoders.noise.solvers import Ancestral

NUM_TRAIN_TIMESTEPS = 1000
PREDICTION_TYPES = {"v": "v_prediction", "noise": "epsilon", "clean": "sample"}


def scheduler_config(
    decoder: DiffusionConfig, sampler: DiffusionSampler
) -> tuple[str, dict[str, Any]]:
    """Return the name of diffusers' scheduler class and the fields that describe the decoder's path
    and solver.

    Raises:
        GenlabError: if diffusers has no scheduler that takes these steps.
    """
    fields = _find_fields(decoder, sampler)
    if fields is None:
        raise GenlabError(
            f"sampler.solver.kind={sampler.solver.kind!r}: diffusers has no scheduler for it on "
            f"the {decoder.path.kind!r} path with predicts={decoder.predicts!r}; "
            "scheduler_export.py lists those it has"
        )
    name, values = fields
    return name, {"num_train_timesteps": NUM_TRAIN_TIMESTEPS, **values}


def save_scheduler_config(
    directory: str | Path, decoder: DiffusionConfig, sampler: DiffusionSampler
) -> Path:
    """Write scheduler_config.json into `directory` through diffusers, and return its path."""
    from diffusers.configuration_utils import ConfigMixin

    name, values = scheduler_config(decoder, sampler)
    # The class name goes into the file: it is how diffusers finds the scheduler. The real class
    # would need torch.
    scheduler = type(name, (ConfigMixin,), {"config_name": "scheduler_config.json"})()
    scheduler.register_to_config(**values)
    scheduler.save_config(str(directory))
    return Path(directory) / "scheduler_config.json"


def _find_fields(
    decoder: DiffusionConfig, sampler: DiffusionSampler
) -> tuple[str, dict[str, Any]] | None:
    path, solver = decoder.path, sampler.solver
    multistep = {"solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
    own = multistep if solver.kind == "dpm_solver" else {}
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    if isinstance(path, CosinePath) and decoder.predicts in PREDICTION_TYPES:
        shared = {
            "prediction_type": PREDICTION_TYPES[decoder.predicts],
            "timestep_spacing": "trailing",
        }
        betas = {"trained_betas": _betas(path, sampler.shift, 0.0), "clip_sample": False}
        # The multistep class works in log(alpha / sigma); its own way out of pure noise is the same
        # number.
        finite = {"trained_betas": _betas(path, sampler.shift, 2.0**-24)}
        found = {
            "ddim": ("DDIMScheduler", shared | betas),
            "dpm_solver": ("DPMSolverMultistepScheduler", shared | finite | own),
        }
        if isinstance(solver, Ancestral) and solver.eta == 1:
            found["ancestral"] = ("DDPMScheduler", shared | betas)
    elif isinstance(path, EDMPath) and decoder.predicts == "v":
        sigmas = {
            "sigma_min": path.sigma_min,
            "sigma_max": path.sigma_max,
            "sigma_data": 1.0,
            "rho": path.rho,
        }
        shared = sigmas | {"prediction_type": "v_prediction"}
        found = {
            "euler": ("EDMEulerScheduler", shared),
            "ddim": ("EDMEulerScheduler", shared),
            "dpm_solver": ("EDMDPMSolverMultistepScheduler", shared | own),
        }
    elif isinstance(path, StraightPath) and path.last_level == 1 and decoder.predicts == "velocity":
        shift = float(sampler.shift)
        fixed = {
            "use_dynamic_shifting": False,
            "invert_sigmas": False,
            "stochastic_sampling": False,
        }
        flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
        found = {
            "euler": ("FlowMatchEulerDiscreteScheduler", {"shift": shift} | fixed),
            "heun": ("FlowMatchHeunDiscreteScheduler", {"shift": shift}),
            "dpm_solver": ("DPMSolverMultistepScheduler", flow | own),
        }
    return found.get(solver.kind)


def _betas(path: CosinePath, shift: float, smallest: float) -> list[float]:
    """Return 1 - alpha^2 / (alpha of the level before)^2 for 1000 levels from clean to noise."""
    levels = path.grid(NUM_TRAIN_TIMESTEPS, shift)[::-1]
    squares = np.maximum(np.square(path.alpha(levels)), smallest)
    return (1 - squares[1:] / squares[:-1]).tolist()
