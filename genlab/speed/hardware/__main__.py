"""`python -m genlab.speed.hardware --minutes 9 --out DIR`: ask an accelerator what it can do.

Needs no network and installs nothing; `--wheels` prints how to bring what the machine lacks.
Called again with the same folder it asks what is missing.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NoReturn

from genlab.speed.hardware.needs import find_missing, install_commands, wheels_command

PROGRAM = "python -m genlab.speed.hardware"
MOST_MINUTES = 24 * 60
INTERRUPTED = 130
USER_ERROR = 2


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{PROGRAM}: {message}; see --help\n")


def main(words: list[str] | None = None) -> int:
    """Run the pack and return its exit code."""
    # Sizes by name: what knows them imports packages that may be missing.
    parser = _Parser(prog=PROGRAM, description="Ask an accelerator what it can do.")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all steps together")
    parser.add_argument("--out", help="folder of hardware.json and hardware.md")
    parser.add_argument(
        "--size",
        choices=("full", "toy", "glance"),
        default="full",
        help="toy and glance: a rehearsal on a CPU, of all cases or of one case for each step",
    )
    parser.add_argument(
        "--wheels", action="store_true", help="print how to bring the packages that are missing"
    )
    parser.add_argument(
        "--python", default="", help="with --wheels: that machine's Python, such as 3.12"
    )
    arguments = parser.parse_args(words)
    if arguments.python and not re.fullmatch(r"3\.[0-9]{1,2}", arguments.python):
        parser.error(f"--python {arguments.python[:40]!r}: expected a version such as 3.12")
    if arguments.wheels:
        print(f"{wheels_command(python=arguments.python)}\n{install_commands()}")
        return 0
    if not arguments.out:  # "" would be the folder where one stands
        parser.error("--out is missing; name the folder of the results")
    if not 0 < arguments.minutes <= MOST_MINUTES:
        parser.error(f"--minutes {arguments.minutes}: expected above 0, at most {MOST_MINUTES}")
    if missing := find_missing():
        names = ", ".join(need.wheel for need in missing)
        parser.error(f"missing packages: {names}; `{PROGRAM} --wheels` prints how to bring them")
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    # Here, since they need the packages that were looked for.
    from genlab.config import GenlabError
    from genlab.config.errors import one_line
    from genlab.machine.stopping import EXIT_DISK_FULL, Terminated, end_on_sigterm, is_disk_full
    from genlab.speed.hardware.pack import run_pack
    from genlab.speed.hardware.size import SIZES

    try:
        with end_on_sigterm():
            size = SIZES[arguments.size]
            return run_pack(Path(arguments.out), size, arguments.minutes, _tell)
    except GenlabError as error:
        return _refuse(one_line(str(error)), getattr(error, "exit_code", USER_ERROR))
    except Terminated as error:
        return _refuse("stopped by SIGTERM; the same command asks what is missing", error.exit_code)
    except KeyboardInterrupt:
        return _refuse("stopped; the same command asks what is missing", INTERRUPTED)
    except OSError as error:
        if is_disk_full(error):
            text = "the disk is full; free some space, then the same command resumes"
            return _refuse(text, EXIT_DISK_FULL)
        return _refuse(one_line(f"{error.filename}: {error.strerror}"), USER_ERROR)


def _tell(text: str) -> None:
    print(text, flush=True)


def _refuse(text: str, exit_code: int) -> int:
    print(f"{PROGRAM}: {text}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
