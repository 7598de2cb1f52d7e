"""One update: step, optimizer, settings."""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.training.optim import OptimConfig
    from genlab.training.settings import TrainSettings

__all__ = ["OptimConfig", "TrainSettings"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "OptimConfig": "genlab.training.optim",
        "TrainSettings": "genlab.training.settings",
    },
)
