"""Flax plans to make NNX's tree mode its default: what a training run does must work there too."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_contract_holds_in_tree_mode():
    contract = str(Path(__file__).parent / "test_contract.py")
    some = "shapes or five_updates or survives or evaluation_mode"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-q", contract, "-k", some],
        env={**os.environ, "NNX_GRAPH_MODE": "false", "NNX_GRAPH_UPDATES": "false"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
