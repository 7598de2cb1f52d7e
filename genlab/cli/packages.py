"""`genlab export` and `genlab pull`: trained arms as folders that travel."""

import argparse
from pathlib import Path

from genlab.config import GenlabError
from genlab.experiment import Comparison, DecoderRun
from genlab.packages.hub import check_repository, pull_package, push_package
from genlab.packages.package import WEIGHTS, export_package


def export_run(run: Comparison | DecoderRun, arguments: argparse.Namespace) -> None:
    """Write a package, push it if that is asked for, and say where it is."""
    if not isinstance(run, DecoderRun):
        raise GenlabError(f"{arguments.config}: kind {run.kind!r}, expected a trained arm")
    if arguments.push:
        check_repository(arguments.push)  # before anything is written
    facts = export_package(run, Path(arguments.config), arguments.out)
    size = (arguments.out / WEIGHTS).stat().st_size
    print(
        f"{arguments.out}: {facts['num_parameters']:,} parameters, {size / 1e6:.1f} MB, "
        f"step {facts['step']:,}"
    )
    if arguments.push:
        where = push_package(arguments.out, arguments.push, is_private=not arguments.public)
        print(f"pushed: {where}")
    print(f"next: genlab sample {arguments.out}")


def pull(arguments: argparse.Namespace) -> None:
    """Download a package and say what it is."""
    package = pull_package(arguments.repository, arguments.out, revision=arguments.revision)
    run = package.run
    print(f"{arguments.out}: {run.name}, a {run.arm.decoder.kind} decoder of {run.data.codec}")
    print(f"next: genlab sample {arguments.out}")
