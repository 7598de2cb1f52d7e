"""Networks as LiteRT (TensorFlow Lite) files: their operators and tensors, read without an
interpreter.

In: a `.tflite` file. Out: its graphs, each a list of operators in the order in which they run, with
the tensors that they read and write. Nothing is executed, and nothing is trusted: the file is a
flatbuffer, in which every table says where the next one is, so each offset is checked before it is
followed, and each tensor's data must be as long as its shape says (schema:
tensorflow/lite/schema/schema.fbs, version 3). Numbers stay as they are stored; whole numbers stand
for `scale * (number - zero)`.
"""

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from genlab.nets.weights import WeightsError

MAX_BYTES = 16 << 20
# Tables, letters and whole numbers that are turned into objects. Offsets may lead to one place many
# times, so the size of a file does not bound them. The published files stay below 40,000.
MAX_OBJECTS = 200_000
IDENTIFIER = b"TFL3"
MIN_SCALE = 2.0**-30  # products and quotients of three scales stay far from the ends of float32
# The operators that somebody here asks for by name, by their number in the schema.
KINDS = {
    0: "ADD",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    41: "SUB",
    67: "TRANSPOSE_CONV",
    98: "LEAKY_RELU",
    99: "SQUARED_DIFFERENCE",
}
# What its options hold, by the place in the table: the format of the number, and its default.
OPTIONS = {
    "CONV_2D": {"stride": (2, "i", 0), "dilation": (5, "i", 1), "activation": (3, "b", 0)},
    "DEPTHWISE_CONV_2D": {
        "stride": (2, "i", 0),
        "dilation": (6, "i", 1),
        "activation": (4, "b", 0),
    },
    "TRANSPOSE_CONV": {"stride": (2, "i", 0)},
    "LEAKY_RELU": {"alpha": (0, "f", 0.0)},
}
DTYPES = {0: "<f4", 2: "<i4", 9: "i1"}


class Tensor(NamedTuple):
    """A tensor of a graph. One that is computed has no data; one of floats has no scales."""

    name: str
    shape: tuple[int, ...]
    is_quantised: bool
    scales: Float[np.ndarray, "_"]
    zero: int
    data: Shaped[np.ndarray, "..."] | None


class Operator(NamedTuple):
    """One operation: its name in the schema, or the number of one that is not in `KINDS`."""

    kind: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: dict[str, int | float]


class Graph(NamedTuple):
    """A function of the file: its operators in order."""

    name: str
    operators: list[Operator]


class _File:
    """The bytes of a file, and checked reads from them."""

    def __init__(self, path: Path, content: bytes):
        self.path = path
        self.content = content
        self.left = MAX_OBJECTS

    def spend(self, count: int) -> None:
        """Count what is turned into objects."""
        self.left -= count
        if self.left < 0:
            raise self.damaged(f"it describes more than {MAX_OBJECTS} objects")

    def damaged(self, why: str) -> WeightsError:
        """Return the error that names the file."""
        return WeightsError(
            f"{self.path}: not a readable LiteRT file: {why:.200}; restore the file"
        )

    def number(self, layout: str, at: int) -> int | float:
        """Return the number at an offset."""
        size = struct.calcsize("<" + layout)
        if not 0 <= at <= len(self.content) - size:
            raise self.damaged(f"an offset leads to byte {at} of {len(self.content)}")
        return struct.unpack_from("<" + layout, self.content, at)[0]

    def whole(self, layout: str, at: int) -> int:
        """Return the whole number at an offset."""
        return int(self.number(layout, at))

    def follow(self, at: int) -> int:
        """Return where the offset stored at `at` leads to; offsets count from their own place."""
        return at + self.whole("I", at)


class _Table:
    """A table of the flatbuffer. Its fields are found through a list of places, the vtable."""

    def __init__(self, file: _File, at: int):
        file.spend(1)
        self.file = file
        self.at = at
        self.places = at - file.whole("i", at)
        self.size = file.whole("H", self.places)

    def field(self, number: int) -> int | None:
        """Return where a field is; None means that it has its default."""
        place = 4 + 2 * number
        if place + 2 > self.size:
            return None
        distance = self.file.whole("H", self.places + place)
        return self.at + distance if distance else None

    def value(self, number: int, layout: str, default: float) -> int | float:
        """Return a field that is a number."""
        at = self.field(number)
        return default if at is None else self.file.number(layout, at)

    def table(self, number: int) -> "_Table | None":
        """Return a field that is a table."""
        at = self.field(number)
        return None if at is None else _Table(self.file, self.file.follow(at))

    def array(self, number: int, dtype: str) -> np.ndarray:
        """Return a field that is a vector of numbers; it is a view of the file."""
        at = self.field(number)
        if at is None:
            return np.zeros(0, dtype)
        start = self.file.follow(at)
        length = self.file.whole("I", start)
        end = start + 4 + length * np.dtype(dtype).itemsize
        if end > len(self.file.content):
            raise self.file.damaged(
                f"a vector of {length} numbers ends at byte {end} of {len(self.file.content)}"
            )
        return np.frombuffer(self.file.content, dtype, length, start + 4)

    def whole_numbers(self, number: int, dtype: str = "<i4") -> list[int]:
        """Return a field that is a vector of whole numbers, as a list."""
        found = self.array(number, dtype)
        self.file.spend(len(found))
        return found.tolist()

    def tables(self, number: int) -> list["_Table"]:
        """Return a field that is a vector of tables."""
        at = self.field(number)
        if at is None:
            return []
        first = self.file.follow(at) + 4
        count = len(self.array(number, "<u4"))
        return [_Table(self.file, self.file.follow(first + 4 * row)) for row in range(count)]

    def text(self, number: int) -> str:
        """Return a field that is a string."""
        found = self.array(number, "u1")
        self.file.spend(len(found))
        return found.tobytes().decode("utf-8", "replace")


