"""What is known before anything is rented: tools, project, zone, bucket, data, memory, time, cost.

In: a rental and its bucket. Out: lines with a sign, as `genlab doctor` prints them; one with `!!`
stops the errand. Nothing is invented: without the TPU compiler nothing is estimated, and a price is
the one that a person gave.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from genlab.config import GenlabError
from genlab.config.errors import one_line
from genlab.config.shipped import install_command
from genlab.experiment import Comparison
from genlab.launch.job import Job
from genlab.launch.remote import RemoteRun
from genlab.launch.rental import Finding, Rental
from genlab.launch.slices import Slice
from genlab.launch.tool import require_tool
from genlab.machine.topologies import GIB
from genlab.report.text import format_seconds


class Bound(TypedDict):
    """The estimate of a compiled program."""

    step_s: float


class ProgramRow(TypedDict):
    """What is read of a row that `genlab aot --out` writes; the last three only if it fits."""

    config: str
    topology: str
    fits: bool
    peak_bytes: float
    hbm_bytes: float
    estimate: Bound


def check_rental(rental: Rental) -> Iterator[Finding]:
    """Yield what the tool says; one that is missing or fails is a finding and ends this."""
    try:
        require_tool(rental.tool, rental.where_to_get)
        yield "ok", f"{rental.tool} is on PATH"
        yield from rental.check()
    except GenlabError as error:
        yield "!!", str(error)


def check_place(remote: RemoteRun, job: Job) -> Iterator[Finding]:
    """Yield whether the bucket can be written, and what of the run is already there."""
    try:
        remote.check(job.bucket)
        yield "ok", f"bucket {job.bucket} can be written and read; the run will be {job.url}"
        status = remote.statuses().get("")
    except GenlabError as error:
        yield "!!", str(error)
        return
    if status:
        yield "--", f"{job.url} is {status.get('state')}; the command resumes it"


def check_data(job: Job) -> Iterator[Finding]:
    """Yield the folders that the config reads; a host has those of the source, and no others."""
    for field, path in _paths_in(job.config.data.to_dict(), "data"):
        if "://" in path or (not Path(path).is_absolute() and (job.source / path).exists()):
            continue
        if Path(path).is_absolute():
            yield "--", f"{field} {path}: must be mounted under this name on every host"
        else:
            text = (
                f"{field} {path}: no host has this folder; mount it on all hosts and give its "
                f"absolute path, or put it into {job.source}"
            )
            yield "!!", text


def _paths_in(values: object, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            if name == "path" and isinstance(value, str) and value:
                yield f"{field}.path", value
            else:
                yield from _paths_in(value, f"{field}.{name}")


def estimate(job: Job, rented: Slice) -> tuple[list[Finding], float | None]:
    """Compile every training step for the slice, in a process of its own.

    Returns:
        Findings, and the least hours that all updates take, None if that is not known.
    """
    if find_spec("libtpu") is None:
        text = f"memory and steps: not estimated; run `{install_command('aot')}` for that"
        return [("--", text)], None
    # The compiler must be configured before jax is imported, which has happened in this process.
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "aot.json"
        words = [sys.executable, "-m", "genlab.cli", "aot", str(job.config_file), *job.named]
        words += ["--topology", rented.accelerator, "--program", "train", "--out", str(out)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if not out.exists():
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            return [("--", f"memory and steps: not estimated: {one_line(lines[-1], 300)}")], None
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    return read_estimate(rows, job.config)


def read_estimate(
    rows: Sequence[ProgramRow], config: Comparison
) -> tuple[list[Finding], float | None]:
    """Return a finding per row of `genlab aot`, and the least hours of all updates, if known."""
    findings: list[Finding] = []
    total_s, is_known = 0.0, bool(rows)
    for row in rows:
        what = f"{row['config']}: training step on {row['topology']}"
        # The compiler refused it, so it has no numbers.
        if not row["fits"]:
            findings.append(("!!", f"{what} does not fit; lower batch_size or the width"))
            is_known = False
            continue
        peak, step_s = row["peak_bytes"] / GIB, row["estimate"]["step_s"]
        share = row["peak_bytes"] / row["hbm_bytes"]
        text = f"{what} needs {peak:.2f} GiB a chip ({share:.0%}) and at least {step_s:.3g} s"
        findings.append(("ok", text))
        total_s += step_s * (config.budget.steps or 0) * len(config.seeds)
    if not is_known or not config.budget.steps:
        return findings, None
    return findings, total_s / 3600


def describe_cost(rented: Slice, price: float | None, hours: float | None) -> str:
    """Return what an hour costs at the price that was given, and what the updates cost at least."""
    if price is None:
        return (
            f"cost: {rented.chips} chips are billed for as long as the slice exists; give "
            "--price-per-chip-hour (cloud.google.com/tpu/pricing) to see how much"
        )
    hourly = price * rented.chips
    text = f"cost: {rented.chips} chips x {price:g} = {hourly:.2f} an hour"
    if hours is None:
        return f"{text}; how many hours is not known beforehand"
    least = format_seconds(3600 * hours)
    return f"{text}; at least {hourly * hours:.2f} for the {least} of updates"


def list_problems(findings: Sequence[Finding]) -> list[str]:
    """Return the findings that stop the errand."""
    return [text for sign, text in findings if sign == "!!"]
