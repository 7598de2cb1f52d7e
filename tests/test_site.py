"""Links between files lead somewhere, in the repository and on the site; its tools are pinned."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOBS = ("*.md", "docs/*.md", "sweeps/**/*.md")
PAGES = sorted(path for places in GLOBS for path in ROOT.glob(places))
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s#]*)(?:#([^)\s]*))?\)")


def prose_of(path: Path) -> list[str]:
    """Return the lines of a Markdown file that are not code."""
    lines, is_code = [], False
    for line in path.read_text(encoding="utf-8").split("\n"):
        is_code ^= line.lstrip().startswith("```")
        lines += [] if is_code else [line]
    return lines


def anchors_of(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a file."""
    heads = [line.lstrip("#").strip() for line in prose_of(path) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for line in prose_of(path):
        for target, anchor in LINK.findall(line):
            found = (path.parent / target).resolve() if target else path
            assert found.exists(), f"{target} in {line}"
            assert not anchor or anchor in anchors_of(found), f"#{anchor} in {line}"


def test_every_page_of_the_documentation_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": (\w+\.md)$", text, re.MULTILINE))
    own = {"index.md", "contributing.md", "changelog.md"}
    assert named == own | {path.name for path in (ROOT / "docs").glob("*.md")}


def test_the_tools_of_the_checks_are_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for name in (*extras["docs"], *extras["dev"], *extras["test"]):
        assert re.split(r"[\[<>=]", name)[0] in pins, name
    assert {"griffelib", "mkdocs", "mkdocstrings-python"} <= set(pins)


def test_files_have_pages():
    """The whole site takes a minute, so CI builds it; here, that the hook maps files to pages."""
    if (
        importlib.util.find_spec("mkdocs") is None
        or importlib.util.find_spec("latex2mathml") is None
    ):
        pytest.skip("needs the extra `docs`")
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs/site_pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    assert pages.page_of("README.md") == "index.md" and pages.page_of("docs/tpu.md") == "tpu.md"
    assert pages.page_of("genlab/nets/__init__.py") == "reference/genlab.nets.md"
    assert pages.page_of("genlab/tokens.py") == "reference/genlab.tokens.md"
    assert pages.page_of("LICENSE") == "files/LICENSE.md" and pages.page_of("no/such") is None
    assert pages.page_of("sweeps/claims/pattern_order.svg") == "claims/pattern_order.svg"
    names = json.loads(pages.NAMES.read_text(encoding="utf-8"))
    for path in names:
        package, _, name = path.rpartition(".")
        assert pages.summary_of(pages.home_of(package, name), name), path
    assert pages.home_of("genlab.decoders", "Task") == "genlab.decoders.task"
    assert pages.home_of("genlab.tokens", "Tokens") == "genlab.tokens"
    assert "## moshi.py" in pages.render_code("configs/presets")
    assert "members:\n        - Decoder" not in pages.render_module("genlab.tokens")
    assert "\n        - TokenSpec" in pages.render_module("genlab.tokens")
