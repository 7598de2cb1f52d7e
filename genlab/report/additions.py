"""What other commands add to a run directory for its report: tunings, fronts, crossings, listeners'
answers.

In: a run directory. Out: the values, None if there is no such file, or one line that names the file
and the field. Types require what the report needs and allow everything else.
"""

from pathlib import Path
from typing import Annotated, Literal, NotRequired, get_args

import pydantic
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from genlab.evaluate.entries import Amount, Direction, Known, Positive, ScoreEntry
from genlab.run.stored import OPEN, Count, Number, read_stored

Setting = Literal["peak_lr", "warmup_fraction", "weight_decay", "ema_decay", "dropout"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)


@pydantic.with_config(OPEN)
class FrontCosts(TypedDict):
    """What one setting of a sampler costs."""

    network_calls: Positive
    flops_per_s: Positive
    latency_s: Positive
    throughput_s: Positive


@pydantic.with_config(OPEN)
class BeatenBy(TypedDict):
    """The setting that significantly beats another one on every cost, empty if none does."""

    network_calls: str
    flops_per_s: str
    latency_s: str
    throughput_s: str


@pydantic.with_config(OPEN)
class FrontEntry(TypedDict):
    """One setting of a sampler, an entry of pareto.json."""

    arm: str
    setting: str
    by: NotRequired[str]
    """The name of the score; the deciding one in files of earlier versions."""
    score: ScoreEntry
    costs: FrontCosts
    dominated_by: BeatenBy


@pydantic.with_config(OPEN)
class CurveFacts(TypedDict):
    """The runs of one family, and the curve through them."""

    x: Annotated[list[Positive], Field(min_length=1)]
    score: list[Number]
    grid: Annotated[list[Positive], Field(min_length=1)]
    fit: list[Number]
    low: list[Number]
    high: list[Number]


def _check_curve(curve: CurveFacts) -> CurveFacts:
    same = [("score", "x"), ("fit", "grid"), ("low", "grid"), ("high", "grid")]
    for name, other in same:
        if len(curve[name]) != len(curve[other]):
            raise ValueError(f"expected as many values of {name} as of {other}")
    return curve


def _check_table(rows: list[list[str]]) -> list[list[str]]:
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError("expected rows of the same length")
    return rows


@pydantic.with_config(OPEN)
class CrossingEntry(TypedDict):
    """Where the ranking flips on one score and axis, an entry of crossover.json."""

    score: str
    unit: str
    direction: Direction
    axis: Annotated[str, Field(min_length=1)]
    num_runs: Count
    curves: Annotated[
        dict[str, Annotated[CurveFacts, AfterValidator(_check_curve)]], Field(min_length=1)
    ]
    table: Annotated[list[list[str]], AfterValidator(_check_table)]
    verdicts: list[str]
    notes: list[str]


@pydantic.with_config(OPEN)
class TrialEntry(TypedDict):
    """A finished trial, as in trial.json."""

    number: Count
    setting: dict[Setting, Known]
    value: Known
    low: Known
    high: Known
    train_flops: Amount
    steps: Count
    wall_s: Amount
    note: str
    shape: NotRequired[dict[str, Count]]


@pydantic.with_config(OPEN)
class BestOf(TypedDict):
    """The best of k trials."""

    k: Annotated[Count, Field(ge=1)]
    value: Number
    low: Known
    high: Known


@pydantic.with_config(OPEN)
class TunedArm(TypedDict):
    """What tuning found for one arm."""

    family: str
    key: str
    num_trials: Annotated[Count, Field(ge=1)]
    train_flops: Amount
    best: Count
    setting: dict[Setting, Known]
    best_of: list[BestOf]
    trials: Annotated[list[TrialEntry], Field(min_length=1)]
    shape: NotRequired[dict[str, Count]]


def _check_best(arm: TunedArm) -> TunedArm:
    if arm["best"] >= len(arm["trials"]):
        raise ValueError(
            f"expected best below {len(arm['trials'])}, the number of trials, got {arm['best']}"
        )
    return arm


