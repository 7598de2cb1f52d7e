"""`genlab launch --executor skypilot`, against a `sky` that only pretends and, where it is
installed, SkyPilot's own parser.
"""

import json

import pytest
from bucket_server import BUCKET
from cloud_toys import FakeTool
from test_launch import (
    ROOT,
    environ,
    finished_run,
    interrupt,
    launch,
    machine,
    only_line,
    place,
    printed_steps,
)

from genlab.machine.stopping import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR

__all__ = ["environ", "finished_run", "place"]  # fixtures


def queue(*states):
    """Return what `sky jobs queue` answers: ours in these states, and somebody else's."""
    other = {"job_id": 1, "job_name": "other", "status": "RUNNING"}
    ours = [
        {"job_id": 2 + number, "job_name": machine(), "status": state}
        for number, state in enumerate(states)
    ]
    return json.dumps([*reversed(ours), other])


NOTHING = queue()
GOOD = {
    "sky check gcp": "",
    "sky jobs queue": [NOTHING, NOTHING, queue("PENDING"), queue("RUNNING"), queue("SUCCEEDED")],
    "sky jobs launch": "",
    "sky jobs cancel": "",
}


@pytest.fixture
def tool(place):
    return FakeTool("sky", place / "bin", GOOD)


def verbs(tool):
    return [words[2] if words[1] == "jobs" else words[1] for words in tool.calls]


def run(place, *more, **options):
    return launch(place, "--executor", "skypilot", "--spot", *more, **options)


def test_the_job_is_launched_followed_and_not_cancelled(place, tool, finished_run, capsys):
    assert run(place) == 0
    [command, look, cancel] = [
        words for words in printed_steps(capsys.readouterr().out) if "rsync" not in words
    ]
    assert verbs(tool) == ["check", "queue"]
    tool.answer(GOOD)
    assert run(place, "--yes") == 0
    told = ["check", "queue", "queue", "launch", *["queue"] * 3, "queue"]
    assert verbs(tool)[2:] == told and {command, look} <= set(tool.calls)
    assert cancel == ("sky", "jobs", "cancel", "--name", machine(), "--yes")
    environ = dict(word.split("=", 1) for word in command if "=" in word)
    assert environ == {
        "CONFIG": "/tmp/genlab_launch/config.json",
        "RUN": machine().removeprefix("genlab-"),
        "NAMED": "",
        "BUCKET": f"{BUCKET}/{place.name}",
    }
    assert (place / "out/run/report.html").exists()


def test_a_job_that_is_there_is_followed(place, tool, finished_run):
    tool.answer(
        {**GOOD, "sky jobs queue": [queue("FAILED", "RECOVERING")] * 3 + [queue("SUCCEEDED")]}
    )
    assert run(place, "--yes") == 0 and "launch" not in verbs(tool)


def test_what_else_a_queue_holds_is_left_alone(place, tool, finished_run):
    """Jobs without a number, and what is no job; ours with a number is the newest."""
    odd = [3, None, "job", {"job_name": machine(), "status": "FAILED", "job_id": "x"}]
    ours = [{"name": machine(), "status": "ManagedJobStatus.SUCCEEDED", "job_id": 2}]
    tool.answer({**GOOD, "sky jobs queue": [NOTHING, NOTHING, json.dumps(odd + ours)]})
    assert run(place, "--yes") == 0


def test_a_job_that_fails_is_ours(place, tool, capsys):
    states = [NOTHING, NOTHING, queue("FAILED_SETUP")]
    log = {"sky jobs logs": "error: no space left\n"}
    tool.answer({**GOOD, **log, "sky jobs queue": states})
    assert run(place, "--yes") == EXIT_FAILED
    assert "error: no space left; more in out/host0.log" in only_line(capsys)


def test_ctrl_c_cancels_the_job(place, tool, capsys, monkeypatch):
    interrupt(monkeypatch)
    tool.answer({**GOOD, "sky jobs queue": [NOTHING, NOTHING, queue("RUNNING")]})
    assert run(place, "--yes") == EXIT_INTERRUPTED and verbs(tool)[-1] == "cancel"
    assert "deleted after" in capsys.readouterr().err


def test_what_sky_cannot_do_is_one_line(place, tool, capsys):
    refusal = {"err": "GCP: disabled\n    Reason: permission_denied\n", "code": 1}
    tool.answer({**GOOD, "sky check gcp": refusal})
    assert run(place, "--yes") == EXIT_USER_ERROR and "TPU Admin" in only_line(capsys)
    for answer, told in (
        ("no JSON", "expected JSON, got"),
        ("null", "sky jobs queue --refresh --output json: expected a list, got None"),
        ('{"jobs": []}', "expected a list, got {'jobs': []}"),
    ):
        tool.answer({**GOOD, "sky jobs queue": answer})
        assert run(place, "--yes") == EXIT_USER_ERROR and told in only_line(capsys)
    (place / "source/sweeps/cloud/tpu.yaml").write_text("name: genlab\n")
    assert run(place) == EXIT_USER_ERROR and "expected one line 'infra'" in only_line(capsys)


def test_the_task_is_the_one_of_sweeps_with_another_slice(place, tool):
    assert run(place, tpu="v6e-8", zone="us-east5-b") == 0
    text = (place / "out/task.yaml").read_text()
    before = set((ROOT / "sweeps/cloud/tpu.yaml").read_text().splitlines())
    changed = [line for line in text.splitlines() if line and line not in before]
    mounts = {"/tmp/genlab_launch/config.json": str(place / "out/config.json")}
    assert changed == [
        "  infra: gcp/us-east5/us-east5-b",
        "  accelerators: tpu-v6e-8",
        "    runtime_version: v2-alpha-tpuv6e",
        f"workdir: {json.dumps(str(place / 'source'))}",
        f"file_mounts: {json.dumps(mounts)}",
    ]
    sky = pytest.importorskip("sky", reason="its parser: python -m pip install 'genlab[cloud]'")
    task = sky.Task.from_yaml(str(place / "out/task.yaml"))
    [resources] = task.resources
    assert resources.accelerators == {"tpu-v6e-8": 1} and resources.use_spot
    assert (resources.region, resources.zone) == ("us-east5", "us-east5-b")
    assert task.file_mounts == mounts
