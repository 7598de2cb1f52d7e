"""The main job on somebody else's codec: Mimi's architecture at a toy size, from files as they are
published.
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from mimi_toys import MICRO, PUBLISHED, write_mimi
from quick_commands import QUICKLY
from test_compare import TINY, run_compare

SMALLER = (
    "data.num_frames=32",
    "budget.mode=iso_step",
    "budget.train_flops=null",
    "budget.steps=12",
    'baselines=["lookup", "bigram"]',
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a random Mimi as it would be downloaded, and the config of a tiny
    comparison.
    """
    folder = tmp_path_factory.mktemp("published")
    convolutions = MICRO.convolutions.model_copy(update={"ratios": (8, 6, 5, 4)})
    values = {**PUBLISHED, "upsampling_ratios": [8, 6, 5, 4], "frame_rate": 12.5}
    write_mimi(folder / "mimi", MICRO.model_copy(update={"convolutions": convolutions}), values)
    # One arm that reads codes and one that reads latents; the others add nothing here.
    (folder / "tiny.py").write_text(re.sub(r' {12}"masked.*\n(?: {16}.*\n {12}\),\n)?', "", TINY))
    return folder


def genlab(*arguments):
    environment = {**os.environ, **QUICKLY}
    command = [sys.executable, "-m", "genlab.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_load_says_what_it_is(place):
    done = genlab("codec", "load", "mimi", "--weights", place / "mimi")
    assert done.returncode == 0, done.stderr
    assert f"use data.codec=mimi:{place / 'mimi'}" in done.stdout
    assert '"sample_rate_hz": 24000' in done.stdout


def test_load_of_a_directory_without_weights_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_bytes(b"pickle")
    done = genlab("codec", "load", "mimi", "--weights", tmp_path)
    assert done.returncode == 2
    assert (
        len(done.stderr.strip().splitlines()) == 1
        and "a pickle, which is never read" in done.stderr
    )


def test_the_main_job_runs_on_it(place):
    process = run_compare(
        place / "tiny.py",
        place / "run",
        place / "cache",
        f"data.codec=mimi:{place / 'mimi'}",
        *SMALLER,
    )
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-2000:]
    results = json.loads((place / "run" / "results.json").read_text())
    assert results["codec"]["sample_rate_hz"] == 24_000
    assert {arm["name"] for arm in results["arms"]} >= {
        "ar",
        "diffusion",
        "real",
        "codec_floor_codes",
    }
    for path in sorted((place / "run" / "arms").glob("*/seed0/samples/*.flac")):
        wave, rate = soundfile.read(path)
        assert rate == 16_000 and np.isfinite(wave).all() and len(wave) > 8_000
