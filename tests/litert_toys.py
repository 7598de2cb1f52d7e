"""LiteRT files as a test writes them: a small flatbuffer writer, and the three files of a random
Lyra codec.
"""

import math
import struct

import numpy as np

from genlab.codecs.litert import KINDS
from genlab.codecs.lyra import DECODER, ENCODER, QUANTISER
from genlab.codecs.lyra_layers import Depthwise, Layers, Leaky, Residual, Upsampling
from genlab.codecs.lyra_whole import (
    ToFloat,
    ToWhole,
    WholeConvolution,
    WholeDepthwise,
    WholeLeaky,
    WholeResidual,
    WholeUpsampling,
)

NUMBERS = {kind: number for number, kind in KINDS.items()}
DTYPES = {"float32": 0, "int32": 2, "int8": 9}
STATES = 142  # a kind of operator that no layer takes


def flatbuffer(root):
    """Return the file of a table: {field: value}, where a value is (format, number), a string, an
    array, a table, or a list of tables.
    """
    out = bytearray(struct.pack("<I4s", 0, b"TFL3"))
    patch(out, 0, write(out, root))
    return bytes(out)


def patch(out, at, target):
    struct.pack_into("<I", out, at, target - at)


def write(out, value):
    """Append a value and what it refers to; return where it starts."""
    out.extend(b"\0" * (-len(out) % 8))
    if isinstance(value, dict):
        count = max(value, default=-1) + 1
        places = [8 + 8 * field if field in value else 0 for field in range(count)]
        vtable = len(out)
        out.extend(struct.pack(f"<{2 + count}H", 4 + 2 * count, 8 + 8 * count, *places))
        out.extend(b"\0" * (-len(out) % 8))
        start = len(out)
        out.extend(struct.pack("<i", start - vtable) + b"\0" * (4 + 8 * count))
        for field, item in value.items():
            at = start + places[field]
            if isinstance(item, tuple):
                struct.pack_into("<" + item[0], out, at, item[1])
            else:
                patch(out, at, write(out, item))
        return start
    if isinstance(value, list):
        start = len(out)
        out.extend(struct.pack("<I", len(value)) + b"\0" * 4 * len(value))
        written = {}  # a table that comes again is not written again
        for number, item in enumerate(value):
            if id(item) not in written:
                written[id(item)] = write(out, item)
            patch(out, start + 4 + 4 * number, written[id(item)])
        return start
    array = np.frombuffer(value.encode(), "u1") if isinstance(value, str) else np.asarray(value)
    start = len(out)
    out.extend(struct.pack("<I", len(array)) + array.tobytes())
    return start


