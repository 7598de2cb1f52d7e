"""Values on the command line: paths and whole numbers, refused while the words are parsed."""

import argparse
from pathlib import Path


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
            "evaluate, report and listen "
            "work in a bucket"
        )
    return Path(named(text))
