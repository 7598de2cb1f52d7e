"""A slice through SkyPilot: the job becomes a managed job, which rents, restarts and gives back.

The task is sweeps/cloud/tpu.yaml, the one that `genlab sweep run --executor skypilot` launches,
with this slice in its resources. Commands are those of SkyPilot 0.14.1
(docs.skypilot.co/en/latest/reference/cli.html): `sky jobs launch`, `queue --output json`, `cancel`.
SkyPilot keeps a small machine of its own for its jobs, which it stops when it is idle.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.launch.job import Job
from genlab.launch.rental import Finding, Rental, Say, Sight, Step
from genlab.launch.slices import Slice
from genlab.launch.tool import ToolError, call_tool, parse_answer
from genlab.machine.stopping import EXIT_FAILED, EXIT_OK
from genlab.run.shared import SCHEME
from genlab.run.stored import write_atomically
from genlab.sweeps.executors import cloud_files, cloud_places

ASKS_S = 300.0
LAUNCHES_S = 1800.0  # its own machine is made first
_WAITING = ("PENDING", "SUBMITTED", "STARTING", "RECOVERING", "WINDING_DOWN", "CANCELLING")
_LINES = {
    "infra": "  infra: gcp/{region}/{zone}",
    "accelerators": "  accelerators: tpu-{accelerator}",
    "runtime_version": "    runtime_version: {runtime}",
    "use_spot": "  use_spot: {spot}",
}


class SkyRental(Rental):
    """A managed job with the name of the job's machine."""

    tool = "sky"
    where_to_get = "run `python -m pip install 'genlab[cloud]'`, then `sky check gcp`"

    def __init__(self, rented: Slice, job: Job):
        super().__init__(rented, job)
        self.task_file = job.folder / "task.yaml"

    def steps(self) -> Sequence[Step]:
        """Return the commands in order."""
        return (
            Step("launch the managed job: it rents the slice and replaces it", self._launch()),
            Step("look, until its state is SUCCEEDED or it failed", self._queue()),
            Step("end the job early, which gives the slice back", self._cancel()),
        )

    def check(self) -> Iterator[Finding]:
        """Yield whether SkyPilot may use Google's cloud, and whether the job is already there."""
        call_tool(("sky", "check", "gcp"), ASKS_S)
        yield "ok", "sky check gcp: enabled"
        if state := self._state():
            yield "--", f"the job {self.job.machine} is already there ({state})"

    def write_task(self) -> Path:
        """Write the task beside the job's other files and return its path.

        Raises:
            GenlabError: if the source's own task lacks one of the lines that are changed.
        """
        path = self.job.source / "sweeps" / "cloud" / "tpu.yaml"
        values = {**self.rented._asdict(), "region": self.rented.region}
        values["spot"] = str(self.rented.is_spot).lower()
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise GenlabError(f"{path}: {error.strerror}; expected SkyPilot's task") from None
        except UnicodeDecodeError:
            raise GenlabError(f"{path}: no text in UTF-8; expected SkyPilot's task") from None
        for name, line in _LINES.items():
            text, count = re.subn(rf"(?m)^ +{name}:.*$", line.format(**values), text)
            if count != 1:
                raise GenlabError(f"{path}: expected one line {name!r}, got {count}")
        mounts = cloud_files(self.job.config_file)
        text = re.sub(r"(?m)^workdir: .*$", f"workdir: {json.dumps(str(self.job.source))}", text)
        write_atomically(self.task_file, f"{text}\nfile_mounts: {json.dumps(mounts)}\n")
        return self.task_file

    def begin(self, say: Say) -> None:
        """Launch the job unless it is there."""
        if self._state() in (*_WAITING, "RUNNING"):
            say(f"{self.job.machine}: the job is there; following it")
            return
        say(f"{self.job.machine}: launching the job")
        self.write_task()
        call_tool(self._launch(), LAUNCHES_S)
        say(f"{self.job.machine}: launched; its run directory is {self.job.url}")

    def look(self) -> Sight:
        """Return what SkyPilot says; a preempted slice is its own business."""
        state = self._state()
        if state in (None, *_WAITING):
            return Sight("waiting")
        if state == "RUNNING":
            return Sight("running")
        return Sight("ended", EXIT_OK if state == "SUCCEEDED" else EXIT_FAILED)

    def last_words(self) -> str:
        """Return the end of the job's log."""
        words = ("sky", "jobs", "logs", "--name", self.job.machine, "--no-follow")
        try:
            return call_tool(words, ASKS_S)
        except ToolError:
            return ""

    def end(self) -> None:
        """Cancel the job if it has not ended; SkyPilot then deletes the slice."""
        if self._state() in (*_WAITING, "RUNNING"):
            call_tool(self._cancel(), ASKS_S)

    @property
    def end_command(self) -> str:
        """The command that cancels the job."""
        return shlex.join(self._cancel())

    def _state(self) -> str | None:
        """Return the state of the newest job of this name, None without one."""
        answer = call_tool(self._queue(), ASKS_S)
        jobs = parse_answer(answer or "[]", self._queue())
        if not isinstance(jobs, list):
            raise ToolError(f"{shlex.join(self._queue())}: expected a list, got {shorten(jobs)}")
        ours = [job for job in jobs if isinstance(job, dict) and _is_named(job, self.job.machine)]
        if not ours:
            return None
        newest = max(ours, key=_number_of)
        return str(newest.get("status", "UNKNOWN")).rpartition(".")[2]

    def _launch(self) -> tuple[str, ...]:
        job = self.job
        places = cloud_places(job.name, job.named)
        places["BUCKET"] = job.bucket.removeprefix(SCHEME)
        told = [word for name, text in places.items() for word in ("--env", f"{name}={text}")]
        head = ("sky", "jobs", "launch", str(self.task_file), "--name", job.machine)
        return (*head, *told, "--detach-run", "--yes")

    def _queue(self) -> tuple[str, ...]:
        return ("sky", "jobs", "queue", "--refresh", "--output", "json")

    def _cancel(self) -> tuple[str, ...]:
        return ("sky", "jobs", "cancel", "--name", self.job.machine, "--yes")


def _is_named(job: Mapping[str, JsonValue], name: str) -> bool:
    return name in (job.get("job_name"), job.get("name"))


def _number_of(job: Mapping[str, JsonValue]) -> int:
    """Return the number of a job: later ones have larger numbers."""
    number = job.get("job_id")
    return number if isinstance(number, int) else 0
