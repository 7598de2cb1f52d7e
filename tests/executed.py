"""How much of genlab/ the tests run, in statements and in branches, at almost no cost.

coverage.py has Python 3.11 call it for every line of JAX as well, which makes tracing programs 70 %
slower. Here each block of genlab/ gets a mark as it is imported, and only these are written:

    GENLAB_EXECUTED=DIR python -m pytest           every test process writes what it ran into DIR
    python tests/executed.py DIR --at-least 80 70  adds them up; exit code 1 below these percentages

A block is what lies between two places where the path can part. Its statements count as run once it
is entered, although one of them may have raised. Branches are both ways of every `if`, the bodies
of loops, the handlers of exceptions and the cases of `match`. Not counted are docstrings, bodies
that are only `...`, and what is for type checkers. Commands that tests start in processes of their
own are not seen.
"""

import argparse
import ast
import builtins
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
VARIABLE, MARKS = "GENLAB_EXECUTED", "_genlab_blocks_run"
PARTING = (ast.If, ast.For, ast.While, ast.Try, ast.With, ast.Match, ast.AsyncFor, ast.AsyncWith)
NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Block(NamedTuple):
    """Statements that run one after the other, and whether entering them is a branch."""

    line: int
    statements: int
    is_branch: bool


class Marker:
    """Puts a mark at the start of every block of a module; `blocks` are in the order of marks."""

    def __init__(self, offset: int = 0):
        self.blocks: list[Block] = []
        self._offset = offset

    def mark(self, tree: ast.Module) -> ast.Module:
        """Return the tree with marks; lines keep their numbers."""
        tree.body = self._body(tree.body, tree.body[0] if tree.body else tree, False)
        return ast.fix_missing_locations(tree)

    def _body(self, body: list[ast.stmt], at: ast.AST, is_branch: bool) -> list[ast.stmt]:
        """Return a body with a mark before each of its blocks, the first of which is a branch or
        not.
        """
        kept: list[ast.stmt] = []
        while body and (_is_docstring(body[0]) or _is_future(body[0])):
            kept.append(body[0])
            body = body[1:]
        if not kept or body or is_branch:
            kept += self._blocks(body, at, is_branch)
        return kept

    def _blocks(self, body: list[ast.stmt], at: ast.AST, is_branch: bool) -> list[ast.stmt]:
        marked: list[ast.stmt] = []
        while body or is_branch:
            ends = next((n for n, one in enumerate(body, 1) if isinstance(one, PARTING)), len(body))
            block, body = body[:ends], body[ends:]
            number = len(self.blocks)
            first = block[0] if block else at
            self.blocks.append(Block(getattr(first, "lineno", 1), len(block), is_branch))
            marked += [self._mark(number, first), *(self._inner(one) for one in block)]
            is_branch = False
        return marked

    def _mark(self, number: int, at: ast.AST) -> ast.stmt:
        [mark] = ast.parse(f"{MARKS}[{self._offset + number}] = 1").body
        for node in ast.walk(mark):
            ast.copy_location(node, at)
        return mark

    def _inner(self, statement: ast.stmt) -> ast.stmt:
        """Mark what a statement contains."""
        if isinstance(statement, NESTED):
            # The body of a class runs when it is made, with the block around it.
            if isinstance(statement, ast.ClassDef):
                statement.body = [self._inner(one) for one in statement.body]
            elif not _is_open(statement.body):
                statement.body = self._body(statement.body, statement, False)
        elif isinstance(statement, ast.If):
            if not _is_for_checkers(statement.test):
                statement.body = self._body(statement.body, statement, True)
                statement.orelse = self._body(statement.orelse, statement, True)
        elif isinstance(statement, ast.For | ast.While | ast.AsyncFor):
            statement.body = self._body(statement.body, statement, True)
            statement.orelse = self._body(statement.orelse, statement, False)
        elif isinstance(statement, ast.With | ast.AsyncWith):
            statement.body = self._body(statement.body, statement, False)
        elif isinstance(statement, ast.Match):
            for case in statement.cases:
                case.body = self._body(case.body, statement, True)
        elif isinstance(statement, ast.Try):
            statement.body = self._body(statement.body, statement, False)
            for handler in statement.handlers:
                handler.body = self._body(handler.body, handler, True)
            statement.orelse = self._body(statement.orelse, statement, False)
            statement.finalbody = self._body(statement.finalbody, statement, False)
        return statement


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _is_open(body: list[ast.stmt]) -> bool:
    return all(_is_docstring(one) or isinstance(one, ast.Pass) for one in body)


