"""What reading a config costs: modules are counted, because seconds depend on who else computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a run needs and a config does not. Each takes as long as jax, or half as long.
HEAVY = {
    *(
        "grain",
        "orbax",
        "tensorstore",
        "tensorboard",
        "librosa.core",
        "numba",
        "onnxruntime",
        "jiwer",
    ),
    *("scipy.stats", "scipy.signal", "scipy.special", "scipy.spatial", "scipy.cluster", "torch"),
}
# flax.nnx alone loads 1,112 of them, and genlab's own are some 190.
MOST_MODULES = 1530


@pytest.mark.parametrize("name", ["genlab.experiment", "genlab.load", "genlab.cli.runs"])
def test_reading_a_config_loads_no_more_than_it_needs(name):
    code = f"import {name}, json, sys; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert {heavy for heavy in HEAVY if heavy in loaded} == set()
    assert len(loaded) < MOST_MODULES
