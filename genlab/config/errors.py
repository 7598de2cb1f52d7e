"""Errors that the user can fix, with quoted values kept short and printable.

Every text that a user sees in an error passes through `one_line`: no control characters, no line
breaks, at most about 2,000 characters. A value inside one passes `shorten`. Nothing here imports
anything of the library.
"""

import difflib
import math
from collections.abc import Iterable
from pathlib import Path

MAX_TEXT = 2000
MAX_VALUE = 80
KEPT_END = 400  # of a text that is too long: the fix is at its end


class GenlabError(Exception):
    """An error the user can fix. The command line prints it in one line and exits with code 2."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(GenlabError):
    """One or more config fields are wrong; the text names each field, its value and what was
    expected.
    """


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """Return `text` on one printable line of about `limit` characters: beyond, its middle is left
    out.
    """
    spaced = " ".join(text.split())
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in spaced)
    if len(line) <= limit:
        return line
    end = min(KEPT_END, limit // 4)
    return f"{line[: limit - end]} ... ({len(line) - limit} characters left out) ... {line[-end:]}"


def shorten(value: object, limit: int = MAX_VALUE) -> str:
    """Return what `value` looks like in Python, in at most `limit` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out integers of more than 4300 digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a value nested too deep"
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def meant(written: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'X'?" for the name that `written` was to be, "" if none is like it."""
    near = difflib.get_close_matches(written[:MAX_VALUE], list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def read_numbers(option: str, text: str, example: str) -> list[float]:
    """Return the numbers that an option lists with commas between: finite, above zero, each once.

    Raises:
        GenlabError: that names the option and shows an example.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if (
        not numbers
        or not all(0 < number < math.inf for number in numbers)
        or len(set(numbers)) < len(numbers)
    ):
        raise GenlabError(
            f"{option} {shorten(text)}: expected different numbers above zero with commas between, "
            f"for example {example}"
        )
    return numbers


def is_ours_to_stop(error: BaseException) -> bool:
    """Return whether `error` ends this process, Ctrl-C or a signal, and is nothing that a file
    raised.
    """
    is_signal = not isinstance(error, Exception) and type(error).__module__.startswith("genlab.")
    return isinstance(error, KeyboardInterrupt) or is_signal


def describe_raised(path: Path, error: BaseException) -> str:
    """Return `PATH:LINE: TYPE: TEXT` of what running the Python file `path` raised; the line is one
    of that file.
    """
    line = _line_in(path, error)
    try:
        text = str(error)
    except Exception:  # an exception class of the file may have any method
        text = ""
    name = "" if isinstance(error, GenlabError) else f"{type(error).__name__}: "
    if isinstance(error, SystemExit):
        text = f"{text or 'no code'}; a config returns its value, it does not exit"
    return f"{path}{f':{line}' if line else ''}: {name}{one_line(text, 300)}".removesuffix(": ")


def _line_in(path: Path, error: BaseException) -> int | None:
    """Return the line of `path` at which `error` came up, None if it is not known."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    line = None
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(path):
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
