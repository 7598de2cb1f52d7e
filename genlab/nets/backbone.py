"""The one transformer that every decoder family runs on.

In: frames [b t h] already embedded and conditioned. Out: frames [b t h], normalised, in the compute
dtype. The layers are stacked and scanned, so compile time does not grow with depth; where several
mixers take turns, the scan runs over their period. Families differ only in what they ask for at
construction: `is_causal` (and then a key-value cache for decoding), `is_modulated` (a vector per
clip through adaLN-zero: the noise level, the speaker) and the text route (positions prepended to
the frames, or cross-attention). Frames and prefixed text both count positions from 0, so the number
of padding symbols cannot move a frame, and symbol i starts out near frame i.

Dropout acts when a key is given and the module is not in evaluation mode (`model.eval()`).
"""

from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.config import Config, ConfigError, added
from genlab.machine.sharding import BATCH, constrain
from genlab.nets.attention import causal_chunks
from genlab.nets.blocks import Block
from genlab.nets.context import Context, LayerCache, Text, TextMemory
from genlab.nets.feedforward import Gated
from genlab.nets.layer import LayerShape, Mixer
from genlab.nets.layers import AnyFeedForward, AnyMixer
from genlab.nets.linear import Linear
from genlab.nets.mixers.attention import Attention
from genlab.nets.norm import RMSNorm
from genlab.nets.param import as_delta
from genlab.nets.rotary import rotation
from genlab.nets.stacks import kept_by_remat, renew, unstack

TextRoute = Literal["none", "prefix", "cross"]
# Shifts, scales and gates of the layers; shift and scale of the last norm.
Modulation = tuple[Array | None, Array | int, Array | int]
MAX_PARAMS = 1e13  # of a backbone; larger than any model so far


class BackboneConfig(Config):
    """Shape and numerics of the transformer; one instance is shared by all arms of a comparison."""

    width: int = pydantic.Field(default=256, gt=0)
    """Channels of the residual stream; a multiple of 2 * heads, because rotary angles turn pairs of
    channels.
    """
    layers: int = pydantic.Field(default=6, gt=0, le=4096)
    """Layers; a multiple of the number of mixers that take turns."""
    heads: int = pydantic.Field(default=4, gt=0)
    """Attention heads, each of width / heads channels."""
    ffn_multiple: float = pydantic.Field(default=8 / 3, gt=0, le=64)
    """Inner width of the feed-forward part over `width`, rounded to a multiple of 32 channels. 8/3
    gives SwiGLU the parameters of a plain MLP of 4.
    """
    mixer: AnyMixer | tuple[AnyMixer, ...] = Attention()
    """How frames read each other. A tuple is the period in which mixers take turns over depth: of
    four layers and two mixers, layers 0 and 2 have the first, layers 1 and 3 the second.
    """
    ffn: AnyFeedForward = added(Gated())
    """The feed-forward part of every layer."""
    dropout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Probability that training drops an element of what attention or feed-forward adds to the
    residual stream.
    """
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype; parameters stay float32."""
    remat: bool | Literal["full"] = False
    """What the backward pass computes again: nothing, everything but the products (True), or
    everything inside the layers ("full"). The attention of a TPU's kernel is always kept.
    """
    is_unrolled: bool = False
    """Unroll the scan over layers: a few percent faster on CPU, but compile time grows with depth.
    """

    @pydantic.model_validator(mode="after")
    def _check_heads(self) -> "BackboneConfig":
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width={self.width} must be a multiple of 2 * heads={2 * self.heads} (rotary "
                "channel pairs)"
            )
        # Four width x width matrices of attention and three of SwiGLU. A typing error in a size
        # should cost one line here, not the machine's memory later.
        params = self.layers * self.width**2 * (4 + 3 * self.ffn_multiple)
        if params > MAX_PARAMS:
            raise ValueError(
                f"layers={self.layers}, width={self.width} and ffn_multiple={self.ffn_multiple:g} "
                f"make {params:.1e} parameters, more than {MAX_PARAMS:.0e}; lower one of them"
            )
        if not self.period:
            raise ValueError("backbone.mixer=[]: expected one mixer, or several that take turns")
        if self.layers % len(self.period):
            raise ValueError(
                f"layers={self.layers} must be a multiple of the {len(self.period)} mixers that "
                "take turns; set "
                f"layers={len(self.period) * max(1, round(self.layers / len(self.period)))}"
            )
        return self

    @property
    def period(self) -> tuple[Mixer, ...]:
        """The mixers that take turns over depth."""
        return self.mixer if isinstance(self.mixer, tuple) else (self.mixer,)

    def layer_shape(self, *, is_causal: bool) -> LayerShape:
        """Return what a layer is told of this backbone."""
        return LayerShape(
            self.width, self.heads, self.ffn_width, self.residual_scale, is_causal, self.dtype
        )

    @property
    def ffn_width(self) -> int:
        """The inner width of the feed-forward part, a multiple of 32."""
        return 32 * max(1, round(self.width * self.ffn_multiple / 32))

    @property
    def residual_scale(self) -> float:
        """The scale of a projection into the residual stream, so that its variance does not grow
        with depth.
        """
        return (2 * self.layers) ** -0.5

    def require_attention(self, setting: str, problem: str, fix: str) -> None:
        """Refuse a mixer that reads frames by a rule of its own where a setting needs one that
        can be told what it reads.

        Raises:
            ConfigError: that names the setting, the problem and the fix.
        """
        if fixed := [mixer.kind for mixer in self.period if not mixer.chooses]:
            raise ConfigError(
                f"{setting}: backbone.mixer={fixed[0]} cannot be told which frames to read, so "
                f"{problem}; use {fix}, or backbone.mixer.kind=attention"
            )