@pydantic.with_config(OPEN)
class Tuning(TypedDict):
    """tuning.json."""

    schema: Literal[1]
    name: str
    unit: str
    direction: Direction
    space: dict[Setting, Annotated[list[Number], Field(min_length=2, max_length=2)]]
    trials: Count
    fraction: Amount
    by: str
    sampler: Literal["random", "tpe"]
    seed: NotRequired[Count]
    shape_grid: NotRequired[str]
    num_prompts: Count
    arms: Annotated[
        dict[str, Annotated[TunedArm, AfterValidator(_check_best)]], Field(min_length=1)
    ]


@pydantic.with_config(OPEN)
class Excluded(TypedDict):
    """A listener whose answers do not count."""

    listener: str
    missed: Count
    screens: Count


@pydantic.with_config(OPEN)
class Listeners(TypedDict):
    """Who counts and who does not."""

    counted: Count
    needed: Count
    excluded: list[Excluded]


@pydantic.with_config(OPEN)
class RatedRow(TypedDict):
    """The mean rating of one row."""

    row: str
    mean: Known
    low: Known
    high: Known
    listeners: NotRequired[Count]
    prompts: NotRequired[Count]


@pydantic.with_config(OPEN)
class RatedPair(TypedDict):
    """The difference of the ratings of two arms."""

    a: str
    b: str
    difference: Known
    low: Known
    high: Known
    p_value: NotRequired[Number]
    p_holm: Number
    better: str


@pydantic.with_config(OPEN)
class PreferredPair(TypedDict):
    """How often each of two arms was preferred."""

    a: str
    b: str
    prefer_a: Count
    prefer_b: Count
    ties: Count
    share_a: Known
    low: Known
    high: Known
    p_value: NotRequired[Number]
    p_holm: Number
    better: str


@pydantic.with_config(OPEN)
class Ratings(TypedDict):
    """The result of rating clips."""

    rows: list[RatedRow]
    pairs: list[RatedPair]
    winner: str


@pydantic.with_config(OPEN)
class Preferences(TypedDict):
    """The result of comparing pairs."""

    pairs: list[PreferredPair]
    winner: str


@pydantic.with_config(OPEN)
class Listening(TypedDict):
    """listening.json."""

    schema: Literal[1]
    key_sha256: NotRequired[str]
    comparison_key: NotRequired[str]
    reference: str
    listeners: Listeners
    mushra: NotRequired[Ratings]
    ab: NotRequired[Preferences]


class Additions(TypedDict):
    """What other commands left beside a results.json, None for each that is not there."""

    tuning: NotRequired[Tuning | None]
    pareto: NotRequired[list[FrontEntry] | None]
    crossover: NotRequired[list[CrossingEntry] | None]
    listening: NotRequired[Listening | None]


def made_beside(run_dir: Path) -> Additions:
    """Return what other commands left in a run directory for its report, None for each that is not
    there.

    Raises:
        DamagedError: if one is damaged; so do the others below.
    """
    return {
        "tuning": read_tuning(run_dir / "tuning.json"),
        "pareto": read_fronts(run_dir),
        "crossover": read_crossings(run_dir),
        "listening": read_listening(run_dir),
    }


def read_tuning(path: Path) -> Tuning | None:
    """Return the tuning.json at `path`, None if there is none."""
    fix = "the same `genlab tune` writes it again from its trials"
    return read_stored(path, Tuning, fix=fix)


def read_fronts(run_dir: Path) -> list[FrontEntry] | None:
    """Return pareto.json of a run directory, None if there is none."""
    fix = "delete it, and `genlab compare --pareto` writes it again"
    return read_stored(run_dir / "pareto.json", list[FrontEntry], fix=fix)


def read_crossings(run_dir: Path) -> list[CrossingEntry] | None:
    """Return crossover.json of a run directory, None if there is none."""
    fix = "delete it, and `genlab crossover` writes it again"
    return read_stored(run_dir / "crossover.json", list[CrossingEntry], fix=fix)


def read_listening(run_dir: Path) -> Listening | None:
    """Return listening.json of a run directory, None if there is none."""
    fix = "delete it, and `genlab listen RUN_DIR --merge ANSWERS.json` writes it again"
    return read_stored(run_dir / "listen" / "listening.json", Listening, fix=fix)
