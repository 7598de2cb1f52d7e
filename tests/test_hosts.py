"""Two processes, of four devices each or of one: they train what one trains, and survive being stopped in any way."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from genlab import hosts
from genlab.config import GenlabError
from genlab.data.batches import chain_digest

HERE = Path(__file__).parent
LIMIT_S = 400
# Sums over the batch and over split channels are added in another order.
TOLERANCE = 1e-4
STEPS = 16
SLOWLY = ("delay_s=0.2", f"steps={STEPS}", "save_every_steps=2")


def start(run_dir, family, *options, count=1, devices=4):
    """Start the processes of a run, each with so many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
    }
    together = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
    command = [sys.executable, str(HERE / "hosts_toy.py"), str(run_dir), family, *options]
    return [
        subprocess.Popen(
            command,
            env=common | (together | {"JAX_PROCESS_ID": str(number)} if count > 1 else {}),
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


def wait_for_step(run_dir, step, processes):
    deadline = time.time() + LIMIT_S
    while not (run_dir / "checkpoints" / str(step)).exists():
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        assert time.time() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process with one device makes of each family."""

    @functools.cache
    def train(family):
        return finish(start(tmp_path_factory.mktemp(family) / "run", family, f"steps={STEPS}", devices=1))

    return train


def test_two_processes_train_what_one_trains(tmp_path, alone):
    """Noise is drawn by row and the mesh splits batch, parameters and heads."""
    mesh = ("data=2", "tensor=2")
    one, two = alone("masked"), finish(start(tmp_path / "run", "masked", f"steps={STEPS}", *mesh, count=2))
    assert list(two["losses"]) == list(one["losses"]) == [str(step) for step in range(1, STEPS + 1)]
    losses = [[run["losses"][step] for step in one["losses"]] for run in (two, one)]
    np.testing.assert_allclose(*losses, rtol=TOLERANCE)
    assert two["batch_hash"] == one["batch_hash"]
    assert two["total"] == pytest.approx(one["total"], rel=TOLERANCE)
    hashes = (tmp_path / "run" / "batch_hashes.txt").read_text().split()
    assert len(hashes) == STEPS and functools.reduce(chain_digest, hashes, "") == one["batch_hash"]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "finished" and status["step"] == STEPS


def test_sigterm_to_one_stops_both_and_one_goes_on(tmp_path, alone):
    whole = alone("ar")
    processes = start(tmp_path / "cut", "ar", *SLOWLY, count=2, devices=1)
    wait_for_step(tmp_path / "cut", 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes, codes=(75,))
    assert all("SIGTERM: saved step" in err for _, err in outputs)
    saved = max(int(path.name) for path in (tmp_path / "cut" / "checkpoints").iterdir())
    assert json.loads((tmp_path / "cut" / "status.json").read_text())["state"] == "interrupted"
    # One process with another number of devices goes on, from the step that both agreed on.
    rest = finish(start(tmp_path / "cut", "ar", f"steps={STEPS}", "data=2", devices=2))
    assert min(map(int, rest["losses"])) == saved + 1 and saved < STEPS
    np.testing.assert_allclose(rest["losses"][str(STEPS)], whole["losses"][str(STEPS)], rtol=TOLERANCE)
    assert rest["batch_hash"] == whole["batch_hash"]


def test_killed_processes_go_on_as_two(tmp_path, alone):
    processes = start(tmp_path, "ar", *SLOWLY, count=2, devices=1)
    wait_for_step(tmp_path, 4, processes)
    for process in processes:
        process.kill()
        process.communicate()
    rest, whole = finish(start(tmp_path, "ar", f"steps={STEPS}", count=2, devices=1)), alone("ar")
    assert min(map(int, rest["losses"])) > 2
    np.testing.assert_allclose(rest["losses"][str(STEPS)], whole["losses"][str(STEPS)], rtol=TOLERANCE)
    assert rest["batch_hash"] == whole["batch_hash"]


def test_half_an_address_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(GenlabError, match="set all three or none"):
        hosts.join()
