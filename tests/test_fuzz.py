"""The kit of faults: 250 damaged inputs under one contract, and a handful of kill points.

A failure prints the command that repeats its input.
"""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.runner import ROOT, SHARES, ensure_world, environment, plan, run_inputs

INPUTS, FEWEST, SEED = 250, 25, 1


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the tiny world is; one test process makes it, the others wait."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if folder.name.startswith("popen-") else folder
    with open(folder / "fuzz-world.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ensure_world(folder / "fuzz-world")
    return folder / "fuzz-world"


@pytest.mark.parametrize("area", SHARES)
def test_every_input_is_refused_in_a_line_or_accepted_and_sane(world: Path, area: str):
    counts = {area: max(plan(INPUTS)[area], FEWEST)}
    report = run_inputs(counts, SEED, world, workers=1)
    assert not report.faults, report.describe_faults()
    assert report.inputs == counts[area]
    kinds = report.counts[area]
    assert kinds["refused"] > 0 and kinds["accepted"] > 0, (
        "an area that only refuses, or refuses nothing, tests nothing"
    )


@pytest.mark.slow
def test_what_is_killed_comes_to_the_same_end(world: Path):
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--kills",
        "5",
        "--only",
        "data,compare",
        "--world",
        str(world),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ", 0 lost," in done.stdout
