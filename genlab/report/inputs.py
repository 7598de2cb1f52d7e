"""What the report reads: results.json, ledger.json and the audit, each checked against its type.

In: a run directory. Out: the values, None if there is no such file, or one line that names the file
and the field. Types require what every report needs and allow everything else, so files with newer
fields stay readable. Those who write these files build values of the same types.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar

import pydantic
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from genlab.evaluate.energy import EnergyLaw, name_energies
from genlab.evaluate.entries import (
    Amount,
    AuditEntry,
    ControlEntry,
    DifferenceEntry,
    GateEntry,
    MetricEntry,
    PlanEntry,
    Positive,
    ScoreEntry,
)
from genlab.evaluate.scope import UnitsEntry
from genlab.evaluate.table import known_metric
from genlab.report.additions import Additions
from genlab.run.bounds import is_arm
from genlab.run.clock import TimeEntry
from genlab.run.stored import OPEN, Count, Number, read_stored

_AGAIN = "delete it, and the same `genlab compare` writes it again from its scored rows"


@pydantic.with_config(OPEN)
class Sampling(TypedDict):
    """What sampling the prompts cost."""

    wall_s: NotRequired[Amount]
    audio_s: NotRequired[Amount]
    first_audio_s: NotRequired[Amount]
    latency_s: NotRequired[Amount]
    latency_audio_s: NotRequired[Amount]
    compile_s: NotRequired[Amount]
    real_time_factor: NotRequired[Amount]
    flops: NotRequired[Amount]
    padding_share: NotRequired[Number]


@pydantic.with_config(OPEN)
class LengthCost(TypedDict):
    """What one clip of some length cost, seconds once per training seed."""

    latency_s: Annotated[list[Positive], Field(min_length=1)]
    network_calls: Count
    flops: Amount


@pydantic.with_config(OPEN)
class Row(TypedDict):
    """One row of the table: real audio, a codec floor, or a trained arm."""

    name: str
    family: str
    scores: dict[str, ScoreEntry]
    title: NotRequired[str]
    reads: NotRequired[str]
    params: NotRequired[Count]
    shared_params: NotRequired[Count]
    train_flops: NotRequired[Amount]
    steps: NotRequired[Count]
    seconds_seen: NotRequired[Amount]
    unique_seconds: NotRequired[Amount]
    epochs: NotRequired[Amount]
    train_wall_s: NotRequired[Amount]
    train_compile_s: NotRequired[Amount]
    data_wait_fraction: NotRequired[Amount]
    network_calls: NotRequired[Count]
    sampling: NotRequired[Sampling]
    by_length: NotRequired[
        dict[Annotated[str, AfterValidator(lambda text: _check_seconds(text))], LengthCost]
    ]
    batch_hash: NotRequired[str]
    peak_lr: NotRequired[Amount]
    training: NotRequired[str]
    """What the models were trained by: rows with the same text share them, seed by seed."""


@pydantic.with_config(OPEN)
class CodecFacts(TypedDict):
    """The codec that all arms share."""

    fingerprint: str


def _check_seconds(text: str) -> str:
    if not text.replace(".", "", 1).isdecimal() or float(text) <= 0:
        raise ValueError("expected seconds as the name")
    return text


def _check_audit(audit: dict[str, AuditEntry]) -> dict[str, AuditEntry]:
    strange = [name for name in audit if known_metric(name) is None]
    # What the user's own metrics must notice is written in their audit; no table has it.
    if unknown := [name for name in strange if "must_notice" not in audit[name]]:
        raise ValueError(f"expected names of metrics, got {unknown[0][:60]!r}")
    return audit


def _check_arms(arms: list[Row]) -> list[Row]:
    needed = ("params", "train_flops", "steps", "train_wall_s", "network_calls", "sampling")
    for arm in arms:
        if is_arm(arm):
            if missing := [field for field in needed if field not in arm]:
                raise ValueError(f"expected {missing[0]} of arm {arm['name'][:60]!r}, got none")
            if not 1 <= arm.get("steps", 0) < 2**31:
                raise ValueError(f"expected at least one step of arm {arm['name'][:60]!r}")
            sampling = arm.get("sampling", {})
            if missing := [
                field for field in ("real_time_factor", "first_audio_s") if field not in sampling
            ]:
                raise ValueError(
                    f"expected sampling.{missing[0]} of arm {arm['name'][:60]!r}, got none"
                )
    names = [arm["name"] for arm in arms]
    if len(set(names)) != len(names):
        raise ValueError("expected every arm once")
    return arms


def _check_differences(entries: list[DifferenceEntry]) -> list[DifferenceEntry]:
    for entry in entries:
        if entry.get("equivalent") and entry.get("margin") is None:
            raise ValueError(
                f"expected the margin of {entry['a'][:40]} and {entry['b'][:40]}, got none"
            )
    widths = {
        len(plan.get("prompts_needed", {})) for entry in entries if (plan := entry.get("plan"))
    }
    if len(widths) > 1:
        raise ValueError("expected as many prompts_needed in every plan")
    return entries


Audit = Annotated[dict[str, AuditEntry], AfterValidator(_check_audit)]


class _Shared(TypedDict):
    arms: Annotated[list[Row], Field(min_length=1)]
    differences: NotRequired[Annotated[list[DifferenceEntry], AfterValidator(_check_differences)]]
    name: NotRequired[str]
    command: NotRequired[str]
    commit: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    primary_score: NotRequired[str | None]
    struck: NotRequired[dict[str, str]]
    codec: NotRequired[CodecFacts]
    method: NotRequired[list[str]]
    audit: NotRequired[Audit | None]
    metrics: NotRequired[list[MetricEntry]]
    gates: NotRequired[list[GateEntry]]
    energy: NotRequired[EnergyLaw]
    time: NotRequired[TimeEntry]
    units: NotRequired[UnitsEntry]
    digest: NotRequired[str]


@pydantic.with_config(OPEN)
class Results(_Shared):
    """What several finished comparisons are put together from."""

    controls: NotRequired[list[ControlEntry]]
    mode: NotRequired[str]
    question: NotRequired[str]
    comparison_key: NotRequired[str]
    wall_s: NotRequired[Amount]
    peak_rss_bytes: NotRequired[Count]


@pydantic.with_config(OPEN)
class WholeResults(_Shared):
    """results.json, whole: what the tables and the report of one comparison need."""

    schema: Literal[1]
    question: str
    mode: str
    comparison_key: str
    controls: list[ControlEntry]
    wall_s: Amount
    peak_rss_bytes: Count


class Shown(WholeResults, Additions):
    """What a report is made of: results.json, and what other commands left beside it."""


Scored = Results | WholeResults
"""What holds the scores of arms."""
S = TypeVar("S", Results, WholeResults)


def _name_energies(results: S) -> S:
    """Give the energies of an earlier version today's name: they were of the arms' own samplers."""
    if "energy" not in results:
        for arm in results["arms"]:
            arm["scores"] = name_energies(arm["scores"])
        for entry in results.get("differences", []):
            entry["score"] = next(iter(name_energies({entry["score"]: None})))
        decides = results.get("primary_score")
        if decides is not None:
            results["primary_score"] = next(iter(name_energies({decides: None})))
    return results


def _check_whole(results: WholeResults) -> WholeResults:
    _check_arms(results["arms"])
    for arm in results["arms"]:
        for name, score in arm["scores"].items():
            if missing := [field for field in ("unit", "direction") if field not in score]:
                raise ValueError(f"expected {missing[0]} of score {name[:60]!r}, got none")
    for entry in results.get("differences", []):
        if "better" not in entry:
            raise ValueError("expected better in every entry of differences, got none")
        plan = entry.get("plan")
        if plan and (
            missing := [
                field
                for field in PlanEntry.__annotations__
                if field not in plan and field not in ("level", "declared")  # of later versions
            ]
        ):
            raise ValueError(f"expected {missing[0]} in every plan of differences, got none")
    return results


@pydantic.with_config(OPEN)
class LedgerRow(TypedDict):
    """One item of the ledger."""

    item: str
    status: NotRequired[str]
    values: NotRequired[dict[str, pydantic.JsonValue]]
    note: NotRequired[str]


@pydantic.with_config(OPEN)
class Ledger(TypedDict):
    """ledger.json."""

    stamp: Literal["controlled", "uncontrolled"]
    schema: NotRequired[Literal[1]]
    mode: NotRequired[str]
    rows: NotRequired[list[LedgerRow]]
    digest: NotRequired[str]


def read_results(run_dir: Path) -> WholeResults | None:
    """Return results.json of a run directory, None if there is none.

    Raises:
        DamagedError: if it is damaged; so do the others below.
    """
    kind: Any = Annotated[WholeResults, AfterValidator(_check_whole)]
    found: WholeResults | None = read_stored(run_dir / "results.json", kind, fix=_AGAIN)
    return None if found is None else _name_energies(found)


def read_scores(run_dir: Path) -> Results | None:
    """Return results.json for its arms, scores and differences alone, None if there is none."""
    found = read_stored(run_dir / "results.json", Results, fix=_AGAIN)
    return None if found is None else _name_energies(found)


def read_ledger(run_dir: Path) -> Ledger | None:
    """Return ledger.json of a run directory, None if there is none."""
    fix = "delete it and results.json, and the same `genlab compare` writes both again"
    return read_stored(run_dir / "ledger.json", Ledger, fix=fix)


def read_audit(path: Path) -> dict[str, AuditEntry] | None:
    """Return the audit at `path`, None if there is none."""
    fix = "delete it, and `genlab evaluate CONFIG --audit` makes it again"
    kind: Any = Audit
    return read_stored(path, kind, fix=fix)
