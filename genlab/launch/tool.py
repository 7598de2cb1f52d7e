"""One call of `gcloud` or `sky`: bounded in time, apart from the terminal, its errors in one line.

In: the words of a command. Out: its standard output, or a `ToolError` that says what to do about
the usual reasons: quota, no capacity, no permission, an API that is off, nobody logged in.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.config.errors import one_line, shorten

# Words of Google's errors, in the order in which they are looked for, and what to do then. Quotas:
# docs.cloud.google.com/tpu/docs/quota; there are two per generation, for spot and for on-demand.
_FIXES = (
    (
        ("quota",),
        (
            "this project may not rent that much of this generation there: ask for more at "
            "console.cloud.google.com/iam-admin/quotas (service Cloud TPU API; spot and on-demand "
            "slices have quotas of their own), or name another --zone or a smaller --tpu; requests "
            "that have ended count until they are deleted"
        ),
    ),
    (
        (
            "no more capacity",
            "insufficient capacity",
            "insufficient reserved capacity",
            "stockout",
        ),
        "the zone has no such slice free: try again later, name another --zone, or a longer --wait",
    ),
    (
        ("has not been used in project", "service_disabled", "is disabled"),
        "run `gcloud services enable tpu.googleapis.com storage.googleapis.com`",
    ),
    (
        ("permission_denied", "permission denied on", "does not have permission", "forbidden"),
        "this account needs the roles TPU Admin and Service Account User in the project",
    ),
    (
        ("active account", "gcloud auth login", "reauthentication", "invalid_grant"),
        "run `gcloud auth login` and `gcloud auth application-default login`",
    ),
    (
        ("not present in the ssh agent",),
        "run `ssh-add ~/.ssh/google_compute_engine`, which several hosts at a time need",
    ),
    (
        ("permission denied (publickey", "connection timed out", "connection refused", "[255]"),
        (
            "a host did not take the connection: the network needs a rule that lets SSH in (tcp:22)"
            ", and the host may still be starting"
        ),
    ),
)
_SETTLES_S = 5.0  # what a call that was interrupted gets to end by itself


class ToolError(GenlabError):
    """A tool that failed or did not answer; `said` is what it wrote to standard error."""

    def __init__(self, text: str, said: str = ""):
        super().__init__(text)
        self.said = said

    @property
    def is_not_found(self) -> bool:
        """Whether the service says that the resource does not exist. Only its code counts: a file
        of credentials may be "not found" too, and a slice that is taken for deleted stays billed.
        """
        return re.search(r"\bNOT_FOUND\b", self.said) is not None

    @property
    def is_already_there(self) -> bool:
        """Whether the service says that a resource of this name exists."""
        return re.search(r"\bALREADY_EXISTS\b", self.said) is not None


def find_fix(said: str) -> str:
    """Return what to do about an error of Google's, "" if nobody knows."""
    lower = said.lower()
    return next((fix for words, fix in _FIXES if any(word in lower for word in words)), "")


def require_tool(name: str, where: str) -> None:
    """Raise if `name` is not on PATH; `where` says how to get it.

    Raises:
        GenlabError: naming the tool.
    """
    if shutil.which(name) is None:
        raise GenlabError(f"{name}: not on PATH; {where}")


def call_tool(words: Sequence[str], timeout_s: float) -> str:
    """Run a tool and return its standard output.

    It gets a session of its own: Ctrl-C reaches this process, which decides what becomes of the
    slice, and not a call that is half done. No terminal is passed on, so nothing can ask.

    Raises:
        ToolError: if it fails, or does not answer in `timeout_s`; it is then ended.
    """
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    shown = shlex.join(words)
    try:
        out, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise ToolError(
            f"no answer within {timeout_s:.0f} s: {one_line(shown, 200)}; is the network up?"
        ) from None
    except BaseException:  # Ctrl-C and SIGTERM
        _end(process)
        raise
    if process.returncode:
        reason, fix = _reason_in(said), find_fix(said)
        text = f"{one_line(shown, 120)}: exit code {process.returncode}: {reason}"
        raise ToolError(f"{text}; {fix}" if fix else text, said)
    return out


def parse_answer(answer: str, words: Sequence[str]) -> JsonValue:
    """Return the JSON that a tool answered to the command of these words.

    Raises:
        ToolError: if it is none.
    """
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        shown = shorten(answer.strip(), 100)
        raise ToolError(f"{shlex.join(words)}: expected JSON, got {shown}") from None


def _reason_in(said: str) -> str:
    """Return the line that says most: an error rather than the notes around it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "quota" in line.lower()]
    return one_line(" ".join(errors[:2]) if errors else (lines or ["no reason given"])[-1], 400)


def _end(process: "subprocess.Popen[str]") -> None:
    """End a call and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.communicate(timeout=_SETTLES_S)
            return
        except subprocess.TimeoutExpired:
            continue
