"""Documents and help texts say what is there: files, counts, commands, exit codes, imports."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from test_cli import COMMANDS
from test_surface import SURFACE

from genlab.experiment import AnyDecoder
from genlab.machine import stopping

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "genlab"
DOCS = ROOT / "docs"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Python files by name, unless the name is a pattern or stands for a file of the user.
FILE = re.compile(r"(?<![\w./*])((?:[a-z]\w*/)*[a-z_]\w*\.py)\b")
OF_THE_USER = {"path/to/file.py"}


def docstrings(path: Path) -> list[str]:
    """Return every text of a file that is a statement of its own."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    values = [node.value for node in nodes if isinstance(node, ast.Expr)]
    return [
        value.value
        for value in values
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]


def texts(path: Path) -> list[str]:
    """Return the texts of a file that a user may see: all but its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_docstrings_name_are_there(path):
    named = {name for text in docstrings(path) for name in FILE.findall(text)} - OF_THE_USER
    places = (path.parent, PACKAGE, ROOT)
    lost = [name for name in named if not any((place / name).exists() for place in places)]
    assert lost == [], "name a file of another folder as folder/file.py"


def test_a_user_without_a_checkout_is_told_where_a_file_is():
    """A wheel holds neither docs/ nor sweeps/."""
    named = [
        (path.name, text)
        for path in MODULES
        for text in texts(path)
        if re.search(r"\b(docs|sweeps)/\w[\w*]*\.\w|\bsweeps/claims", text)
    ]
    assert len(named) >= 4
    assert [each for each in named if "in the repository" not in each[1]] == []


def test_every_command_has_an_example():
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    shown = set(re.findall(r"^genlab (\w+) ", blocks, re.MULTILINE))
    assert shown | {"init"} == set(COMMANDS) and "`genlab init DIR`" in page


def test_every_exit_code_is_listed():
    table = (DOCS / "commands.md").read_text(encoding="utf-8").split("| exit code |")[1]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    codes = {value for name, value in vars(stopping).items() if name.startswith("EXIT_")}
    assert listed == codes


def test_the_lines_of_own_classes_are_counted():
    page = (DOCS / "extending.md").read_text(encoding="utf-8")
    rows = re.findall(r"1 file, (\d+) lines \| \[(own_\w+\.py)\]", page)
    counts = {
        name: sum(1 for line in (DOCS / name).read_text().splitlines() if line.strip())
        for _, name in rows
    }
    assert len(rows) == 6 and {name: int(count) for count, name in rows} == counts


def test_what_own_classes_import_is_listed():
    page = (DOCS / "surface.md").read_text(encoding="utf-8")
    listed = {(place, name) for place, names in SURFACE.items() for name in names}
    rows = page.split("## For classes of your own")[1].split("\n## ")[0].splitlines()
    for row in rows:
        if not row.startswith("| `"):
            continue
        _, places, names, _ = row.split("|")
        for place, group in zip(places.split(","), names.split(";"), strict=True):
            found = re.findall(r"`(\w+)`", group)
            listed |= {(place.strip(" `"), name) for name in found}
    for place, name in listed:
        assert hasattr(importlib.import_module(place), name), f"{place}.{name}"
    # A supported name may be imported from its folder or from the module that defines it.
    supported = {name for names in SURFACE.values() for name in names}
    for path in [*sorted(DOCS.glob("own_*.py")), DOCS / "library_example.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "genlab":
                found = {(node.module, alias.name) for alias in node.names}
                assert {each for each in found - listed if each[1] not in supported} == set(), path


def test_every_family_has_an_import_line():
    page = (DOCS / "decoders.md").read_text(encoding="utf-8")
    kinds = {cls.model_fields["kind"].default: cls for cls in AnyDecoder.__metadata__[0].kinds}
    shown = re.findall(r"^## `(\w+)`: .*\n\n`from ([\w.]+) import (\w+), (\w+)`$", page, re.M)
    assert {kind for kind, *_ in shown} == set(kinds)
    for kind, place, config, sampler in shown:
        module = importlib.import_module(place)
        assert getattr(module, config) is kinds[kind], kind
        assert getattr(module, sampler) is kinds[kind].sampler, kind
