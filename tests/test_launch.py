"""`genlab launch` against tools that only pretend: what is typed, in which order, and that a slice
is never left behind.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from bucket_server import BUCKET, serve_bucket
from cloud_toys import FakeTool
from comparison_toys import make_comparison

from genlab.cli import main
from genlab.launch import checks, errand, gcloud
from genlab.launch.checks import describe_cost, read_estimate
from genlab.launch.job import Job
from genlab.launch.slices import find_slice
from genlab.launch.tool import find_fix
from genlab.machine.stopping import EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_RESUME, EXIT_USER_ERROR

ROOT = Path(__file__).parents[1]
GOLDENS = Path(__file__).parent / "goldens"
ZONE = "us-west4-a"
ACTIVE = json.dumps({"state": {"state": "ACTIVE"}})
SUSPENDED = json.dumps({"state": {"state": "SUSPENDED", "stateInitiator": "SERVICE"}})
WAITING = json.dumps({"state": {"state": "WAITING_FOR_RESOURCES"}})
NOT_FOUND = {"err": "ERROR: (gcloud) NOT_FOUND: Resource was not found\n", "code": 1}
QUOTA = (
    "Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 "
    "in zone us-west4-a."
)
NEW, RUNNING, DONE = (f"genlab-job: {word}\n" * 4 for word in ("gone", "running", "0"))
# A slice that is given at once, and a run that ends.
GOOD = {
    "config get-value project": "my-project\n",
    "accelerator-types list": "v5litepod-16\nv5litepod-4\n",
    "queued-resources create": "",
    "queued-resources delete": "",
    "queued-resources describe": [NOT_FOUND, NOT_FOUND, WAITING, ACTIVE],
    "look.sh": [NEW, RUNNING, DONE],
    "": "",
}


@pytest.fixture(scope="module")
def environ():
    with pytest.MonkeyPatch.context() as patch, serve_bucket() as environ:
        for name, value in environ.items():
            patch.setenv(name, value)
        yield environ


@pytest.fixture
def place(environ, tmp_path, monkeypatch):
    """An empty folder to be in, with a config, a small source, and a PATH without any tool."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    source = tmp_path / "source"
    (source / "sweeps/cloud").mkdir(parents=True)
    (source / "pyproject.toml").write_text("[project]\n")
    (source / "constraints.txt").write_text("jax\n")
    shutil.copy(ROOT / "sweeps/cloud/tpu.yaml", source / "sweeps/cloud")
    (tmp_path / "tiny.json").write_text(json.dumps(make_comparison().to_dict()))
    for module in (errand, gcloud):
        monkeypatch.setattr(module, "POLL_S", 0.0)
    return tmp_path


@pytest.fixture
def tool(place):
    return FakeTool("gcloud", place / "bin", GOOD)


def launch(place, *more, tpu="v5litepod-16", zone=ZONE, bucket=None):
    """Run the command; every test has a prefix of its own in the bucket."""
    where = ["--tpu", tpu, "--zone", zone, "--bucket", bucket or f"gs://{BUCKET}/{place.name}"]
    fixed = ["--source", "source", "--no-estimate", "--out", "out"]
    return main(["launch", "tiny.json", *where, *fixed, *more])


def machine():
    return f"genlab-tiny-{make_comparison().digest(exclude={'settings'})}"


@pytest.fixture
def finished_run(place):
    """What a run leaves in the bucket."""
    import gcsfs

    files = gcsfs.GCSFileSystem(use_listings_cache=False, skip_instance_cache=True)
    name = machine().removeprefix("genlab-")
    run = f"{BUCKET}/{place.name}/{name}"
    status = {"state": "running", "step": 7, "steps": 10, "heartbeat": time.time()}
    files.pipe_file(f"{run}/arms/ar/seed0/status.json", json.dumps(status).encode())
    files.pipe_file(f"{run}/status.json", b'{"state": "finished", "step": 0}')
    files.pipe_file(f"{run}/report.html", b"<p>the report")
    files.pipe_file(f"{run}/arms/ar/seed0/checkpoints/7/data", b"large")
    return files


def only_line(capsys):
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("genlab launch: ")]
    assert len(lines) == 1 and told.endswith(f"{lines[0]}\n") and "Traceback" not in told
    return lines[0]


def shown(text, place):
    """Return output less what differs between two runs of the test."""
    return text.replace(place.name, "PREFIX").replace(str(place), "HERE").replace("/HERE", "HERE")


