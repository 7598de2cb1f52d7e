"""Whole processes are started, killed and started again: the end must be the same, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENV = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
LIMIT_S = 300
# Slow reading makes a run of a second, so that signals find it in the middle.
SLOW = ("steps=60", "delay_s=0.004", "save_every_steps=10")


def start(run_dir, *options):
    command = [sys.executable, str(HERE / "train_toy.py"), str(run_dir), *SLOW, *options]
    return subprocess.Popen(
        command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(run_dir, *options):
    process = start(run_dir, *options)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]), err


def wait_for(condition, process, limit_s=LIMIT_S):
    deadline = time.time() + limit_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline, "the run never got there"
        time.sleep(0.001)


def steps_saved(run_dir):
    root = run_dir / "checkpoints"
    return {int(name) for name in os.listdir(root) if name.isdigit()} if root.exists() else set()


def is_saving(run_dir):
    root = run_dir / "checkpoints"
    return root.exists() and any("tmp" in name for name in os.listdir(root))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole")
    return run_dir, finish(run_dir)[0]


@pytest.fixture
def starting(tmp_path):
    """Yields a function that starts a process; what still runs at the end of the test is killed."""
    processes = []

    def start_one(*options):
        processes.append(start(tmp_path, *options))
        return processes[-1]

    yield start_one
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def kill_now(process):
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_kill_9_twice_and_a_flipped_byte(tmp_path, whole, starting):
    first = starting()
    wait_for(lambda: steps_saved(tmp_path), first)
    time.sleep(0.3 * random.random())
    kill_now(first)

    second, seen = starting(), max(steps_saved(tmp_path))
    wait_for(lambda: len(steps_saved(tmp_path)) == 2 and max(steps_saved(tmp_path)) > seen, second)
    wait_for(lambda: is_saving(tmp_path), second)
    kill_now(second)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "running" and status["attempt"] == 2, (
        "it never had the time to say goodbye"
    )

    newest = max(steps_saved(tmp_path))
    # small arrays lie in one of several files
    for path in (tmp_path / f"checkpoints/{newest}/params").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    result, err = finish(tmp_path)
    assert f"checkpoint {newest} is damaged" in err
    assert result == whole[1]
    assert (tmp_path / "batch_hashes.txt").read_bytes() == (
        whole[0] / "batch_hashes.txt"
    ).read_bytes()
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "finished" and status["attempt"] == 3
    assert not is_saving(tmp_path), "what the killed save left is gone"


def test_a_second_process_is_refused_and_sigterm_saves(tmp_path, whole, starting):
    first = starting("save_every_steps=1000")
    wait_for(lambda: (tmp_path / "status.json").exists(), first)
    first.send_signal(signal.SIGSTOP)  # keeps the lock for as long as the second one takes
    second = starting()
    _, err = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 4 and f"process {first.pid} on" in err

    first.terminate()
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=LIMIT_S)
    assert first.returncode == 75, err
    assert "SIGTERM: saved step" in err
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "interrupted" and 0 < status["step"] < 60
    assert steps_saved(tmp_path) == {status["step"]}
    assert finish(tmp_path)[0] == whole[1]


def test_the_other_nnx_mode_gives_the_same(tmp_path, whole, monkeypatch):
    monkeypatch.setitem(ENV, "NNX_GRAPH_MODE", "false")
    monkeypatch.setitem(ENV, "NNX_GRAPH_UPDATES", "false")
    assert finish(tmp_path)[0] == whole[1]
