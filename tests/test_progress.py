"""Progress: rate-limited plain lines on a pipe, bars on a terminal, control codes only there."""

import io
import os
import pty
import subprocess
import sys
import textwrap

import pytest

from genlab.watch.progress import Progress, is_terminal


class Clock:
    """A clock that only moves when told to."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_plain_lines_are_rate_limited_and_name_stage_step_loss_and_time_left(clock):
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        task = progress.stage("train ar", total=400)
        for step in range(1, 401):
            clock.now_s += 0.25
            progress.update(task, done=step, loss=4.0 - step / 200)
    lines = stream.getvalue().splitlines()
    # 400 updates in 100 s: one line to begin, nine on the way (every 10 s), one at the end.
    assert len(lines) == 11
    assert lines[0] == "train ar: 0/400"
    assert lines[1] == "train ar: 40/400 (10 %), loss 3.8, 1:30 left"
    assert lines[-1] == "train ar: done, 400 in 1:40, loss 2"


def test_stages_do_not_share_a_rate_limit(clock):
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        first, second = progress.stage("one", total=10), progress.stage("two", total=10)
        clock.now_s = 11
        progress.update(first, done=1)
        progress.update(second, done=2)
        progress.update(second, done=3)
    lines = stream.getvalue().splitlines()
    assert sum(line.startswith("one: 1/10") for line in lines) == 1
    assert sum(line.startswith("two: 2/10") for line in lines) == 1
    assert not any(line.startswith("two: 3/10 (") for line in lines)


def test_a_resumed_stage_says_so_and_its_time_left_counts_only_this_run(clock):
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        task = progress.stage("train ar", total=400, done=300)
        clock.now_s = 20
        progress.update(task, done=350)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train ar: continues at 300/400"
    assert lines[1].endswith("0:20 left")


def test_an_error_names_the_stage_that_it_cut_short(clock):
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(stream, clock=clock) as progress:
        progress.update(progress.stage("encode", total=9), done=4)
        raise KeyboardInterrupt
    assert stream.getvalue().splitlines()[-1] == "encode: interrupted, 4/9 in 0:00"


def test_the_callable_form_begins_updates_and_ends_a_stage(clock):
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        for done in range(1, 4):
            progress("render corpus", done, 3)
        # a caller that repeats the last step must not begin the stage again
        progress("render corpus", 3, 3)
    assert stream.getvalue().splitlines() == [
        "render corpus: 0/3",
        "render corpus: done, 3 in 0:00",
    ]


def test_a_stage_without_total_counts_and_ends_when_told(clock):
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        task = progress.stage("read folder")
        clock.now_s = 12
        progress.update(task, advance=1500)
        progress.finish(task)
        progress.finish(task)
    assert stream.getvalue().splitlines() == [
        "read folder: 0",
        "read folder: 1,500",
        "read folder: done, 1,500 in 0:12",
    ]


def test_no_control_codes_off_a_terminal_even_when_colour_is_forced(clock, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    stream = io.StringIO()
    with Progress(stream, clock=clock, min_interval_s=0) as progress:
        task = progress.stage("evil \x1b[31m name\r", total=3)
        progress.update(task, done=1, clip="a\x1b]0;title\x07b")
        progress.note("one\x1b[2Jtwo")
    assert not [letter for letter in stream.getvalue() if ord(letter) < 32 and letter != "\n"]


def test_a_stage_that_an_earlier_run_finished_is_done_at_once(clock):
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        progress.stage("encode", total=7, done=7)
    assert stream.getvalue().splitlines() == ["encode: continues at 7/7", "encode: done, 7 in 0:00"]


def test_an_ascii_stream_is_no_reason_to_fail(clock):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    with Progress(stream, clock=clock) as progress:
        progress.note("Tübingen")
    assert stream.buffer.getvalue() == b"T?bingen\n"  # type: ignore[attr-defined]


def _on_a_terminal(script: str, **environment: str) -> str:
    """Run `script` with a pseudo-terminal as standard error; return what it received."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
    )
    os.close(follower)
    received = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        # Linux reports the closed end of a pseudo-terminal as an input/output error
        except OSError:
            break
        if not chunk:
            break
        received += chunk
    os.close(leader)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return received.decode() + "\0" + stdout.decode()


SCRIPT = """
    from genlab.watch.progress import Progress
    with Progress() as progress:
        task = progress.stage("train [bold]ar", total=40)
        print('{"json": true}')
        for step in range(1, 41):
            progress.update(task, done=step, loss=3.25)
        progress.note("clip \\x1b]0;owned\\x07 skipped")
"""


def test_a_terminal_gets_bars_and_standard_output_stays_clean():
    terminal, stdout = _on_a_terminal(SCRIPT).split("\0")
    assert "\x1b[" in terminal and "\x1b]0" not in terminal
    assert "train [bold]ar" in terminal
    assert "40/40" in terminal
    assert "loss 3.25" in terminal
    assert stdout == '{"json": true}\n'


def test_a_dumb_terminal_gets_plain_lines():
    terminal, _ = _on_a_terminal(SCRIPT, TERM="dumb").split("\0")
    assert "\x1b" not in terminal
    assert "train [bold]ar: done, 40 in 0:00, loss 3.25" in terminal


def test_is_terminal_accepts_any_object():
    assert not is_terminal(io.StringIO())
    assert not is_terminal(object())  # type: ignore[arg-type]
