"""Flax plans to make NNX's tree mode, without references shared by modules, its default: training
must work there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        # Families that differ in their modules: scanned, of several heads, of codes and of latents.
        (
            ["decoders/test_contract.py"],
            "five_updates and (depth or latent_flow or masked or diffusion)",
        ),
        (["codecs/test_spectral.py", "recognisers/test_ctc.py"], "overfit or gradient or loss"),
    ],
)
def test_what_trains_also_trains_in_tree_mode(files, chosen):
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            *(str(TESTS / f) for f in files),
            "-k",
            chosen,
        ],
        env={**os.environ, "NNX_GRAPH_MODE": "false", "NNX_GRAPH_UPDATES": "false"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
