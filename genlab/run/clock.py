"""Where the seconds of a comparison go: one clock, which is in one stage at a time.

In: code that names its stages. Out: `TimeEntry`, which results.json keeps, and wall.json, which
carries the seconds over to the command that resumes.

    with Clock(out / WALL) as clock:
        clock.keep_in(out)
        with stage(TRAIN, "ar/seed0"):  # anywhere below, without handing the clock down
            ...

Stages nest: an inner one stops the outer one, so each second counts once, and what belongs to no
stage is counted as `OTHER`. Tracing and compiling is told by JAX and counted apart, wherever it
happens. Outside a clock, and in other threads, a stage is nothing.

Seconds are kept after each outermost stage. A killed command loses those of the stage that it was
in, which is done again; of a training, whose work survives, `done_before` tells them.
"""

import contextlib
import contextvars
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Literal, NotRequired, Self, TypeAlias, get_args

import pydantic
from pydantic import Field
from typing_extensions import TypedDict

from genlab.run.bounds import BASELINES
from genlab.run.stored import OPEN, Number, read_again

WALL: Final = "wall.json"

Stage: TypeAlias = Literal[
    "earlier, not by stage",
    "data and codec",
    "plan and checks",
    "compile",
    "learning rates",
    "train",
    "baselines",
    "sample",
    "bits",
    "energy, bare law",
    "energy, own sampler",
    "metrics of audio",
    "controls",
    "audit",
    "report",
    "other",
]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)  # in the order of the table
EARLIER: Final = "earlier, not by stage"  # of versions that had no stages
DATA: Final = "data and codec"
PLAN: Final = "plan and checks"  # budgets, and FLOP formulas against the walk
COMPILE: Final = "compile"
RATES: Final = "learning rates"  # trainings that choose one
TRAIN: Final = "train"  # of an arm
BASELINE: Final = "baselines"  # making one: means, counts, the training of the regression
SAMPLE: Final = "sample"
BITS: Final = "bits"
BARE: Final = "energy, bare law"
TUNED: Final = "energy, own sampler"
METRICS: Final = "metrics of audio"
CONTROLS: Final = "controls"
AUDIT: Final = "audit"  # with all that happens in it
REPORT: Final = "report"  # statistics, TensorBoard, pictures
OTHER: Final = "other"
OF_GATES: Final[tuple[Stage, ...]] = (BASELINE, BARE, CONTROLS, AUDIT)

_COMPILING = frozenset(
    f"/jax/core/compile/{name}_duration"
    for name in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)
_Amount = Annotated[Number, Field(ge=0)]


@pydantic.with_config(OPEN)
class StageTime(TypedDict):
    """The seconds of one stage, a row of the table."""

    stage: str
    seconds: _Amount
    before_s: _Amount
    """Of `seconds`, those of earlier commands."""
    gates_s: _Amount
    """Of `seconds`, those that nothing but the gates of the verdict needs."""
    unmeasured: bool
    """Some of it was done before, and nobody knows in how many seconds."""


@pydantic.with_config(OPEN)
class TimeEntry(TypedDict):
    """`time` of results.json: the stages, whose seconds add up to `whole_s`; `gates_s` is how many
    of them the gates cost, with what was compiled for them.
    """

    stages: list[StageTime]
    whole_s: _Amount
    gates_s: _Amount


@pydantic.with_config(OPEN)
class _KeptPiece(TypedDict):
    stage: Stage
    part: str
    seconds: _Amount
    compile_s: _Amount
    unmeasured: bool


@pydantic.with_config(OPEN)
class _Kept(TypedDict):
    """wall.json; versions without stages kept the sum alone."""

    wall_s: _Amount
    pieces: NotRequired[list[_KeptPiece]]


