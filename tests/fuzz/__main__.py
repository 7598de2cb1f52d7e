"""`python -m tests.fuzz`: run inputs or kill points, print what came of them; exit code 1 if a promise was broken."""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the toys of the tests


def main() -> int:
    """Parse and run."""
    from .runner import SHARES, make_world, plan, run_inputs, work

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000, help="how many, over all areas (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"areas with commas between: {', '.join(SHARES)}")
    parser.add_argument("--index", type=int, help="run one input of one area and print everything")
    parser.add_argument("--minutes", type=float, help="begin no further inputs after so long")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--world", type=Path, help="keep the tiny world here for the next time")
    parser.add_argument("--kills", type=int, help="run so many kill points instead")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return 0
    only = [name for name in arguments.only.split(",") if name]
    with contextlib.ExitStack() as stack:
        root = arguments.world or Path(stack.enter_context(_folder())) / "world"
        root = root.resolve()
        make_world(root)
        if arguments.kills is not None:
            from .kills import run_kills
            from .world import World

            folder = Path(stack.enter_context(_folder()))
            kills = run_kills(arguments.kills, World(root), folder, tuple(only), arguments.minutes)
            print(kills.table())
            return 1 if kills.lost else 0
        if arguments.index is not None:
            show_one(only[0], arguments.seed, arguments.index, root, Path(stack.enter_context(_folder())))
            return 0
        report = run_inputs(plan(arguments.inputs, only), arguments.seed, root, arguments.workers, arguments.minutes)
    print(f"{report.table()}\n{report.inputs} inputs in {report.seconds:.0f} s\n{report.describe_faults()}")
    return 1 if report.faults else 0


def show_one(area: str, seed: int, index: int, root: Path, scratch: Path) -> None:
    """Run one input, and print it, its verdict and what it wrote to standard error."""
    from .runner import prepare, run_one

    told = os.fdopen(os.dup(1), "w")
    world, streams = prepare(root, scratch)
    what, verdict = run_one(area, seed, index, world, scratch / "place", streams)
    errors = streams.read_errors()
    print(f"input:   {what}\nverdict: {verdict.kind}: {verdict.text}\nstderr:\n{errors}", file=told, flush=True)
    os.chdir("/")


def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="genlab-fuzz-")


if __name__ == "__main__":
    sys.exit(main())
