"""genlab as a library: the script of docs/library.md runs, and `import genlab` costs nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from quick_commands import QUICKLY

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "library_example.py"


def test_the_page_shows_the_script_that_is_tested():
    code = EXAMPLE.read_text().split('"""', 2)[2].strip()
    assert code in (ROOT / "docs" / "library.md").read_text()


def test_the_script_runs_on_a_wav(tmp_path: Path):
    time_s = np.arange(16_000) / 16_000
    soundfile.write(
        tmp_path / "in.wav", 0.3 * np.sin(2 * np.pi * 220 * time_s * (1 + 0.2 * time_s)), 16_000
    )
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "in.wav"), str(tmp_path / "out.flac")]
    environment = {**os.environ, **QUICKLY}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    wave, rate = soundfile.read(tmp_path / "out.flac")
    assert rate == 16_000 and len(wave) == 16_000 and np.abs(wave).max() > 0
    assert done.stdout.startswith("loss ") and "23 network calls" in done.stdout


@pytest.mark.slow
def test_the_claim_of_the_documentation_becomes_a_card(tmp_path: Path):
    """On one seed, which names no winner: the card says that too. Clips and training are short."""
    text = (ROOT / "docs" / "own_claim.py").read_text()
    changes = {"seeds=(0, 1, 2)": "seeds=(0,)", "steps=150": "steps=20", "frames=96": "frames=72"}
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    page = tmp_path / "own_claim.py"
    page.write_text(text)
    environment = {
        **os.environ,
        **QUICKLY,
        "GENLAB_CACHE": str(tmp_path / "cache"),
    }
    for action in (["run"], ["report", "--card"]):
        command = [
            sys.executable,
            "-m",
            "genlab.cli",
            "sweep",
            action[0],
            str(page),
            "--out",
            str(tmp_path / "out"),
        ]
        done = subprocess.run(
            command + action[1:], capture_output=True, text=True, env=environment, timeout=600
        )
        assert done.returncode == 0, done.stderr[-2000:]
    title, *lines = page.with_suffix(".md").read_text().splitlines()
    assert title == "# own_claim: not tested at this scale"
    assert "each arm has 1 training seed, and it takes at least 3" in done.stdout
    assert any(line.startswith("**Source.** Copet et al. 2023") for line in lines)
    [found] = json.loads((tmp_path / "out" / "findings.json").read_text())["findings"]
    rows = {
        path.stem: json.loads(path.read_text())
        for path in (tmp_path / "out").glob("runs/*/rows/*.json")
    }
    bits = {name: rows[name]["scores"]["bits_per_s"]["value"] for name in ("flat", "parallel")}
    assert found["value"] == pytest.approx(bits["flat"] - bits["parallel"], abs=0.5)


def test_importing_genlab_imports_nothing_heavy():
    code = (
        "import sys, genlab; print(sorted({'jax', 'flax', 'numpy', 'pydantic', 'grain'} & "
        "set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