@dataclasses.dataclass
class _Piece:
    """What one stage took for one part of its work: an arm on one seed, or a row."""

    stage: Stage
    part: str
    seconds: float = 0.0
    compile_s: float = 0.0
    before_s: float = 0.0
    compiled_before_s: float = 0.0
    unmeasured: bool = False

    @property
    def row(self) -> str:
        """The row of the table that it is counted in."""
        if self.stage == TRAIN:
            return f"{self.stage} {self.name}"
        return f"{self.stage}: {self.name}" if self.stage == BASELINE else self.stage

    @property
    def name(self) -> str:
        return self.part.split("/")[0]

    @property
    def is_of_gates(self) -> bool:
        return self.stage in OF_GATES or self.name in BASELINES

    @property
    def whole_s(self) -> float:
        return self.seconds + self.compile_s + self.before_s + self.compiled_before_s


class Clock:
    """The clock of one command, a context manager; `stage` and `done_before` act on the one that is
    running.
    """

    def __init__(self, earlier: Path, *, now: Callable[[], float] = time.perf_counter):
        """Read what earlier commands took.

        Args:
            earlier: wall.json of the run, if it has one.
            now: seconds since whenever.
        """
        self._now = now
        self._pieces: dict[tuple[str, str], _Piece] = {}
        self._path: Path | None = None
        self._stack = [self._piece(OTHER, "")]
        self._spans: list[tuple[float, float]] = []  # of compilation: begin, seconds
        self._thread = threading.get_ident()
        self._lapped = now()
        self._read(earlier)

    def keep_in(self, folder: Path) -> None:
        """Keep the seconds in `folder` from now on; what its wall.json holds came before."""
        self._path = folder / WALL
        self._read(self._path)

    def __enter__(self) -> Self:
        import jax.monitoring  # here: reports import this file, and need no jax

        self._token = _running.set(self)
        self._lapped = self._now()
        jax.monitoring.register_event_duration_secs_listener(self.hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import jax.monitoring

        jax.monitoring.unregister_event_duration_listener(self.hear)
        _running.reset(self._token)
        self._lap()

    @contextlib.contextmanager
    def stage(self, name: Stage, part: str) -> Iterator[None]:
        """Count what happens inside as this stage."""
        if self._stack[-1].stage == AUDIT:
            yield
            return
        self._lap()
        self._stack.append(self._piece(name, part))
        self._spans.clear()
        try:
            yield
        finally:
            self._lap()
            self._stack.pop()
            if len(self._stack) == 1:
                self.keep()

    @property
    def part(self) -> str:
        """Whose work is being done."""
        return self._stack[-1].part

    def done_before(self, name: Stage, part: str, seconds: float | None, compile_s: float) -> None:
        """Take in that this piece is done, and took at least so many seconds, of this command or of
        earlier ones.

        `seconds` None: nobody knows in how many, unless the clock does.
        """
        self._lap()
        piece = self._piece(name, part)
        if seconds is not None:
            # What compiles within an update is part of its seconds there, and apart here.
            missing_s = max(0.0, seconds + compile_s - piece.whole_s)
            known_s = piece.compile_s + piece.compiled_before_s
            compiled_s = min(missing_s, max(0.0, compile_s - known_s))
            piece.compiled_before_s += compiled_s
            piece.before_s += missing_s - compiled_s
        elif not piece.whole_s:
            piece.unmeasured = True

    def hear(self, event: str, duration_secs: float, **more: str | int) -> None:
        """Take in what JAX tells of its compilation; it calls this at the end of each part."""
        if event not in _COMPILING or threading.get_ident() != self._thread:
            return
        self._lap()
        began, new_s = self._lapped - duration_secs, duration_secs
        # Parts nest, as the tracing of a function in another does; the inner ones ended earlier.
        while self._spans and self._spans[-1][0] >= began:
            new_s -= self._spans.pop()[1]
        self._spans.append((began, duration_secs))
        piece = self._stack[-1]
        # JAX has another clock, by which a stage may have compiled for longer than it lasted.
        new_s = min(max(new_s, 0.0), piece.seconds)
        piece.seconds -= new_s
        piece.compile_s += new_s

    def tell(self) -> TimeEntry:
        """Return the seconds of all stages so far, of this command and those before."""
        self._lap()
        rows: dict[str, StageTime] = {}
        for piece in self._pieces.values():
            _add(rows, piece.row, piece, piece.seconds + piece.before_s, piece.before_s)
            rows[piece.row]["unmeasured"] |= piece.unmeasured
            compiled_s = piece.compile_s + piece.compiled_before_s
            _add(rows, COMPILE, piece, compiled_s, piece.compiled_before_s)
        # In the order of `STAGES`, and arms in the order in which they came.
        places: dict[str, Stage] = {piece.row: piece.stage for piece in self._pieces.values()}
        places[COMPILE] = COMPILE
        stages = sorted(rows.values(), key=lambda row: STAGES.index(places[row["stage"]]))
        return {
            "stages": stages,
            "whole_s": sum(row["seconds"] for row in stages),
            "gates_s": sum(row["gates_s"] for row in stages),
        }

    def keep(self) -> None:
        """Write wall.json, where a folder for it was named."""
        self._lap()
        if self._path is None:
            return
        pieces: list[_KeptPiece] = [
            {
                "stage": piece.stage,
                "part": piece.part,
                "seconds": piece.seconds + piece.before_s,
                "compile_s": piece.compile_s + piece.compiled_before_s,
                "unmeasured": piece.unmeasured,
            }
            for piece in self._pieces.values()
        ]
        kept: _Kept = {"wall_s": sum(piece.whole_s for piece in self._pieces.values())}
        # Here, because it brings jax, which metrics do without.
        from genlab.run.files import write_json

        write_json(self._path, {**kept, "pieces": pieces})

    def _read(self, path: Path) -> None:
        """Take over what earlier commands kept."""
        kept = read_again(path, _Kept, doing="counting seconds from this attempt")
        if kept is None:
            return
        if "pieces" not in kept:
            self._piece(EARLIER, "").before_s = kept["wall_s"]
        for found in kept.get("pieces", []):
            piece = self._piece(found["stage"], found["part"])
            piece.before_s, piece.compiled_before_s = found["seconds"], found["compile_s"]
            piece.unmeasured = found["unmeasured"]

    def _piece(self, name: Stage, part: str) -> _Piece:
        return self._pieces.setdefault((name, part), _Piece(name, part))

    def _lap(self) -> None:
        now = self._now()
        self._stack[-1].seconds += now - self._lapped
        self._lapped = now


def _add(
    rows: dict[str, StageTime], title: str, piece: _Piece, seconds: float, before_s: float
) -> None:
    """Add seconds of a piece to a row of the table."""
    empty: StageTime = {
        "stage": title,
        "seconds": 0.0,
        "before_s": 0.0,
        "gates_s": 0.0,
        "unmeasured": False,
    }
    row = rows.setdefault(title, empty)
    row["seconds"] += seconds
    row["before_s"] += before_s
    row["gates_s"] += seconds if piece.is_of_gates else 0.0


_running: contextvars.ContextVar[Clock | None] = contextvars.ContextVar("clock", default=None)


@contextlib.contextmanager
def stage(name: Stage, part: str | None = None) -> Iterator[None]:
    """Count what happens inside as this stage of the running clock, if there is one.

    Args:
        name: the stage.
        part: whose work it is, NAME or NAME/seedN; None: that of the outer stage.
    """
    clock = _running.get()
    if clock is None:
        yield
        return
    with clock.stage(name, clock.part if part is None else part):
        yield


def done_before(
    name: Stage, part: str, seconds: float | None = None, compile_s: float = 0.0
) -> None:
    """Tell the running clock, if there is one, that a piece is done (`Clock.done_before`)."""
    clock = _running.get()
    if clock is not None:
        clock.done_before(name, part, seconds, compile_s)
