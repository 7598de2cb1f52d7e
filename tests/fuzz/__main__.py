"""`python -m tests.fuzz`: run inputs or kill points, print what came of them; exit code 1 if a
promise was broken.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the toys of the tests

from .runner import SHARES, ensure_world, plan, prepare, run_inputs, run_one, work
from .world import World, make_world


def main() -> int:
    """Parse and run."""
    arguments = _parse()
    sys.stdout.reconfigure(errors="backslashreplace")
    if arguments.worker:
        work(arguments.worker)
        return 0
    if arguments.make_world:
        make_world(arguments.make_world)
        return 0
    only = [name for name in arguments.only.split(",") if name]
    with contextlib.ExitStack() as stack:
        scratch = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="genlab-fuzz-"))
        ).resolve()
        root = (arguments.world or scratch / "world").resolve()
        ensure_world(root)
        if arguments.kills is not None:
            from .kills import run_kills

            kills = run_kills(
                arguments.kills,
                World(root),
                scratch / "kills",
                tuple(only),
                arguments.minutes,
                arguments.index,
            )
            print(kills.table())
            return 1 if kills.lost else 0
        if arguments.index is not None:
            show_one(only[0], arguments.seed, arguments.index, root, scratch)
            return 0
        counts = plan(arguments.inputs, only)
        report = run_inputs(counts, arguments.seed, root, arguments.workers, arguments.minutes)
    print(
        f"{report.table()}\n{report.inputs} inputs in {report.seconds:.0f} "
        f"s\n{report.describe_faults()}"
    )
    return 1 if report.faults else 0


def show_one(area: str, seed: int, index: int, root: Path, scratch: Path) -> None:
    """Run one input, and print it, its verdict and what it wrote to standard error."""
    told = os.fdopen(os.dup(1), "w")
    world, streams = prepare(root, scratch / "one")  # the world itself may lie in scratch
    what, verdict = run_one(area, seed, index, world, scratch / "place", streams)
    errors = streams.read_errors()
    print(
        f"input:   {what}\nverdict: {verdict.kind}: {verdict.text}\nstderr:\n{errors}",
        file=told,
        flush=True,
    )
    os.chdir("/")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=2000, help="how many, over all areas (default 2000)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help=f"areas with commas between: {', '.join(SHARES)}"
    )
    parser.add_argument(
        "--index", type=int, help="run one input of one area, or kill at this change alone"
    )
    parser.add_argument("--minutes", type=float, help="begin no further inputs after so long")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--world", type=Path, help="keep the tiny world here for the next time")
    parser.add_argument(
        "--kills", type=int, help="run so many kill points instead; --only takes scenarios"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make-world", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
