"""Audio to tokens and back: the in-lab codec, its training losses, and the frozen form that the lab
uses.
"""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.codecs.base import Codec
    from genlab.codecs.frozen import FrozenCodec, load_codec

__all__ = ["Codec", "FrozenCodec", "load_codec"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Codec": "genlab.codecs.base",
        "FrozenCodec": "genlab.codecs.frozen",
        "load_codec": "genlab.codecs.frozen",
    },
)
