"""Standard output of the commands: on any terminal, without what would command the terminal.

Results, texts and names of clips may be a stranger's. Printed as they are, control characters in
them would move the cursor, rename the window or write into the clipboard.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # text that reads backwards
_CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
_SHOWN = {code: repr(chr(code))[1:-1] for code in (*_CONTROLS, *_DIRECTIONS)}


class _Plain:
    """A stream that shows control characters by their numbers."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; what is returned counts its own characters."""
        self._stream.write(text.translate(_SHOWN))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Print no control characters but line ends and tabs in this context."""
    if sys.stdout is None:
        yield
        return
    stream: Any = _Plain(sys.stdout)
    with contextlib.redirect_stdout(stream):
        yield


def print_any_character() -> None:
    """Let a terminal that lacks a character get its number: a table with an arrow in it must not
    end a command that has trained for hours.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Throw away what standard output does not take, which Python would try again at its end."""
    stream = sys.stdout
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
