"""Ask every step within so many minutes, and keep each row as soon as it is known.

In: a folder, a size, minutes. Out: hardware.json and hardware.md in the folder. Each step has a
process of its own (worker.py) and a share of the time that is left; what a step does not use goes
to the others. Called again, the pack asks what is missing.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pydantic

from genlab.config import GenlabError
from genlab.config.errors import one_line
from genlab.machine.stopping import EXIT_FAILED, EXIT_OK, EXIT_RESUME
from genlab.run.ownership import refuse_to_replace
from genlab.run.stored import write_atomically
from genlab.speed.hardware.record import Entry, Record, failed
from genlab.speed.hardware.report import REPORT, TITLE, format_report
from genlab.speed.hardware.size import FULL, HardwareSize
from genlab.speed.hardware.step import Step
from genlab.speed.hardware.steps import STEPS
from genlab.speed.hardware.worker import GRACE_S, Order, Said

LEAST_S = 5.0  # below which a step is not begun: its imports alone take as long
END_S = 3.0  # for the report


def run_pack(
    folder: Path,
    size: HardwareSize,
    minutes: float,
    tell: Callable[[str], None],
    steps: Sequence[Step] = STEPS,
) -> int:
    """Ask all steps, and return the exit code: 75 if cases are missing because the time is over, 1
    if one failed or missed its tolerance, else 0.

    Raises:
        GenlabError: if the folder holds something else, or there is no accelerator for the sizes of
            one.
    """
    ends = time.monotonic() + 60 * minutes - END_S
    report = folder / REPORT
    refuse_to_replace(report, _is_report(report))
    record = Record(folder, size.name)
    folder.mkdir(parents=True, exist_ok=True)  # for the report, should no step begin
    left = [step for step in steps if not record.is_done(step.name)]
    while left:
        step = left.pop(0)
        # A share of the time that is left: what earlier steps did not use is in it.
        share = step.share / sum(other.share for other in (step, *left))
        seconds = share * (ends - time.monotonic())
        if seconds < LEAST_S:
            break
        tell(f"{step.name}: {step.question} (at most {seconds / 60:.1f} min)")
        _ask(step, record, size, seconds, tell)
        write_atomically(report, format_report(record.content))
        if step.name == "machine":
            _require_accelerator(record, size)
    write_atomically(report, format_report(record.content))
    open_steps = [step.name for step in steps if not record.is_done(step.name)]
    if open_steps:
        told = f"{len(open_steps)} of {len(steps)} steps are not done: {', '.join(open_steps)}"
        tell(f"{told}; the same command asks them")
    tell(f"{record.path} and {report} are what to send back")
    if open_steps:
        wrong = [step.name for step in steps if record.in_state(step.name, "failed")]
        return EXIT_FAILED if wrong and not _is_short(record, steps) else EXIT_RESUME
    rows = (entry for kept in record.content["steps"].values() for entry in kept["cases"].values())
    return EXIT_FAILED if any(failed(entry) for entry in rows) else EXIT_OK


def _is_short(record: Record, steps: Sequence[Step]) -> bool:
    """Return whether a case was never begun or was cut off."""
    content = record.content["steps"]
    return any(
        step.name not in content
        or bool(content[step.name]["missing"])
        or bool(record.in_state(step.name, "cut off"))
        for step in steps
    )


def _require_accelerator(record: Record, size: HardwareSize) -> None:
    found = record.content["steps"]["machine"]["cases"].get("versions and devices")
    platform = None if found is None else found["row"].get("platform")
    if size is FULL and platform == "cpu":
        raise GenlabError(
            "--size full: jax finds no accelerator here, and a CPU takes hours for these sizes; "
            "give --size toy for a rehearsal"
        )


def _is_report(path: Path) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").startswith(TITLE)
    return False


def _ask(
    step: Step, record: Record, size: HardwareSize, seconds: float, tell: Callable[[str], None]
) -> None:
    """Run a step's worker to its end or for so many seconds, and keep what it says."""
    order = Order(
        step=step.name,
        size=size.name,
        seconds=seconds - GRACE_S,
        done=record.in_state(step.name, "measured"),
        tried=record.in_state(step.name, "failed", "cut off", "skipped"),
    )
    began = time.monotonic()
    open_case: str | None = None
    with _worker(step, order) as process:
        for said in _read(process):
            if said.names is not None:
                record.begin(step.name, step.question, said.names)
            elif said.begun is not None:
                open_case, began = said.begun, time.monotonic()
                # Kept before it runs: whatever ends the machine, it is known what was under way.
                record.put(step.name, open_case, _cut_off(0.0, "it had just begun"))
            elif said.ended is not None and said.entry is not None:
                record.put(step.name, said.ended, said.entry)
                open_case = None
                tell(f"  {said.ended}: {_summary(said.entry)}")
        code = process.wait()
    if open_case is not None:
        text = "its time was over" if code == -signal.SIGALRM else f"its process ended with {code}"
        record.put(step.name, open_case, _cut_off(time.monotonic() - began, text))
        tell(f"  {open_case}: cut off, {text}")
    elif step.name not in record.content["steps"]:
        tell(f"  {step.name}: its process ended with {code} before it began")
        record.begin(step.name, step.question, ["the process"])
        record.put(step.name, "the process", _cut_off(0.0, f"it ended with {code} at its start"))


def _cut_off(seconds: float, text: str) -> Entry:
    return {"state": "cut off", "seconds": seconds, "row": {}, "text": text}


def _summary(entry: Entry) -> str:
    if entry["state"] != "measured":
        return f"{entry['state']}, {entry['text']}"
    is_wrong = ", OUTSIDE ITS TOLERANCE" if failed(entry) else ""
    return f"measured in {entry['seconds']:.1f} s{is_wrong}"


@contextlib.contextmanager
def _worker(step: Step, order: Order) -> Iterator[subprocess.Popen[str]]:
    """Start the process of a step; it does not outlive the context."""
    command = [sys.executable, "-m", "genlab.speed.hardware.worker", order.model_dump_json()]
    process = subprocess.Popen(
        command,
        env={**os.environ, **step.environment},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _read(process: subprocess.Popen[str]) -> Iterator[Said]:
    assert process.stdout is not None, "it was started with a pipe"
    for line in process.stdout:
        try:
            yield Said.model_validate_json(line)
        except pydantic.ValidationError:  # the last line of a process that was ended
            print(f"hardware: not understood: {one_line(line, 200)}", file=sys.stderr)
