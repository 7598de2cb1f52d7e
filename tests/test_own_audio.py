"""docs/own_audio.md: its commands run as they stand; its table names what readers take."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from quick_commands import QUICKLY

from genlab.data.decoding import FORMATS
from genlab.data.table import ALIASES, SPLIT_ALIASES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own_audio.md").read_text()
NUMBERS = "zero one two three four five six seven eight nine".split()
# What makes the comparison of the page small enough for a test; everything else is as the page
# says.
SMALL = (
    "budget.mode=iso_step budget.train_flops=null budget.steps=6 batch_size=2 num_prompts=4 "
    "backbone.width=16 backbone.layers=1 backbone.heads=2 evaluation.dnsmos_clips=1 "
    "evaluation.reference_clips=8 evaluation.score_draws=2 evaluation.energy_draws=0 "
    'baselines=["lookup"]'
).split()


def blocks_of(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def record(folder: Path, count: int) -> None:
    """Write hummed clips of two voices, and the page's table with as many rows."""
    rng = np.random.default_rng(0)
    head = blocks_of("csv")[0].splitlines()[0]
    assert head == "path,text,speaker"
    lines = [head]
    (folder / "clips").mkdir(parents=True)
    for number in range(count):
        time_s = np.arange(14_000 + 400 * (number % 8)) / 16_000
        speaker, pitch_hz = (("alice", 210), ("bob", 120))[number % 2]
        hum = np.sin(2 * np.pi * (pitch_hz * time_s + 3 * np.sin(2 * np.pi * 3 * time_s)))
        wave = 0.2 * hum * (
            0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s)
        ) + 0.01 * rng.standard_normal(len(time_s))
        soundfile.write(folder / f"clips/{number:03}.wav", wave, 16_000)
        text = f"{NUMBERS[number % 10]} {NUMBERS[number * 7 % 10]} {NUMBERS[number // 10]}"
        lines.append(f"clips/{number:03}.wav,{text},{speaker}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path):
    record(tmp_path / "my_audio", 40)
    (tmp_path / "my_audio" / "clips" / "broken.wav").write_bytes(b"RIFF")
    table = tmp_path / "my_audio" / "table.csv"
    table.write_text(table.read_text() + "clips/broken.wav,one,alice\n")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {
        **os.environ,
        "GENLAB_CACHE": str(tmp_path / "cache"),
        **QUICKLY,
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    )
    printed = []
    look, compare = blocks_of("sh")[:2]
    for block, more in ((look, []), (compare, ["data.corpus.test_fraction=0.2", *SMALL])):
        program, *arguments = shlex.split(block)
        assert program == "genlab"
        command = [sys.executable, "-m", "genlab.cli", *arguments, *more]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        printed.append(done.stdout)
        assert done.stderr.count("clips/broken.wav") == (block is compare)  # each says it once
    assert printed[0].count("clips/broken.wav") == 1
    assert (
        "40 clips" in printed[0] and "2 speakers" in printed[0] and "clips/broken.wav" in printed[0]
    )
    results = json.loads((tmp_path / "runs/mine/results.json").read_text())
    assert [arm["name"] for arm in results["arms"] if arm["params"]] == [
        "ar",
        "latent_ar",
        "masked",
        "diffusion",
    ]
    assert (tmp_path / "runs/mine/report.html").exists()


def test_the_table_names_every_format_column_and_split():
    for known in (*FORMATS, *ALIASES, *SPLIT_ALIASES, *SPLIT_ALIASES.values()):
        assert f"`{known}`" in PAGE, known
    for field, aliases in ALIASES.items():
        assert (
            not aliases or f"| `{field}` | {', '.join(f'`{alias}`' for alias in aliases)} |" in PAGE
        )
