"""Starts the toy of hosts_toy.py as one process or as several that train together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from quick_commands import QUICKLY, with_devices

HERE = Path(__file__).parent
LIMIT_S = 400


def start(run_dir, family, *options, count=1, devices=4, environ=lambda number: {}):
    """Start the processes of a run, each with so many devices and its own variables."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        **QUICKLY,
        "XLA_FLAGS": with_devices(devices),
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
    }
    together = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
    command = [sys.executable, str(HERE / "hosts_toy.py"), str(run_dir), family, *options]
    return [
        subprocess.Popen(
            command,
            env=common
            | (together | {"JAX_PROCESS_ID": str(number)} if count > 1 else {})
            | environ(number),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def finish(processes, codes=(0,)):
    """Wait for all of them, and return what the leader printed."""
    try:
        outputs = [process.communicate(timeout=LIMIT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode in codes for process in processes), [
        (process.returncode, err[-2000:]) for process, (_, err) in zip(processes, outputs)
    ]
    return json.loads(outputs[0][0].splitlines()[-1]) if codes == (0,) else outputs
