"""What a compiled program moves: collectives, traffic to memory and kernels, read from the compiler's own text.

In: the text of a compiled program (HLO). Out: its collectives with the bytes each moves, how often they run, and
whether inside the loop over layers; the bytes that pass between high-bandwidth memory and the chip; the names of its
kernels. XLA's `cost_analysis` counts the body of a loop once, so the turns of every loop are worked out here: the bound
its condition compares with, over what a turn adds.

Bytes are those one chip receives in one run of the program. An all-reduce counts twice its size (a reduce-scatter and
an all-gather). Buffers in the chip's own vector memory, S(1) in a layout, cost no traffic, and of an operand that is
only sliced inside a fusion the slice counts.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# What starts no work of its own, or whose work is counted where it starts.
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "iota", "opt-barrier", "copy-done", "all-gather-done", "all-reduce-done",
    "collective-permute-done", "async-done", "async-update", "slice-done", "dynamic-slice-done",
}  # fmt: skip
BITS = {"pred": 8, "bf16": 16, "f16": 16, "token": 0, "opaque": 0}

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s*(ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")


class Operation(NamedTuple):
    """One line of a computation: its name, the text of its shape, what it does, its operands and the rest."""

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool


class Collective(NamedTuple):
    """One collective: how often it runs in a step, what each run brings to a chip, and the elements of its result."""

    kind: str
    runs: int
    bytes_per_run: float
    elements: int
    dtype: str
    in_layers: bool
    source: str


class Program:
    """A compiled program, taken apart."""

    def __init__(self, text: str):
        self.text = text
        self.computations: dict[str, dict[str, Operation]] = {}
        self.entry = ""
        name = ""
        for line in text.splitlines():
            if found := _HEADER.match(line):
                name = found[1]
                self.computations[name] = {}
                self.entry = name if line.startswith("ENTRY") else self.entry
            elif name and (found := _LINE.match(line)):
                inside, _, rest = found[5].partition(")")
                operation = Operation(
                    found[2], found[3], found[4], tuple(_NAME.findall(inside)), inside + ")" + rest, bool(found[1])
                )
                self.computations[name][operation.name] = operation

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation runs in one run of the program."""
        counts = dict.fromkeys(self.computations, 0)

        def visit(name: str, times: int) -> None:
            counts[name] += times
            for operation in self.computations[name].values():
                turns = self.turns(operation, name) if operation.kind == "while" else 1
                for callee in _callees(operation):
                    if callee in counts:
                        visit(callee, times * turns)

        visit(self.entry, 1)
        return counts

    def turns(self, loop: Operation, _where: str = "") -> int:
        """Return how often a loop runs; 1 if it compares with no constant."""
        condition, body = (re.search(rf"{word}=%([\w.\-]+)", loop.rest) for word in ("condition", "body"))
        if condition is None or body is None:
            return 1
        operations = self.computations[condition[1]]
        root = next(operation for operation in operations.values() if operation.is_root)
        bounds = [_constant(operations[name]) for name in root.operands if name in operations]
        counters = [operations[name].rest for name in root.operands if "index=" in operations[name].rest]
        bound = next((value for value in bounds if value is not None), None)
        if bound is None or not counters:
            return 1
        index = int(re.findall(r"index=(\d+)", counters[0])[0])
        updates = next(operation for operation in self.computations[body[1]].values() if operation.is_root)
        step = self._increment(body[1], updates.operands[index]) if index < len(updates.operands) else 1
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
        """Yield every collective that runs. Pieces of one that is spread over several fusions count once."""
        for name, operations in self.computations.items():
            for operation in operations.values():
                kind = operation.kind.removesuffix("-start")
                continued = re.search(r'"flag_start":"\d', operation.rest)
                if kind not in COLLECTIVES or not self.runs[name] or continued:
                    continue
                # A start returns what it read, what it writes, and flags.
                arrays = _arrays(operation.shape)
                received = sum(found[0] for found in arrays)
                sent = sum(shape_bytes(found.shape) for found in self._operands(name, operation))
                if operation.kind.endswith("-start") and operation.shape.startswith("("):
                    arrays = arrays[: 2 * len(operation.operands)][-len(operation.operands) :]
                    received = sum(found[0] for found in arrays)
                moved = {
                    "all-gather": received - sent,
                    "all-reduce": 2 * received,
                    "reduce-scatter": sent - received,
                }.get(kind, received)
                source = re.search(r'op_name="([^"]*)"', operation.rest)
                path = source[1] if source else ""
                elements = max((found[1] for found in arrays), default=0)
                dtype = arrays[0][2] if arrays else ""
                yield Collective(kind, self.runs[name], max(moved, 0), elements, dtype, "/while/body/" in path, path)

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
        fused = {callee for _, operation in self._all() if operation.kind == "fusion" for callee in _callees(operation)}
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
        read = [shape_bytes(found.shape, only_memory=True) for found in self._operands(computation, operation)]
        written = shape_bytes(operation.shape, only_memory=True)
        if operation.kind in ("copy-start", "slice-start", "dynamic-slice-start") or operation.kind.endswith("-start"):
            return max(written / 2, 0.0)
        if operation.kind in ("dynamic-slice", "slice", "gather"):
            return 2.0 * written
        if operation.kind == "dynamic-update-slice":
            return 2.0 * (read[1] if len(read) > 1 else 0)
        if operation.kind == "fusion":
            [callee] = _callees(operation)
            return self._fusion_traffic(callee, read, written)
        return sum(read) + written

    def _fusion_traffic(self, callee: str, read: list[int], written: int) -> float:
        inside = self.computations[callee]
        total = 0.0
        updated = set()
        for operation in inside.values():
            if operation.kind == "dynamic-update-slice":
                # In place: only the update is written, and what is around it stays.
                updated.add(operation.operands[0])
                whole = shape_bytes(operation.shape, only_memory=False)
                written -= min(written, whole)
                total += shape_bytes(inside[operation.operands[1]].shape) if operation.operands[1] in inside else 0
        for operation in inside.values():
            if operation.kind != "parameter":
                continue
            place = int(operation.rest.split(")")[0])
            users = [user for user in inside.values() if operation.name in user.operands]
            if operation.name in updated:
                continue
            if users and all(user.kind in ("dynamic-slice", "slice", "gather") for user in users):
                total += min(read[place] if place < len(read) else 0, sum(shape_bytes(user.shape) for user in users))
            else:
                total += read[place] if place < len(read) else 0
        return total + written


