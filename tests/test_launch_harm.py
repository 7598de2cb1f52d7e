"""What `genlab launch` must not do, whatever a cloud answers: leave a slice billed, delete another
one's, or write over somebody's files.
"""

import shlex
from types import SimpleNamespace

import pytest
from test_launch import (  # noqa: F401  # fixtures
    ACTIVE,
    GOOD,
    NEW,
    NOT_FOUND,
    environ,
    finished_run,
    launch,
    only_line,
    place,
    tool,
)

from genlab.launch import gcloud
from genlab.launch.slices import find_slice
from genlab.machine.stopping import EXIT_USER_ERROR


@pytest.mark.parametrize(
    "said", ["The credential file [/x.json] was not found.", "key not found in config"]
)
def test_what_else_is_not_found_is_no_deleted_slice(place, tool, finished_run, capsys, said):  # noqa: F811
    tool.answer({**GOOD, "queued-resources delete": {"err": f"ERROR: {said}\n", "code": 1}})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    assert "MAY STILL RUN AND BE BILLED" in only_line(capsys)


def test_a_look_that_fails_takes_no_slice_away(place, tool, finished_run):  # noqa: F811
    fails = {"err": "ERROR: The credential file [/x.json] was not found.\n", "code": 1}
    states = [NOT_FOUND, NOT_FOUND, ACTIVE, fails, ACTIVE]
    tool.answer({**GOOD, "queued-resources describe": states})
    assert launch(place, "--yes") == 0
    assert tool.verbs().count("create") == tool.verbs().count("delete") == 1


def test_a_slice_that_another_errand_asked_for_is_left_alone(place, tool, capsys):  # noqa: F811
    taken = {"err": "ERROR: (gcloud) ALREADY_EXISTS: Resource already exists\n", "code": 1}
    tool.answer({**GOOD, "queued-resources create": taken})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    assert "somebody asked for it just now and it is left alone" in only_line(capsys)
    assert "delete" not in tool.verbs()


def test_a_request_that_failed_otherwise_is_deleted(place, tool):  # noqa: F811
    tool.answer({**GOOD, "queued-resources create": {"err": "ERROR: broken pipe\n", "code": 1}})
    assert launch(place, "--yes") == EXIT_USER_ERROR and tool.verbs()[-1] == "delete"


def test_success_is_what_all_hosts_say(place, tool, finished_run):  # noqa: F811
    one_silent = "genlab-job: 0\n" * 3
    tool.answer({**GOOD, "look.sh": [NEW, one_silent, one_silent, "genlab-job: 0\n" * 4]})
    assert launch(place, "--yes") == 0
    assert tool.verbs().count("look") == 4 and tool.verbs()[-1] == "delete"


def test_a_host_that_stays_silent_is_no_success(place, tool, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(gcloud, "MISSED", 2)
    tool.answer({**GOOD, "look.sh": [NEW, "genlab-job: 0\n" * 3]})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    told = only_line(capsys)
    assert "3 of 4 hosts say that the comparison ended well, the others nothing" in told
    assert tool.verbs().count("look") == 4 and tool.verbs()[-1] == "delete"


@pytest.mark.parametrize(
    "tpu", ["v5p-" + "9" * 5000, "v5litepod-\u0661\u0666", "v\u0665e:4x4", "v5e:4x" + "4" * 5000]
)
def test_a_size_that_is_none_is_refused_in_one_line(place, tool, capsys, tpu):  # noqa: F811
    assert launch(place, tpu=tpu) == EXIT_USER_ERROR
    told = only_line(capsys)
    assert "--tpu" in told and "expected GENERATION-NUMBER" in told and len(told) < 400
    assert tool.calls == []


def test_what_is_to_be_typed_is_quoted():
    slice_ = find_slice("v5litepod-16", "us-central1-a", is_spot=False, wait_hours=1)
    job = SimpleNamespace(machine="genlab-x", name="x")
    rental = gcloud.GcloudRental(slice_, job, "my project; rm -rf ~")
    assert shlex.split(rental.end_command)[5:8] == [
        "genlab-x",
        "--zone=us-central1-a",
        "--project=my project; rm -rf ~",
    ]


@pytest.mark.parametrize(("heard", "silent"), [((0, 1, 3), "host 2"), ((1, 3), "hosts 0, 2")])
def test_hosts_that_stay_silent_are_named(place, tool, monkeypatch, capsys, heard, silent):  # noqa: F811
    monkeypatch.setattr(gcloud, "MISSED", 2)
    said = "".join(f"genlab-job: 0\ngenlab-host: t1v-n-0a-w-{number}\n" for number in heard)
    tool.answer({**GOOD, "look.sh": [NEW, said]})
    assert launch(place, "--yes") == EXIT_USER_ERROR
    told = only_line(capsys)
    assert f"{len(heard)} of 4 hosts say that the comparison ended well, {silent} nothing" in told


@pytest.mark.parametrize("image", ["\\9", "v2\nrun: rm", "v2 # x", "v2: [", "v\u0662", "-v2"])
@pytest.mark.parametrize("executor", ["gcloud", "skypilot"])
def test_an_image_that_is_none_is_refused_in_one_line(place, tool, capsys, image, executor):  # noqa: F811
    words = (f"--runtime-version={image}", "--executor", executor)
    assert launch(place, *words) == EXIT_USER_ERROR
    told = only_line(capsys)
    assert "--runtime-version" in told and "expected a system image" in told
    assert tool.calls == [] and not (place / "out").exists()


def test_the_log_of_a_failed_run_takes_nobodys_place(place, tool, capsys):  # noqa: F811
    before = (place / "tiny.json").read_text()
    (place / "out").mkdir()
    (place / "out/host0.log").symlink_to(place / "tiny.json")
    (place / "out/host0-2.log").write_text("mine")
    tool.answer({**GOOD, "look.sh": [NEW, "genlab-job: 3\n" * 4], "tail": "boom\n"})
    assert launch(place, "--yes") == 3
    assert "boom; more in out/host0-3.log" in only_line(capsys)
    assert (place / "tiny.json").read_text() == before
    assert (place / "out/host0-2.log").read_text() == "mine"


@pytest.mark.parametrize(("said", "code"), [("256", 255), ("999", 255), ("3", 3)])
def test_a_code_that_a_shell_would_take_for_success_is_none(place, tool, said, code):  # noqa: F811
    ended = f"genlab-job: {said}\n" * 4
    tool.answer({**GOOD, "look.sh": [NEW, ended], "tail": "\n"})
    assert launch(place, "--yes") == code


def test_a_place_that_is_taken_is_refused_before_anything_is_rented(place, tool, capsys):  # noqa: F811
    (place / "out/run").mkdir(parents=True)
    (place / "out/run/report.html").write_text("mine")
    assert launch(place, "--yes") == EXIT_USER_ERROR
    assert "report.html" in only_line(capsys) and "create" not in tool.verbs()


def test_codes_are_told_from_other_words():
    lines = ["genlab-job: running", f"genlab-job: {'9' * 5000}", "genlab-job: ٣", "genlab-job: 75"]
    assert gcloud.SIGHT.findall("\n".join(lines)) == ["running", "75"]
