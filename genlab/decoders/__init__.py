"""One file per family of decoders, the contract they share, and the small objects they take."""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.decoders.ar import ARConfig, ARSampler
    from genlab.decoders.conditioning import ConditionConfig
    from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
    from genlab.decoders.discrete import DiscreteConfig, DiscreteSampler
    from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
    from genlab.decoders.masked import MaskedConfig, MaskedSampler
    from genlab.decoders.task import Task

__all__ = [
    "ARConfig",
    "ARSampler",
    "ConditionConfig",
    "DiffusionConfig",
    "DiffusionSampler",
    "DiscreteConfig",
    "DiscreteSampler",
    "LatentARConfig",
    "LatentARSampler",
    "MaskedConfig",
    "MaskedSampler",
    "Task",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ARConfig": "genlab.decoders.ar",
        "ARSampler": "genlab.decoders.ar",
        "ConditionConfig": "genlab.decoders.conditioning",
        "DiffusionConfig": "genlab.decoders.diffusion",
        "DiffusionSampler": "genlab.decoders.diffusion",
        "DiscreteConfig": "genlab.decoders.discrete",
        "DiscreteSampler": "genlab.decoders.discrete",
        "LatentARConfig": "genlab.decoders.latent_ar",
        "LatentARSampler": "genlab.decoders.latent_ar",
        "MaskedConfig": "genlab.decoders.masked",
        "MaskedSampler": "genlab.decoders.masked",
        "Task": "genlab.decoders.task",
    },
)
