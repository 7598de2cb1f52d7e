"""The convolutions of Mimi (SEANet, causal): over a whole clip or chunk by chunk.

In: frames "b t c" and, when streaming, what the chunk before left. Out: frames "b u c", u / t being
the product of the strides, and what to carry on. A layer is written once: it takes a chunk and what
precedes it, and for a whole clip that is nothing (`None`), which costs no copies. A convolution
carries the frames that its next output shares with the last one, a transposed convolution the
output frames that are not finished (Moshi report, 2410.00037, section 3.3.1; SEANet, 2009.02095).
Layers are in one list in the order, and with the names, in which they are published.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import pydantic
from flax import nnx
from jaxtyping import Array, Float, PyTree

from genlab.config import Config
from genlab.nets.convolution import (
    Conv1d,
    ConvTranspose1d,
    pad_time,
    stream_conv,
    stream_transposed,
)


class ConvolutionsConfig(Config):
    """Shape of both stacks."""

    filters: int = pydantic.Field(default=64, ge=1)
    """Channels at the sample rate; every ratio doubles them."""
    ratios: tuple[pydantic.PositiveInt, ...] = pydantic.Field(
        default=(8, 6, 5, 4), min_length=1, max_length=16
    )
    """Upsampling factors of the decoder in its order; the encoder has them in reverse."""
    kernel_frames: int = pydantic.Field(default=7, ge=1)
    """Taps of the first convolution of a stack."""
    last_kernel_frames: int = pydantic.Field(default=3, ge=1)
    """Taps of the last convolution of a stack."""
    residual_kernel_frames: int = pydantic.Field(default=3, ge=1)
    """Taps of the dilated convolution in a residual block."""
    residual_layers: int = pydantic.Field(default=1, ge=0, le=16)
    """Residual blocks at each resolution."""
    dilation_growth: int = pydantic.Field(default=2, ge=1)
    """Factor between the dilations of successive residual blocks; the first has 1."""
    compression: int = pydantic.Field(default=2, ge=1)
    """Channels of a residual block over those inside it."""

    @pydantic.model_validator(mode="after")
    def _check_shapes(self) -> "ConvolutionsConfig":
        if self.filters % self.compression:
            raise ValueError(
                f"filters={self.filters} must be a multiple of compression={self.compression}"
            )
        return self


class Elu(nnx.Module):
    """The nonlinearity, as a layer that carries nothing."""

    def start(self, batch: int) -> None:
        """Return what to carry into the first chunk: nothing."""

    def __call__(
        self, frames: Float[Array, "b t c"], past: None
    ) -> tuple[Float[Array, "b t c"], None]:
        """Return exp(x) - 1 below zero and x above."""
        return jax.nn.elu(frames), None


class CausalConv(nnx.Module):
    """A convolution that reads its own and earlier frames; zeros, or the first frame, precede a
    clip.
    """

    def __init__(self, *shape: int, rngs: nnx.Rngs, **options: int):
        self.conv = Conv1d(*shape, key=rngs.params(), **options)

    def start(self, batch: int) -> Float[Array, "b p i"]:
        """Return what to carry into the first chunk."""
        return jnp.zeros((batch, self.conv.past, self.conv.kernel.shape[1]))

    def __call__(
        self,
        frames: Float[Array, "b t i"],
        past: Float[Array, "b p i"] | None,
        padding: Literal["zeros", "edge"] = "zeros",
    ) -> tuple[Float[Array, "b u o"], Float[Array, "b p i"]]:
        """Return t / stride frames and what to carry on."""
        if past is None:
            padded = pad_time(frames, self.conv.past, 0, padding)
            return self.conv(padded), padded[:, padded.shape[1] - self.conv.past :]
        return stream_conv(self.conv, frames, past)


class CausalUpsampling(nnx.Module):
    """A transposed convolution whose last output frames are finished by the next chunk."""

    def __init__(self, *shape: int, rngs: nnx.Rngs, **options: int):
        self.conv = ConvTranspose1d(*shape, key=rngs.params(), **options)

    def start(self, batch: int) -> Float[Array, "b p o"]:
        """Return what to carry into the first chunk."""
        return jnp.zeros((batch, self.conv.tail, self.conv.transposed_kernel.shape[-1]))

    def __call__(
        self, frames: Float[Array, "b t i"], tail: Float[Array, "b p o"] | None
    ) -> tuple[Float[Array, "b u o"], Float[Array, "b p o"]]:
        """Return t * stride frames and what to carry on."""
        if tail is None:
            whole = self.conv.spread(frames)
            finished = frames.shape[1] * self.conv.stride
            return self.conv.add_bias(whole[:, :finished]), whole[:, finished:]
        return stream_transposed(self.conv, frames, tail)


class Residual(nnx.Module):
    """Two convolutions, the second of width one, whose result is added."""

    def __init__(self, channels: int, config: ConvolutionsConfig, dilation: int, rngs: nnx.Rngs):
        inner = channels // config.compression
        wide = CausalConv(
            channels, inner, config.residual_kernel_frames, dilation=dilation, rngs=rngs
        )
        self.block = nnx.List([Elu(), wide, Elu(), CausalConv(inner, channels, 1, rngs=rngs)])

    def start(self, batch: int) -> tuple[PyTree, ...]:
        """Return what to carry into the first chunk."""
        return start(self.block, batch)

    def __call__(
        self, frames: Float[Array, "b t c"], carries: tuple[PyTree, ...] | None
    ) -> tuple[Float[Array, "b t c"], tuple[PyTree, ...]]:
        """Return the frames plus what the convolutions add, and what to carry on."""
        added, carries = run(self.block, frames, carries)
        return frames + added, carries


class Convolutions(nnx.Module):
    """The convolutions of one direction (SEANet), in one list as they are published."""

    def __init__(self, layers: list[nnx.Module]):
        self.layers = nnx.List(layers)

    def start(self, batch: int) -> tuple[PyTree, ...]:
        """Return what to carry into the first chunk."""
        return start(self.layers, batch)

    def __call__(
        self, frames: Float[Array, "b t i"], carries: tuple[PyTree, ...] | None
    ) -> tuple[Float[Array, "b u o"], tuple[PyTree, ...]]:
        """Return what the layers make of the frames, and what to carry on."""
        return run(self.layers, frames, carries)


def start(layers: nnx.List, batch: int) -> tuple[PyTree, ...]:
    """Return what a list of layers carries into the first chunk."""
    return tuple(layer.start(batch) for layer in layers)


def run(
    layers: nnx.List, frames: Float[Array, "b t i"], carries: tuple[PyTree, ...] | None
) -> tuple[Float[Array, "b u o"], tuple[PyTree, ...]]:
    """Return the output of a list of layers and what they carry on; without carries the frames are
    a whole clip.
    """
    rest = []
    for number, layer in enumerate(layers):
        frames, carry = layer(frames, None if carries is None else carries[number])
        rest.append(carry)
    return frames, tuple(rest)


def encoder_layers(config: ConvolutionsConfig, width: int, rngs: nnx.Rngs) -> list[nnx.Module]:
    """Return the convolutions from one sample to a 25 Hz frame."""
    channels = config.filters
    layers: list[nnx.Module] = [CausalConv(1, channels, config.kernel_frames, rngs=rngs)]
    for ratio in reversed(config.ratios):
        dilations = [config.dilation_growth**number for number in range(config.residual_layers)]
        layers += [Residual(channels, config, dilation, rngs) for dilation in dilations]
        layers += [Elu(), CausalConv(channels, 2 * channels, 2 * ratio, stride=ratio, rngs=rngs)]
        channels *= 2
    return [*layers, Elu(), CausalConv(channels, width, config.last_kernel_frames, rngs=rngs)]


def decoder_layers(config: ConvolutionsConfig, width: int, rngs: nnx.Rngs) -> list[nnx.Module]:
    """Return the convolutions from a 25 Hz frame to samples."""
    channels = config.filters * 2 ** len(config.ratios)
    layers: list[nnx.Module] = [CausalConv(width, channels, config.kernel_frames, rngs=rngs)]
    for ratio in config.ratios:
        layers += [
            Elu(),
            CausalUpsampling(channels, channels // 2, 2 * ratio, stride=ratio, rngs=rngs),
        ]
        channels //= 2
        dilations = [config.dilation_growth**number for number in range(config.residual_layers)]
        layers += [Residual(channels, config, dilation, rngs) for dilation in dilations]
    return [*layers, Elu(), CausalConv(channels, 1, config.last_kernel_frames, rngs=rngs)]
