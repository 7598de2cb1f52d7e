"""SIGTERM while several processes do something else than train: all end with 75 and say so."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from genlab.machine.stopping import EXIT_RESUME

BUSY = """
import time
from genlab.machine import hosts, liveness

hosts.join()
with liveness.shared_fate(), liveness.last_words(lambda: print("interrupted", flush=True)):
    hosts.wait_for_all("both are here")
    print("busy", flush=True)
    if hosts.is_leader():
        time.sleep(60)
    hosts.wait_for_all("what the leader scores")
"""


@pytest.mark.parametrize("number", [0, 1])
def test_sigterm_outside_training_ends_all_processes(number):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUSY],
            env=environ | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "busy\n"
        processes[number].send_signal(signal.SIGTERM)
        ended = [process.communicate(timeout=50) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, ended):
        assert process.returncode == EXIT_RESUME, err[-2000:]
        assert out == "interrupted\n"
        assert err.splitlines()[-1] == "genlab: stopped by SIGTERM; the same command resumes"