class DecodePlan(NamedTuple):
    """What does not change while a causal backbone decodes: its layers one by one, and what they
    may attend to.
    """

    layers: tuple[Block, ...]
    is_valid: Bool[Array, "b s"]
    text: tuple[TextMemory | None, ...]
    modulation: Modulation


class Cache(NamedTuple):
    """The preallocated keys and values of every layer, and the number of slots that are filled."""

    layers: tuple[LayerCache, ...]
    position: Int[Array, ""]


class Backbone(nnx.Module):
    """A stack of identical blocks between the embeddings and the heads of a family."""

    is_shared: ClassVar[bool] = True

    def __init__(
        self,
        config: BackboneConfig,
        *,
        key: Key[Array, ""],
        is_causal: bool = False,
        is_modulated: bool = False,
        text_route: TextRoute = "none",
    ):
        layer_key, modulation_key = jax.random.split(key)
        if text_route == "prefix":
            config.require_attention(
                "condition.route='prefix' or condition.units_route='prefix'",
                "what stands before the frames is out of its reach",
                "condition.route='cross' or condition.units_route='cross'",
            )
        self.config = config
        self.is_causal = is_causal
        self.text_route = text_route
        self.deterministic = False

        shape = config.layer_shape(is_causal=is_causal)
        period = len(config.period)
        if is_causal:
            for mixer in config.period:  # one that cannot decode says so now, not after training
                jax.eval_shape(lambda mixer=mixer: mixer.empty(shape, 1, 1))
        keys = jax.random.split(layer_key, config.layers)

        def stack(place: int, mixer: Mixer) -> Block:
            # Every `period`-th layer, the parameters of all of them stacked along a first axis.
            def make_block(key):
                return Block(
                    shape,
                    mixer,
                    config.ffn,
                    key=key,
                    dropout=config.dropout,
                    is_crossing=text_route == "cross",
                    is_modulated=is_modulated,
                )

            block = jax.vmap(make_block)(keys[place::period])
            mixer.number(block.mixer, jnp.arange(place, config.layers, period))
            return block

        stacks = [stack(place, mixer) for place, mixer in enumerate(config.period)]
        # One stack keeps the path it has always had in checkpoints, `layers/...`.
        if period == 1:
            self.layers = stacks[0]
        else:
            self.places = nnx.List(stacks)
        self.norm = RMSNorm(config.width)
        self.modulation = (
            Linear(config.width, 8 * config.width, key=modulation_key, scale=0.0)
            if is_modulated
            else None
        )
        if self.modulation is not None:
            as_delta(self.modulation.kernel)

    def __call__(
        self,
        x: Float[Array, "b t h"],
        *,
        positions: Int[Array, "b t"],
        is_valid: Bool[Array, "b t"],
        text: Text | None = None,
        clip: Float[Array, "b h"] | None = None,
        is_allowed: Bool[Array, "#b t t"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b t h"]:
        """Run all frames at once.

        `positions` are frame numbers for the rotary angles, `is_valid` marks the frames that may be
        attended to, `text` is used by the route this backbone was built with, `clip` modulates
        every layer, and `is_allowed` says which frames each frame of a backbone that is not causal
        may attend to. A text prefix then attends to itself alone, as in decoding.
        """
        fixed = [mixer.kind for mixer in self.config.period if not mixer.chooses]
        if is_allowed is not None and fixed:
            raise ConfigError(
                f"backbone.mixer={fixed[0]}: this decoder says which frames see which; use "
                "mixer=attention"
            )
        x = x.astype(self.config.dtype)
        prefix = 0
        prepended, crossed = self._route(text, x.dtype)
        if prepended is not None:
            prefix = prepended.features.shape[1]
            x = jnp.concatenate([prepended.features, x], axis=1)
            positions = jnp.concatenate([prepended.places, positions], axis=1)
            is_valid = jnp.concatenate([prepended.is_valid, is_valid], axis=1)
            # Every frame sees the whole prefix; rows of the prefix are padded with False, so the
            # prefix sees itself alone, as it does in decoding, where it is read before any frame.
            if is_allowed is not None:
                is_allowed = jnp.pad(is_allowed, ((0, 0), (prefix, 0), (prefix, 0)))
                is_allowed |= (jnp.arange(is_allowed.shape[2]) < prefix)[None, None, :]
        modulation, shift, scale = self._modulation(clip, x.dtype)
        length = x.shape[1]
        # Padding is not valid, so no frame attends to it, and it is cut off again below.
        if more := self._missing(x, is_allowed):
            x = jnp.pad(x, ((0, 0), (0, more), (0, 0)))
            positions, is_valid = (
                jnp.pad(part, ((0, 0), (0, more))) for part in (positions, is_valid)
            )
        context = Context(
            rotation=rotation(positions, self.config.width // self.config.heads),
            is_valid=is_valid,
            is_causal=self.is_causal,
            prefix=prefix,
            modulation=modulation,
            is_allowed=is_allowed,
        )
        x = self._run(x, context, self._read(crossed), None if self.deterministic else key)
        return constrain(self.norm(x[:, prefix:length]) * (1 + scale) + shift, BATCH)

    def start(
        self,
        num_examples: int,
        num_steps: int,
        text: Text | None,
        clip: Float[Array, "b h"] | None = None,
    ) -> tuple[DecodePlan, Cache]:
        """Prepare to decode `num_steps` frames; a text prefix is read into the cache here.

        The layers are taken apart once, before the loop over steps: slicing stacked weights in
        every step would copy them all, and decoding a frame is bound by memory.
        """
        config = self.config
        prepended, crossed = self._route(text, config.dtype)
        is_valid = jnp.ones((num_examples, num_steps), bool)
        if prepended is not None:
            is_valid = jnp.concatenate([prepended.is_valid, is_valid], axis=1)
        shape = config.layer_shape(is_causal=True)
        # One cache per place in the period, repeated in the order of the layers, as `unstack`
        # returns them.
        empty = tuple(mixer.empty(shape, *is_valid.shape) for mixer in config.period)
        groups = config.layers // len(config.period)
        cache = Cache(empty * groups, jnp.zeros((), jnp.int32))
        read = self._read(crossed)
        plan = DecodePlan(
            layers=unstack(self.stacks, groups),
            is_valid=is_valid,
            text=(None,) * config.layers if read is None else unstack(read, groups),
            modulation=self._modulation(clip, config.dtype),
        )
        # The prefix is a first chunk of the sequence: it fills slots 0..n-1 and sees itself alone.
        if prepended is not None:
            features = prepended.features
            positions = prepended.places
            _, cache = self.extend(
                features, plan, cache, positions=positions, prefix=features.shape[1]
            )
        return plan, cache

    def extend(
        self,
        x: Float[Array, "b q h"],
        plan: DecodePlan,
        cache: Cache,
        *,
        positions: Int[Array, "b q"],
        prefix: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "b q h"], Cache]:
        """Run the next positions against the cache and append them to it; all of them see the slots
        before `prefix`.
        """
        modulation, shift, scale = plan.modulation
        context = Context(
            rotation=rotation(positions, self.config.width // self.config.heads),
            is_valid=plan.is_valid,
            is_causal=True,
            prefix=prefix,
            position=cache.position,
            modulation=modulation,
        )
        filled = []
        x = x.astype(self.config.dtype)
        for layer, text, layer_cache in zip(plan.layers, plan.text, cache.layers, strict=True):
            x, layer_cache = layer(x, context, text=text, cache=layer_cache)
            filled.append(layer_cache)
        return self.norm(x) * (1 + scale) + shift, Cache(tuple(filled), cache.position + x.shape[1])

    def _run(
        self,
        x: Float[Array, "b t h"],
        context: Context,
        text: tuple[TextMemory, ...] | None,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "b t h"]:
        num_layers = self.config.layers
        period = len(self.config.period)
        groups = num_layers // period
        is_learning = key is not None

        def run_group(x, inputs):
            layers, texts, keys = inputs
            for place, layer in enumerate(layers):
                layer_key = None if keys is None else keys[place]
                layer_text = None if texts is None else texts[place]
                options = {"text": layer_text, "key": layer_key, "is_learning": is_learning}
                x = constrain(layer(x, context, **options)[0], BATCH)
            # What feed-forward parts noted beside their parameters leaves the scan with them.
            return x, tuple(nnx.state(layer.ffn, nnx.Not(nnx.Param)) for layer in layers)

        if self.config.remat:
            run_group = jax.checkpoint(run_group, policy=kept_by_remat(self.config.remat))
        keys = None
        if key is not None and self.config.dropout > 0:
            keys = jax.random.split(key, num_layers).reshape(groups, period)
        unroll = groups if self.config.is_unrolled else 1
        inputs = (self.stacks, text, keys)
        x, noted = lax.scan(run_group, constrain(x, BATCH), inputs, unroll=unroll)
        if is_learning:
            for stack, state in zip(self.stacks, noted, strict=True):
                renew(stack.ffn, state)
        return x

    @property
    def stacks(self) -> tuple[Block, ...]:
        """The stacked layers of each place in the period."""
        return (self.layers,) if len(self.config.period) == 1 else tuple(self.places)

    def _missing(self, x: Float[Array, "b t h"], is_allowed: Array | None) -> int:
        """Return the positions that complete the tiles of a kernel; added here they are not added
        in every layer.
        """
        shape = self.config.layer_shape(is_causal=self.is_causal)
        return max(mixer.missing(shape, x, is_allowed is not None) for mixer in self.config.period)

    def _route(self, text: Text | None, dtype: str | jnp.dtype) -> tuple[Text | None, Text | None]:
        """Return the text to prepend and the text to attend to across; at most one of them is
        there.
        """
        if text is None or self.text_route == "none":
            return None, None
        text = text._replace(features=text.features.astype(dtype))
        return (text, None) if self.text_route == "prefix" else (None, text)

    def _read(self, text: Text | None) -> tuple[TextMemory, ...] | None:
        """Return the text as each layer reads it, stacked like the layers."""
        if text is None:
            return None
        return tuple(jax.vmap(lambda cross: cross.read(text))(stack.cross) for stack in self.stacks)

    def _modulation(self, clip: Float[Array, "b h"] | None, dtype: str | jnp.dtype) -> Modulation:
        """Return shifts, scales and gates of the layers, and shift and scale of the last norm."""
        if self.modulation is None or clip is None:
            return None, 0, 0
        # b (8 h) -> b 8 h: six for the layers, two for the last norm
        parts = self.modulation(jax.nn.silu(clip)).reshape(clip.shape[0], 8, clip.shape[1])
        shift, scale = (parts[:, i, None, :].astype(dtype) for i in (6, 7))
        return parts[:, :6], shift, scale


def backbone_flops(
    config: BackboneConfig,
    num_frames: int,
    *,
    is_causal: bool = False,
    is_modulated: bool = False,
    text_route: TextRoute = "none",
    num_symbols: int = 0,
) -> float:
    """Return the FLOPs of the matrix products in one forward pass over one example, as executed."""
    prefix = num_symbols if text_route == "prefix" else 0
    length = prefix + num_frames
    pairs = length * length
    if is_causal:
        pairs = sum(
            (stop - start) * num_keys for start, stop, num_keys in causal_chunks(length, prefix)
        )
    modulation = 2 * config.width * 8 * config.width if is_modulated else 0
    crossed = num_symbols if text_route == "cross" else 0
    shape = config.layer_shape(is_causal=is_causal)
    mixing = [mixer.flops(shape, length, pairs) for mixer in config.period]
    return _layers_flops(config, mixing, length, crossed) + modulation


def decode_flops(
    config: BackboneConfig,
    num_steps: int,
    *,
    is_modulated: bool = False,
    passes: int = 1,
    is_read_last: bool = False,
    text_route: TextRoute = "none",
    num_symbols: int = 0,
) -> float:
    """Return the FLOPs of decoding one example: every frame, run `passes` times, attends to the
    whole cache.

    `is_read_last` adds a pass that only fills the cache.
    """
    prefix = num_symbols if text_route == "prefix" else 0
    crossed = num_symbols if text_route == "cross" else 0
    slots = prefix + num_steps
    width = config.width
    shape = config.layer_shape(is_causal=True)
    # What is only read, the prefix at first, fills the cache of the last layer but needs no output
    # of it.
    unused = config.period[-1].unread_flops(shape, slots) + config.ffn.flops(shape, 1)
    mixing = [mixer.step_flops(shape, slots, slots) for mixer in config.period]
    first = _layers_flops(config, mixing, slots, crossed) - prefix * unused
    first += 2 * width * 8 * width if is_modulated else 0
    mixing = [mixer.step_flops(shape, num_steps, slots) for mixer in config.period]
    again = _layers_flops(config, mixing, num_steps, crossed)
    again -= config.layers * 4 * crossed * width**2
    unused += 4 * width * (width + crossed) if crossed else 0
    return first + (passes - 1) * again + (again - num_steps * unused if is_read_last else 0)


def _layers_flops(
    config: BackboneConfig, mixing: list[float], positions: int, crossed_symbols: int
) -> float:
    width = config.width
    shape = config.layer_shape(is_causal=True)
    flops = sum(mixing) / len(mixing) + config.ffn.flops(shape, positions)
    if crossed_symbols:
        flops += 4 * positions * width * width + 4 * crossed_symbols * width * width
        flops += 4 * width * positions * crossed_symbols
    return float(config.layers * flops)
