"""What is said to have run did run: a module whose truth is known, and the sums over processes."""

import ast
import builtins
import importlib
import json
import sys

import pytest
from executed import MARKS, Counting, Marker, add_up, share

SOURCE = '''"""A module."""
from __future__ import annotations

import typing
if typing.TYPE_CHECKING:
    import never


class Thing:
    """A class."""

    size = 3

    def open(self): ...

    def unused(self):
        """Never called."""
        return self.size


def sign(number):
    """Return -1, 0 or 1."""
    if number > 0:
        return 1
    elif number < 0:
        result = -1
        return result
    return 0


def first(items):
    for item in items:
        return item
    try:
        return items[0]
    except IndexError:
        return None
    finally:
        sign(1)
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A package with the module, and one process that counts it."""
    monkeypatch.setattr("executed.ROOT", tmp_path)
    monkeypatch.setattr(builtins, MARKS, None, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Counting("counted"), *sys.meta_path])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "counted").mkdir()
    (tmp_path / "counted/__init__.py").write_text("")
    (tmp_path / "counted/module.py").write_text(
        SOURCE.replace("typing.TYPE", "TYPE").replace("import typing", "TYPE_CHECKING = False")
    )
    yield tmp_path
    for name in ("counted", "counted.module"):
        sys.modules.pop(name, None)


def counted(place, call):
    """Import the module, run `call` with it, and return the counts of one process."""
    call(importlib.import_module("counted.module"))
    sys.meta_path[0].write(place / "ran")
    return add_up(place / "ran", place / "counted")["counted/module.py"]


def test_a_module_that_is_only_imported_ran_its_top_level(place):
    counts = counted(place, lambda module: None)
    # An assignment, the `if`, and four statements of definitions; what is for checkers is left out.
    assert counts["statements run"] == 5
    # Of the functions: 1, then `if` with 1 and 1, 2 and 1; then 1, 1, 1, 1, 1, 1.
    assert counts["statements"] == 5 + 1 + 6 + 6
    # Two of each `if`, the loop's body, one handler.
    assert (counts["branches"], counts["branches run"]) == (6, 0)


def test_both_ways_of_a_condition_are_two_branches(place):
    counts = counted(place, lambda module: [module.sign(number) for number in (3, 2)])
    assert counts["branches run"] == 1 and counts["statements run"] == 5 + 2


def test_what_comes_after_a_condition_counts_by_itself_and_handlers_are_branches(place):
    def call(module):
        assert [module.sign(number) for number in (3, -3, 0)] == [1, -1, 0]
        assert module.first([7]) == 7 and module.first([]) is None
        assert module.Thing.size == 3 and module.Thing().open() is None

    counts = counted(place, call)
    assert counts["branches run"] == counts["branches"]
    assert counts["statements"] - counts["statements run"] == 1  # of the method that nobody calls
    assert share(counts, "branches") == 100 and 94 < share(counts, "statements") < 95


def test_a_module_that_is_imported_again_keeps_what_it_ran(place):
    def call(module):
        module.sign(3)
        importlib.reload(module).sign(-3)

    assert counted(place, call)["branches run"] == 3  # above, not above, and below


def test_processes_are_added_up_and_a_file_that_changed_is_no_evidence(place):
    counted(place, lambda module: module.sign(1))
    [written] = (place / "ran").glob("*.json")
    marks = json.loads(written.read_text())
    blocks = Marker()
    blocks.mark(ast.parse((place / "counted/module.py").read_text()))
    assert len(marks["counted/module.py"]) == len(blocks.blocks)
    other = {"counted/module.py": "1" * len(blocks.blocks)}
    (place / "ran/other.json").write_text(json.dumps(other))
    counts = add_up(place / "ran", place / "counted")["counted/module.py"]
    assert share(counts, "statements") == share(counts, "branches") == 100
    (place / "counted/module.py").write_text(SOURCE + "\nif SOURCE:\n    pass\n")
    with pytest.raises(ValueError, match=r"counted/module\.py: changed"):
        add_up(place / "ran", place / "counted")


def test_lines_keep_their_numbers_and_what_a_module_says_of_itself():
    tree = Marker().mark(ast.parse(SOURCE))
    assert ast.get_docstring(tree) == "A module."
    plain = {
        node.name: node.lineno for node in ast.walk(ast.parse(SOURCE)) if hasattr(node, "name")
    }
    marked = {node.name: node.lineno for node in ast.walk(tree) if hasattr(node, "name")}
    assert plain == marked and ast.get_docstring(tree.body[-2]) == "Return -1, 0 or 1."
