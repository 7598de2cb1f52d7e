"""The network parts that every decoder shares."""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.nets.backbone import BackboneConfig
    from genlab.nets.layer import Mixer

__all__ = ["BackboneConfig", "Mixer"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BackboneConfig": "genlab.nets.backbone",
        "Mixer": "genlab.nets.layer",
    },
)
