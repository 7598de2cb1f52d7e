"""`genlab launch`: a comparison on a rented TPU slice, from the first check to its deletion."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from genlab.config import GenlabError
from genlab.config.errors import shorten
from genlab.experiment import Comparison
from genlab.launch.checks import (
    check_data,
    check_place,
    check_rental,
    describe_cost,
    estimate,
    list_problems,
)
from genlab.launch.errand import Wishes, carry_out
from genlab.launch.gcloud import GcloudRental
from genlab.launch.job import Job
from genlab.launch.remote import RemoteRun
from genlab.launch.rental import Finding, Rental
from genlab.launch.skypilot import SkyRental
from genlab.launch.slices import Slice, check_bucket, find_slice
from genlab.watch.progress import Progress


def launch(config: Comparison, arguments: argparse.Namespace) -> int:
    """Check everything and print the steps; with `--yes` carry them out.

    Raises:
        GenlabError: if something would stop the errand; nothing has been rented then.
    """
    # What is written wrongly is refused before the first file is written or tool called.
    price = _read_price(arguments.price_per_chip_hour)
    rented = find_slice(
        arguments.tpu,
        arguments.zone,
        is_spot=arguments.spot,
        wait_hours=arguments.wait,
        runtime=arguments.runtime_version or "",
    )
    bucket = check_bucket(arguments.bucket)
    folder = arguments.out or Path("runs") / f"launch-{config.name}"
    job = Job(config, bucket, folder, arguments.source)
    job.write()
    rental = _rent(rented, job, arguments)
    remote = RemoteRun(job.url)
    # Before the checks, so that what has to be fixed stands last.
    if not arguments.yes:
        print(f"{describe_steps(rental)}\n", flush=True)
    findings, hours = _examine(rental, remote, arguments)
    for sign, text in findings:
        print(f"{sign} {text}", flush=True)
    print(f"-- {describe_cost(rented, price, hours)}")
    if problems := list_problems(findings):
        raise GenlabError(f"{'; '.join(problems)}; nothing was started")
    if not arguments.yes:
        print("nothing was started; add --yes to carry out these steps")
        return 0
    hourly = None if price is None else price * rented.chips
    wishes = Wishes(arguments.attempts, arguments.keep, hourly)
    with Progress() as progress:
        report = carry_out(rental, remote, folder / "run", wishes, progress)
    print(f"report:      {report}\nrun:         {job.url}")
    return 0


def describe_steps(rental: Rental) -> str:
    """Return the steps as a person could type them, and the scripts that the hosts execute."""
    job = rental.job
    lines = [str(step) for step in rental.steps()]
    # Before the last step, which gives the slice back.
    away = "--exclude='.*checkpoints/.*'"
    where = shlex.join([job.url, str(job.folder / "run")])
    pull = f"gcloud storage rsync --recursive {away} {where}"
    lines.insert(-1, f"# copy the report and the rest of the run, less its checkpoints\n{pull}")
    for name, text in job.scripts().items():
        lines.append(f"# {name}, on every host\n{text.rstrip()}")
    return "\n\n".join(lines)


def _rent(rented: Slice, job: Job, arguments: argparse.Namespace) -> Rental:
    if arguments.executor == "skypilot":
        rental = SkyRental(rented, job)
        rental.write_task()
        return rental
    return GcloudRental(rented, job, arguments.project or "")


def _examine(
    rental: Rental, remote: RemoteRun, arguments: argparse.Namespace
) -> tuple[Sequence[Finding], float | None]:
    job = rental.job
    findings = [*check_rental(rental), *check_place(remote, job), *check_data(job)]
    if arguments.no_estimate:
        return [*findings, ("--", "memory and steps: not estimated, as --no-estimate says")], None
    if list_problems(findings):  # minutes of compiling would only put off what is wrong
        return [*findings, ("--", "memory and steps: not estimated, since a check failed")], None
    more, hours = estimate(job, rental.rented)
    return [*findings, *more], hours


def _read_price(price: float | None) -> float | None:
    if price is not None and not 0 < price < 1e6:
        raise GenlabError(
            f"--price-per-chip-hour {shorten(price)}: expected what a chip costs an hour, above "
            "zero, for example 1.2"
        )
    return price
