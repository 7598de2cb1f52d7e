"""Convolutions over time for the ported codecs: dense, strided, dilated and transposed; whole or
chunk by chunk.

In: frames "b t c". Out: frames "b t c". A convolution here never pads: `pad_time` does, and it
knows the valid length of every example, so that a clip gives the same result alone and in a batch
of longer ones. Kernels are stored [frames, in, out], the layout in which XLA:CPU is fast.

XLA:CPU needs help in two places, and its programs for other platforms lose nothing by it: the
gradient of a transposed convolution is catastrophic there (one matrix product and an overlap-add
instead), and a first layer of one channel is slow (a sum of shifted slices instead).
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from genlab.machine.sharding import WHOLE
from genlab.nets.linear import matmul
from genlab.nets.param import matrix, vector

Padding = Literal["zeros", "reflect", "edge"]


class Conv1d(nnx.Module):
    """A dense convolution that reads `span` frames for an output frame, every `stride` frames."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_frames: int,
        *,
        key: Key[Array, ""],
        stride: int = 1,
        dilation: int = 1,
        has_bias: bool = True,
    ):
        deviation = (inputs * kernel_frames) ** -0.5
        kernel = deviation * jax.random.normal(key, (kernel_frames, inputs, outputs))
        self.kernel = matrix(kernel, WHOLE)
        self.bias = vector(jnp.zeros((outputs,))) if has_bias else None
        self.stride = stride
        self.dilation = dilation

    @property
    def span(self) -> int:
        """Input frames under the kernel."""
        return (self.kernel.shape[0] - 1) * self.dilation + 1

    @property
    def past(self) -> int:
        """Input frames that an output frame shares with the one before it: what streaming has to
        carry.
        """
        return self.span - self.stride

    def __call__(self, frames: Float[Array, "b t i"]) -> Float[Array, "b u o"]:
        """Return (t - span) // stride + 1 frames."""
        kernel = self.kernel[...].astype(frames.dtype)
        taps, inputs, _ = kernel.shape
        if taps == 1 and self.stride == 1:
            # One tap is a product over channels, which has the fast path of every linear layer.
            out = matmul(frames, kernel[0])
        elif inputs == 1 and self.stride == 1:
            # Depthwise: shifted copies times a weight per tap and channel, because XLA:CPU runs
            # grouped convolutions in a naive loop.
            length = frames.shape[1] - self.span + 1
            shifted = [
                frames[:, i * self.dilation :][:, :length] * kernel[i][None] for i in range(taps)
            ]
            out = functools.reduce(jnp.add, shifted)
        else:
            out = lax.conv_general_dilated(
                frames,
                kernel,
                (self.stride,),
                "VALID",
                rhs_dilation=(self.dilation,),
                dimension_numbers=("NWC", "WIO", "NWC"),
            )
        return out if self.bias is None else out + self.bias[...].astype(out.dtype)[None, None]


