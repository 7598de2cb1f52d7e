"""The table of one-line faults: text files in table/, one per package.

    # genlab/report/ledger.py: tests/test_ledger.py
    @ _close
    - status = "bounded" if spread <= TOLERANCE else "undeclared"
    + status = "bounded" if spread <= 2 * TOLERANCE else "undeclared"
    - return _row(item, "free", values, note)
    + return _row(item, "matched", values, note)
    = why the program does the same with it, so that no test can notice

A `#` line names a file and the tests of it that are run first (files or node ids). `@` names a
function or class of it, in which the next texts are looked for; `@` alone means the whole file
again. `-` is a part of one line that stands there exactly once, `+` is what the fault puts in its
place. `=` argues that a fault changes nothing. `;` begins a comment.
"""

import ast
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).parent / "table"
ROOT = Path(__file__).parents[2]


class TableError(Exception):
    """A row that cannot be read, or that is no longer true of its file."""


class Fault(NamedTuple):
    """One fault: in `file`, inside `scope` or anywhere, `old` becomes `new`."""

    file: str
    scope: str
    old: str
    new: str
    tests: tuple[str, ...]
    place: str
    """Where the row is written, as name:line."""
    equivalent: str = ""

    @property
    def package(self) -> str:
        """The folder of genlab/ that the file is in; "hall" for those that are in none."""
        parts = Path(self.file).parts
        return parts[1] if len(parts) > 2 else "hall"

    def apply(self, source: str) -> str:
        """Return the source with the fault.

        Raises:
            TableError: unless the old text is there exactly once, or if the result is no Python.
        """
        lines = source.split("\n")
        first, last = _span(self, source) if self.scope else (0, len(lines))
        found = [
            (number, at) for number in range(first, last) for at in _places(lines[number], self.old)
        ]
        if len(found) != 1:
            where = f"{self.scope} of {self.file}" if self.scope else self.file
            raise TableError(
                f"{self.place}: {self.old!r} is {len(found)} times in {where}, expected once; "
                "write the row again for the code as it is, or drop it"
            )
        [(number, at)] = found
        line = lines[number]
        lines[number] = line[:at] + self.new + line[at + len(self.old) :]
        # Only the statement of the module that the line is in: a table of hundreds is checked so.
        first, last = next(
            (start, end) for start, end in _statements(source) if start <= number < end
        )
        try:
            ast.parse("\n".join(lines[first:last]))
        except SyntaxError as error:
            raise TableError(f"{self.place}: the fault is no Python: {error}") from None
        return "\n".join(lines)


def read_table(folder: Path = TABLE) -> list[Fault]:
    """Return every fault of the table, in the order of its files.

    Raises:
        TableError: naming the line that is no row.
    """
    return [
        fault
        for path in sorted(folder.glob("*.txt"))
        for fault in parse(path.read_text(encoding="utf-8"), path.stem)
    ]


def parse(text: str, name: str) -> list[Fault]:
    """Return the faults of one file of the table; `name` says which, in errors."""
    faults: list[Fault] = []
    file, scope, old, tests = "", "", None, ()
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"{name}:{number}"
        kind, rest = line[:1], line[2:]
        if not line.strip() or kind == ";":
            continue
        if kind == "#":
            file, _, told = rest.partition(": ")
            scope, tests = "", tuple(told.split())
            if not file or not tests:
                raise TableError(f"{place}: expected '# FILE: TESTS', got {line!r}")
        elif kind == "@":
            scope = rest.strip()
        elif kind == "-" and old is None and file:
            old = rest
        elif kind == "+" and old is not None:
            faults.append(Fault(file, scope, old, rest, tests, place))
            old = None
        elif kind == "=" and old is None and faults and rest:
            faults[-1] = faults[-1]._replace(equivalent=rest)
        else:
            raise TableError(f"{place}: expected #, @, -, + or = in its turn, got {line!r}")
    if old is not None:
        raise TableError(f"{name}: the last - line has no + line")
    return faults


def check_tests(faults: Sequence[Fault], root: Path = ROOT) -> None:
    """Check that the tests which the table names exist.

    Raises:
        TableError: for one that does not.
    """
    for fault in faults:
        for test in fault.tests:
            path, *names = test.split("::")
            is_there = (root / path).is_file()
            if not is_there or any(name not in (root / path).read_text() for name in names):
                raise TableError(f"{fault.place}: there is no test {test}")


def _places(line: str, part: str) -> Iterator[int]:
    at = line.find(part)
    while at >= 0:
        yield at
        at = line.find(part, at + 1)


@functools.lru_cache(maxsize=64)
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


def _statements(source: str) -> Iterator[tuple[int, int]]:
    """Yield the first line of each statement of a module, its decorators' included, and the one
    after its last.
    """
    for node in _parse(source).body:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(one.lineno for one in decorators)])
        yield first - 1, node.end_lineno or node.lineno


def _span(fault: Fault, source: str) -> tuple[int, int]:
    """Return the first line of a function or class and the one after its last."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    body: ast.AST = _parse(source)
    for part in fault.scope.split("."):
        found = [node for node in ast.walk(body) if isinstance(node, kinds) and node.name == part]
        if len(found) != 1:
            raise TableError(
                f"{fault.place}: {fault.file} has {len(found)} functions or classes {part!r}, "
                "expected one; write CLASS.METHOD"
            )
        body = found[0]
    assert isinstance(body, kinds) and body.end_lineno is not None
    return body.lineno - 1, body.end_lineno
