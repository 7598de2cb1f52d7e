"""What every layer of a backbone sees beside its input."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genlab.nets.attention import KeysValues
from genlab.nets.rotary import Rotation


class Text(NamedTuple):
    """What frames attend to beside each other: encoded symbols, or other conditions, for a prefix
    or for cross-attention. `positions` are those of a prefix; None counts from 0.
    """

    features: Float[Array, "b n h"]
    is_valid: Bool[Array, "b n"]
    positions: Int[Array, "b n"] | None = None

    @property
    def places(self) -> Int[Array, "b n"]:
        """The position of each symbol, by which a prefix is rotated."""
        if self.positions is not None:
            return self.positions
        return jnp.broadcast_to(jnp.arange(self.is_valid.shape[1])[None, :], self.is_valid.shape)


def join_texts(texts: Sequence[Text]) -> Text | None:
    """Return several texts as one, each counting its positions from 0, so that the padding of one
    moves no other; None of none.
    """
    if len(texts) < 2:
        return texts[0] if texts else None
    features, is_valid, positions = (
        jnp.concatenate(leaves, axis=1)
        for leaves in zip(*((text.features, text.is_valid, text.places) for text in texts))
    )
    return Text(features, is_valid, positions)


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


# What a layer keeps of the frames decoded so far: keys and values; for a convolution its inputs;
# for others the arrays of their state.
LayerCache = KeysValues | Float[Array, "b s h"] | tuple[Array, ...]


class TextMemory(NamedTuple):
    """The text as one layer's cross-attention reads it."""

    memory: KeysValues
    is_valid: Bool[Array, "b n"]
