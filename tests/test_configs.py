"""The shipped configs as text: a change of a default is seen in review. `pytest --update-goldens`
rewrites them.
"""

import json
import re
from pathlib import Path

import pytest

from genlab.load import load_experiment
from genlab.run.files import write_json

ROOT = Path(__file__).parents[1]
GOLDENS = Path(__file__).with_name("goldens") / "configs"
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


@pytest.fixture(autouse=True)
def _no_local_data(monkeypatch):
    """Configs that take folders from the environment resolve to what a fresh machine gives."""
    for name in (
        "SPEECH_DIR",
        "FLITE_DIR",
        "SPEECH_COMMANDS_DIR",
        "ORDERS_DIR",
        "ESC50_DIR",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_resolved_config_is_the_golden(path, request):
    text = json.dumps(load_experiment(path).to_dict(), indent=1) + "\n"
    golden = GOLDENS / f"{path.stem}.json"
    if request.config.getoption("--update-goldens"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == text


def test_no_golden_is_left_over():
    assert {path.stem for path in GOLDENS.glob("*.json")} == {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_json_of_a_run_directory_is_the_same_experiment(path, tmp_path):
    experiment = load_experiment(path)
    write_json(tmp_path / "config.json", experiment.to_dict())
    again = load_experiment(tmp_path)
    assert again == experiment and again.digest() == experiment.digest()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_docstring_is_a_lab_note(path):
    note = path.read_text(encoding="utf-8").split('"""')[1]
    assert "Question:" in note
    assert re.search(rf"genlab (compare|train) {path.relative_to(ROOT).as_posix()}", note)
