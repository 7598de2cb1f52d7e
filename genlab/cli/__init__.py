"""The `genlab` command: parse, import what the command needs, call it, turn user errors into one
line and exit code 2.

Nothing heavy is imported before a command is known, so `genlab --help` answers at once.
"""

import argparse
import contextlib
import os
import shlex
import sys

from genlab.cli.output import drop_output, plain_output, print_any_character
from genlab.cli.parser import parse

# The range of options with these names, in every command. They take whole numbers.
WHOLE_NUMBERS = {
    "prompts": (1, 2**20),
    "seed": (0, 2**32 - 1),  # generators keep 32 bits of it
    "trials": (2, 100_000),
    "rounds": (1, 1_000_000),
    "slots": (1, 1024),
    "workers": (1, 4000),
    "levels": (1, 1024),
    "seeds": (1, 1000),
    "attempts": (1, 100),
    "wait": (1, 720),
}


# Commands that leave what they have done, so that giving them again does the rest.
RESUMING = {"compare", "train", "tune", "evaluate", "data", "budget", "sweep", "launch"}
# Commands that compute; their compiled programs are kept for the next.
COMPILING = (RESUMING - {"launch"}) | {"sample"}
AGAIN = "the same command starts from the beginning"


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    print_any_character()
    arguments = parse(words)
    command = shlex.join(["genlab", *words])
    from genlab.machine.stopping import Terminated, end_on_sigterm

    try:
        with end_on_sigterm(), plain_output():
            return _run(words, arguments, command)
    except Terminated as error:
        kept = "what is done is on disk, and the same command resumes"
        text = f"stopped by SIGTERM; {kept if _resumes(arguments) else AGAIN}"
        return _refuse(arguments.command, text, error.exit_code)


def _run(words: list[str], arguments: argparse.Namespace, command: str) -> int:
    from genlab.config.errors import GenlabError, shorten
    from genlab.machine.memory import collector_paused, reuse_memory
    from genlab.machine.stopping import (
        EXIT_DISK_FULL,
        EXIT_INTERRUPTED,
        EXIT_USER_ERROR,
        Terminated,
        is_disk_full,
    )
    from genlab.machine.topologies import COMPILER_ENVIRONMENT

    reuse_memory()
    if arguments.command == "aot":
        os.environ.update(COMPILER_ENVIRONMENT)
    try:
        _check_words(words, arguments)
        with collector_paused():
            from genlab.cli import runs as commands
            from genlab.machine import hosts, liveness
            from genlab.run.programs import keep_programs

        if arguments.command in COMPILING:
            keep_programs()
        if arguments.command in ("compare", "train"):
            hosts.join()
        if not hosts.is_leader():  # one of several processes prints
            sys.stdout = open(os.devnull, "w")
        with liveness.shared_fate(), _working_copies(arguments):
            exit_code = getattr(commands, arguments.command)(arguments, command) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # when Python ends it would be too late for an exit code
        return exit_code
    except GenlabError as error:
        return _refuse(arguments.command, str(error), getattr(error, "exit_code", EXIT_USER_ERROR))
    except BrokenPipeError:  # the reader of our output has gone, as in `genlab data CONFIG | head`
        drop_output()
        return EXIT_USER_ERROR
    except Terminated:
        raise
    except KeyboardInterrupt:
        text = f"stopped; {'the same command resumes' if _resumes(arguments) else AGAIN}"
        return _refuse(arguments.command, text, EXIT_INTERRUPTED)
    except Exception as error:
        if is_disk_full(error):
            drop_output()
            text = "the disk is full; free some space, then the same command resumes"
            return _refuse(arguments.command, text, EXIT_DISK_FULL)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            text = (
                f"not enough memory ({shorten(str(error))}); lower batch_size, num_frames or the "
                "width of the networks"
            )
            return _refuse(arguments.command, text, EXIT_USER_ERROR)
        if not isinstance(error, OSError) or error.filename is None:
            raise
        return _refuse(arguments.command, f"{error.filename}: {error.strerror}", EXIT_USER_ERROR)


def _check_words(words: list[str], arguments: argparse.Namespace) -> None:
    """Refuse what no command can use: bytes that are not text, and numbers out of range."""
    from genlab.config.errors import GenlabError, shorten

    for word in words:
        if "\0" in word or any("\ud800" <= char <= "\udfff" for char in word):
            raise GenlabError(f"{shorten(word)}: expected UTF-8 text without NUL characters")
    for name, (least, most) in WHOLE_NUMBERS.items():
        value = getattr(arguments, name, None)
        if isinstance(value, int) and not least <= value <= most:
            raise GenlabError(
                f"--{name} {shorten(value)}: expected at least {least} and at most {most}"
            )


def _resumes(arguments: argparse.Namespace) -> bool:
    """Return whether what was stopped continues where it was."""
    is_rehearsal = bool(getattr(arguments, "dry_run", False) or getattr(arguments, "audit", False))
    return arguments.command in RESUMING and not is_rehearsal


def _working_copies(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    if not any("://" in str(getattr(arguments, name, "")) for name in ("config", "out")):
        return contextlib.nullcontext()
    from genlab.run.bucket import working_copies

    return working_copies(arguments)


def _refuse(command: str, text: str, exit_code: int) -> int:
    from genlab.config.errors import one_line

    print(f"genlab {command}: {one_line(text)}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