def printed_steps(text):
    """Return the words of every command that was printed before the scripts."""
    steps = text.split("# install.sh")[0]
    lines = [line for line in steps.splitlines() if line.startswith(("gcloud", "sky"))]
    return [tuple(shlex.split(line)) for line in lines]


def test_the_steps_are_printed_and_nothing_is_rented(place, tool, capsys, request):
    assert launch(place, "--spot", "--price-per-chip-hour", "1.25") == 0
    told = shown(capsys.readouterr().out, place)
    path = GOLDENS / "launch_gcloud.txt"
    if request.config.getoption("--update-goldens"):
        path.write_text(told)
    assert told == path.read_text()
    assert tool.verbs() == ["config", "accelerator-types", "describe"]


def test_what_is_printed_is_what_is_done(place, tool, finished_run, capsys):
    assert launch(place, "--spot") == 0
    steps = [words for words in printed_steps(capsys.readouterr().out) if "rsync" not in words]
    before = len(tool.calls)
    tool.answer(GOOD)
    assert launch(place, "--spot", "--yes", "--price-per-chip-hour", "1") == 0
    assert set(tool.calls[before:]) - set(tool.calls[:before]) <= set(steps)
    assert [words for words in steps if words not in tool.calls] == []
    done = tool.verbs()[before + 3 :]
    looks = ["describe", "look"]
    assert done == [
        *("describe", "create", "describe", "describe", "look", "scp", "install", "run"),
        *(*looks, *looks, "delete"),
    ]
    out, told = capsys.readouterr()
    assert "report:      out/run/report.html" in out and "deleted after 0.00 h, at most 0.0" in told
    assert "arms/ar/seed0: stopped, 7/10" in told
    assert (place / "out/run/report.html").read_text() == "<p>the report"
    assert not list(place.glob("out/run/**/checkpoints"))


def test_the_same_command_goes_on_with_a_running_slice(place, tool, finished_run):
    tool.answer({**GOOD, "queued-resources describe": ACTIVE, "look.sh": [RUNNING, RUNNING, DONE]})
    assert launch(place, "--yes") == 0
    done = set(tool.verbs())
    assert not {"create", "scp", "install", "run"} & done and "delete" in done


def test_a_slice_that_is_taken_away_is_replaced(place, tool, finished_run, capsys):
    states = [NOT_FOUND, NOT_FOUND, ACTIVE, ACTIVE, SUSPENDED, NOT_FOUND, ACTIVE]
    looks = [NEW, RUNNING, NEW, DONE]
    tool.answer({**GOOD, "queued-resources describe": states, "look.sh": looks})
    assert launch(place, "--spot", "--yes") == 0
    verbs = [verb for verb in tool.verbs() if verb in ("create", "install", "run", "delete")]
    assert verbs == ["create", "install", "run", "delete"] * 2
    assert "taken away; 4 more may be asked for" in capsys.readouterr().err


def test_too_many_that_are_taken_away_leave_a_run_that_resumes(place, tool, capsys):
    states = [NOT_FOUND, NOT_FOUND, ACTIVE, SUSPENDED]
    tool.answer({**GOOD, "queued-resources describe": states})
    assert launch(place, "--yes", "--attempts", "1") == EXIT_RESUME
    assert "taken away 1 times" in only_line(capsys) and tool.verbs()[-1] == "delete"


@pytest.mark.parametrize("when", ["asked", "queued"])
def test_a_quota_is_named_with_what_to_do(place, tool, capsys, when):
    if when == "asked":
        refusal = {"err": f"ERROR: (gcloud.create) RESOURCE_EXHAUSTED: {QUOTA}\n", "code": 1}
        tool.answer({**GOOD, "queued-resources create": refusal})
    else:
        failed = {"state": "FAILED", "failedData": {"error": {"code": 8, "message": QUOTA}}}
        states = [NOT_FOUND, NOT_FOUND, json.dumps({"state": failed})]
        tool.answer({**GOOD, "queued-resources describe": states})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    line = only_line(capsys)
    assert "TPUV5sPreemptibleLitepod" in line and "iam-admin/quotas" in line
    assert tool.verbs()[-1] == "delete", "a request that failed counts against the quota"


def test_a_host_that_cannot_be_reached_ends_it(place, tool, capsys):
    refusal = {"err": "ssh: connect to host 3: Connection refused\nERROR: [255]\n", "code": 1}
    tool.answer({**GOOD, "install.sh": refusal})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    assert "tcp:22" in only_line(capsys)
    assert tool.verbs().count("install") == gcloud.SSH_TRIES and tool.verbs()[-1] == "delete"


