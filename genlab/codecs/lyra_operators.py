"""The operators of Lyra's published graphs, and the numbers that its layers take from them.

In: a graph of a LiteRT file (litert.py). Out: kernels, biases and grids as float32, in the layout
that PyTorch has (published.py turns it into ours). A layer takes the operators that are its own, in
the order in which the graph runs them, and refuses any other; so a file is read only if it is this
network. The states of a stream are read, joined and written by operators that have no numbers of
their own; those are skipped.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from genlab.codecs.litert import Graph, Operator, Tensor
from genlab.nets.weights import WeightsError

SLOPE = 0.3  # of every leaky unit
LOWEST, HIGHEST = -128, 127  # of 8 bits
TAKEN = {"ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "LEAKY_RELU", "SUB", "TRANSPOSE_CONV"}
FIXES = "restore the file, or get it again from github.com/google/lyra"

Tensors = dict[str, np.ndarray]


class Grid(NamedTuple):
    """What the whole numbers of an activation stand for: scale * (q - zero)."""

    scale: np.float32
    zero: int

    @property
    def bounds(self) -> Float[np.ndarray, "2"]:
        """The least and the greatest q - zero."""
        return np.array([LOWEST - self.zero, HIGHEST - self.zero], np.float32)


class Operators:
    """The operators of a graph, taken one by one by the layers that they belong to.

    Attributes:
        last: the operator that was taken last.
    """

    def __init__(self, graph: Graph, path: Path):
        # An addition of floats has no numbers: a residual connection, or the tail of a stream.
        self.rest = [
            operator
            for operator in graph.operators
            if operator.kind in TAKEN and (operator.kind != "ADD" or is_whole(operator.inputs))
        ]
        self.path = path
        self.last: Operator | None = None

    def error(self, why: str) -> WeightsError:
        """Return the error that names the file."""
        return WeightsError(f"{self.path}: not the network of Lyra v2: {why:.250}; {FIXES}")

    def next(self) -> Operator:
        """Return the next operator without taking it."""
        if not self.rest:
            raise self.error("it has too few layers")
        return self.rest[0]

    def take(self, kind: str, in_whole: bool, **options: int) -> Operator:
        """Take the next operator, which must be of this kind and have these options."""
        operator = self.next()
        found = {name: operator.options.get(name) for name in options}
        if operator.kind != kind or is_whole(operator.inputs) != in_whole or found != options:
            raise self.error(
                f"a layer is {_describe(operator.kind, is_whole(operator.inputs), found)}, "
                f"expected {_describe(kind, in_whole, options)}"
            )
        self.last = self.rest.pop(0)
        return operator

    def grid(self, tensors: Iterable[Tensor | None]) -> Grid:
        """Return the grid of the first activation in whole numbers among tensors."""
        for tensor in tensors:
            if tensor is not None and tensor.is_quantised and tensor.data is None:
                if len(tensor.scales) != 1:
                    raise self.error(f"an activation has {len(tensor.scales)} scales, expected one")
                return Grid(np.float32(tensor.scales[0]), tensor.zero)
        raise self.error("an activation has no scale")

    def weights(self, operator: Operator, place: int) -> tuple[Tensor, np.ndarray]:
        """Return an input that is stored in the file, and its numbers."""
        tensor = operator.inputs[place] if place < len(operator.inputs) else None
        if tensor is None or tensor.data is None:
            raise self.error(f"an operator {operator.kind} has no weights at place {place}")
        return tensor, tensor.data

    def finish(self) -> None:
        """Refuse what no layer has taken."""
        if self.rest:
            raise self.error(f"it has {len(self.rest)} layers too many")


def is_whole(tensors: Iterable[Tensor | None]) -> bool:
    """Return whether one of the tensors holds whole numbers of 8 bits."""
    return any(tensor is not None and tensor.is_quantised for tensor in tensors)


def read_kernel(operators: Operators, operator: Operator, bias: int = 2) -> Tensors:
    """Return kernel [out, in, taps] and bias, both as they are stored; `bias` is its place among
    the inputs.
    """
    kernel = operators.weights(operator, 1)[1]
    is_depthwise = operator.kind == "DEPTHWISE_CONV_2D"
    if kernel.ndim != 4 or kernel.shape[2] != 1 or (is_depthwise and kernel.shape[0] != 1):
        raise operators.error(f"a kernel has the shape {list(kernel.shape)}")
    # 1 taps 1 out -> out 1 taps; out taps 1 in -> out in taps
    turned = kernel[0].T if is_depthwise else kernel[:, :, 0].swapaxes(1, 2)
    offsets = operators.weights(operator, bias)[1]
    if offsets.ndim != 1:
        raise operators.error(f"a bias has the shape {list(offsets.shape)}")
    return {"kernel": turned.astype(np.float32), "bias": offsets.astype(np.float32)}


def read_whole(operators: Operators, operator: Operator, bias: int = 2) -> Tensors:
    """Return kernel and bias of a convolution in whole numbers, and how its sums become whole
    numbers of the next grid.
    """
    tensors = read_kernel(operators, operator, bias)
    source, target = operators.grid(operator.inputs), operators.grid(operator.outputs)
    scales = operators.weights(operator, 1)[0].scales
    channels = len(tensors["bias"])
    if len(scales) not in (1, channels):
        raise operators.error(f"a kernel has {len(scales)} scales for {channels} channels")
    # In float32 and in this order, as XNNPACK does.
    factor = source.scale * scales / target.scale
    return {
        **tensors,
        "rescale.factor": np.broadcast_to(factor, (channels,)).astype(np.float32),
        "rescale.bounds": np.repeat(target.bounds[:, None], channels, axis=1),
    }


def check_slope(operators: Operators, operator: Operator) -> None:
    """Refuse a leaky unit of another slope."""
    if abs(operator.options["alpha"] - SLOPE) > 1e-6:
        raise operators.error(f"a slope is {operator.options['alpha']:.4g}, expected {SLOPE}")


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors of a part of a layer, by their names in the layer."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _describe(kind: str, in_whole: bool, options: dict) -> str:
    facts = " ".join(f"{name} {value}" for name, value in options.items())
    return f"{kind} of {'whole numbers' if in_whole else 'floats'}{facts and ', ' + facts}"
