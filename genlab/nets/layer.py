"""What a layer is made of: the contracts of mixers and of feed-forward parts.

A mixer is a config (frozen, hashed, saved) that builds a module. The module takes normalised frames
[b t h] and the `Context` that all layers share, and returns what the layer adds to the stream. With
a cache it mixes the next frames with what was decoded before, and returns the cache with these
frames in it.
"""

import functools
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from genlab.config import Config, ConfigError
from genlab.nets.context import Context, LayerCache
from genlab.nets.flops import count_flops
from genlab.nets.rotary import rotation


class LayerShape(NamedTuple):
    """What a layer is told of the backbone that it is built for.

    `output_scale` is the deviation of projections into the residual stream, in units of that of
    other projections; `dtype` is the compute dtype, in which caches are kept.
    """

    width: int
    heads: int
    ffn_width: int
    output_scale: float
    is_causal: bool
    dtype: str = "float32"

    @property
    def head_channels(self) -> int:
        """Channels of one head."""
        return self.width // self.heads


@runtime_checkable
class Mixer(Protocol):
    """The config of a mixer. `part` is the attribute of a layer that holds its parameters."""

    @property
    def kind(self) -> str:
        """Which mixer it is."""
        ...

    part: ClassVar[str]
    chooses: ClassVar[bool]
    """Whether each frame may be told which frames it reads: text in front of them, holes, blocks,
    visiting orders.
    """

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> nnx.Module:
        """Return the mixer of one layer; layers are built under `jax.vmap` and stacked."""
        ...

    def number(self, stacked: Any, places: jnp.ndarray) -> None:
        """Tell stacked layers which of all layers, counted from 0, each of them is."""
        ...

    def empty(self, shape: LayerShape, num_examples: int, num_slots: int) -> LayerCache:
        """Return what one layer keeps before the first frame."""
        ...

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return the positions that complete the tiles of a kernel; added once, they are not added
        in every layer.
        """
        ...

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return the FLOPs of one layer's mixing: so many positions, so many pairs of a query and a
        key.
        """
        ...

    def step_flops(self, shape: LayerShape, positions: int, slots: int) -> float:
        """Return the FLOPs of one layer's mixing where so many positions are decoded against a
        cache for `slots` positions.
        """
        ...

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return the FLOPs per position that are saved in the last layer where only its cache is
        wanted.
        """
        ...


@runtime_checkable
class FeedForward(Protocol):
    """The config of what transforms each frame by itself."""

    @property
    def kind(self) -> str:
        """Which feed-forward part it is."""
        ...

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> nnx.Module:
        """Return the feed-forward part of one layer, a module from [b t h] to [b t h].

        In training it is called by its method `learn`, if it has one: there it may change variables
        of its own that are no parameters, which are saved with the checkpoint.
        """
        ...

    def flops(self, shape: LayerShape, positions: int) -> float:
        """Return the FLOPs of one layer's part over so many positions."""
        ...


class PlainMixer(Config):
    """What most mixers have in common; a mixer of your own derives from it and gives `kind` and
    `build`.

    It reads frames by a rule of its own and needs neither tiles nor the number of its layer; its
    FLOPs are walked. To decode step by step, for the autoregressive families, it gives `empty` as
    well.
    """

    kind: Any
    part: ClassVar[str] = "mixing"
    chooses: ClassVar[bool] = False

    def build(self, shape: LayerShape, *, key: Key[Array, ""]) -> nnx.Module:
        """Return the mixer of one layer: a module from (frames "b t h", `Context`, cache or None)
        to (frames, cache).

        Raises:
            ConfigError: if the class that derives from this one does not give it.
        """
        raise ConfigError(
            f"backbone.mixer: {type(self).__name__} has no method build; it must return the "
            "module of one layer"
        )

    def number(self, stacked: Any, places: jnp.ndarray) -> None:
        """Tell stacked layers their places: all are alike."""

    def empty(self, shape: LayerShape, num_examples: int, num_slots: int) -> LayerCache:
        """Return what one layer keeps before the first frame.

        Raises:
            ConfigError: here, because without it nothing is kept.
        """
        raise ConfigError(
            f"backbone.mixer: {self.kind} cannot run step by step, as this decoder does; give "
            f"{type(self).__name__} a method `empty` and let its module take a cache, or use "
            "backbone.mixer.kind=attention"
        )

    def missing(self, shape: LayerShape, x: Float[Array, "b t h"], has_pairs: bool) -> int:
        """Return 0: there is no kernel."""
        return 0

    def flops(self, shape: LayerShape, positions: int, pairs: int) -> float:
        """Return the FLOPs of one layer over so many positions, walked."""
        mixer: Any = self  # hashable, for configs are frozen
        return _walk_mixer(mixer, shape, positions)

    def step_flops(self, shape: LayerShape, positions: int, slots: int) -> float:
        """Return as many as all at once: a frame costs the same, however it is run."""
        return self.flops(shape, positions, positions * slots)

    def unread_flops(self, shape: LayerShape, slots: int) -> float:
        """Return all of them: the cache holds the layer's inputs."""
        return self.flops(shape, 1, slots)


@functools.lru_cache(maxsize=1024)
def _walk_mixer(mixer: PlainMixer, shape: LayerShape, positions: int) -> float:
    graph, state = nnx.split(nnx.eval_shape(lambda: mixer.build(shape, key=jax.random.key(0))))

    def mix(state: nnx.State, x: jax.Array) -> PyTree:
        frames = jnp.arange(positions)[None]
        context = Context(rotation(frames, shape.head_channels), frames >= 0, shape.is_causal)
        module: Any = nnx.merge(graph, state)
        return module(x, context, None)[0]

    return count_flops(
        mix, state, jax.ShapeDtypeStruct((1, positions, shape.width), jnp.dtype(shape.dtype))
    )