def test_a_host_that_is_still_starting_is_tried_again(place, tool, finished_run):
    refusal = {"err": "ERROR: Connection refused [255]\n", "code": 1}
    tool.answer({**GOOD, "scp": [refusal, ""]})
    assert launch(place, "--yes") == 0 and tool.verbs().count("scp") == 2


def test_a_request_that_hangs_is_ended_and_taken_back(place, tool, capsys, monkeypatch):
    monkeypatch.setattr(gcloud, "REQUESTS_S", 2.0)  # other calls get their time on a busy machine
    tool.answer({**GOOD, "queued-resources create": {"sleep": 600}})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    assert "no answer within 2 s: gcloud compute tpus queued-resources create" in only_line(capsys)
    assert tool.verbs()[-1] == "delete"


def test_a_host_that_lost_the_job_gets_it_again(place, tool, finished_run):
    lost = RUNNING + "genlab-job: gone\n"
    tool.answer({**GOOD, "look.sh": [NEW, lost, DONE]})
    assert launch(place, "--yes") == 0 and tool.verbs().count("run") == 2


def test_the_exit_code_of_the_comparison_is_ours(place, tool, capsys):
    ended = f"genlab-job: {EXIT_DIVERGED}\n" + "genlab-job: 75\n" * 3
    log = "step 12\ngenlab compare: arm 'ar': the loss became NaN\n"
    tool.answer({**GOOD, "look.sh": [NEW, ended], "tail": log})
    assert launch(place, "--yes") == EXIT_DIVERGED
    assert "the loss became NaN; more in out/host0.log" in only_line(capsys)
    assert (place / "out/host0.log").read_text() == log and tool.verbs()[-1] == "delete"


def interrupt(monkeypatch, answer=None):
    """Press Ctrl-C while the run is followed, at a terminal if there is an `answer`."""

    def press(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(errand, "sleep", press)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: answer is not None, raising=False)
    if answer is not None:
        monkeypatch.setattr("builtins.input", lambda: answer)


@pytest.mark.parametrize(("answer", "is_deleted"), [(None, True), ("", True), ("n", False)])
def test_ctrl_c_deletes_the_slice_unless_somebody_says_no(
    place, tool, capsys, monkeypatch, answer, is_deleted
):
    interrupt(monkeypatch, answer)
    states = [NOT_FOUND, NOT_FOUND, ACTIVE]
    tool.answer({**GOOD, "queued-resources describe": states})
    assert launch(place, "--yes") == EXIT_INTERRUPTED
    told = capsys.readouterr().err
    assert (tool.verbs()[-1] == "delete") == is_deleted
    assert ("billed until you delete it: gcloud compute tpus" in told) != is_deleted
    assert "the same command resumes" in told.splitlines()[-1]


def test_a_slice_is_kept_if_that_is_wanted(place, tool, finished_run, capsys):
    assert launch(place, "--yes", "--keep") == 0
    assert "delete" not in tool.verbs()
    command = f"gcloud compute tpus queued-resources delete {machine()} --zone={ZONE} --force"
    assert command in capsys.readouterr().err


def test_a_slice_that_cannot_be_deleted_is_shouted_about(place, tool, finished_run, capsys):
    tool.answer({**GOOD, "queued-resources delete": {"err": "ERROR: no network\n", "code": 1}})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    line = only_line(capsys)
    assert "MAY STILL RUN AND BE BILLED" in line and f"delete {machine()}" in line


def test_a_signal_ends_a_call_that_hangs_and_deletes_what_it_asked_for(place, tool):
    tool.answer({**GOOD, "queued-resources create": {"sleep": 600}})
    words = ["launch", "tiny.json", "--tpu", "v5litepod-16", "--zone", ZONE, "--source", "source"]
    words += ["--bucket", f"gs://{BUCKET}/{place.name}", "--out", "out", "--no-estimate", "--yes"]
    process = subprocess.Popen(
        [sys.executable, "-m", "genlab.cli", *words],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    while "create" not in tool.verbs() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=300)[1]
    assert process.returncode == EXIT_RESUME and tool.verbs()[-1] == "delete"
    assert "deleted after" in told and "the same command resumes" in told.splitlines()[-1]


def test_a_slice_of_another_size_is_not_taken_for_ours(place, tool, capsys):
    node = {"node": {"acceleratorType": "v5litepod-4"}}
    request = {**json.loads(ACTIVE), "tpu": {"nodeSpec": [node]}}
    tool.answer({**GOOD, "queued-resources describe": json.dumps(request)})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    assert "is already there and is a v5litepod-4; delete it first: `gcloud" in only_line(capsys)
    assert "delete" not in tool.verbs()