class GraphWriter:
    """A graph of the layers of a codec, with random grids.

    Attributes:
        expected: what the layers should read, by dotted name.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.tensors, self.operators, self.buffers = [], [], [{}]
        self.expected = {}
        self.grid = None

    def new_grid(self):
        return np.float32(self.rng.uniform(0.02, 0.06)), int(self.rng.integers(-60, 60))

    def tensor(self, data=None, scales=None, zero=0, shape=(1, 4, 1, 4), dtype="float32"):
        buffer = 0
        if data is not None:
            shape, dtype, buffer = data.shape, str(data.dtype), len(self.buffers)
            self.buffers.append({0: data.reshape(-1).view("u1")})
        facts = {0: np.array(shape, "<i4"), 1: ("b", DTYPES[dtype]), 2: ("I", buffer), 3: "t"}
        if scales is not None:
            scales = np.atleast_1d(scales).astype("<f4")
            facts[4] = {2: scales, 3: np.full(len(scales), zero, "<i8")}
        self.tensors.append(facts)
        return len(self.tensors) - 1

    def activation(self, grid):
        if grid is None:
            return self.tensor()
        return self.tensor(scales=grid[0], zero=grid[1], dtype="int8")

    def operator(self, kind, inputs, outputs, options=None):
        facts = {
            0: ("I", list(NUMBERS).index(kind)),
            1: np.array(inputs, "<i4"),
            2: np.array(outputs, "<i4"),
        }
        self.operators.append(facts | ({} if options is None else {4: options}))

    def layer(self, name, layer):
        """Add the operators of a layer, and what it should read."""
        if isinstance(layer, Layers):
            for number, inner in enumerate(layer.layers):
                self.layer(f"{name}layers.{number}.", inner)
        elif isinstance(layer, Residual):
            before = self.grid
            self.layer(f"{name}inner.", layer.inner)
            if isinstance(layer, WholeResidual):
                self.add(name, before)
            else:
                sides = [self.activation(None), self.activation(None)]
                self.operator("ADD", sides, [self.activation(None)])
        elif isinstance(layer, ToWhole):
            self.grid = self.new_grid()
            inverse = np.float32(1) / self.grid[0]
            self.expected |= {f"{name}inverse": inverse, f"{name}bounds": bounds(self.grid)}
        elif isinstance(layer, ToFloat):
            self.expected[f"{name}step"] = self.grid[0]
            self.grid = None
        elif isinstance(layer, Leaky | WholeLeaky):
            self.leaky(name, isinstance(layer, WholeLeaky))
        elif isinstance(layer, Upsampling):
            self.upsampling(name, layer)
        else:
            self.convolution(name, layer)

    def leaky(self, name, is_whole):
        source, target = self.grid, self.new_grid() if is_whole else None
        places = [self.activation(source)], [self.activation(target)]
        self.operator("LEAKY_RELU", *places, {0: ("f", 0.3)})
        if is_whole:
            slope = source[0] / target[0]
            slopes = np.rint(256 * np.array([slope, slope * np.float32(0.3)], np.float32))
            self.expected |= {f"{name}slopes": slopes, f"{name}bounds": bounds(target)}
            self.grid = target

    def add(self, name, before):
        inner, self.grid = self.grid, self.new_grid()
        inputs = [self.activation(inner), self.activation(before)]
        self.operator("ADD", inputs, [self.activation(self.grid)])
        sides = [float(np.float32(side[0] / self.grid[0])) for side in (inner, before)]
        shift = 20 - math.floor(math.log2(max(sides)))
        self.expected |= {
            f"{name}weights": np.array([round(side * 2**shift) for side in sides]),
            f"{name}shift": np.array(shift),
            f"{name}bounds": bounds(self.grid),
        }

    def weights(self, kernel, channels, is_whole, scales):
        """Return the places of kernel and bias, and the bias."""
        if not is_whole:
            bias = self.rng.normal(size=channels).astype("<f4") * np.float32(0.1)
            return self.tensor(kernel.astype("<f4")), self.tensor(bias), bias
        bias = self.rng.integers(-500, 500, channels).astype("<i4")
        return self.tensor(kernel.astype("i1"), scales), self.tensor(bias), bias

    def convolution(self, name, layer):
        is_whole = isinstance(layer, WholeConvolution | WholeDepthwise)
        is_depthwise = isinstance(layer, Depthwise)
        kernel = np.asarray(layer.kernel[...])
        channels = kernel.shape[2]
        # taps 1 out -> 1 taps 1 out; taps in out -> out taps 1 in
        stored = kernel[None] if is_depthwise else kernel.transpose(2, 0, 1)[:, :, None]
        scales = self.rng.uniform(0.0005, 0.002, channels).astype(np.float32)
        source, target = self.grid, self.new_grid() if is_whole else None
        places = self.weights(stored, channels, is_whole, scales)
        outputs = [self.activation(target)]
        options = {1: ("i", 1), 2: ("i", getattr(layer, "stride", 1))}
        if is_depthwise:
            kind, options = "DEPTHWISE_CONV_2D", options | {6: ("i", layer.dilation)}
        else:
            kind = "CONV_2D"
        self.operator(kind, [self.activation(source), *places[:2]], outputs, options)
        self.expected |= {f"{name}kernel": kernel, f"{name}bias": places[2]}
        if is_whole:
            self.rescale(name, source, scales, target)
            self.grid = target

    def rescale(self, name, source, scales, target):
        limits = np.repeat(bounds(target)[:, None], len(scales), 1)
        factor = source[0] * scales / target[0]
        self.expected |= {f"{name}rescale.factor": factor, f"{name}rescale.bounds": limits}

    def upsampling(self, name, layer):
        is_whole = isinstance(layer, WholeUpsampling)
        groups = []
        for kernel in np.split(np.asarray(layer.kernel[...]), layer.groups, axis=2):
            channels = kernel.shape[2]
            scales = np.full(channels, self.rng.uniform(0.0005, 0.002), np.float32)
            target = self.new_grid() if is_whole else None
            stored = kernel.transpose(2, 0, 1)[:, :, None]
            weights, added, whole_bias = self.weights(stored, channels, is_whole, scales[0])
            inputs = [self.tensor(np.zeros(4, "<i4")), weights, self.activation(self.grid), added]
            options = {1: ("i", 1), 2: ("i", layer.stride)}
            self.operator("TRANSPOSE_CONV", inputs, [self.activation(target)], options)
            bias = whole_bias
            if is_whole:
                bias = self.rng.normal(size=channels).astype("<f4")
            self.operator("SUB", [self.activation(None), self.tensor(bias)], [self.tensor()])
            found = {"kernel": kernel, "bias": bias}
            if is_whole:
                steps = np.full(channels, target[0])
                found |= {"whole_bias": whole_bias, "step": steps}
                before, self.expected = self.expected, {}
                self.rescale("", self.grid, scales, target)
                found, self.expected = found | self.expected, before
            groups.append(found)
        self.expected |= {
            f"{name}{leaf}": np.concatenate([group[leaf] for group in groups], axis=-1)
            for leaf in groups[0]
        }
        self.grid = None

    def model(self, name):
        """Return the table of the file."""
        graph = {
            0: self.tensors,
            1: np.array([0], "<i4"),
            2: np.array([0], "<i4"),
            3: self.operators,
            4: name,
        }
        codes = [{0: ("b", min(number, 127)), 3: ("i", number)} for number in NUMBERS.values()]
        return {0: ("I", 3), 1: codes, 2: [graph], 4: self.buffers}


def bounds(grid):
    return np.array([-128 - grid[1], 127 - grid[1]], np.float32)


def write_lyra(directory, codec, seed=0):
    """Write the three files of a codec with its kernels and entries, and random grids and biases;
    return what a codec should read from them, by dotted name.
    """
    expected = {"entries": np.asarray(codec.entries[...])}
    for name, file, layers in (
        ("encoder", ENCODER, codec.encoder),
        ("decoder", DECODER, codec.decoder),
    ):
        writer = GraphWriter(seed)
        writer.layer("", layers)
        (directory / file).write_bytes(flatbuffer(writer.model("main")))
        expected |= {f"{name}.{leaf}": value for leaf, value in writer.expected.items()}
    writer = GraphWriter(seed)
    for level in expected["entries"]:
        inputs = [writer.tensor(), writer.tensor(level[None].astype("<f4"))]
        writer.operator("SQUARED_DIFFERENCE", inputs, [writer.tensor()])
    (directory / QUANTISER).write_bytes(flatbuffer(writer.model("encode")))
    return expected