def read_litert(path: Path) -> list[Graph]:
    """Return the graphs of a LiteRT file.

    Raises:
        WeightsError: if there is no such file, it is larger than `MAX_BYTES`, or is damaged; the
            text names the file.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise WeightsError(f"{path}: {size} bytes, at most {MAX_BYTES} are read; restore it")
        file = _File(path, path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}; restore the file") from None
    if file.content[4:8] != IDENTIFIER:
        raise file.damaged(f"bytes 4 to 8 are not {IDENTIFIER.decode()}")
    model = _Table(file, file.follow(0))
    # Files of before 2020 have small numbers of operators in a byte of their own.
    codes = [
        max(int(code.value(0, "b", 0)), int(code.value(3, "i", 0))) for code in model.tables(1)
    ]
    buffers = model.tables(4)
    return [_read_graph(file, graph, codes, buffers) for graph in model.tables(2)]


def _read_graph(file: _File, graph: _Table, codes: list[int], buffers: list[_Table]) -> Graph:
    tensors = [_read_tensor(file, tensor, buffers) for tensor in graph.tables(0)]

    def pick(places: list[int]) -> list[Tensor | None]:
        for place in places:
            # -1 marks an input that is optional and absent.
            if not -1 <= place < len(tensors):
                raise file.damaged(f"an operator has tensor {place} of {len(tensors)}")
        return [None if place < 0 else tensors[place] for place in places]

    operators = []
    for table in graph.tables(3):
        number = int(table.value(0, "I", 0))
        if number >= len(codes):
            raise file.damaged(f"an operator is of kind {number} of {len(codes)}")
        kind = KINDS.get(codes[number], str(codes[number]))
        inputs, outputs = pick(table.whole_numbers(1)), pick(table.whole_numbers(2))
        computed = [tensor for tensor in outputs if tensor is not None]
        operators.append(Operator(kind, inputs, computed, _read_options(kind, table)))
    return Graph(graph.text(4), operators)


def _read_options(kind: str, operator: _Table) -> dict[str, int | float]:
    table = operator.table(4) if kind in OPTIONS else None
    value: Callable[[int, str, float], int | float] = (
        table.value if table is not None else lambda _place, _layout, default: default
    )
    return {name: value(*field) for name, field in OPTIONS.get(kind, {}).items()}


def _read_tensor(file: _File, table: _Table, buffers: list[_Table]) -> Tensor:
    name = table.text(3)
    shape = tuple(table.whole_numbers(0))
    if any(size < 0 for size in shape):
        raise file.damaged(f"tensor {name!r:.60} has the shape {shape!s:.60}")
    dtype = DTYPES.get(int(table.value(1, "b", 0)))
    quantisation = table.table(4)
    scales = np.zeros(0, np.float32) if quantisation is None else quantisation.array(2, "<f4")
    zeros = [] if quantisation is None else quantisation.whole_numbers(3, "<i8")
    # NaN fails both comparisons.
    if not ((scales > MIN_SCALE) & (scales < 1 / MIN_SCALE)).all():
        raise file.damaged(
            f"tensor {name!r:.60} has scales that are not between {MIN_SCALE:g} and "
            f"{1 / MIN_SCALE:g}"
        )
    # Weights have a scale for each channel and no offset, activations one scale and one offset.
    if len(scales) and (len(zeros) not in (0, len(scales)) or len(set(zeros)) > 1):
        raise file.damaged(f"tensor {name!r:.60} has {len(scales)} scales, {len(zeros)} offsets")
    zero = zeros[0] if zeros else 0
    if not -128 <= zero <= 127:
        raise file.damaged(f"tensor {name!r:.60} has the offset {zero}")
    number = int(table.value(2, "I", 0))
    if number >= max(len(buffers), 1):
        raise file.damaged(f"tensor {name!r:.60} has buffer {number} of {len(buffers)}")
    content = buffers[number].array(0, "u1") if buffers else np.zeros(0, np.uint8)
    data = None
    if content.size and dtype is not None:
        if content.size != math.prod(shape) * np.dtype(dtype).itemsize:
            raise file.damaged(
                f"tensor {name!r:.60} of shape {list(shape)} has {content.size} bytes"
            )
        data = content.view(dtype).reshape(shape)
    return Tensor(name, shape, dtype == "i1", scales, zero, data)
