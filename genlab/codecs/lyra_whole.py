"""The layers of Lyra's SoundStream that compute in whole numbers: 8 bits, and sums of 32.

In and out: as in lyra_layers.py, but frames hold whole numbers. An activation q stands for
scale * (q - zero) and is kept here as q - zero, so silence is 0. Whole numbers are floats, which
hold every sum of products exactly (below 2**24). Products of floats are fast everywhere, and their
sums are the same bits on every platform and in every order.

Rounding follows XNNPACK, whose kernels run on phones, and under the interpreter by default. Sums
are scaled in float32 and rounded to even. Slopes of a leaky unit are multiples of 1/256. The two
sides of an addition get weights of about 20 bits. LiteRT's other kernels round differently: of the
codes, less than half are the same (docs/codecs.md).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from genlab.codecs.lyra_layers import (
    Convolution,
    Depthwise,
    Layer,
    Residual,
    Stateless,
    Upsampling,
)
from genlab.codecs.lyra_operators import (
    HIGHEST,
    LOWEST,
    SLOPE,
    Operators,
    Tensors,
    check_slope,
    read_whole,
)
from genlab.machine.sharding import WHOLE
from genlab.nets.param import matrix, vector

LEAKY_ONE = 256  # slopes are multiples of 1 / 256
WEIGHT_BITS = 21  # of the heavier side of an addition
TYPICAL = 40.0  # deviation of random whole numbers, for codecs that no file fills


class WholeLeaky(Stateless):
    """A leaky unit between two grids."""

    def __init__(self):
        self.slopes = vector(jnp.array([LEAKY_ONE, round(SLOPE * LEAKY_ONE)], jnp.float32))
        self.bounds = vector(jnp.array([LOWEST, HIGHEST], jnp.float32))

    def __call__(
        self, frames: Float[Array, "b t c"], past: None
    ) -> tuple[Float[Array, "b t c"], None]:
        """Return as many frames."""
        scaled = frames * jnp.where(frames < 0, self.slopes[1], self.slopes[0])
        return _clip(jnp.floor((scaled + LEAKY_ONE // 2) / LEAKY_ONE), self.bounds), None

    def read(self, operators: Operators) -> Tensors:
        """Return the slopes and bounds."""
        operator = operators.take("LEAKY_RELU", True)
        check_slope(operators, operator)
        source, target = operators.grid(operator.inputs), operators.grid(operator.outputs)
        slope = source.scale / target.scale
        slopes = np.array([slope, slope * np.float32(SLOPE)], np.float32)
        return {"slopes": np.rint(LEAKY_ONE * slopes), "bounds": target.bounds}


class ToWhole(Stateless):
    """Floats to the nearest whole numbers of a grid."""

    def __init__(self):
        self.inverse = vector(jnp.full((), TYPICAL))
        self.bounds = vector(jnp.array([LOWEST, HIGHEST], jnp.float32))

    def __call__(
        self, frames: Float[Array, "b t c"], past: None
    ) -> tuple[Float[Array, "b t c"], None]:
        """Return as many frames."""
        return _clip(jnp.round(frames * self.inverse[...]), self.bounds), None

    def read(self, operators: Operators) -> Tensors:
        """Return the grid of what the next layer reads."""
        grid = operators.grid(operators.next().inputs)
        return {"inverse": np.asarray(np.float32(1) / grid.scale), "bounds": grid.bounds}


class ToFloat(Stateless):
    """Whole numbers to what they stand for."""

    def __init__(self):
        self.step = vector(jnp.full((), 1 / TYPICAL))

    def __call__(
        self, frames: Float[Array, "b t c"], past: None
    ) -> tuple[Float[Array, "b t c"], None]:
        """Return as many frames."""
        return frames * self.step[...], None

    def read(self, operators: Operators) -> Tensors:
        """Return the grid of what the layer before wrote."""
        before = [] if operators.last is None else operators.last.outputs
        return {"step": np.asarray(operators.grid(before).scale)}


class Rescale(nnx.Module):
    """Sums of products to whole numbers of the grid of the output.

    `products` is how many of them a sum has.
    """

    def __init__(self, channels: int, products: int):
        self.factor = vector(jnp.full((channels,), 1 / (TYPICAL * products**0.5)))
        self.bounds = vector(
            jnp.broadcast_to(jnp.array([[LOWEST], [HIGHEST]], jnp.float32), (2, channels))
        )

    def __call__(self, sums: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Return the whole numbers."""
        low, high = self.bounds[...][:, None, None]
        return jnp.round(jnp.clip(sums * self.factor[...][None, None], low, high))