def test_without_the_compiler_nothing_is_estimated(place, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    job = Job(make_comparison(), f"gs://{BUCKET}", place / "out", place / "source")
    rented = find_slice("v6e-8", ZONE, is_spot=True, wait_hours=1)
    [(sign, text)], hours = checks.estimate(job, rented)
    assert (sign, hours) == ("--", None)
    assert text.startswith("memory and steps: not estimated; run `") and "[aot]" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"zone": "us-west4"}, "--zone 'us-west4': expected a zone such as us-central1-a"),
        ({"zone": "US-WEST4-A"}, "--zone"),
        ({"bucket": "s3://lab"}, "--bucket 's3://lab': expected a bucket and"),
        ({"bucket": "gs://lab/a b"}, "--bucket"),
        ({"bucket": "gs://lab/../x"}, "--bucket"),
        ({"bucket": "gs://elsewhere"}, "gs://elsewhere: no such bucket; run `gcloud storage"),
        ({"tpu": "v5litepod-17"}, "--tpu v5litepod-17: no slice of this size; known are"),
        ({"tpu": "h100-8"}, "--tpu h100-8: expected GENERATION-NUMBER"),
        ({"tpu": "v5e:4x4"}, "--tpu v5e:4x4: expected GENERATION-NUMBER as Google"),
        ({"tpu": "tpu7x-8"}, "rented through Google Kubernetes Engine only"),
        ({"tpu": "v6e-16"}, "zone us-west4-a has no v6e-16, but v5litepod-16, v5litepod-4"),
    ],
)
def test_what_cannot_be_rented_is_one_line(place, tool, capsys, options, told):
    assert launch(place, "--yes", **options) == EXIT_USER_ERROR
    assert told in only_line(capsys)
    assert not {"create", "delete"} & set(tool.verbs())


def test_a_missing_tool_and_project_are_named(place, capsys):
    assert launch(place) == EXIT_USER_ERROR
    assert "gcloud: not on PATH; install it: cloud.google.com" in only_line(capsys)
    assert launch(place, "--executor", "skypilot") == EXIT_USER_ERROR
    assert "sky: not on PATH; run `python -m pip install" in only_line(capsys)
    FakeTool("gcloud", place / "bin", {**GOOD, "config get-value project": "(unset)\n"})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    assert "run `gcloud config set project PROJECT`" in only_line(capsys)


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf"])
def test_a_price_is_a_number_above_zero(place, tool, capsys, price):
    assert launch(place, f"--price-per-chip-hour={price}") == EXIT_USER_ERROR
    assert "--price-per-chip-hour" in only_line(capsys) and tool.calls == []


def test_code_and_folders_must_be_in_the_source(place, tool, capsys):
    (place / "mine.py").write_text("")
    config = make_comparison().to_dict()
    config["data"]["corpus"] = {"kind": "folder", "path": "audio"}
    (place / "tiny.json").write_text(json.dumps(config))
    assert launch(place, "--yes") == EXIT_USER_ERROR
    assert "data.corpus.path audio: no host has this folder" in only_line(capsys)
    (place / "source/audio").mkdir()
    assert launch(place) == 0
    assert launch(place, "data.codec=mine.py") == EXIT_USER_ERROR
    assert "data.codec mine.py: not in" in only_line(capsys)


