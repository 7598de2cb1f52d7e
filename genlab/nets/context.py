"""What every layer of a backbone sees beside its input."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int

from genlab.nets.attention import KeysValues
from genlab.nets.rotary import Rotation


class Text(NamedTuple):
    """Encoded symbols for a prefix or for cross-attention."""

    features: Float[Array, "b n h"]
    is_valid: Bool[Array, "b n"]


class Context(NamedTuple):
    """What every layer sees beside its input.

    `is_valid` marks the keys that may be attended and `is_allowed` narrows them for each query;
    `prefix` is the number of leading positions that causal attention shows to everyone; `position`
    is the cache slot of the first query; `modulation` holds shift, scale and gate of the attention
    and of the feed-forward part.
    """

    rotation: Rotation
    is_valid: Bool[Array, "b s"]
    is_causal: bool
    prefix: Int[Array, ""] | int = 0
    position: Int[Array, ""] | int = 0
    modulation: Float[Array, "b 6 h"] | None = None
    is_allowed: Bool[Array, "#b q s"] | None = None


# What a layer keeps of the frames decoded so far: keys and values, or, for a convolution, its
# inputs.
LayerCache = KeysValues | Float[Array, "b s h"]


class TextMemory(NamedTuple):
    """The text as one layer's cross-attention reads it."""

    memory: KeysValues
    is_valid: Bool[Array, "b n"]
