"""The layers of Lyra's SoundStream in floats, over a clip or chunk by chunk.

In: frames "b t i" and what the chunk before left (nothing, `None`, for a whole clip). Out: frames
"b u o" and what to carry on, as in mimi_convolutions.py. Residual blocks are those of SoundStream
(Zeghidour et al. 2021, section III-A) made light for phones: the dilated convolution is depthwise,
with a pointwise one after it, and wide convolutions are split into groups. Every layer also reads
its parameters from a published file (lyra_operators.py). The layers in whole numbers are in
lyra_whole.py.
"""

import functools
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from genlab.codecs.litert import Operator
from genlab.codecs.lyra_operators import (
    SLOPE,
    Operators,
    Tensors,
    check_slope,
    prefixed,
    read_kernel,
)
from genlab.machine.sharding import WHOLE
from genlab.nets.param import matrix, vector

# Faster products would round sums of floats so that whole numbers after them differ.
EXACT = jax.lax.Precision.HIGHEST


class Layer(Protocol):
    """What it carries into the first chunk, what it does, and what it reads from a file."""

    def start(self, batch: int) -> PyTree:
        """Return what to carry into the first chunk."""
        ...

    def __call__(
        self, frames: Float[Array, "b t i"], past: PyTree
    ) -> tuple[Float[Array, "b u o"], PyTree]:
        """Return the frames that come out, and what to carry on."""
        ...

    def read(self, operators: Operators) -> Tensors:
        """Return the parameters by their dotted names, and take the operators they are in."""
        ...


class Stateless(nnx.Module):
    """A layer that treats every frame by itself."""

    def start(self, batch: int) -> None:
        """Return what to carry into the first chunk: nothing."""


class Leaky(Stateless):
    """x above zero, `SLOPE` x below."""

    def __call__(
        self, frames: Float[Array, "b t c"], past: None
    ) -> tuple[Float[Array, "b t c"], None]:
        """Return as many frames."""
        return jnp.where(frames < 0, np.float32(SLOPE) * frames, frames), None

    def read(self, operators: Operators) -> Tensors:
        """Check the slope."""
        check_slope(operators, operators.take("LEAKY_RELU", False))
        return {}


