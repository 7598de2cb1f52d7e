"""The commands beside the main job: speed, other machines, and checks."""

import argparse

from genlab.cli.extras import list_extras
from genlab.cli.values import AddCommand, local, takes_config, whole


def add_machine(add: AddCommand) -> None:
    """Add the commands that measure speed and compile for another machine."""
    _add_bench(add)
    _add_aot(add)
    _add_launch(add)


def _add_bench(add: AddCommand) -> None:
    command = add(
        "bench", "Measure training steps, sampling and codec speed.", "genlab bench --json"
    )
    command.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help="names of workloads (default: all)"
    )
    command.add_argument("--json", action="store_true", help="one JSON line per workload")
    command.add_argument(
        "--rounds",
        type=whole,
        default=5,
        help="how often to repeat (default 5); the median counts",
    )
    command.add_argument(
        "--quick",
        action="store_true",
        help="toy sizes: shows that everything runs, but says nothing about speed",
    )
    # No toy here: --quick is the one way to it, also for workloads of one size.
    command.add_argument(
        "--size",
        action="append",
        choices=["small", "medium"],
        help="small (6 layers of 256) or medium (8 of 512) only; codecs, loader and checkpoint "
        "are in small",
    )
    command.add_argument(
        "--profile",
        action="store_true",
        help="trace one more training step or sampling, and say where its time goes",
    )


def _add_aot(add: AddCommand) -> None:
    command = add(
        "aot",
        (
            "Compile every arm's training step and sampler for a TPU slice, without having one: "
            "do they fit?"
        ),
        "genlab aot scale_300m --topology v5litepod-16",
    )
    takes_config(command)
    command.add_argument(
        "--topology", required=True, help="v5litepod-16, v6e-16, v5p-16, v4-16, ... or v5e:4x4"
    )
    command.add_argument("--arm", help="compile only this arm (default: all)")
    command.add_argument(
        "--program", choices=["train", "sample", "both"], default="both", help="default: both"
    )
    command.add_argument(
        "--largest-batch", action="store_true", help="search for the largest batch that fits"
    )
    # A file and not a run directory: nothing is trained.
    command.add_argument("--out", type=local, metavar="FILE", help="write all numbers as JSON")
    command.add_argument(
        "--markdown", action="store_true", help="print the table as Markdown, with all columns"
    )
    command.add_argument(
        "--save-executable",
        type=local,
        metavar="FILE",
        help="keep the last compiled program, for use on such a slice",
    )


def _add_launch(add: AddCommand) -> None:
    command = add(
        "launch",
        (
            "Run a comparison on a rented TPU slice: check, rent, install, run, follow, pull the "
            "report, delete the slice. Without --yes it checks and prints the steps."
        ),
        "genlab launch quickstart --tpu v5litepod-16 --zone us-west4-a --bucket gs://my-runs",
    )
    takes_config(command)
    # Required options and not positions: each is a decision that should stand in a shell's history.
    command.add_argument("--tpu", required=True, help="v5litepod-16, v6e-16, v5p-16, v4-16, ...")
    command.add_argument("--zone", required=True, help="for example us-west4-a")
    command.add_argument(
        "--bucket",
        required=True,
        metavar="gs://BUCKET[/PREFIX]",
        help="where the run directory and a shared cache go; it must exist",
    )
    command.add_argument(
        "--yes", action="store_true", help="carry the steps out: this rents the slice"
    )
    command.add_argument(
        "--spot", action="store_true", help="a spot slice: cheaper, and may be taken away"
    )
    command.add_argument(
        "--keep", action="store_true", help="do not delete the slice at the end; it stays billed"
    )
    command.add_argument(
        "--price-per-chip-hour",
        type=float,
        metavar="PRICE",
        help="what a chip costs an hour, from cloud.google.com/tpu/pricing: prints what that makes",
    )
    command.add_argument(
        "--executor",
        choices=["gcloud", "skypilot"],
        default="gcloud",
        help="who rents: gcloud (default), or SkyPilot, which replaces slices by itself",
    )
    _add_launch_details(command)


def _add_launch_details(command: argparse.ArgumentParser) -> None:
    # What a first launch does not need to know.
    command.add_argument(
        "--attempts",
        type=whole,
        default=5,
        help="slices to rent one after the other when they are taken away (default 5)",
    )
    command.add_argument(
        "--wait",
        type=whole,
        default=6,
        metavar="HOURS",
        help="how long the request may wait in the queue before it expires (default 6)",
    )
    command.add_argument("--project", help="Google Cloud project (default: that of gcloud)")
    command.add_argument(
        "--runtime-version", help="system image of the hosts (default: Google's for JAX)"
    )
    command.add_argument(
        "--no-estimate",
        action="store_true",
        help="do not compile for the slice first, which takes a minute per arm",
    )
    command.add_argument(
        "--source",
        type=local,
        metavar="FOLDER",
        help="checkout that the hosts install (default: the one that this genlab runs from)",
    )
    command.add_argument(
        "--out",
        type=local,
        help="folder for the archive and the pulled run (default: runs/launch-NAME)",
    )


def add_own(add: AddCommand) -> None:
    """Add the commands that check a class of the user and this machine."""
    command = add(
        "check",
        (
            "Try out a decoder, mixer, feed-forward part, corpus, codec, metric or condition of "
            "your own: what it must keep, and what is broken. docs/extending.md in the repository "
            "lists examples."
        ),
        "genlab check my_decoder.py:MyConfig",
    )
    # Code, and not a config: this command runs the file that it is given.
    command.add_argument(
        "target",
        metavar="FILE.py:CLASS",
        help=(
            "or PACKAGE.MODULE:CLASS, the class of its config; for a codec FILE.py or "
            "FILE.py:FUNCTION"
        ),
    )
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="FIELD=VALUE",
        help="fields whose default is to change, or that have none",
    )
    command = add(
        "doctor", "Print versions and devices, what is missing, and how to get it.", "genlab doctor"
    )
    command.description = f"{command.description}\n\nextras:\n{list_extras()}"


def takes_conditions(command: argparse.ArgumentParser) -> None:
    """Let a command keep parts of clips and set conditions by hand, as decoders/told/by_hand.py
    reads them.
    """
    command.add_argument(
        "--keep",
        metavar="FROM:TO",
        help="seconds of each real clip to keep and continue, or fill around, for example 0:0.5",
    )
    examples = {
        "label": ("NAME=VALUE", "speaker=anna, or a mixture: speaker=anna:0.7,ben:0.3"),
        "text": ("TEXT", '"good morning"; NAME=TEXT if several conditions are texts'),
        "curve": ("NAME=FILE", "f0=melody.csv, with a row per point of the curve"),
        "vector": ("NAME=FILE", "style=clap.npy, or numbers: tempo=0.5"),
        "codes": ("NAME=FILE", "mixture=codes.npy, with a row per frame"),
    }
    # Appended, since one option may set several conditions.
    for option, (metavar, example) in examples.items():
        command.add_argument(
            f"--{option}",
            action="append",
            metavar=metavar,
            help=f"set a condition by hand, for all prompts: {example}",
        )
    command.add_argument(
        "--seconds", type=float, help="how long every sample is (default: as long as its clip)"
    )
    command.add_argument(
        "--endless",
        type=float,
        metavar="SECONDS",
        help="one clip instead, made chunk by chunk for so many seconds, in flat memory",
    )
