"""Where a command prints: a terminal that lacks characters, a full disk, a reader that has gone."""

import io
import os
import sys

import pytest
from sweep_toys import write_page

from genlab.cli import main
from genlab.cli.output import plain_output
from genlab.machine.stopping import EXIT_DISK_FULL

PAGE = 'def sweep():\n    """Is it ≤ 5 ↓?"""\n    return Sweep(question="Is it ≤ 5 ↓?")\n'


@pytest.fixture
def command(tmp_path):
    """A command that prints what not every terminal has."""
    (tmp_path / "page.py").write_text(PAGE, encoding="utf-8")
    return ["sweep", "list", str(tmp_path)]


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "\\u2264 5 \\u2193"), ("latin-1", "\\u2264 5"), ("utf-8", "≤ 5 ↓")],
)
def test_every_terminal_gets_the_table(command, monkeypatch, encoding, shown):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    assert main(command) == 0 and shown in written.getvalue().decode(encoding)


def test_output_that_cannot_be_written_has_an_exit_code(command, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    for target, exit_code in (("/dev/full", EXIT_DISK_FULL), (writer, 2)):
        with open(target, "w", encoding="utf-8") as output:
            monkeypatch.setattr(sys, "stdout", output)
            assert main(command) == exit_code
            output.flush()  # as Python does at its end: nothing is left to fail
    assert "the disk is full" in capsys.readouterr().err


def test_a_command_prints_nowhere_if_there_is_nothing_to_print_to(command, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(command) == 0


def test_a_text_from_elsewhere_does_not_command_the_terminal(command, tmp_path, capsys):
    title = "\x1b]0;mine\x07"
    (tmp_path / "page.py").write_text(
        PAGE.replace("5", "5 \\N{RIGHT-TO-LEFT OVERRIDE}") + f"# {title}\n"
    )
    (tmp_path / "page.md").write_text(f"# page: {title}\tyes\n")
    with plain_output():
        print(title, "\u202e", "é\tb")
    assert capsys.readouterr().out == "\\x1b]0;mine\\x07 \\u202e é\tb\n"
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "mine" in printed and printed.replace("\n", "").isprintable()


def test_a_path_is_quoted_in_commands_to_copy(tmp_path, capsys):
    page = write_page(tmp_path, 10, 20).rename(tmp_path / "a $(touch mine).py")
    assert main(["sweep", "report", str(page), "--out", str(tmp_path / "none")]) == 2
    assert f"run `genlab sweep run '{page}'` first" in capsys.readouterr().err
