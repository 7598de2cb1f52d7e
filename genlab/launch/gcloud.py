"""A slice through `gcloud`: a queued resource, its hosts over SSH.

The commands are those of Google's reference, read 2026-11 and compared with Cloud SDK's own
definitions:

- docs.cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources/create, describe, delete
- docs.cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm/ssh (`--worker=all --command`), scp
- docs.cloud.google.com/sdk/gcloud/reference/compute/tpus/accelerator-types/list
- docs.cloud.google.com/tpu/docs/queued-resources for the states of a request

A request that has ended (FAILED, SUSPENDED) still counts against the quota until it is deleted.
"""

import shlex
import time
from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.launch.job import ARCHIVE, HOST, SCRIPTS, SIGHT, STARTS, Job
from genlab.launch.rental import Finding, Rental, Say, Sight, Step
from genlab.launch.slices import Slice
from genlab.launch.tool import ToolError, call_tool, find_fix, parse_answer
from genlab.machine.stopping import EXIT_FAILED, EXIT_OK

POLL_S = 20.0
ASKS_S = 120.0  # a question
REQUESTS_S = 300.0  # which does not wait for its outcome
COPIES_S = 900.0
INSTALLS_S = 1800.0
DELETES_S = 1200.0
SSH_TRIES = 3  # hosts that are ACTIVE may still be starting their SSH
MISSED = 15  # polls without a trace of the request, or of the job on a host
MOST_SHOWN = 8  # hosts
_ENDED = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")
_TPUS = ("gcloud", "compute", "tpus")


