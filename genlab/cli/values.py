"""Values on the command line: paths and whole numbers, refused while the words are parsed, and the
arguments that many commands take.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

AddCommand = Callable[[str, str, str], argparse.ArgumentParser]


def place(text: str) -> str | Path:
    """Parse a directory; one in a bucket stays text, because a path would lose a slash of gs://."""
    return text if "://" in text else Path(named(text))


def named(text: str) -> str:
    """Parse a path as it was written; an unset variable of the shell must not name the current
    directory.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("'': expected a path, got nothing; is a variable empty?")
    return text


def whole(text: str) -> int:
    """Parse a whole number as people write it; `int` also accepts underscores, blanks and other
    alphabets.
    """
    from genlab.config.errors import shorten

    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 4000:
        raise argparse.ArgumentTypeError(f"{shorten(text)}: expected a whole number")
    return int(text)


def local(text: str) -> Path:
    """Parse a path that must be on a local disk."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text}: expected a path on a local disk; only compare, train, tune, sample, "
            "evaluate, report and listen work in a bucket"
        )
    return Path(named(text))


def takes_config(
    command: argparse.ArgumentParser,
    what: str = "config file, config.json, run directory, or a name such as quickstart",
) -> None:
    """Let a command take a config, overrides and `--trust-code`."""
    command.add_argument("config", type=named, help=what)
    command.add_argument(
        "overrides",
        nargs="*",
        default=[],  # without it argparse says that they are required
        metavar="FIELD=VALUE",
        help="dotted overrides, for example seed=1",
    )
    takes_trust(command)


def takes_trust(command: argparse.ArgumentParser) -> None:
    """Let a command take `--trust-code`."""
    command.add_argument(
        "--trust-code",
        action="store_true",
        help=(
            "run the Python files that a config.json refers to; read them first (see "
            "docs/security.md in the repository)"
        ),
    )
