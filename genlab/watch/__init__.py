"""What a person watches: progress, TensorBoard, pictures, profiles."""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.watch.tensorboard import RunWriter

__all__ = ["RunWriter"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "RunWriter": "genlab.watch.tensorboard",
    },
)
