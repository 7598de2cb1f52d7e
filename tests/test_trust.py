"""Whose code runs: what a person named, and nothing that came with a run directory or a folder of
pages.
"""

import ast
import json
import os
import py_compile
import shutil
import sys
from pathlib import Path

import huggingface_hub
import json_toys
import pytest
from comparison_toys import make_comparison
from sweep_toys import make_sweep

from genlab import cli
from genlab.config import ConfigError, GenlabError
from genlab.load import load_experiment
from genlab.run import trust
from genlab.run.files import write_config, write_json
from genlab.run.status import write_status
from genlab.studies.tuned import apply_tuning
from genlab.sweeps.executors import command_of, names_of
from genlab.sweeps.runs import write_page

ROOT = Path(__file__).parents[1]
# A codec that leaves a mark when it runs.
CODE = """
from pathlib import Path

from genlab.codecs.mulaw import MuLawConfig

Path({mark!r}).write_text("ran")


def codec():
    return MuLawConfig().build()
"""
# How a Python file is executed; `exec` is looked for where it is called.
EXECUTORS = {
    "runpy",
    "exec_module",
    "spec_from_file_location",
    "import_module",
    "exec",
    "eval",
    "__import__",
}
COMMANDS = [
    ["report"],
    ["evaluate"],
    ["evaluate", "--audit"],
    ["budget"],
    ["data"],
    ["compare"],
    ["tune"],
    ["listen"],
    ["aot", "--topology", "v5e:2x2"],
    ["train", "--arm", "ar"],
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory that somebody sent: its config refers to a Python file that came along."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "evil.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    for name in ("results.json", "ledger.json"):
        (tmp_path / "sent" / name).write_text("{}")
    config = make_comparison("data.codec=sent/evil.py")
    (tmp_path / "sent" / "config.json").write_text(json.dumps(config.to_dict()))
    arm = tmp_path / "sent/arms/ar/seed0"
    arm.mkdir(parents=True)
    (arm / "config.json").write_text(json.dumps(config.run("ar", 0, 10).to_dict()))
    for made in (tmp_path / "sent", arm):
        write_json(made / "code.json", trust.pins_of(config.to_dict()))
    return tmp_path


def refused(capsys: pytest.CaptureFixture, *argv: str) -> str:
    """Run a command that must fail with one line, and return it."""
    assert cli.main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1, err
    return err


@pytest.mark.parametrize("target", ["sent", "sent/config.json"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_run_directory_runs_no_code(command, target, place, capsys):
    if command == ["listen"] and target != "sent":
        pytest.skip("takes a directory")
    told = refused(capsys, command[0], target, *command[1:])
    if not (command[0] in ("report", "evaluate") and "expected a run directory" in told):
        assert "data.codec='sent/evil.py'" in told and "--trust-code" in told
        assert "sent/config.json: " in told
    assert not (place / "mark").exists()


def test_the_directory_of_an_arm_runs_no_code(place, capsys):
    told = refused(capsys, "sample", "sent/arms/ar/seed0", "--out", "samples")
    assert "data.codec='sent/evil.py'" in told and "--trust-code" in told
    assert not (place / "mark").exists() and not (place / "samples").exists()


def test_what_a_person_names_runs(place):
    """On the command line, or in a config file that they named, or by `--trust-code`."""
    (place / "mine.py").write_text(
        "from comparison_toys import make_comparison\n\n\n"
        "def config():\n    return make_comparison('data.codec=sent/evil.py')\n"
    )
    for config in (
        load_experiment("sent", ("data.codec=sent/evil.py",)),
        load_experiment(
            "sent",
            ('data={"codec": "sent/evil.py", "num_frames": 16, "corpus": {"kind": "embedded"}}',),
        ),
        load_experiment("mine.py"),
        load_experiment("sent", trust_code=True),
    ):
        assert config.data.load_codec().spec.codebooks == 1
        # A file that is unchanged runs once in a process.
        assert (place / "mark").read_text() == "ran"


def test_a_name_that_ends_alike_is_not_the_same_name(place):
    """The user's own file lies elsewhere; the run directory refers to another one."""
    with pytest.raises(ConfigError, match="--trust-code"):
        load_experiment("sent", ("name=own/sent/evil.py", "question=sent/evil.py is bad"))
    assert load_experiment("sent", ("data.codec=in_lab_16khz",)).data.codec == "in_lab_16khz"


def test_a_run_pins_its_code_and_trust_ends_where_it_changed(place, capsys):
    config = make_comparison("data.codec=sent/evil.py")
    write_config(place / "sent", config.to_dict())
    digest = trust.digest_of("sent/evil.py")
    assert json.loads((place / "sent/code.json").read_text()) == {"sent/evil.py": digest}
    assert load_experiment("sent", trust_code=True) == config
    with open("sent/evil.py", "a") as file:
        file.write("# and more\n")
    told = refused(capsys, "report", "sent", "--trust-code")
    assert "data.codec='sent/evil.py' has changed since the run was made with it" in told
    assert digest[:10] in told and not (place / "mark").exists()
    with pytest.raises(ConfigError, match="has changed"):  # a run does not go on with it either
        write_config(place / "sent", config.to_dict())
    (place / "sent/code.json").write_text("[1]")
    assert "sent/code.json: damaged" in refused(capsys, "report", "sent", "--trust-code")


@pytest.mark.parametrize("pins", ["another", "none", "no file"])
def test_trust_ends_at_code_that_the_run_was_not_made_with(pins, place, capsys):
    """An edited config.json names a file that no code.json pins: nobody knows what it was."""
    if pins == "no file":
        (place / "sent/code.json").unlink()
    else:
        write_json(place / "sent/code.json", {"their.py": "0" * 64} if pins == "another" else {})
    told = refused(capsys, "report", "sent", "--trust-code")
    assert (
        "sent/config.json: data.codec='sent/evil.py' is no code that the run was made with" in told
    )
    assert ("their.py" in told) == (pins == "another") and not (place / "mark").exists()
    assert "no code that" in refused(capsys, "budget", "sent/config.json", "--trust-code")
    # The person may name the file, and a config.json alone is no run.
    assert load_experiment("sent", ("data.codec=sent/evil.py",)).data.codec == "sent/evil.py"
    (place / "alone").mkdir()
    shutil.copy("sent/config.json", "alone")
    assert load_experiment("alone", trust_code=True).data.codec == "sent/evil.py"


def test_a_run_without_code_has_no_pins(tmp_path):
    config = make_comparison()
    write_config(tmp_path, config.to_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert load_experiment(tmp_path) == config


@pytest.mark.parametrize("name", ["checkpoints/100", "arms/ar/seed0"])
def test_a_directory_of_somebody_else_is_no_run_directory(name, tmp_path):
    """Training keeps the newest checkpoints, and would count these among them."""
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(GenlabError, match="already exists, and genlab did not make it"):
        write_config(tmp_path, make_comparison().to_dict())
    write_status(tmp_path, "interrupted", 3)
    write_config(tmp_path, make_comparison().to_dict())
    write_config(tmp_path, make_comparison().to_dict())


def test_every_field_is_looked_at_but_prose():
    values = {
        "arms": {"a": {"decoder": "x/own.py:Mine"}},
        "data": [{"codec": "own.py"}],
        "question": "see own.py",
    }
    assert list(trust.find_code({"arms": {"question": {"decoder": "own.py"}}})) == [
        ("arms.question.decoder", "own.py")
    ]
    assert list(trust.find_code(values)) == [
        ("arms.a.decoder", "x/own.py:Mine"),
        ("data.0.codec", "own.py"),
    ]
    assert trust.code_file("my files/own.py:Mine") == Path("my files/own.py")
    assert trust.code_file("in_lab_16khz") is None and trust.code_file("own.python") is None


def test_a_tuning_names_no_code(tmp_path):
    path, config = tmp_path / "tuning.json", make_comparison()
    tuning = json_toys.whole_tuning()
    tuning["arms"]["ar"]["setting"] = {"decoder": "evil.py:Mine"}
    path.write_text(json.dumps(tuning))
    # The typed reader knows the settings that tuning chooses; a decoder is none of them.
    with pytest.raises(GenlabError, match=r"damaged: field arms\.ar\.setting\.decoder"):
        apply_tuning(config, path)


@pytest.mark.parametrize("codec", ["mimi", "mimi:owner/name"])
def test_a_run_directory_downloads_nothing(codec, place, capsys, monkeypatch):
    asked = []

    def snapshot_download(source, allow_patterns, local_files_only=False):
        asked.append((source, local_files_only))
        raise huggingface_hub.errors.LocalEntryNotFoundError(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    (place / "sent/config.json").write_text(
        json.dumps(make_comparison(f"data.codec={codec}").to_dict())
    )
    source = codec.partition(":")[2] or "kyutai/mimi"
    told = refused(capsys, "report", "sent")
    assert f"data.codec={codec!r}: its files are not on this machine" in told
    assert f"genlab codec load mimi --weights {source}" in told and asked == [(source, True)]
    told = refused(capsys, "budget", "sent", f"data.codec={codec}")  # now a person asks
    assert "the Hub did not give it" in told and asked[1:] == [(source, True), (source, False)]


def test_what_is_half_downloaded_is_downloaded(tmp_path, monkeypatch):
    from genlab.codecs.published import find_local, needs_download

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert needs_download("owner/name")
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert find_local("owner/name") == tmp_path
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert needs_download("owner/name")
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    assert not needs_download("owner/name") and not needs_download("no/such/place")


def test_a_sweep_says_again_what_its_page_names(place):
    page = make_sweep(base=make_comparison("data.codec=sent/evil.py"))
    run = write_page(page, place / "out")[0]
    assert names_of(run) == ['data.codec="sent/evil.py"']
    command = command_of(place / "out", run)
    overrides = tuple(item for item in command if "=" in item)
    assert load_experiment(command[2], overrides) == run.config
    assert names_of(write_page(make_sweep(), place / "plain")[0]) == []


def test_listing_pages_executes_none(tmp_path, capsys):
    mark = tmp_path / "mark"
    head = (
        '"""What is it for?\n\nMore."""\n\nfrom pathlib import '
        f'Path\n\nPath({str(mark)!r}).write_text("ran")\n\n\n'
    )
    (tmp_path / "told.py").write_text(
        head + "def sweep():\n    return Sweep(question='Which \\x1b[2J is it?')\n"
    )
    (tmp_path / "computed.py").write_text(head + "def sweep():\n    return Sweep(question=ask())\n")
    (tmp_path / "broken.py").write_text("def sweep(:\n")
    (tmp_path / "other.py").write_text(head + "text = 'def sweep('\n")
    assert cli.main(["sweep", "list", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert r"Which \x1b[2J is it?" in told and "What is it for?" in told and "\x1b" not in told
    assert "broken.py" not in told and "other.py" not in told
    assert not mark.exists()


def test_a_compiled_copy_beside_a_file_is_not_what_runs(tmp_path):
    """Python believes it if time and size agree: a reader of the source, and its digest, would be
    deceived.
    """
    path = tmp_path / "page.py"
    path.write_text("value = 'evil'\n")
    py_compile.compile(str(path))
    state = path.stat()
    path.write_text("value = 'good'\n")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert trust.run_file(path)["value"] == "good"


@pytest.mark.parametrize("name", ["runs", "codecs"])
def test_every_command_passes_the_word_of_the_person_on(name):
    """Else `--trust-code` would be refused where it was given."""
    tree = ast.parse((ROOT / f"genlab/cli/{name}.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    reading = [call for call in calls if getattr(call.func, "id", "") == "load_experiment"]
    assert reading
    for call in reading:
        assert "trust_code" in {keyword.arg for keyword in call.keywords}, call.lineno


def test_one_module_executes_files():
    found = {}
    for path in sorted((ROOT / "genlab").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import | ast.ImportFrom)
                else []
            )
            if isinstance(node, ast.Call):
                function = node.func
                # A method called `eval` is none of these: models have one.
                names += [function.id] if isinstance(function, ast.Name) else []
                is_module = isinstance(function, ast.Attribute) and function.attr not in (
                    "exec",
                    "eval",
                )
                names += [function.attr] if is_module else []
            if executing := EXECUTORS & set(names):
                found.setdefault(str(path.relative_to(ROOT)), set()).update(executing)
    # The supported names are imported when they are asked for, from modules named in genlab itself.
    assert found == {
        "genlab/run/trust.py": {"exec", "import_module"},
        "genlab/__init__.py": {"import_module"},
    }


def test_a_file_that_ran_is_where_its_classes_say(tmp_path):
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\nimport dataclasses\n\n\n"
        "@dataclasses.dataclass\nclass Mine:\n    size: int = 3\n"
    )
    made = trust.run_file(tmp_path / "own.py")["Mine"]()
    assert made.size == 3 and type(made).__module__ in sys.modules
