"""Parts of `genlab launch` one by one, on what is hard to bring about with a whole command."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from cloud_toys import FakeTool
from test_launch import (
    ACTIVE,
    GOOD,
    NEW,
    NOT_FOUND,
    ROOT,
    RUNNING,
    environ,
    finished_run,
    launch,
    machine,
    only_line,
    place,
    tool,
)

from genlab.config import GenlabError
from genlab.launch import gcloud, job
from genlab.launch.errand import SILENT_S, Wishes, _give_back, _giving_back, _tell
from genlab.launch.remote import RemoteRun
from genlab.launch.tool import ToolError, call_tool, parse_answer
from genlab.machine.stopping import EXIT_DIVERGED, EXIT_FAILED, EXIT_USER_ERROR

__all__ = ["environ", "finished_run", "place", "tool"]  # fixtures


class Notes(list):
    """Progress that keeps its notes."""

    def note(self, text):
        self.append(text)

    def __call__(self, name, step, steps):
        self.append(f"{name} {step}/{steps}")


class Rental:
    """A slice that is deleted by `end`, which does what it is told first."""

    end_command, holds = "gcloud delete", True

    def __init__(self, first=lambda: None):
        self.job = type("Job", (), {"machine": "genlab-toy"})
        self.first, self.ended = first, 0

    def end(self):
        self.first()
        self.ended += 1


class Statuses:
    url = "gs://lab/run"

    def __init__(self, *ages):
        self.ages = ages

    def statuses(self):
        now = time.time()
        places = ("", "arms/ar/seed0", "arms/masked/seed0")
        return {name: {"heartbeat": now - age} for name, age in zip(places, self.ages)}


def test_a_run_is_silent_when_nothing_beats_and_that_is_told_once():
    """An arm that has ended beats no more, while the others do."""
    notes = Notes()
    assert not _tell(Statuses(SILENT_S - 60, 10 * SILENT_S), notes, False) and notes == []
    assert _tell(Statuses(SILENT_S + 60, 10 * SILENT_S), notes, False)
    assert notes == ["gs://lab/run: no heartbeat for 11 min"]
    assert _tell(Statuses(2 * SILENT_S), notes, True) and len(notes) == 1
    assert not _tell(Statuses(), notes, False), "a run that has not begun is not silent"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_cut_the_deletion_short(number):
    notes, before = Notes(), signal.getsignal(number)
    rental = Rental(lambda: os.kill(os.getpid(), number))
    _give_back(rental, notes)
    assert rental.ended == 1 and "still deleting the slice; please wait" in notes
    assert signal.getsignal(number) is before


def test_a_slice_is_given_back_whatever_ends_the_errand():
    for error in (RuntimeError, SystemExit, GenlabError, MemoryError):
        rental, notes = Rental(), Notes()
        with pytest.raises(error), _giving_back(rental, Wishes(1, False, 36.0), notes):
            raise error("x")
        assert rental.ended == 1 and "deleted after 0.00 h, at most 0.0" in notes[-1]
    assert Wishes(1, False, 8.0).spent(1.5) == "1.50 h, at most 12.00"


def test_a_call_has_a_session_of_its_own_and_no_terminal():
    """So Ctrl-C reaches this process alone, and nothing can ask."""
    code = "import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read() == '')"
    assert call_tool((sys.executable, "-c", code), 60) == "True True\n"


@pytest.mark.parametrize("answer", ["", "no JSON", "[" * 100_000, "{", "[1, 2"])
def test_an_answer_that_is_no_json_is_an_error_of_the_tool(answer):
    with pytest.raises(ToolError, match=r"^sky 'jobs queue': expected JSON, got "):
        parse_answer(answer, ("sky", "jobs queue"))
    assert parse_answer("[1, null]", ()) == [1, None]


def test_a_bucket_that_changes_what_is_written_is_refused(monkeypatch):
    class Files:
        def pipe_file(self, url, content, **more):
            self.content = content

        def cat_file(self, url):
            return self.content[:-1]

        def rm_file(self, url):
            pass

    monkeypatch.setattr("genlab.launch.remote.open_bucket", Files)
    with pytest.raises(GenlabError, match="did not come back as it was written"):
        RemoteRun("gs://lab/run").check("gs://lab")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_what_git_ignores_is_not_sent_away(tmp_path):
    """Keys lie in files that are ignored; what is new and not ignored is part of the work."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("secret.txt\nruns/\n")
    (tmp_path / "runs").mkdir()
    for name in ("pyproject.toml", "new.py", "secret.txt", "runs/config.json"):
        (tmp_path / name).write_text("")
    found = {path.relative_to(tmp_path).as_posix() for path in job._files_of(tmp_path)}
    assert found == {".gitignore", "pyproject.toml", "new.py"}


