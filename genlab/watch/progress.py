"""How far a long command is: bars on a terminal, plain lines anywhere else.

In: named stages with a total, and updates. Out, on standard error so that standard output stays
clean for `--json`: rich bars with stage, step, values, and time left when the stream is a terminal;
otherwise at most one plain line every `min_interval_s` per stage and a last one when it ends. A
stream that is not a terminal never receives control codes, even if FORCE_COLOR is set. One
`Progress` may be active per terminal at a time, which is rich's own rule.

    with Progress() as progress:
        task = progress.stage("train ar", total=400)
        progress.update(task, done=10, loss=3.2)
        progress("render corpus", 12, 100)  # the callable form, for code that only knows a function
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TextIO

from genlab.machine import hosts


@dataclass
class _Stage:
    name: str
    total: int | None
    done: int
    # where this process began: the speed of a resumed run leaves out steps of the run before
    first_done: int
    started_s: float
    printed_s: float
    is_finished: bool = False
    bar: Any = None
    values: dict[str, float | str] = field(default_factory=dict)


class Progress:
    """Stages of one command, a context manager; a stage is the integer that `stage` returns."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        min_interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        ours = sys.stderr if hosts.is_leader() else open(os.devnull, "w")
        self._stream = ours if stream is None else stream
        self._min_interval_s = min_interval_s
        self._clock = clock
        self._stages: list[_Stage] = []
        self._by_name: dict[str, int] = {}
        self._bars = _bars(self._stream) if is_terminal(self._stream) else None

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bars; name the stages that an error cut short."""
        for task, stage in enumerate(self._stages):
            if not stage.is_finished and stage.total != stage.done:
                self._end(task, "interrupted" if kind else "stopped")
            else:
                self.finish(task)
        if self._bars:
            self._bars.stop()

    def stage(self, name: str, total: int | None = None, *, done: int = 0) -> int:
        """Begin a stage and return its number.

        Args:
            name: what is being done, for example "train ar".
            total: how many units there are; None if nobody knows.
            done: how many were done by an earlier run of the same command.
        """
        now_s = self._clock()
        stage = _Stage(name, total, done, done, started_s=now_s, printed_s=now_s)
        if self._bars:
            stage.bar = self._bars.add_task(
                _printable(name), total=total, completed=done, values=""
            )
        else:
            self._print(
                f"{name}: "
                + ("continues at " if done else "")
                + (f"{done:,}" if total is None else f"{done:,}/{total:,}")
            )
        self._stages.append(stage)
        task = self._by_name[name] = len(self._stages) - 1
        if total is not None and done >= total:
            self.finish(task)
        return task

    def update(
        self, task: int, done: int | None = None, *, advance: int = 0, **values: float | str
    ) -> None:
        """Report that `done` units are complete (or `advance` more), and the newest values such as
        `loss=3.2`.
        """
        stage = self._stages[task]
        stage.done = (stage.done if done is None else done) + advance
        stage.values.update(values)
        if stage.total is not None and stage.done >= stage.total:
            self.finish(task)
        elif self._bars:
            self._bars.update(stage.bar, completed=stage.done, values=_values(stage.values))
        elif self._clock() - stage.printed_s >= self._min_interval_s:
            self._print(self._line(stage))

    def finish(self, task: int) -> None:
        """End a stage; calling it again changes nothing."""
        self._end(task, "done")

    def note(self, text: str) -> None:
        """Print one line of text above the bars."""
        if self._bars:
            self._bars.console.print(_printable(text), markup=False, highlight=False)
        else:
            self._print(text)

    def __call__(self, stage: str, done: int, total: int | None = None) -> None:
        """Update the stage of this name, beginning it at its first mention."""
        task = self._by_name.get(stage)
        if task is None or self._stages[task].is_finished:
            if task is not None and done >= self._stages[task].done:
                return
            task = self.stage(stage, total)
        if total is not None and total != self._stages[task].total:
            self._stages[task].total = total
            if self._bars:
                self._bars.update(self._stages[task].bar, total=total)
        self.update(task, done)

    def _end(self, task: int, word: str) -> None:
        stage = self._stages[task]
        if stage.is_finished:
            return
        stage.is_finished = True
        if self._bars:
            self._bars.update(stage.bar, completed=stage.done, values=_values(stage.values))
            self._bars.stop_task(stage.bar)
        else:
            count = f"{stage.done:,}" + (
                f"/{stage.total:,}" if stage.total not in (None, stage.done) else ""
            )
            values = _values(stage.values)
            elapsed = _clock_text(self._clock() - stage.started_s)
            self._print(
                f"{stage.name}: {word}, {count} in {elapsed}" + (f", {values}" if values else "")
            )

    def _line(self, stage: _Stage) -> str:
        now_s = self._clock()
        stage.printed_s = now_s
        parts = [f"{stage.done:,}"]
        here = stage.done - stage.first_done
        if stage.total:
            parts = [f"{stage.done:,}/{stage.total:,} ({100 * stage.done // stage.total} %)"]
        if stage.values:
            parts.append(_values(stage.values))
        if stage.total and here > 0:
            parts.append(
                f"{_clock_text((now_s - stage.started_s) * (stage.total - stage.done) / here)} left"
            )
        return f"{stage.name}: " + ", ".join(parts)

    def _print(self, line: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        print(
            _printable(line).encode(encoding, "replace").decode(encoding),
            file=self._stream,
            flush=True,
        )


def is_terminal(stream: TextIO) -> bool:
    """Return whether bars may be drawn on `stream`. rich would also believe FORCE_COLOR; a log file
    must not.
    """
    # What takes the place of a stream, in a notebook for example, may lack the method.
    is_tty = hasattr(stream, "isatty") and stream.isatty()
    return is_tty and os.environ.get("TERM") != "dumb"


def _bars(stream: TextIO) -> Any:
    # Imported here: a command that draws no bar should not wait for rich.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[values]}", markup=False, style="cyan"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(file=stream),
        refresh_per_second=4,
        # rich would send standard output to this console; a pipe that reads it must keep getting
        # it.
        redirect_stdout=sys.stdout.isatty(),
        speed_estimate_period=60,
    )


def _values(values: dict[str, float | str]) -> str:
    texts = {
        name: value if isinstance(value, str) else f"{value:.4g}" for name, value in values.items()
    }
    return _printable("  ".join(f"{name} {text}" for name, text in texts.items()))


def _printable(text: str) -> str:
    """Replace control codes: names and texts come from corpora, and a terminal would obey them."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