class GcloudRental(Rental):
    """A queued resource with one node; both have the name of the job's machine."""

    tool = "gcloud"
    where_to_get = "install it: cloud.google.com/sdk/docs/install"

    def __init__(self, rented: Slice, job: Job, project: str = ""):
        super().__init__(rented, job)
        # Nobody is there to answer a question, for example about a new SSH key.
        self._at = (f"--zone={rented.zone}", *((f"--project={project}",) if project else ()))
        self._project = project
        self._starts_left = STARTS
        self._unheard = 0  # polls in turn in which some host said nothing of the job

    def steps(self) -> Sequence[Step]:
        """Return the commands in order."""
        return (
            Step("ask for the slice; a request that waits longer expires", self._create()),
            Step("wait until its state is ACTIVE", self._describe()),
            Step("copy the source to every host", self._copy()),
            Step("install it there", self._ssh(self._install)),
            Step("start the comparison; it runs on without this terminal", self._ssh(self._start)),
            Step("look, until every host has an exit code", self._ssh(self._look)),
            Step("delete the slice", self._delete()),
        )

    def check(self) -> Iterator[Finding]:
        """Yield whether a project is set, the zone has such slices, and one is already there."""
        project = self._project
        if not project:
            project = call_tool(("gcloud", "config", "get-value", "project"), ASKS_S).strip()
        if project in ("", "(unset)"):
            text = "no project is set; run `gcloud config set project PROJECT`, or add --project"
            yield "!!", text
            yield "--", f"zone {self.rented.zone}: not checked, since no project is set"
            return
        yield "ok", f"project {project}"
        # Both ask the TPU API, so they also show whether it is on and this account may use it.
        try:
            offered = call_tool(self._list(), ASKS_S).split()
            request = self._request()
        except ToolError as error:
            yield "!!", str(error)
            return
        wanted = self.rented.accelerator
        if wanted in offered:
            yield (
                "ok",
                f"zone {self.rented.zone} has {wanted}; only the request shows if one is free",
            )
        else:
            some = ", ".join(sorted(offered)[:6]) or "no TPU at all"
            yield (
                "!!",
                f"zone {self.rented.zone} has no {wanted}, but {some}; name another --zone",
            )
        if request is None:
            return
        there, state = _accelerator_of(request), _state_of(request)
        # An errand that began with it would follow it, and delete it, as if it were its own.
        if there not in ("", wanted):
            yield (
                "!!",
                f"{self.job.machine} is already there and is a {there}; delete it first: "
                f"`{self.end_command}`",
            )
        else:
            yield "--", f"{self.job.machine} is already there ({state}); it is used, or replaced"

    def begin(self, say: Say) -> None:
        """Ask for the slice unless it is there, wait for it, and start the job unless it runs."""
        state = self._state()
        if state in _ENDED:
            say(f"{self.job.machine}: {state} since an earlier time; deleting the request")
            self.end()
            state = None
        if state is None:
            kind = "spot" if self.rented.is_spot else "on-demand"
            say(f"{self.job.machine}: asking for {self.rented.accelerator}, {kind}")
            self._ask()
        self._wait(say)
        # Its source must not be replaced under a job that runs.
        if "running" in SIGHT.findall(self._reach(self._ssh(self._look), ASKS_S)):
            say(f"{self.job.machine}: the comparison runs there; following it")
            return
        say(f"{self.job.machine}: copying the source and installing it on every host")
        self._reach(self._copy(), COPIES_S)
        self._reach(self._ssh(self._install), INSTALLS_S)
        self._reach(self._ssh(self._start), ASKS_S)
        say(f"{self.job.machine}: started; its run directory is {self.job.url}")

    def _ask(self) -> None:
        """Ask for the slice; one that appeared since it was looked for is somebody else's."""
        try:
            call_tool(self._create(), REQUESTS_S)
        except ToolError as error:
            self.holds = not error.is_already_there
            if self.holds:  # it may have been made although the call failed
                raise
            raise GenlabError(
                f"{self.job.machine}: somebody asked for it just now and it is left alone; give "
                "the same command again to follow its run"
            ) from None

    def look(self) -> Sight:
        """Return running until every host has an exit code; a lost job is started again."""
        if (state := self._state()) != "ACTIVE":
            return Sight("preempted" if state in (None, *_ENDED) else "waiting")
        answer = call_tool(self._ssh(self._look), ASKS_S)
        words = SIGHT.findall(answer)
        if "gone" in words and self._starts_left:
            # Killed with the shell around it, for want of memory for example, or restarted. Where
            # it runs, starting it again does nothing; the others wait for the host that lost it.
            self._starts_left -= 1
            call_tool(self._ssh(self._start), ASKS_S)
            return Sight("running")
        if "gone" in words:
            return Sight("ended", EXIT_FAILED)
        if not words or "running" in words:
            return Sight("running")
        codes = [min(int(word), 255) for word in words]  # a shell takes 256 for 0
        code = max(codes, key=lambda code: code != EXIT_OK)
        # Success is what all hosts say; one that says nothing may know of a failure.
        self._unheard = self._unheard + 1 if len(words) < self.rented.hosts else 0
        if code != EXIT_OK or not self._unheard:
            return Sight("ended", code)
        if self._unheard > MISSED:
            raise GenlabError(
                f"{self.job.machine}: {len(words)} of {self.rented.hosts} hosts say that the "
                f"comparison ended well, {self._silent(answer)} nothing; its run directory is "
                f"{self.job.url}, and the same command resumes"
            )
        return Sight("running")

    def _silent(self, answer: str) -> str:
        """Return which hosts said nothing, as far as the others gave their numbers."""
        heard = {int(number) for number in HOST.findall(answer)}
        silent = [number for number in range(self.rented.hosts) if number not in heard]
        if len(silent) + len(SIGHT.findall(answer)) != self.rented.hosts:
            return "the others"
        shown = ", ".join(map(str, silent[:MOST_SHOWN]))
        more = f" and {len(silent) - MOST_SHOWN} more" if len(silent) > MOST_SHOWN else ""
        return f"host{'s' if len(silent) > 1 else ''} {shown}{more}"

    def last_words(self) -> str:
        """Return the last lines of the first host's log."""
        try:
            return call_tool(self._ssh("tail -n 40 ~/genlab_launch.log", "0"), ASKS_S)
        except ToolError:
            return ""

    def end(self) -> None:
        """Delete the queued resource and its node, and wait until both are gone."""
        try:
            call_tool(self._delete(), DELETES_S)
        except ToolError as error:
            if not error.is_not_found:
                raise

    @property
    def end_command(self) -> str:
        """The command that deletes it."""
        return shlex.join(self._delete())

    def _wait(self, say: Say) -> None:
        """Return when the slice is ACTIVE."""
        told, missed = "", 0
        while (state := self._state() or "not listed yet") != "ACTIVE":
            if state != told:
                say(f"{self.job.machine}: {state}")
                told = state
            # Right after the request it may not be listed for a moment.
            missed += state == "not listed yet"
            if missed > MISSED:
                raise GenlabError(
                    f"{self.job.machine}: gone while waiting for it; deleted by hand?"
                )
            # No limit here for the queue: the request itself has one.
            if state in _ENDED:
                reason = self._reason()
                fix = find_fix(reason) or "try again, or name another --zone"
                raise GenlabError(f"{self.job.machine}: {state}: {reason}; {fix}")
            time.sleep(POLL_S)

    def _reach(self, words: Sequence[str], timeout_s: float) -> str:
        """Call until every host has answered; one of many may still be starting."""
        for _ in range(SSH_TRIES - 1):
            try:
                return call_tool(words, timeout_s)
            except ToolError:
                if self._state() != "ACTIVE":
                    raise
                time.sleep(POLL_S)
        return call_tool(words, timeout_s)

    def _state(self) -> str | None:
        """Return the state of the request, None without one."""
        request = self._request()
        return None if request is None else _state_of(request)

    def _request(self) -> JsonValue:
        """Return what the service says of the request, None without one."""
        try:
            answer = call_tool(self._describe(), ASKS_S)
        except ToolError as error:
            if error.is_not_found:
                return None
            raise
        return parse_answer(answer, self._describe())

    def _reason(self) -> str:
        """Return why a request has ended."""
        request = self._request()
        failed = _inside(request, "state", "failedData", "error", "message")
        who = _inside(request, "state", "stateInitiator") or "the service"
        return str(failed or f"ended by {who}")

    def _create(self) -> tuple[str, ...]:
        rented = self.rented
        return (
            *(*_TPUS, "queued-resources", "create", self.job.machine, *self._at),
            f"--node-id={self.job.machine}",
            f"--accelerator-type={rented.accelerator}",
            f"--runtime-version={rented.runtime}",
            *(("--spot",) if rented.is_spot else ()),
            # A request that nobody waits for any more must not be filled, and billed, at night.
            f"--valid-until-duration={rented.wait_hours}h",
            "--async",
            "--quiet",
        )

    def _describe(self) -> tuple[str, ...]:
        where = (self.job.machine, *self._at)
        return (*_TPUS, "queued-resources", "describe", *where, "--format=json", "--quiet")

    def _delete(self) -> tuple[str, ...]:
        where = (self.job.machine, *self._at)
        return (*_TPUS, "queued-resources", "delete", *where, "--force", "--quiet")

    def _list(self) -> tuple[str, ...]:
        return (*_TPUS, "accelerator-types", "list", *self._at, "--format=value(type)", "--quiet")

    def _copy(self) -> tuple[str, ...]:
        target = f"{self.job.machine}:{ARCHIVE}"
        what = (str(self.job.archive), target, *self._at)
        return (*_TPUS, "tpu-vm", "scp", *what, "--worker=all", "--quiet")

    def _ssh(self, script: str, worker: str = "all") -> tuple[str, ...]:
        where = (self.job.machine, *self._at, f"--worker={worker}")
        return (*_TPUS, "tpu-vm", "ssh", *where, f"--command={script}", "--quiet")

    @property
    def _install(self) -> str:
        unpack = f"mkdir -p genlab_source && tar -xzf {ARCHIVE} -C genlab_source"
        return f"{unpack} && bash genlab_source/{SCRIPTS}/install.sh"

    @property
    def _start(self) -> str:
        script = f"bash genlab_source/{SCRIPTS}/run.sh"
        return f"nohup setsid {script} >> genlab_launch.log 2>&1 < /dev/null &"

    @property
    def _look(self) -> str:
        # A new host has no scripts.
        return f"bash genlab_source/{SCRIPTS}/look.sh || echo genlab-job: gone"


def _inside(value: JsonValue, *names: str | int) -> JsonValue:
    """Return what lies there in JSON, None if something else does."""
    for name in names:
        if isinstance(value, dict) and isinstance(name, str):
            value = value.get(name)
        elif isinstance(value, list) and isinstance(name, int) and name < len(value):
            value = value[name]
        else:
            return None
    return value


def _state_of(request: JsonValue) -> str:
    return str(_inside(request, "state", "state") or "UNKNOWN")


def _accelerator_of(request: JsonValue) -> str:
    return str(_inside(request, "tpu", "nodeSpec", 0, "node", "acceleratorType") or "")