def test_the_archive_holds_source_config_and_scripts(place, tool):
    assert launch(place, "seeds=[3]") == 0
    with tarfile.open(place / "out/genlab_source.tar.gz") as archive:
        names = set(archive.getnames())
        text = archive.extractfile("genlab_launch/config.json").read()
    assert {"pyproject.toml", "sweeps/cloud/tpu.yaml", "genlab_launch/run.sh"} <= names
    assert json.loads(text)["seeds"] == [3]
    strange = place / "strange"
    strange.mkdir()
    (strange / "config.json").write_text("{}")
    assert launch(place, "--out", "strange") == EXIT_USER_ERROR
    assert (strange / "config.json").read_text() == "{}"


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock, as the hosts have")
def test_a_host_starts_again_what_asks_for_it_and_says_how_it_ended(place, tool):
    assert launch(place) == 0
    home = place / "home"
    scripts = home / "genlab_source/genlab_launch"
    scripts.mkdir(parents=True)
    with tarfile.open(place / "out/genlab_source.tar.gz") as archive:
        archive.extractall(home / "genlab_source", filter="data")
    program = home / "genlab_env/bin/genlab"
    program.parent.mkdir(parents=True)
    # Two ends with 75, then one with 3; looked at from within, it runs.
    look = f"bash {scripts}/look.sh"
    program.write_text(
        f'#!/bin/bash\necho "$@" >> ~/calls\n{look} >> ~/seen\n'
        "[ $(wc -l < ~/calls) -lt 3 ] && exit 75\nexit 3\n"
    )
    program.chmod(0o755)
    quick = home / "quick"
    quick.mkdir()
    (quick / "sleep").write_text("#!/bin/bash\n")
    (quick / "sleep").chmod(0o755)
    environ = {"HOME": str(home), "PATH": f"{quick}:/usr/local/bin:/usr/bin:/bin"}

    def bash(script):
        words = ["bash", str(scripts / script)]
        return subprocess.run(words, env=environ, capture_output=True, text=True, check=True).stdout

    host = f"genlab-host: {os.uname().nodename}\n"
    assert bash("look.sh") == f"genlab-job: gone\n{host}"
    bash("run.sh")
    assert bash("look.sh") == f"genlab-job: 3\n{host}"
    assert (home / "seen").read_text() == f"genlab-job: running\n{host}" * 3
    url = f"gs://{BUCKET}/{place.name}/{machine().removeprefix('genlab-')}"
    calls = (home / "calls").read_text().splitlines()
    assert calls == [f"compare genlab_launch/config.json --out {url}"] * 3


def test_names_and_numbers_of_slices():
    def find(tpu):
        found = find_slice(tpu, ZONE, is_spot=False, wait_hours=1)
        return found.accelerator, found.chips, found.runtime

    assert find("v5e-16") == find("v5litepod-16") == ("v5litepod-16", 16, "v2-alpha-tpuv5-lite")
    assert find("v6e-8") == ("v6e-8", 8, "v2-alpha-tpuv6e")
    assert find("v5p-16") == ("v5p-16", 8, "v2-alpha-tpuv5")
    assert find("v4-16") == ("v4-16", 8, "tpu-ubuntu2204-base")
    names = ("v5e-1", "v5e-8", "v5e-16", "v6e-8", "v6e-256", "v4-8", "v5p-8", "v5p-16", "v5p-1024")
    hosts = [find_slice(tpu, ZONE, is_spot=False, wait_hours=1).hosts for tpu in names]
    assert hosts == [1, 1, 4, 1, 64, 1, 1, 2, 128]
    # The task of sweeps names the same image.
    task = (ROOT / "sweeps/cloud/tpu.yaml").read_text()
    assert "tpu-v5litepod-16" in task and f"runtime_version: {find('v5e-16')[2]}" in task


def test_costs_are_products_of_what_was_given():
    rented = find_slice("v5p-16", ZONE, is_spot=True, wait_hours=1)
    assert "8 chips x 1.5 = 12.00 an hour; how many hours" in describe_cost(rented, 1.5, None)
    assert "at least 6.00 for the 30.0 min" in describe_cost(rented, 1.5, 0.5)
    assert "--price-per-chip-hour" in describe_cost(rented, None, 0.5)


def test_an_estimate_is_read_from_what_aot_writes():
    config = make_comparison("budget.mode=iso_step", "budget.train_flops=null", "budget.steps=1800")
    fits = {"config": "ar", "topology": "v5e:4x4", "fits": True, "hbm_bytes": 16 * 2**30}
    fits |= {"peak_bytes": 4 * 2**30, "estimate": {"step_s": 0.5}}
    findings, hours = read_estimate([fits, fits], config)
    assert hours == pytest.approx(2 * 1800 * 0.5 / 3600 * len(config.seeds))
    assert findings[0] == (
        "ok",
        "ar: training step on v5e:4x4 needs 4.00 GiB a chip (25%) and at least 0.5 s",
    )
    findings, hours = read_estimate([fits, {**fits, "fits": False}], config)
    assert hours is None and [sign for sign, _ in findings] == ["ok", "!!"]
    assert read_estimate([fits], make_comparison())[1] is None, "its steps are not known yet"


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        (QUOTA, "iam-admin/quotas"),
        ("There is no more capacity in the zone", "try again later"),
        ("Cloud TPU API has not been used in project 1 before", "gcloud services enable"),
        ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", "TPU Admin"),
        ("You do not currently have an active account selected.", "gcloud auth login"),
        ("something else", ""),
    ],
)
def test_words_of_errors_and_what_to_do(said, fix):
    assert fix in find_fix(said) and bool(find_fix(said)) == bool(fix)