class WholeConvolution(Convolution):
    """A convolution of whole numbers by whole numbers."""

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
        super().__init__(inputs, outputs, taps, key=key, stride=stride, groups=groups)
        self.kernel = _draw(key, self.kernel.shape)
        self.rescale = Rescale(outputs, taps * inputs // groups)

    def __call__(
        self, frames: Float[Array, "b t i"], past: Float[Array, "b p i"] | None
    ) -> tuple[Float[Array, "b u o"], Float[Array, "b p i"]]:
        """Return t / stride frames."""
        sums, past = super().__call__(frames, past)
        return self.rescale(sums), past

    def read(self, operators: Operators) -> Tensors:
        """Return kernel, bias and how sums are rescaled."""
        return read_whole(operators, self.take(operators, True))


class WholeDepthwise(Depthwise):
    """A depthwise convolution of whole numbers."""

    def __init__(self, channels: int, taps: int, *, key: Key[Array, ""], dilation: int):
        super().__init__(channels, taps, key=key, dilation=dilation)
        self.kernel = _draw(key, self.kernel.shape)
        self.rescale = Rescale(channels, taps)

    def __call__(
        self, frames: Float[Array, "b t c"], past: Float[Array, "b p c"] | None
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b p c"]]:
        """Return as many frames."""
        sums, past = super().__call__(frames, past)
        return self.rescale(sums), past

    def read(self, operators: Operators) -> Tensors:
        """Return kernel, bias and how sums are rescaled."""
        return read_whole(operators, self.take(operators, True))


class WholeUpsampling(Upsampling):
    """Transposed convolutions of whole numbers, each with grids of its own; what comes out is
    floats.

    The published graph runs once for every frame of tokens, which is `call` frames here. What one
    run adds to a frame is rounded by itself, with the bias, so runs are kept apart.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        taps: int,
        *,
        key: Key[Array, ""],
        stride: int,
        groups: int,
        call: int,
    ):
        super().__init__(inputs, outputs, taps, key=key, stride=stride, groups=groups)
        self.kernel = _draw(key, self.kernel.shape)
        self.whole_bias = vector(jnp.zeros((outputs,)))
        self.rescale = Rescale(outputs, 2 * inputs // groups)
        self.step = vector(jnp.full((outputs,), 1 / TYPICAL))
        self.call = call

    def __call__(
        self, frames: Float[Array, "b t i"], past: Float[Array, "b p o"] | None
    ) -> tuple[Float[Array, "b u o"], Float[Array, "b p o"]]:
        """Return t * stride frames."""
        batch, _, channels = frames.shape
        # b (n call) i -> (b n) call i
        sums = (
            self.spread(frames.reshape(-1, self.call, channels)) + self.whole_bias[...][None, None]
        )
        # (b n) u o -> b n u o
        added = self.rescale(sums) * self.step[...][None, None]
        added = added.reshape(batch, -1, *sums.shape[1:])
        finished = self.call * self.stride
        # Every run adds the bias, but a frame that two of them reach must have it once.
        tails = added[:, :, finished:] - self.bias[...][None, None, None]
        first = self.start(batch) if past is None else past
        before = jnp.concatenate([first[:, None], tails[:, :-1]], axis=1)
        whole = added[:, :, :finished].at[:, :, : self.tail].add(before)
        # b n u o -> b (n u) o
        return whole.reshape(batch, -1, whole.shape[-1]), tails[:, -1]

    def read(self, operators: Operators) -> Tensors:
        """Return the parameters of all groups, joined."""
        groups = [self._read_group(operators) for _ in range(self.groups)]
        shapes = {str({name: part.shape for name, part in group.items()}) for group in groups}
        if len(shapes) > 1:
            raise operators.error("the groups of a layer have different shapes")
        # Output channels are the last axis of bounds, and the first of everything else.
        return {
            name: np.concatenate([group[name] for group in groups], -1 if "bounds" in name else 0)
            for name in groups[0]
        }

    def _read_group(self, operators: Operators) -> Tensors:
        operator = operators.take("TRANSPOSE_CONV", True, stride=self.stride)
        tensors = read_whole(operators, operator, bias=3)
        # The file has the bias twice: in whole numbers to add, in floats to take away.
        bias = operators.weights(operators.take("SUB", False), 1)[1]
        scale = operators.grid(operator.outputs).scale
        return {
            **tensors,
            "bias": bias.astype(np.float32),
            "whole_bias": tensors["bias"],
            "step": np.full(bias.shape, scale),
        }


class WholeResidual(Residual):
    """Layers in whole numbers, whose result is added to what they read in whole numbers."""

    def __init__(self, inner: Sequence[Layer]):
        super().__init__(inner)
        bits = WEIGHT_BITS - 1
        self.weights = nnx.Variable(jnp.full((2,), 1 << (bits - 1), jnp.int32))
        self.shift = nnx.Variable(jnp.array(bits, jnp.int32))
        self.bounds = vector(jnp.array([LOWEST, HIGHEST], jnp.float32))

    def __call__(
        self, frames: Float[Array, "b t c"], past: PyTree
    ) -> tuple[Float[Array, "b t c"], PyTree]:
        """Return as many frames."""
        added, past = self.inner(frames, past)
        # The only sums that a float would not hold exactly.
        sums = _whole(added) * self.weights[0] + _whole(frames) * self.weights[1]
        half = jnp.left_shift(jnp.int32(1), self.shift[...] - 1)
        shifted = jnp.right_shift(sums + half, self.shift[...])
        return _clip(shifted.astype(frames.dtype), self.bounds), past

    def read(self, operators: Operators) -> Tensors:
        """Return the parameters of the layers, and the weights of both sides."""
        tensors = super().read(operators)
        operator = operators.take("ADD", True)
        target = operators.grid(operator.outputs)
        sides = [operators.grid([tensor]).scale / target.scale for tensor in operator.inputs]
        shift = WEIGHT_BITS - math.frexp(float(max(sides)))[1]
        # Outside of this, 32 bits would not hold a sum.
        if len(sides) != 2 or not 1 <= shift <= 29:
            raise operators.error(f"an addition has {len(sides)} sides and the shift {shift}")
        return {
            **tensors,
            "weights": np.rint(np.array(sides, np.float64) * 2.0**shift),
            "shift": np.asarray(shift),
            "bounds": target.bounds,
        }


def _clip(frames: Float[Array, "b t c"], bounds: nnx.Param) -> Float[Array, "b t c"]:
    return jnp.clip(frames, bounds[0], bounds[1])


def _whole(frames: Float[Array, "b t c"]) -> Int[Array, "b t c"]:
    return frames.astype(jnp.int32)


def _draw(key: Key[Array, ""], shape: tuple[int, ...]) -> nnx.Param:
    drawn = jnp.round(TYPICAL * jax.random.normal(key, shape))
    return matrix(jnp.clip(drawn, LOWEST, HIGHEST), WHOLE)
