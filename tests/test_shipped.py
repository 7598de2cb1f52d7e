"""Configs by name, and copies of them to edit: a path that exists wins, and whoever guesses wrong
is told the names.
"""

import re
import shlex
from pathlib import Path

import pytest

from genlab.cli import main
from genlab.config import ConfigError, shipped
from genlab.config.shipped import install_command
from genlab.load import call_base, load_experiment

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BASE = """
from genlab.experiment import Comparison
from genlab.load import call_base


def config():
    return call_base(__file__, "../quickstart.py").model_copy(update={"name": "mine"})
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder outside the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *argv):
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1, err
    return err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_has_a_name(path, elsewhere):
    assert shipped.find_config(path.stem) == path
    name = str(path.relative_to(ROOT / "configs").with_suffix(""))
    assert shipped.find_config(name) == path


def test_names_are_those_of_different_files():
    assert len(shipped.shipped_configs()) == len(CONFIGS) > 20


@pytest.mark.parametrize(
    "text", ["moshi.py", "presets/quickstart", "configs/quickstart", "/quickstart", "./moshi"]
)
def test_what_only_looks_like_a_name_is_none(text, elsewhere):
    """A path that was mistyped must not run another file than the one that the person meant."""
    with pytest.raises(ConfigError, match="no such file"):
        shipped.find_config(text)


def test_a_path_that_exists_wins_over_a_name(elsewhere, capsys):
    (elsewhere / "quickstart").mkdir()
    with pytest.raises(ConfigError, match=r"config quickstart/config\.json: no such file"):
        load_experiment("quickstart")
    (elsewhere / "moshi").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"config moshi: expected a Python file or a config\.json"
    ):
        load_experiment("moshi")
    assert load_experiment("mar").name == "mar"


def test_a_name_that_is_unknown_says_which_there_are(elsewhere, capsys):
    told = refused(capsys, "budget", "quickstrat")
    assert "config quickstrat: no such file" in told and "did you mean 'quickstart'?" in told
    assert all(f" {path.stem}," in told or f" {path.stem};" in told for path in CONFIGS)
    assert "which config? For example: genlab data check quickstart" in refused(
        capsys, "data", "check"
    )


def test_init_writes_configs_that_build_on_each_other(elsewhere, capsys):
    assert main(["init", "mine"]) == 0
    assert (
        capsys.readouterr().out
        == f"{len(CONFIGS)} configs in mine; next: genlab compare mine/quickstart.py\n"
    )
    written = {
        path.relative_to("mine"): path.read_bytes()
        for path in Path("mine").rglob("*")
        if path.is_file()
    }
    assert written == {path.relative_to(ROOT / "configs"): path.read_bytes() for path in CONFIGS}
    # A preset follows the config that lies beside it, not the one that came with genlab.
    for base in ("units_to_speech.py", "quickstart.py"):
        text = Path("mine", base).read_text()
        Path("mine", base).write_text(text.replace("num_prompts=32", "num_prompts=7"))
    assert load_experiment("mine/presets/moshi.py").num_prompts == 7
    assert load_experiment("mine/quickstart_seeds.py").num_prompts == 7
    assert load_experiment("moshi").num_prompts == 32


def test_init_leaves_alone_what_is_there(elsewhere, capsys):
    Path("mine/presets").mkdir(parents=True)
    Path("mine/presets/moshi.py").write_text("# mine\n")
    told = refused(capsys, "init", "mine")
    assert "mine/presets/moshi.py: already exists" in told and "nothing was written" in told
    assert [str(path) for path in Path("mine").rglob("*.py")] == ["mine/presets/moshi.py"]
    Path("mine/presets/moshi.py").write_bytes((ROOT / "configs/presets/moshi.py").read_bytes())
    # as after one that was stopped
    assert main(["init", "mine"]) == 0 and main(["init", "mine"]) == 0
    capsys.readouterr()
    Path("file").write_text("")
    assert "genlab init: file: not a folder; " in refused(capsys, "init", "file")


def test_a_base_that_is_missing_or_empty_is_named(elsewhere):
    (elsewhere / "presets").mkdir()
    (elsewhere / "presets/mine.py").write_text(BASE)
    with pytest.raises(ConfigError, match=r"quickstart\.py: no such file; mine\.py builds on it"):
        load_experiment("presets/mine.py")
    (elsewhere / "quickstart.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"quickstart\.py: expected a function config\(\)"):
        load_experiment("presets/mine.py")
    (elsewhere / "quickstart.py").write_text((ROOT / "configs/quickstart.py").read_text())
    assert load_experiment("presets/mine.py").name == "mine"
    (elsewhere / "sizes.py").write_text("def at(name, width):\n    return name, width\n")
    assert call_base(str(elsewhere / "any.py"), "sizes.py", "at", name="small", width=8) == (
        "small",
        8,
    )


@pytest.mark.parametrize("folder", ["configs", "sweeps", "docs"])
def test_only_call_base_runs_another_config(folder):
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "runpy" not in text and "run_path" not in text, path


@pytest.mark.parametrize("is_checkout", [True, False])
@pytest.mark.parametrize("is_installed", [True, False])
def test_extras_are_installed_from_any_directory(monkeypatch, tmp_path, is_checkout, is_installed):
    root = tmp_path / "my lab"
    monkeypatch.setattr(shipped, "PACKAGE", root / "genlab")
    monkeypatch.setattr(shipped, "is_checkout", lambda: is_checkout)
    monkeypatch.setattr(shipped, "is_installed", lambda: is_installed)
    expected = ["python", "-m", "pip", "install", "genlab[codec]"]
    # By its name pip would take a package of the index for a checkout that it does not know.
    if is_checkout and not is_installed:
        expected[4:] = ["-e", f"{root}[codec]", "-c", f"{root}/constraints.txt"]
    assert shlex.split(install_command("codec")) == expected
    # Apache Beam needs other versions than those pinned.
    expected = [word.replace("codec", "beam") for word in expected if not word.endswith(".txt")]
    assert shlex.split(install_command("beam")) == [word for word in expected if word != "-c"]


def test_a_checkout_that_nobody_installed_is_known(monkeypatch):
    def find(name):
        raise shipped.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(shipped.metadata, "distribution", lambda name: name)
    assert shipped.is_installed()
    monkeypatch.setattr(shipped.metadata, "distribution", find)
    assert not shipped.is_installed()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_brackets_of_commands_are_quoted(path):
    """zsh takes brackets without quotation marks for a pattern, and stops if no file matches."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`((?:genlab|--)[^`\n]*)`", path.read_text())
    lines = [line for block in blocks for line in block.splitlines()] + spans
    for line in lines:
        if re.match(r"genlab |--|python |cd ", line):
            assert not re.search(r"\[", re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "", line)), line