def _is_for_checkers(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


class Counting(importlib.abc.MetaPathFinder):
    """Marks the modules of a package as they are imported, and knows which blocks were entered."""

    def __init__(self, package: str):
        self._package = package
        self._places: dict[str, list[range]] = {}  # a module that is imported again has several
        self._marks = bytearray()
        setattr(builtins, MARKS, self._marks)

    def find_spec(self, fullname, path=None, target=None):
        """Return what the other finders find, with a loader that marks."""
        if fullname.partition(".")[0] != self._package:
            return None
        for other in sys.meta_path:
            spec = None if other is self else other.find_spec(fullname, path, target)
            if spec is not None:
                break
        else:
            return None
        if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            # What is compiled here is neither kept nor taken from what was kept.
            spec.loader.path_stats = _refuse
            if type(spec.loader) is importlib.machinery.SourceFileLoader:
                spec.loader.source_to_code = self._compile_source
        return spec

    def compile(self, source, path, mode, flags=0, **options):
        """Compile as Python does, but with marks in trees: jaxtyping's hook uses this for its
        own.
        """
        if not flags & ast.PyCF_ONLY_AST:
            return compile(source, path, mode, flags, **options)
        return self._mark(compile(source, path, mode, flags, **options), path)

    def _compile_source(self, data, path, *, _optimize=-1):
        tree = self._mark(ast.parse(data, path), path)
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def _mark(self, tree: ast.Module, path: str) -> ast.Module:
        marker = Marker(len(self._marks))
        tree = marker.mark(tree)
        first, count = len(self._marks), len(marker.blocks)
        self._places.setdefault(str(path), []).append(range(first, first + count))
        self._marks.extend(bytes(count))
        return tree

    def write(self, folder: Path) -> None:
        """Write which blocks of each file were entered, as a text of 0 and 1."""
        found = {
            Path(path).relative_to(ROOT).as_posix(): "".join(
                str(max(self._marks[number] for number in numbers)) for numbers in zip(*places)
            )
            for path, places in self._places.items()
            if Path(path).is_relative_to(ROOT)
        }
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-{os.getpid()}.json"
        (folder / name).write_text(json.dumps(found))


def _refuse(path: str) -> dict[str, float]:
    raise OSError(path)


def count_package(package: str = "genlab") -> Counting:
    """Count from here on: the package is not imported yet."""
    import jaxtyping._import_hook as hook

    counting = Counting(package)
    hook.compile = counting.compile  # in place of the built-in one
    sys.meta_path.insert(0, counting)
    return counting


def add_up(folder: Path, package: Path) -> dict[str, Counter]:
    """Return what each file of a package has and what was run of it by all processes.

    Raises:
        ValueError: if a process counted another version of a file.
    """
    processes = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = {}
    for path in sorted(package.rglob("*.py")):
        name, marker = path.relative_to(package.parent).as_posix(), Marker()
        marker.mark(ast.parse(path.read_text(encoding="utf-8")))
        ran = [one[name] for one in processes if name in one]
        if any(len(marks) != len(marker.blocks) for marks in ran):
            raise ValueError(f"{name}: changed since the tests ran")
        counts = found[name] = Counter()
        for number, block in enumerate(marker.blocks):
            is_run = any(marks[number] == "1" for marks in ran)
            counts["statements"] += block.statements
            counts["statements run"] += is_run * block.statements
            counts["branches"] += block.is_branch
            counts["branches run"] += is_run * block.is_branch
    return found


def share(counts: Counter, what: str) -> float:
    """Return the percentage of `what` that was run; all of nothing."""
    return 100 * counts[f"{what} run"] / counts[what] if counts[what] else 100.0


def main() -> int:
    """Print the table; 1 if less was run than was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--at-least", type=float, nargs=2, default=(0.0, 0.0), metavar="PERCENT")
    arguments = parser.parse_args()
    found = add_up(arguments.folder, ROOT / "genlab")
    total: Counter = sum(found.values(), Counter())
    for name, counts in [*found.items(), ("genlab", total)]:
        shares = [share(counts, what) for what in ("statements", "branches")]
        if shares[0] < 80 or counts is total:
            print(f"{shares[0]:5.1f} % of statements {shares[1]:5.1f} % of branches  {name}")
    wanted = dict(zip(("statements", "branches"), arguments.at_least))
    missed = [what for what, percent in wanted.items() if share(total, what) < percent]
    for what in missed:
        print(f"fewer {what} are run than {wanted[what]:g} %", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