class ConvTranspose1d(nnx.Module):
    """A transposed convolution: frame j adds its kernel to the output from frame j * stride on.

    A depthwise one has a kernel [frames, channels] and keeps channels apart.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_frames: int,
        *,
        key: Key[Array, ""],
        stride: int,
        has_bias: bool = True,
        is_depthwise: bool = False,
    ):
        shape = (kernel_frames, inputs) if is_depthwise else (kernel_frames, inputs, outputs)
        deviation = (kernel_frames / stride * (1 if is_depthwise else inputs)) ** -0.5
        self.transposed_kernel = matrix(deviation * jax.random.normal(key, shape), WHOLE)
        self.bias = vector(jnp.zeros((outputs,))) if has_bias else None
        self.stride = stride

    @property
    def tail(self) -> int:
        """Output frames past t * stride, which the next chunk still adds to."""
        return self.transposed_kernel.shape[0] - self.stride

    def __call__(self, frames: Float[Array, "b t i"]) -> Float[Array, "b u o"]:
        """Return all (t - 1) * stride + kernel frames; the caller trims."""
        return self.add_bias(self.spread(frames))

    def add_bias(self, frames: Float[Array, "b u o"]) -> Float[Array, "b u o"]:
        """Return the frames plus the bias, if there is one."""
        return (
            frames
            if self.bias is None
            else frames + self.bias[...].astype(frames.dtype)[None, None]
        )

    def spread(self, frames: Float[Array, "b t i"]) -> Float[Array, "b u o"]:
        """Return all output frames without the bias: one product, then shifted blocks of `stride`
        frames added up.
        """
        kernel = self.transposed_kernel[...].astype(frames.dtype)
        batch, length, _ = frames.shape
        blocks = -(-kernel.shape[0] // self.stride)
        kernel = jnp.pad(
            kernel, ((0, blocks * self.stride - kernel.shape[0]),) + ((0, 0),) * (kernel.ndim - 1)
        )
        if kernel.ndim == 2:
            parts = frames[:, :, None, :] * kernel[None, None]
        else:
            taps, inputs, outputs = kernel.shape
            if 4 * batch * length < outputs:
                # The few frames of a stream: moving the kernel would cost far more than the
                # products do.
                rows = jnp.broadcast_to(
                    frames.reshape(1, -1, inputs), (taps, batch * length, inputs)
                )
                # taps (b t) o -> (b t) taps o
                parts = (rows @ kernel).swapaxes(0, 1)
            else:
                parts = matmul(frames, kernel.transpose(1, 0, 2).reshape(inputs, taps * outputs))
        # b t (blocks stride) o -> b t blocks (stride o): block i of frame t is added at t + i.
        parts = parts.reshape(batch, length, blocks, -1)
        placed = [
            jnp.pad(parts[:, :, i], ((0, 0), (i, blocks - 1 - i), (0, 0))) for i in range(blocks)
        ]
        # b u (stride o) -> b (u stride) o
        whole = functools.reduce(jnp.add, placed).reshape(
            batch, (length + blocks - 1) * self.stride, -1
        )
        return whole[:, : length * self.stride + self.tail]


def pad_time(
    frames: Float[Array, "b t c"],
    before: int,
    after: int,
    padding: Padding = "zeros",
    num_frames: Int[Array, "b"] | None = None,
) -> Float[Array, "b u c"]:
    """Return the frames with `before` and `after` more on each side.

    With `num_frames` every example is padded where its own frames end; what lies further right is
    not part of it. A signal shorter than what it must reflect is first continued with zeros, as
    EnCodec does.
    """
    length = frames.shape[1]
    reach = max(before, after) + 1
    if num_frames is None and (padding != "reflect" or length >= reach):
        mode = {"zeros": "constant", "reflect": "reflect", "edge": "edge"}[padding]
        return jnp.pad(frames, ((0, 0), (before, after), (0, 0)), mode=mode)
    lengths = jnp.full(frames.shape[:1], length) if num_frames is None else num_frames
    if padding == "zeros":
        return jnp.pad(
            frames * valid_frames(length, lengths, frames.dtype), ((0, 0), (before, after), (0, 0))
        )
    position = jnp.arange(-before, length + after)[None]
    last = lengths[:, None] - 1
    if padding == "reflect":
        # The one that is continued with zeros is mirrored at its new end, and `is_inside` turns
        # what was added into zeros.
        mirror = jnp.maximum(last, reach - 1)
        position = mirror - jnp.abs(mirror - jnp.abs(position))
    else:
        position = jnp.clip(position, 0, last)
    is_inside = (position >= 0) & (position <= last)
    taken = jax.vmap(lambda rows, places: rows[places])(frames, jnp.clip(position, 0, length - 1))
    return jnp.where(is_inside[..., None], taken, 0)


def valid_frames(
    length: int, num_frames: Int[Array, "b"] | None, dtype: jnp.dtype = jnp.float32
) -> Float[Array, "#b t 1"] | Float[Array, ""]:
    """Return 1 on each example's own frames and 0 past them, ready to multiply; 1 if every frame is
    its own.
    """
    if num_frames is None:
        return jnp.ones((), dtype)
    is_valid: Bool[Array, "b t"] = jnp.arange(length)[None] < num_frames[:, None]
    return is_valid[..., None].astype(dtype)


def stream_conv(
    conv: Conv1d, chunk: Float[Array, "b t i"], past: Float[Array, "b p i"]
) -> tuple[Float[Array, "b u o"], Float[Array, "b p i"]]:
    """Return the output frames that `chunk` completes, and the frames to carry; t must be a
    multiple of the stride.

    `past` holds `conv.past` frames: what a causal layer pads on the left at the first chunk.
    """
    seen = jnp.concatenate([past, chunk], axis=1)
    return conv(seen), seen[:, seen.shape[1] - conv.past :]


def stream_transposed(
    conv: ConvTranspose1d, chunk: Float[Array, "b t i"], tail: Float[Array, "b p o"]
) -> tuple[Float[Array, "b u o"], Float[Array, "b p o"]]:
    """Return the t * stride frames that are finished, and the `conv.tail` unfinished ones (zeros at
    first).
    """
    whole = conv.spread(chunk)
    whole = whole.at[:, : conv.tail].add(tail)
    finished = chunk.shape[1] * conv.stride
    return conv.add_bias(whole[:, :finished]), whole[:, finished:]