def shape_bytes(shape: str, *, only_memory: bool = False) -> int:
    """Return the bytes of the arrays in the text of a shape; `only_memory` leaves out those in vector memory."""
    return sum(size for size, _, _, layout in _arrays(shape) if not (only_memory and re.search(r"S\([1-9]", layout)))


def _arrays(shape: str) -> list[tuple[int, int, str, str]]:
    """Return bytes, elements, type and layout of every array."""
    found = []
    for dtype, sizes, layout in _ARRAY.findall(shape):
        elements = math.prod(int(size) for size in sizes.split(",") if size)
        digits = re.search(r"\d+", dtype)
        bits = BITS.get(dtype, int(digits[0]) if digits else 32)
        found.append((elements * bits // 8, elements, dtype, layout))
    return found


def _callees(operation: Operation) -> list[str]:
    """Return the computations an operation runs; those that only say how to combine two numbers are left out."""
    words = {"while": "body", "fusion": "calls", "call": "to_apply", "async-start": "calls"}
    if operation.kind == "conditional":
        listed = re.search(r"branch_computations=\{([^}]*)\}", operation.rest)
        pairs = re.findall(r"(?:true|false)_computation=%([\w.\-]+)", operation.rest)
        return _NAME.findall(listed[1]) if listed else pairs
    if operation.kind not in words:
        return []
    return re.findall(rf"\b{words[operation.kind]}=%([\w.\-]+)", operation.rest)


def _constant(operation: Operation) -> int | None:
    found = re.match(r"(-?\d+)\)", operation.rest) if operation.kind == "constant" else None
    return int(found[1]) if found else None
