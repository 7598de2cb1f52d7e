"""docs/tokens.md: the writer in numpy is executed, and what it writes is read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from genlab.data.own.source import TokenFiles
from genlab.data.own.spec import OwnSpec
from genlab.load import load_experiment

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8")


def test_the_writer_of_the_page_writes_what_is_read(tmp_path):
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    assert "genlab" not in code  # other people's pipelines need nothing of it
    (tmp_path / "writer.py").write_text(code)
    subprocess.run([sys.executable, "-P", "writer.py"], cwd=tmp_path, check=True, timeout=120)
    files = TokenFiles(tmp_path / "my_tokens")
    assert files.spec.codec == "Mimi" and files.spec.token_spec().frame_hz == 12.5
    store = files.open(tmp_path / "cache")
    sizes = {name: split.clips for name, split in store.info.splits.items()}
    assert sizes == {"train": 80, "valid": 10, "test": 10}
    clip = store.clip(0)
    written = np.load(tmp_path / "my_tokens" / f"{int(clip.id.removeprefix('clip')):05d}.npy")
    np.testing.assert_array_equal(clip.codes, written)
    assert clip.codes.shape == (125, 8) and clip.speaker == "ann"


def test_every_field_of_the_spec_is_on_the_page():
    [table] = re.findall(r"says what holds for all clips:\n\n(.*?)\n\n", PAGE, re.DOTALL)
    named = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines())))
    assert named == set(OwnSpec.model_fields)


def test_the_config_of_the_page_takes_any_tokens(tmp_path):
    config = load_experiment(ROOT / "configs" / "own_tokens.py", ("data.tokens=elsewhere",))
    assert config.data.corpus.directory == "elsewhere" and config.data.codec is None
    assert json.loads(json.dumps(config.to_dict()))["data"]["corpus"]["kind"] == "tokens"
