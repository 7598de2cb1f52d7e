"""Audio in, clips and batches out: corpora, manifests, waveform batches and the token store."""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.data.audio import as_wave
    from genlab.data.batches import BatchSource

__all__ = ["BatchSource", "as_wave"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "as_wave": "genlab.data.audio",
        "BatchSource": "genlab.data.batches",
    },
)
