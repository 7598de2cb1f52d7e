"""What a compiled program moves: collectives, traffic to memory and kernels, read from the
compiler's own text.

In: the text of a compiled program (HLO). Out: its collectives with the bytes each moves, how often
they run, and in how many loops; the bytes that pass between high-bandwidth memory and the chip; the
names of its kernels. XLA's `cost_analysis` counts the body of a loop once, so the turns of every
loop are worked out here: the bound its condition compares with, over what a turn adds.

Bytes are those one chip receives in one run of the program. An all-reduce counts twice its size (a
reduce-scatter and an all-gather). Buffers in the chip's own vector memory, S(1) in a layout, cost
no traffic; elsewhere arrays take whole tiles. If a fusion only slices an operand we count the
slices; if it only updates a buffer we count the update. A kernel counts each operand once.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
# What starts no work of its own, or whose work is counted where it starts.
FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "iota",
    "opt-barrier",
    "async-start",
    "copy-done",
    "all-gather-done",
    "all-reduce-done",
    "collective-permute-done",
    "async-done",
    "async-update",
    "slice-done",
    "dynamic-slice-done",
}
SLICES = ("dynamic-slice", "slice", "gather")
BITS = {"pred": 8, "bf16": 16, "f16": 16, "token": 0, "opaque": 0}

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s*(ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")


class Operation(NamedTuple):
    """One line of a computation: its name, the text of its shape, what it does, its operands and
    the rest.
    """

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool


class Collective(NamedTuple):
    """One collective: how often it runs in a step, what each run brings to a chip, and the sizes of
    its result's axes.

    If there are several results, the largest counts; axes of size 1 are left out. `loops` says how
    many loops it is in.
    """

    kind: str
    runs: int
    bytes_per_run: float
    shape: tuple[int, ...]
    dtype: str
    loops: int
    source: str


class Program:
    """A compiled program, taken apart."""

    def __init__(self, text: str):
        self.text = text
        self.computations: dict[str, dict[str, Operation]] = {}
        self.entry = ""
        name = ""
        for line in text.splitlines():
            # A computation begins with its header; the lines up to the next header are its
            # operations.
            if found := _HEADER.match(line):
                name = found[1]
                self.computations[name] = {}
                self.entry = name if line.startswith("ENTRY") else self.entry
            elif name and (found := _LINE.match(line)):
                # Operands come before the first closing parenthesis, attributes after it.
                inside, _, rest = found[5].partition(")")
                operation = Operation(
                    found[2],
                    found[3],
                    found[4],
                    tuple(_NAME.findall(inside)),
                    inside + ")" + rest,
                    bool(found[1]),
                )
                self.computations[name][operation.name] = operation

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation runs in one run of the program."""
        return self._visits[0]

    @functools.cached_property
    def depths(self) -> dict[str, int]:
        """How many nested loops each computation is in."""
        return self._visits[1]

    @functools.cached_property
    def _visits(self) -> tuple[dict[str, int], dict[str, int]]:
        counts, depths = dict.fromkeys(self.computations, 0), dict.fromkeys(self.computations, 0)

        def visit(name: str, times: int, depth: int) -> None:
            counts[name] += times
            depths[name] = max(depths[name], depth)
            for operation in self.computations[name].values():
                turns = self.turns(operation, name) if operation.kind == "while" else 1
                for callee in _callees(operation):
                    if callee in counts:
                        visit(callee, times * turns, depth + (operation.kind == "while"))

        visit(self.entry, 1, 0)
        return counts, depths

    def turns(self, loop: Operation, _where: str = "") -> int:
        """Return how often a loop runs; 1 if it compares with no constant."""
        condition, body = (
            re.search(rf"{word}=%([\w.\-]+)", loop.rest) for word in ("condition", "body")
        )
        if condition is None or body is None:
            return 1
        # XLA writes a scan as a while loop: the condition compares element `index` of the state
        # with a constant, and the body adds a step to it.
        operations = self.computations[condition[1]]
        root = next(operation for operation in operations.values() if operation.is_root)
        bounds = [_constant(operations[name]) for name in root.operands if name in operations]
        counters = [
            operations[name].rest for name in root.operands if "index=" in operations[name].rest
        ]
        # No constant: the number of turns depends on data, and one turn is the only safe bound.
        bound = next((value for value in bounds if value is not None), None)
        if bound is None or not counters:
            return 1
        index = int(re.findall(r"index=(\d+)", counters[0])[0])
        updates = next(
            operation for operation in self.computations[body[1]].values() if operation.is_root
        )
        step = (
            self._increment(body[1], updates.operands[index])
            if index < len(updates.operands)
            else 1
        )
        return max(1, math.ceil(bound / max(step, 1)))

    def _increment(self, computation: str, name: str) -> int:
        """Return the sum of the constants on the way to `name`: what a turn adds to its counter."""
        operation = self.computations[computation].get(name)
        if operation is None:
            return 0
        if (value := _constant(operation)) is not None:
            return value
        if operation.kind == "fusion":
            [callee] = _callees(operation)
            root = next(found for found in self.computations[callee].values() if found.is_root)
            inner = self._increment(callee, root.name)
            outer = sum(_constant(found) or 0 for found in self._operands(computation, operation))
            return inner + outer
        if operation.kind in ("add", "copy", "bitcast"):
            return sum(self._increment(computation, operand) for operand in operation.operands)
        return 0

    def _operands(self, computation: str, operation: Operation) -> list[Operation]:
        known = self.computations[computation]
        return [known[name] for name in operation.operands if name in known]

    def collectives(self) -> Iterator[Collective]:
        """Yield every collective that runs. Pieces of one that is spread over several fusions count
        once.
        """
        for name, operations in self.computations.items():
            for operation in operations.values():
                kind = operation.kind.removesuffix("-start")
                continued = re.search(r'"flag_start":"\d', operation.rest)
                if kind not in COLLECTIVES or not self.runs[name] or continued:
                    continue
                # A start returns what it read, what it writes, and flags.
                arrays = _arrays(operation.shape)
                received = sum(found.plain_bytes for found in arrays)
                sent = sum(shape_bytes(found.shape) for found in self._operands(name, operation))
                if operation.kind.endswith("-start") and operation.shape.startswith("("):
                    arrays = arrays[: 2 * len(operation.operands)][-len(operation.operands) :]
                    received = sum(found.plain_bytes for found in arrays)
                moved = {
                    "all-gather": received - sent,
                    "all-reduce": 2 * received,
                    "reduce-scatter": sent - received,
                }.get(kind, received)
                source = re.search(r'op_name="([^"]*)"', operation.rest)
                path = source[1] if source else ""
                shape = max((found.dimensions for found in arrays), key=math.prod, default=())
                shape = tuple(size for size in shape if size > 1)
                dtype = arrays[0].dtype if arrays else ""
                yield Collective(
                    kind, self.runs[name], max(moved, 0), shape, dtype, self.depths[name], path
                )

    def kernels(self) -> dict[str, int]:
        """Return how often each kernel (a Pallas call) runs."""
        found: dict[str, int] = {}
        for name, operations in self.computations.items():
            for operation in operations.values():
                if operation.kind == "custom-call" and '"tpu_custom_call"' in operation.rest:
                    label = re.sub(r"[.\d]+$", "", operation.name)
                    found[label] = found.get(label, 0) + self.runs[name]
        return found

    def memory_bytes(self) -> float:
        """Return the bytes that pass between memory and the chip in one run."""
        fused = {
            callee
            for _, operation in self._all()
            if operation.kind == "fusion"
            for callee in _callees(operation)
        }
        return float(
            sum(
                self.runs[name] * self._traffic(name, operation)
                for name, operation in self._all()
                if name not in fused and operation.kind not in FREE
            )
        )

    def _all(self) -> Iterator[tuple[str, Operation]]:
        for name, operations in self.computations.items():
            for operation in operations.values():
                yield name, operation

    def _traffic(self, computation: str, operation: Operation) -> float:
        read = [
            shape_bytes(found.shape, only_memory=True)
            for found in self._operands(computation, operation)
        ]
        arrays = [array.memory_bytes for array in _arrays(operation.shape)]
        if operation.kind == "fusion":
            [callee] = _callees(operation)
            places = self._places(computation, operation)
            inputs = (
                min(size, self._read(callee, place))
                for place, size in zip(places, read, strict=True)
                if size
            )
            return sum(inputs) + sum(map(min, arrays, self._written(callee)))
        if operation.kind in SLICES:
            # Of what is sliced as much is read as comes out, and nothing if it lies in vector
            # memory.
            return sum(arrays) + (shape_bytes(operation.shape) if read and read[0] else 0)
        if operation.kind == "dynamic-update-slice":
            update = self._operands(computation, operation)[1]
            return min(sum(arrays), shape_bytes(update.shape)) + read[1]
        # What starts a copy or a gather has its operands in its result.
        holds_operands = operation.kind in (
            "copy-start",
            "all-gather-start",
            "collective-permute-start",
        )
        return sum(arrays) + (0 if holds_operands else sum(read))

    def _places(self, computation: str, operation: Operation) -> list[int]:
        known = self.computations[computation]
        return [place for place, name in enumerate(operation.operands) if name in known]

    def _read(self, computation: str, place: int) -> float:
        """Return the most bytes that a fused computation can read of a parameter: its slices, or
        all of it.
        """
        parameters = (
            found for found in self.computations[computation].values() if found.kind == "parameter"
        )
        [parameter] = (found for found in parameters if found.rest.startswith(f"{place})"))
        return self._read_of(computation, parameter)

    def _read_of(self, computation: str, source: Operation) -> float:
        total = 0.0
        for user in self.computations[computation].values():
            for place in (place for place, name in enumerate(user.operands) if name == source.name):
                if user.kind in SLICES and place == 0:
                    total += shape_bytes(user.shape)
                elif user.kind == "dynamic-update-slice" and place == 0:
                    total += 0  # in place: what is around the update stays
                elif user.kind == "bitcast":
                    total += self._read_of(computation, user)
                elif user.kind == "fusion":
                    total += self._read(_callees(user)[0], place)
                else:
                    return math.inf
        return total

    def _written(self, computation: str) -> list[float]:
        """Return the most bytes that a fused computation can write of each of its results: updates,
        or all.
        """
        root = next(found for found in self.computations[computation].values() if found.is_root)
        results = self._operands(computation, root) if root.kind == "tuple" else [root]
        return [self._written_of(computation, result) for result in results]

    def _written_of(self, computation: str, result: Operation) -> float:
        operands = self._operands(computation, result)
        if result.kind == "dynamic-update-slice":
            return shape_bytes(operands[1].shape)
        if result.kind == "bitcast" and operands:
            return self._written_of(computation, operands[0])
        if result.kind == "fusion":
            inner = self._written(_callees(result)[0])
            return inner[0] if len(inner) == 1 else math.inf
        return math.inf


