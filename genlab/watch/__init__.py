"""What a person watches: progress, TensorBoard, pictures, profiles."""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.watch.tensorboard import RunWriter

__all__ = ["RunWriter"]

CURVE = "valid_loss"  # a metric: of a look at validation; of several averages each adds its name

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "RunWriter": "genlab.watch.tensorboard",
    },
)
