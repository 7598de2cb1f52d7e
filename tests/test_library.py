"""genlab as a library: the README's script runs, and `import genlab` costs nothing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "library_example.py"


def test_the_readme_shows_the_script_that_is_tested():
    code = EXAMPLE.read_text().split('"""', 2)[2].strip()
    assert code in (ROOT / "README.md").read_text()


def test_the_script_runs_on_a_wav(tmp_path: Path):
    time_s = np.arange(16_000) / 16_000
    soundfile.write(tmp_path / "in.wav", 0.3 * np.sin(2 * np.pi * 220 * time_s * (1 + 0.2 * time_s)), 16_000)
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "in.wav"), str(tmp_path / "out.flac")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    wave, rate = soundfile.read(tmp_path / "out.flac")
    assert rate == 16_000 and len(wave) == 16_000 and np.abs(wave).max() > 0
    assert done.stdout.startswith("loss ") and "23 network calls" in done.stdout


def test_the_decoder_of_the_documentation_learns_and_draws(tmp_path: Path):
    command = [sys.executable, str(ROOT / "docs" / "own_decoder.py"), str(tmp_path / "once"), "40"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "GENLAB_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split(" bits/s")[0]) < 3900 and "drew codes (8, 96, 8)" in done.stdout


def test_importing_genlab_imports_nothing_heavy():
    code = "import sys, genlab; print(sorted({'jax', 'flax', 'numpy', 'pydantic', 'grain'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
