"""What a person watches: progress, TensorBoard, pictures, profiles."""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.watch.tensorboard import RunWriter

__all__ = ["RunWriter"]

# Metrics of a look at validation, its loss or its bits; of several averages each adds its name.
CURVE, BITS_CURVE = "valid_loss", "valid_bits_per_frame"

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "RunWriter": "genlab.watch.tensorboard",
    },
)