def shape_bytes(shape: str, *, only_memory: bool = False) -> int:
    """Return the bytes of the arrays in the text of a shape; `only_memory`: those they take in
    memory, tiles filled.
    """
    return sum(array.memory_bytes if only_memory else array.plain_bytes for array in _arrays(shape))


class _ArrayText(NamedTuple):
    """One array in the text of a shape; `memory_bytes` is 0 in vector memory."""

    plain_bytes: int
    memory_bytes: int
    dimensions: tuple[int, ...]
    dtype: str


def _arrays(shape: str) -> list[_ArrayText]:
    found = []
    for dtype, sizes, layout in _ARRAY.findall(shape):
        digits = re.search(r"\d+", dtype)
        bits = BITS.get(dtype, int(digits[0]) if digits else 32)
        dimensions = [int(size) for size in sizes.split(",") if size]
        elements = math.prod(dimensions)
        is_near = re.search(r"S\([1-9]", layout)
        padded = 0 if is_near else math.prod(_fill_tiles(dimensions, layout))
        found.append(_ArrayText(elements * bits // 8, padded * bits // 8, tuple(dimensions), dtype))
    return found


def _fill_tiles(dimensions: list[int], layout: str) -> list[int]:
    """Return the dimensions rounded up to whole tiles: "{0,1:T(8,128)" puts 128 of the first beside
    each other.
    """
    tiled = re.match(r"\{([\d,]+):T\(([\d,]+)\)", layout)
    if not tiled:
        return dimensions
    filled = list(dimensions)
    order = map(int, tiled[1].split(","))
    tile = map(int, tiled[2].split(",")[::-1])
    for axis, size in zip(order, tile):
        filled[axis] = -(-filled[axis] // size) * size
    return filled


def _callees(operation: Operation) -> list[str]:
    """Return the computations an operation runs; those that only say how to combine two numbers are
    left out.
    """
    words = {"while": "body", "fusion": "calls", "call": "to_apply", "async-start": "calls"}
    if operation.kind == "conditional":
        listed = re.search(r"branch_computations=\{([^}]*)\}", operation.rest)
        pairs = re.findall(r"(?:true|false)_computation=%([\w.\-]+)", operation.rest)
        return _NAME.findall(listed[1]) if listed else pairs
    if operation.kind == "custom-call":  # what a SparseCore does
        listed = re.search(r"called_computations=\{([^}]*)\}", operation.rest)
        return _NAME.findall(listed[1]) if listed else []
    if operation.kind not in words:
        return []
    return re.findall(rf"\b{words[operation.kind]}=%([\w.\-]+)", operation.rest)


def _constant(operation: Operation) -> int | None:
    found = re.match(r"(-?\d+)\)", operation.rest) if operation.kind == "constant" else None
    return int(found[1]) if found else None
