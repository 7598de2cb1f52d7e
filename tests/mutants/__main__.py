"""`python -m tests.mutants`: put one-line faults into copies of the tree, and print which of them
the tests notice; exit code 1 if one survived.
"""

import argparse
import random
import sys

from .runner import KitError, Report, Trial, run_faults
from .table import ROOT, Fault, TableError, check_tests, read_table


def main() -> int:
    """Parse and run."""
    arguments = _parse()
    try:
        faults = read_table()
        for fault in faults:
            fault.apply((ROOT / fault.file).read_text(encoding="utf-8"))
        check_tests(faults)
        chosen = choose(faults, arguments.only.split(","), arguments.sample, arguments.seed)
        print(f"{len(chosen)} of {len(faults)} faults", flush=True)
        report = run_faults(
            chosen,
            ROOT,
            workers=arguments.workers,
            is_wide=not arguments.narrow,
            limit_s=arguments.limit,
            minutes=arguments.minutes,
            tell=_tell,
        )
    except (KitError, TableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print(report)
    return 1 if any(trial.outcome != "noticed" for trial in report.trials) else 0


def choose(faults: list[Fault], only: list[str], sample: int | None, seed: int) -> list[Fault]:
    """Return the faults to try: those that change something and whose package is one of the
    names, or whose file ends with one, or a random sample of them.
    """
    names = [name for name in only if name]
    kept = [
        fault
        for fault in faults
        if not fault.equivalent
        and (not names or any(name == fault.package or fault.file.endswith(name) for name in names))
    ]
    if sample is None or sample >= len(kept):
        return kept
    return random.Random(seed).sample(kept, sample)


def _tell(trial: Trial) -> None:
    by = f" by {trial.by}" if trial.by else ""
    print(f"{trial.outcome:9s} {trial.seconds:4.0f} s  {trial.fault.place}{by}", flush=True)


def _print(report: Report) -> None:
    print(f"{report.table()}\n{report.seconds:.0f} s\n{report.describe_survivors()}".rstrip())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, help="how many, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--only", default="", help="packages, or ends of file names, with commas between"
    )
    parser.add_argument("--workers", type=int, default=2, help="copies of the tree (default 2)")
    parser.add_argument(
        "--narrow", action="store_true", help="run the tests of the row alone, not all that know it"
    )
    parser.add_argument(
        "--limit", type=float, default=900.0, help="seconds that the tests of a fault may take"
    )
    parser.add_argument("--minutes", type=float, help="begin no further faults after so long")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
