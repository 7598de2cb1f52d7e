"""The loss must not depend on how many devices or processes share a batch."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from micro_models import NAMES, loss_curve
from quick_commands import QUICKLY, with_devices

HERE = Path(__file__).parent
STEPS = 3
# Sums over the batch are added in another order.
TOLERANCE = 2e-5


@functools.cache
def on_one_device(name):
    return loss_curve(name, STEPS)


@pytest.mark.parametrize("name", NAMES)
def test_one_device_equals_eight(name):
    assert len(jax.devices()) == 8
    np.testing.assert_allclose(
        loss_curve(name, STEPS, jax.devices()), on_one_device(name), rtol=TOLERANCE
    )


@pytest.mark.slow
def test_one_process_equals_two():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        **QUICKLY,
        "XLA_FLAGS": with_devices(4),
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
    }
    command = [sys.executable, str(HERE / "micro_models.py")]
    processes = [
        subprocess.Popen(
            [*command, str(i), "2", str(port)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    try:
        results = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], results
    curves = json.loads(results[0][0].splitlines()[-1])
    for name in NAMES:
        np.testing.assert_allclose(curves[name], on_one_device(name), rtol=TOLERANCE, err_msg=name)