class Convolution(nnx.Module):
    """A causal convolution, of channels in groups, that gives a frame for every `stride`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        taps: int,
        *,
        key: Key[Array, ""],
        stride: int = 1,
        groups: int = 1,
    ):
        shape = (taps, inputs // groups, outputs)
        self.kernel = matrix(
            jax.random.normal(key, shape) * (taps * inputs / groups) ** -0.5, WHOLE
        )
        self.bias = vector(jnp.zeros((outputs,)))
        self.stride = stride
        self.groups = groups

    def start(self, batch: int) -> Float[Array, "b p i"]:
        """Return what to carry into the first chunk: the silence before a clip."""
        taps, inputs, _ = self.kernel.shape
        return jnp.zeros((batch, taps - self.stride, inputs * self.groups))

    def __call__(
        self, frames: Float[Array, "b t i"], past: Float[Array, "b p i"] | None
    ) -> tuple[Float[Array, "b u o"], Float[Array, "b p i"]]:
        """Return t / stride frames."""
        batch, length, _ = frames.shape
        taps, inputs, outputs = self.kernel.shape
        seen = jnp.concatenate([self.start(batch) if past is None else past, frames], axis=1)
        count = length // self.stride
        # b (u stride) (g i) -> b u stride g i; a window is a few neighbouring blocks of `stride`.
        blocks = seen.reshape(batch, -1, self.stride, self.groups, inputs)
        parts = [blocks[:, number:][:, :count] for number in range(taps // self.stride)]
        # b u taps g i -> b u g (taps i)
        windows = jnp.concatenate(parts, axis=2).swapaxes(2, 3)
        windows = windows.reshape(batch, count, self.groups, taps * inputs)
        # taps i (g o) -> (taps i) g o
        kernel = self.kernel[...].reshape(taps * inputs, self.groups, -1)
        sums = jnp.einsum("btgi,igo->btgo", windows, kernel, precision=EXACT)
        rest = seen[:, seen.shape[1] - (taps - self.stride) :]
        return sums.reshape(batch, count, outputs) + self.bias[...][None, None], rest

    def read(self, operators: Operators) -> Tensors:
        """Return kernel and bias."""
        return read_kernel(operators, self.take(operators, False))

    def take(self, operators: Operators, in_whole: bool) -> Operator:
        """Take the operator of this convolution."""
        options = {"stride": self.stride, "dilation": 1, "activation": 0}
        return operators.take("CONV_2D", in_whole, **options)


class Depthwise(nnx.Module):
    """A causal convolution of every channel by itself, with dilated taps."""

    def __init__(self, channels: int, taps: int, *, key: Key[Array, ""], dilation: int):
        self.kernel = matrix(jax.random.normal(key, (taps, 1, channels)) * taps**-0.5, WHOLE)
        self.bias = vector(jnp.zeros((channels,)))
        self.dilation = dilation

    def start(self, batch: int) -> Float[Array, "b p c"]:
        """Return what to carry into the first chunk: the silence before a clip."""
        taps, _, channels = self.kernel.shape
        return jnp.zeros((batch, (taps - 1) * self.dilation, channels))

    def __call__(
        self, frames: Float[Array, "b t c"], past: Float[Array, "b p c"] | None
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b p c"]]:
        """Return as many frames."""
        batch, length, _ = frames.shape
        taps = self.kernel.shape[0]
        seen = jnp.concatenate([self.start(batch) if past is None else past, frames], axis=1)
        # Shifted copies, because XLA:CPU runs depthwise convolutions in a naive loop.
        shifted = [
            seen[:, tap * self.dilation :][:, :length] * self.kernel[tap][None]
            for tap in range(taps)
        ]
        return functools.reduce(jnp.add, shifted) + self.bias[...][None, None], seen[:, length:]

    def read(self, operators: Operators) -> Tensors:
        """Return kernel and bias."""
        return read_kernel(operators, self.take(operators, False))

    def take(self, operators: Operators, in_whole: bool) -> Operator:
        """Take the operator of this convolution."""
        options = {"stride": 1, "dilation": self.dilation, "activation": 0}
        return operators.take("DEPTHWISE_CONV_2D", in_whole, **options)


class Upsampling(nnx.Module):
    """A transposed convolution that gives `stride` frames for one; the next chunk adds to its last
    frames. With `groups` it is as many convolutions beside each other.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        taps: int,
        *,
        key: Key[Array, ""],
        stride: int,
        groups: int = 1,
    ):
        shape = (taps, inputs // groups, outputs)
        self.kernel = matrix(jax.random.normal(key, shape) * (2 * inputs / groups) ** -0.5, WHOLE)
        self.bias = vector(jnp.zeros((outputs,)))
        self.stride = stride
        self.groups = groups

    @property
    def tail(self) -> int:
        """Frames that the next chunk still adds to."""
        return self.kernel.shape[0] - self.stride

    def start(self, batch: int) -> Float[Array, "b p o"]:
        """Return what to carry into the first chunk: nothing is unfinished."""
        return jnp.zeros((batch, self.tail, self.kernel.shape[2]))

    def spread(self, frames: Float[Array, "b t i"]) -> Float[Array, "b u o"]:
        """Return what the frames add to t * stride frames and to the tail, without the bias."""
        batch, length, _ = frames.shape
        taps, inputs, outputs = self.kernel.shape
        kernel = self.kernel[...].reshape(taps, inputs, self.groups, -1)
        grouped = frames.reshape(batch, length, self.groups, inputs)
        parts = jnp.einsum("btgi,kigo->btkgo", grouped, kernel, precision=EXACT)
        # b t taps g o -> b t blocks stride (g o): block i of frame t is added at t + i.
        parts = parts.reshape(batch, length, taps // self.stride, self.stride, outputs)
        rest = parts.shape[2] - 1
        placed = [
            jnp.pad(parts[:, :, number], ((0, 0), (number, rest - number), (0, 0), (0, 0)))
            for number in range(rest + 1)
        ]
        # b (t + rest) stride o -> b u o
        return functools.reduce(jnp.add, placed).reshape(batch, -1, outputs)

    def __call__(
        self, frames: Float[Array, "b t i"], past: Float[Array, "b p o"] | None
    ) -> tuple[Float[Array, "b u o"], Float[Array, "b p o"]]:
        """Return t * stride frames."""
        whole = self.spread(frames)
        if past is not None:
            whole = whole.at[:, : self.tail].add(past)
        finished = frames.shape[1] * self.stride
        return whole[:, :finished] + self.bias[...][None, None], whole[:, finished:]

    def read(self, operators: Operators) -> Tensors:
        """Return kernel and bias."""
        operator = operators.take("TRANSPOSE_CONV", False, stride=self.stride)
        tensors = read_kernel(operators, operator, bias=3)
        # The published graph adds the bias with every call and takes it from what it carries on.
        operators.take("SUB", False)
        return tensors


class Residual(nnx.Module):
    """Layers whose result is added to what they read."""

    def __init__(self, inner: Sequence[Layer]):
        self.inner = Layers(inner)

    def start(self, batch: int) -> PyTree:
        """Return what to carry into the first chunk."""
        return self.inner.start(batch)

    def __call__(
        self, frames: Float[Array, "b t c"], past: PyTree
    ) -> tuple[Float[Array, "b t c"], PyTree]:
        """Return as many frames."""
        added, past = self.inner(frames, past)
        return added + frames, past

    def read(self, operators: Operators) -> Tensors:
        """Return the parameters of the layers."""
        return prefixed("inner", self.inner.read(operators))


class Layers(nnx.Module):
    """Layers one after another."""

    def __init__(self, layers: Sequence[Layer]):
        self.layers = nnx.List(layers)

    def start(self, batch: int) -> PyTree:
        """Return what to carry into the first chunk."""
        return tuple(layer.start(batch) for layer in self.layers)

    def __call__(
        self, frames: Float[Array, "b t i"], past: PyTree
    ) -> tuple[Float[Array, "b u o"], PyTree]:
        """Return what the layers make of the frames; without a past they are a whole clip."""
        rest = []
        for number, layer in enumerate(self.layers):
            frames, carried = layer(frames, None if past is None else past[number])
            rest.append(carried)
        return frames, tuple(rest)

    def read(self, operators: Operators) -> Tensors:
        """Return the parameters of all layers."""
        tensors: Tensors = {}
        for number, layer in enumerate(self.layers):
            tensors |= prefixed(f"layers.{number}", layer.read(operators))
        return tensors