def test_code_is_named_by_its_path_from_the_source(place, tool, capsys):
    """The hosts have the source elsewhere, so a path from the root leads nowhere there."""
    mine = place / "source/mine.py"
    mine.write_text("")
    assert launch(place, f"data.codec={mine}") == EXIT_USER_ERROR
    assert "name it by its path from there" in only_line(capsys) and tool.calls == []


@pytest.mark.parametrize("zone", ["us-west4-ab", "us-west4-a;x", "x us-west4-a", "us-west4-a\n"])
def test_what_only_begins_or_ends_as_a_zone_is_none(place, tool, capsys, zone):
    assert launch(place, zone=zone) == EXIT_USER_ERROR
    assert "--zone" in only_line(capsys) and tool.calls == []


def test_a_request_that_vanished_is_a_slice_that_was_taken_away(place, tool, finished_run):
    states = [NOT_FOUND, NOT_FOUND, ACTIVE, NOT_FOUND, NOT_FOUND, ACTIVE]
    tool.answer({**GOOD, "queued-resources describe": states})
    assert launch(place, "--yes", "--spot") == 0
    assert [verb for verb in tool.verbs() if verb == "create"] == ["create"] * 2


def test_one_host_that_failed_fails_the_run(place, tool):
    ended = f"genlab-job: 0\ngenlab-job: {EXIT_DIVERGED}\n"
    tool.answer({**GOOD, "look.sh": [NEW, ended], "tail": "NaN\n"})
    assert launch(place, "--yes") == EXIT_DIVERGED


def test_a_job_that_is_lost_again_and_again_is_given_up(place, tool, monkeypatch, capsys):
    monkeypatch.setattr(gcloud, "STARTS", 2)
    tool.answer({**GOOD, "look.sh": NEW, "tail": "Killed\n"})
    assert launch(place, "--yes") == EXIT_FAILED
    assert tool.verbs().count("run") == 3 and tool.verbs()[-1] == "delete"
    assert "Killed; more in out/host0.log" in only_line(capsys)


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock, as the hosts have")
def test_a_host_that_is_told_to_start_twice_runs_once(tmp_path):
    """The second start finds the lock taken, and neither waits nor starts."""
    text = job.RUN.format(bucket="gs://lab", starts=3, command="compare", resume=75)
    (tmp_path / "run.sh").write_text(text)
    (tmp_path / "genlab_source").mkdir()
    program = tmp_path / "genlab_env/bin/genlab"
    program.parent.mkdir(parents=True)
    program.write_text(
        "#!/bin/bash\necho run >> ~/calls\ntimeout 20 bash ~/run.sh\necho $? >> ~/again\n"
    )
    program.chmod(0o755)
    environ = {"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    subprocess.run(["bash", str(tmp_path / "run.sh")], env=environ, check=True, timeout=120)
    assert (tmp_path / "calls").read_text() == "run\n"
    assert (tmp_path / "again").read_text() == "0\n"
    assert (tmp_path / "genlab_launch.exit").read_text() == "0\n"


def test_the_toys_answer_what_the_tests_are_about(place):
    """A fake tool repeats its last answer, and the first part that matches counts."""
    fake = FakeTool("sky", place / "bin", {"jobs queue": ["one", "two"], "": {"code": 3}})
    words = (str(place / "bin/sky"), "jobs", "queue")
    assert [call_tool(words, 60) for _ in range(3)] == ["one", "two", "two"]
    with pytest.raises(GenlabError, match="exit code 3"):
        call_tool((str(place / "bin/sky"), "other"), 60)
    assert len(fake.calls) == 4 and machine() and RUNNING and ROOT.is_dir()
