"""The rules of the source, checked on syntax trees: one import direction, short files and
functions, banned names.
"""

import ast
import functools
import io
import re
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "genlab"

MAX_HALL_FILES = 14  # the files beside the folders of the package
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_TRAIN_LINES = 380
MIN_COMMENTED_LINES = 20  # of a body, from which on it holds a comment that says why
MAX_ANY = 200  # names `Any` in the package: each hides a type from whoever reads or checks
MIN_COPIED_NODES = 45  # of syntax; shorter bodies may well be the same
MAX_CONFIG_LINES = 60  # four arms with their samplers
# `mask` does not say what True means; public code disagrees on which of x0 and x1 is data.
BANNED_NAMES = {"mask", "x0", "x1"}
PRAGMA = re.compile(r"# (noqa|type: ignore|pyright:|fmt:|pragma:)")
BANNED_FILES = {"utils", "common", "helpers", "misc"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "genlab"


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FOLDERS = ("genlab", "configs", "sweeps", "tests")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> set[str]:
    """Return the modules of the library that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{path.name}:{node.lineno}: relative import; name the module in full"
            )
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        # `from genlab import checkpoint` names a module, `from genlab.config import Config` a class
        # inside one.
        inside = [name.removeprefix("genlab.") for name in names if name.split(".")[0] == "genlab"]
        found |= {
            name for name in inside if name in MODULES and (name != "genlab" or len(inside) == 1)
        }
    return found


def reading_order() -> list[str]:
    """Return the folders and files of the package as the README lists them, from top to bottom."""
    tree = (
        (ROOT / "README.md").read_text(encoding="utf-8").split("```\ngenlab/\n")[1].split("```")[0]
    )
    return re.findall(r"^  (\w+)(?:/|\.py) ", tree, re.MULTILINE)


def test_the_readme_lists_the_tree():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    order = reading_order()
    assert len(order) == len(set(order)) and set(order) == files | folders
    assert len(files) <= MAX_HALL_FILES


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"genlab", "__main__"}))
def test_a_folder_imports_only_what_is_above_it(name):
    place = {entry: number for number, entry in enumerate(reading_order())}
    own = name.split(".")[0]
    entries = {module.split(".")[0] for module in imported_modules(MODULES[name])} - {own, "genlab"}
    wrong = sorted(entry for entry in entries if place[entry] > place[own])
    assert not wrong, f"{name} imports from {wrong}, which the README lists below {own}"


def test_nothing_imports_configs_tests_or_sweeps():
    for path in MODULES.values():
        for node in ast.walk(parse(path)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {"configs", "sweeps", "tests"}, path


def test_files_are_short():
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in SOURCES
    }
    assert {name: count for name, count in lines.items() if count >= MAX_FILE_LINES} == {}
    assert lines["genlab/train.py"] < MAX_TRAIN_LINES
    notes = {
        path: parse(path).body[0].end_lineno for path in SOURCES if ROOT / "configs" in path.parents
    }
    code = {path.name: lines[str(path.relative_to(ROOT))] - note for path, note in notes.items()}
    assert {name: count for name, count in code.items() if count > MAX_CONFIG_LINES} == {}


def count_lines(function) -> int:
    """Return the lines of the body: a signature with one parameter to a line is no length."""
    first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
    return function.end_lineno - first.lineno + 1


def test_test_files_have_names_of_their_own():
    """Without packages pytest takes two files of one name for the same module."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_functions_are_short():
    functions = {
        f"{path.relative_to(ROOT)}:{node.name}": count_lines(node)
        for path in MODULES.values()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: count for name, count in functions.items() if count >= MAX_FUNCTION_LINES} == {}


def test_what_belongs_to_an_arm_and_a_seed_is_an_arm_run():
    nested = re.compile(r"([Mm]apping|[Dd]ict)\[\w+, ([Mm]apping|[Dd]ict)\[int\b")
    signatures = {
        f"{name}.{node.name}": ast.unparse([node.args, node.returns or ast.Constant(None)])
        for name, path in MODULES.items()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: text for name, text in signatures.items() if nested.search(text)} == {}


def public_names(tree: ast.Module) -> set[str]:
    """Return the functions, classes and constants of a file that others may import."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def read_names(tree: ast.Module) -> set[str]:
    """Return the names that a file imports or reads, also in types that are written as texts."""
    found = set()
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.stmt) and is_text(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set() if id(node) in documentation else set(re.findall(r"\w+", node.value))
    return found


def test_every_public_name_is_used():
    """By the library, a config, a sweep or a document; a test alone keeps nothing alive."""
    files = [path for path in SOURCES if ROOT / "tests" not in path.parents]
    used = set().union(*(read_names(parse(path)) for path in files))
    texts = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "pyproject.toml"]
    texts += sorted((ROOT / "docs").rglob("*.py"))
    for path in texts:
        used |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    unused = {
        f"{name}.{public}"
        for name, path in MODULES.items()
        for public in public_names(parse(path)) - used
    }
    assert unused == set(), "delete it with its tests, or use it"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_they_mean(path):
    assert path.stem not in BANNED_FILES
    found = []
    for node in ast.walk(parse(path)):
        # Only names that this file gives; keyword arguments of other libraries are theirs.
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append((node.id, node.lineno))
        elif isinstance(node, ast.arg):
            found.append((node.arg, node.lineno))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.append((node.attr, node.lineno))
    assert [item for item in found if item[0] in BANNED_NAMES] == []


def test_every_module_and_public_function_says_what_it_does():
    silent = []
    for name, path in MODULES.items():
        tree = parse(path)
        if tree.body and not ast.get_docstring(tree):
            silent.append(name)
        for node in tree.body:
            is_public = isinstance(
                node, ast.FunctionDef | ast.ClassDef
            ) and not node.name.startswith("_")
            if is_public and not ast.get_docstring(node):
                silent.append(f"{name}.{node.name}")
    assert silent == []


def count_any(path: Path) -> int:
    """Return how often a file names `Any`, imports aside."""
    names = (
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Name | ast.Attribute)
    )
    return sum(name == "Any" for name in names)


def test_types_are_the_contract():
    found = {name: count_any(path) for name, path in MODULES.items()}
    most = dict(sorted(found.items(), key=lambda item: -item[1])[:8])
    assert sum(found.values()) < MAX_ANY, f"say what it is instead of Any; most: {most}"


def outer_functions(body: list[ast.stmt]) -> list[ast.FunctionDef]:
    """Return the functions of a module and the methods of its classes, not those inside others."""
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.append(node)
        elif isinstance(node, ast.ClassDef | ast.If | ast.With):
            found += outer_functions(node.body)
    return found


def test_every_parameter_has_a_type():
    """Those of functions inside functions aside, which are read together with what they are for."""
    untyped = []
    for name, path in MODULES.items():
        for function in outer_functions(parse(path).body):
            arguments = function.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            every += [item for item in (arguments.vararg, arguments.kwarg) if item]
            untyped += [
                f"{name}.{function.name}({item.arg})"
                for item in every
                if item.annotation is None and item.arg not in ("self", "cls")
            ]
    assert untyped == []


def test_these_names_mean_one_thing():
    places = {name: [] for name in ("Plan", "Prompt", "Wave")}
    for module, path in MODULES.items():
        for node in parse(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            names += [node.name] if isinstance(node, ast.ClassDef) else []
            for name in {*names} & {*places}:
                places[name].append(module)
    assert places == {"Plan": [], "Prompt": ["tokens"], "Wave": ["evaluate.context"]}


def comment_lines(path: Path) -> set[int]:
    """Return the lines with a comment for a reader, not for a tool."""
    return {line for line, text in comments(path) if not PRAGMA.match(text)}


def comments(path: Path) -> list[tuple[int, str]]:
    """Return line and text of each comment of a file."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def test_a_comment_for_a_tool_says_nothing_to_a_reader(tmp_path):
    file = tmp_path / "code.py"
    for text in ("noqa: E501", "pyright: ignore[reportX]", "type: ignore[arg-type]", "fmt: skip"):
        file.write_text(f"first = 1  # {text}\nsecond = 2  # because of the third\n")
        assert comment_lines(file) == {2}


def test_calls_are_formatted():
    """`fmt: skip` is for tables of values, never for a call or a definition."""
    skipped = []
    for path in SOURCES:
        lines = {line for line, text in comments(path) if "fmt: skip" in text}
        nodes = [node for node in ast.walk(parse(path)) if getattr(node, "end_lineno", 0) in lines]
        skipped += [
            f"{path.relative_to(ROOT)}:{node.end_lineno}"
            for node in nodes
            if isinstance(node, ast.Call | ast.FunctionDef | ast.ClassDef)
        ]
    assert skipped == []


def test_no_function_is_written_twice():
    """Tests may ask the same of two things; what they and the library are made of is shared."""
    for folder in ("genlab", "tests"):
        places: dict[str, set[str]] = {}
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(parse(path)):
                if not isinstance(node, ast.FunctionDef) or node.name.startswith("test_"):
                    continue
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if sum(1 for part in body for _ in ast.walk(part)) >= MIN_COPIED_NODES:
                    text = "\n".join(ast.unparse(part) for part in body)
                    places.setdefault(text, set()).add(f"{path.relative_to(ROOT)}:{node.name}")
        assert [found for found in places.values() if len(found) > 1] == []


def test_undefined_names_are_found_where_no_array_has_a_shape():
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert {"F", "E"} <= set(linter["lint"]["select"])
    assert not {"F722", "F821"} & set(linter["lint"]["ignore"])
    allowed = {
        files for files, rules in linter["lint"]["per-file-ignores"].items() if "F821" in rules
    }
    assert allowed == {"genlab/*"}  # pyright looks for undefined names there


def test_long_functions_say_why():
    silent = []
    for name, path in MODULES.items():
        commented = comment_lines(path)
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_long = count_lines(node) >= MIN_COMMENTED_LINES
            if is_long and commented.isdisjoint(range(node.lineno, node.end_lineno + 1)):
                silent.append(f"{name}.{node.name}")
    assert silent == [], "say in a comment what the code cannot: why, which trap, which equation"


def spelled_in(*texts: str) -> set[str]:
    """Return the files of the library that hold one of the texts as a constant, documents aside."""
    return {
        name
        for name, path in MODULES.items()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Constant) and node.value in texts
    }


