"""The site that `python -m mkdocs build` makes of this repository; mkdocs.yml names this file.

Pages are the files as they are: docs/*.md, README.md, CONTRIBUTING.md, CHANGELOG.md and the cards
of the claims. A link between files that is right in the repository becomes one between pages:
whatever file or folder of the repository a page links to is a page as well. A link to nothing is
left to mkdocs, which reports it. Besides, there is a page for each public module of genlab, and
before them one for the names that are supported.
"""

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
HOME = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".cff": "yaml",
    ".yaml": "yaml",
    ".css": "css",
    ".js": "js",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]*)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^ *```")
EQUATION = re.compile(r"^\$\$(.+)\$\$$", re.MULTILINE)

# What a program of your own may import, as the tests pin it: package and name.
NAMES = ROOT / "tests" / "goldens" / "surface.json"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference to the navigation."""
    entries: dict[str, list[dict[str, str]]] = {}
    for name in modules():
        folder = name.split(".")[1] if name.count(".") else name
        entries.setdefault(folder, []).append({name: reference_page(name)})
    parts = [{folder: found} if len(found) > 1 else found[0] for folder, found in entries.items()]
    config.nav = [
        *(config.nav or []),
        {"Reference": [{"Supported names": "reference/index.md"}, *parts]},
    ]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and whatever the pages link to."""
    texts = {
        page: (ROOT / path).read_text(encoding="utf-8") for path, page in markdown_files().items()
    }
    texts["reference/index.md"] = render_names()
    texts |= {reference_page(name): render_module(name) for name in modules()}
    linked = {
        target
        for path in markdown_files()
        for target in targets_of(path)
        if page_of(target) is not None
    }
    for target in sorted(linked - set(markdown_files())):
        place = page_of(target) or ""
        if target.endswith((".svg", ".png")):
            if files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, content=(ROOT / target).read_bytes()))
        else:
            texts.setdefault(place, render_code(target))
    for page, text in texts.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links between files into links between pages, and equations into MathML."""
    sources = {place: path for path, place in markdown_files().items()}
    here = page.file.src_uri
    if here not in sources:
        return markdown

    def link(found: re.Match[str]) -> str:
        place = page_of(normpath(join(dirname(sources[here]), found[1])))
        return (
            found[0] if place is None else relpath(place, dirname(here) or ".") + (found[2] or "")
        )

    lines, is_code = [], False
    for line in markdown.split("\n"):
        is_code ^= bool(FENCE.match(line))
        lines.append(line if is_code else LINK.sub(link, line))
    return EQUATION.sub(lambda found: f"\n{convert(found[1], display='block')}\n", "\n".join(lines))


def markdown_files() -> dict[str, str]:
    """Return the page of every Markdown file that is one, by its path in the repository."""
    docs = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    claims = {
        f"sweeps/claims/{path.name}": f"claims/{path.name}"
        for path in (ROOT / "sweeps/claims").glob("*.md")
    }
    return {**HOME, **docs, **claims}


def page_of(path: str) -> str | None:
    """Return the page or picture of a path in the repository, None if there is no such path."""
    if path in markdown_files():
        return markdown_files()[path]
    if path.startswith("..") or not (ROOT / path).exists():
        return None
    if path.endswith((".svg", ".png")):
        return path.removeprefix("docs/").removeprefix("sweeps/")
    if path.startswith("genlab/") and path.endswith(".py"):
        return reference_page(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    return f"files/{path}.md"


def reference_page(module: str) -> str:
    """Return the page of a module."""
    return f"reference/{module}.md"


def targets_of(path: str) -> Iterator[str]:
    """Yield the paths in the repository to which a Markdown file links."""
    is_code = False
    for line in (ROOT / path).read_text(encoding="utf-8").split("\n"):
        is_code ^= bool(FENCE.match(line))
        for found in LINK.finditer("" if is_code else line):
            yield normpath(join(dirname(path), found[1]))


def modules() -> list[str]:
    """Return the public modules of genlab, by folder."""
    paths = [
        path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "genlab").rglob("*.py"))
    ]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    return [name for name in sorted(names) if "._" not in name]


def render_names() -> str:
    """Return the page of the names that are supported."""
    rows = []
    for path in sorted(json.loads(NAMES.read_text(encoding="utf-8"))):
        package, _, name = path.rpartition(".")
        home = home_of(package, name)
        told = f"`from {package} import {name}`"
        rows.append(f"| [`{name}`][{home}.{name}] | {told} | {summary_of(home, name)} |\n")
    head = (
        "# Supported names\n\nA program of your own may rely on these names; everything else may "
        "move with a new version. [Use the modules](../modules.md) shows them at work, and the "
        "pages after this one describe every public module.\n\n"
        "| name | import | what it is |\n|---|---|---|\n"
    )
    return head + "".join(rows)


def home_of(package: str, name: str) -> str:
    """Return the module that defines a name which a package offers."""
    for node in ast.walk(parse(package)):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return node.module or package
    return package


def render_module(name: str) -> str:
    """Return the page of a module, with what it defines itself and nothing that it imports."""
    defined = []
    for node in parse(name).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.append(node.name)
        elif isinstance(node, ast.Assign):
            defined += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.append(node.target.id)
    public = [one for one in defined if not one.startswith("_")]
    members = "".join(f"\n        - {one}" for one in public) or " false"
    return f"# {name}\n\n::: {name}\n    options:\n      members:{members}\n"


def render_code(path: str) -> str:
    """Return a page that shows a file, or what is in a folder."""
    place = ROOT / path
    if place.is_dir():
        found = sorted(file for file in place.iterdir() if file.suffix == ".py")
        return f"# {path}\n\n" + "".join(show(file, "## " + file.name) for file in found)
    return show(place, f"# {path}")


def show(file: Path, head: str) -> str:
    """Return a heading and a file below it."""
    text, fence = file.read_text(encoding="utf-8"), "`" * 6
    return f"{head}\n\n{fence}{LANGUAGES.get(file.suffix, 'text')}\n{text}{fence}\n\n"


def parse(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    path = ROOT / module.replace(".", os.sep)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def summary_of(module: str, name: str) -> str:
    """Return the first sentence of what a module says of a name."""
    for node in parse(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()).replace(
                "|", "\\|"
            )
    return ""
