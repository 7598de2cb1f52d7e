"""Two processes, of four devices each or of one: they train what one trains, and survive being
stopped in any way.
"""

import functools
import json
import signal
import time

import numpy as np
import pytest
from processes import LIMIT_S, finish, start

from genlab.config import GenlabError
from genlab.machine import hosts
from genlab.machine.stopping import EXIT_FAILED, EXIT_RESUME
from genlab.run.digests import chain_digest

# Sums over the batch and over split channels are added in another order.
TOLERANCE = 1e-4
STEPS = 16
SLOWLY = ("delay_s=0.2", f"steps={STEPS}", "save_every_steps=2")


def wait_for_step(run_dir, step, processes):
    deadline = time.time() + LIMIT_S
    while not (run_dir / "checkpoints" / str(step)).exists():
        assert all(process.poll() is None for process in processes), [
            process.communicate() for process in processes
        ]
        assert time.time() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process with one device makes of each family."""

    @functools.cache
    def train(family):
        return finish(
            start(tmp_path_factory.mktemp(family) / "run", family, f"steps={STEPS}", devices=1)
        )

    return train


def test_two_processes_train_what_one_trains(tmp_path, alone):
    """Noise is drawn by row and the mesh splits batch, parameters and heads."""
    mesh = ("data=2", "tensor=2")
    one, two = (
        alone("masked"),
        finish(start(tmp_path / "run", "masked", f"steps={STEPS}", *mesh, count=2)),
    )
    assert list(two["losses"]) == list(one["losses"]) == [str(step) for step in range(1, STEPS + 1)]
    losses = [[run["losses"][step] for step in one["losses"]] for run in (two, one)]
    np.testing.assert_allclose(*losses, rtol=TOLERANCE)
    assert two["batch_hash"] == one["batch_hash"]
    assert two["total"] == pytest.approx(one["total"], rel=TOLERANCE)
    hashes = (tmp_path / "run" / "batch_hashes.txt").read_text().split()
    assert len(hashes) == STEPS and functools.reduce(chain_digest, hashes, "") == one["batch_hash"]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "finished" and status["step"] == STEPS


@pytest.mark.slow
def test_sigterm_to_one_stops_both_and_one_goes_on(tmp_path, alone):
    whole = alone("ar")
    processes = start(tmp_path / "cut", "ar", *SLOWLY, count=2, devices=1)
    wait_for_step(tmp_path / "cut", 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes, codes=(75,))
    assert all("SIGTERM: saved step" in err for _, err in outputs)
    saved = max(int(path.name) for path in (tmp_path / "cut" / "checkpoints").iterdir())
    assert json.loads((tmp_path / "cut" / "status.json").read_text())["state"] == "interrupted"
    # One process with another number of devices continues from the step that both agreed on.
    rest = finish(start(tmp_path / "cut", "ar", f"steps={STEPS}", "data=2", devices=2))
    assert min(map(int, rest["losses"])) == saved + 1 and saved < STEPS
    np.testing.assert_allclose(
        rest["losses"][str(STEPS)], whole["losses"][str(STEPS)], rtol=TOLERANCE
    )
    assert rest["batch_hash"] == whole["batch_hash"]


def wait_for_end(process, killed):
    """Make sure that a process ends by itself, not when JAX gives up after 300 s, and asks to be
    started again.
    """
    _, err = process.communicate(timeout=120)
    killed.kill()
    assert process.returncode == EXIT_RESUME and "is gone" in err.strip().splitlines()[-1], err[
        -2000:
    ]


@pytest.mark.slow
def test_one_is_killed_the_other_ends_and_two_go_on(tmp_path, alone):
    processes = start(tmp_path, "ar", *SLOWLY, count=2, devices=1)
    wait_for_step(tmp_path, 4, processes)
    processes[1].kill()
    wait_for_end(processes[0], processes[1])
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "interrupted"
    rest, whole = finish(start(tmp_path, "ar", f"steps={STEPS}", count=2, devices=1)), alone("ar")
    assert min(map(int, rest["losses"])) > 2
    np.testing.assert_allclose(
        rest["losses"][str(STEPS)], whole["losses"][str(STEPS)], rtol=TOLERANCE
    )
    assert rest["batch_hash"] == whole["batch_hash"]


@pytest.mark.parametrize(("victim", "how"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_the_other_ends_when_the_leader_is_killed_or_a_host_falls_silent(tmp_path, victim, how):
    environ = {"GENLAB_HEARTBEAT_TIMEOUT_S": "6"}
    processes = start(tmp_path, "ar", *SLOWLY, count=2, devices=1, environ=lambda number: environ)
    wait_for_step(tmp_path, 2, processes)
    processes[victim].send_signal(how)
    wait_for_end(processes[1 - victim], processes[victim])


def test_one_that_fails_takes_the_other_with_it(tmp_path):
    processes = start(tmp_path, "ar", *SLOWLY, "failing_step=3", count=2, devices=1)
    (_, first), (_, second) = finish(processes, codes=(EXIT_FAILED,))
    assert "process 1 failed: OSError: the disk of this host is broken" in first
    assert "Traceback" in second


@pytest.mark.parametrize("value", ["soon", "0"])
def test_a_timeout_that_is_no_time_is_refused(monkeypatch, value):
    monkeypatch.setenv(hosts.TIMEOUT_VARIABLE, value)
    with pytest.raises(GenlabError, match="expected whole seconds"):
        hosts.heartbeat_timeout_s()


def test_half_an_address_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(GenlabError, match="set all three or none"):
        hosts.join()