def test_what_bounds_the_arms_is_named_in_one_file():
    assert spelled_in("codec_floor_codes", "codec_floor_latents") == {"run.bounds"}
    assert spelled_in("floor") == {"run.bounds"}
    assert spelled_in("baseline", "lookup", "unigram", "bigram") == {"run.bounds"}
    dressed = ("climatology", "lookup_residuals", "regression_residuals")
    assert spelled_in(*dressed) == {"run.bounds"}
    assert spelled_in("regression") == {"run.bounds", "decoders.regression"}  # its decoder's kind
    # A score whose name begins with "real" is refused there, which is not about the row.
    assert spelled_in("real") == {"run.bounds", "evaluate.own"}


def test_exit_codes_are_given_in_one_file():
    given = {
        name
        for name, path in MODULES.items()
        for public in public_names(parse(path))
        if public.startswith("EXIT_")
    }
    assert given == {"machine.stopping"}


def config_classes() -> list[ast.ClassDef]:
    """Return the configs of the library: the classes that derive from `Config`."""
    classes = [
        node
        for path in MODULES.values()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ClassDef)
    ]
    names = {"Config"}
    found: list[ast.ClassDef] = []
    while True:
        of_configs = [
            node
            for node in classes
            if any(isinstance(base, ast.Name) and base.id in names for base in node.bases)
        ]
        if len(of_configs) == len(found):
            return found
        found = of_configs
        names |= {node.name for node in found}


def says_nothing(node: ast.stmt | None) -> bool:
    """Return whether a field's docstring is a single word."""
    return is_text(node) and len(node.value.value.split()) < 2


def is_text(node: ast.stmt | None) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def test_config_fields_say_what_they_mean():
    silent = []
    classes = config_classes()
    assert len(classes) > 50
    for config in classes:
        for field, below in zip(config.body, [*config.body[1:], None]):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            # A `kind` only names its class, and class variables are described by their contract.
            is_field = "ClassVar" not in ast.unparse(field.annotation)
            is_silent = not is_text(below) or says_nothing(below)
            if is_field and field.target.id != "kind" and is_silent:
                silent.append(f"{config.name}.{field.target.id}")
    assert silent == [], "give each field a docstring of its own, in the line below it"
