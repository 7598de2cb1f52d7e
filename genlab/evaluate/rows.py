"""Rows of the table on disk, so that an interrupted comparison does not score anything twice.

In: a `RowResult`. Out: `rows/NAME.json`, written atomically, and back. The file holds the scores,
the per-clip values that the paired statistics need, the transcripts and the controls.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NotRequired

import numpy as np
import pydantic
from typing_extensions import TypedDict

from genlab.evaluate.controls import Control
from genlab.evaluate.energy import ENERGY_LAW, EnergyLaw, name_energies
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.scores import ClipValues, Score, Validity
from genlab.run.files import write_json
from genlab.run.stored import OPEN, Count, read_again


@pydantic.with_config(OPEN)
class StoredValues(TypedDict):
    """One metric per clip, as `ClipValues`."""

    totals: list[float]
    weights: list[float]
    clusters: list[str | int]
    validity: Validity
    runs: NotRequired[list[Count]]
    draws: NotRequired[list[Count]]


def _check_lengths(values: StoredValues) -> StoredValues:
    clips = len(values["totals"])
    if not clips == len(values["weights"]) == len(values["clusters"]):
        raise ValueError("expected as many weights and clusters as totals")
    if len(values.get("runs", [])) not in (0, clips):
        raise ValueError(f"expected {clips} runs or none, got {len(values.get('runs', []))}")
    if len(values.get("draws", [])) not in (0, clips):
        raise ValueError(f"expected {clips} draws or none, got {len(values.get('draws', []))}")
    return values


@pydantic.with_config(OPEN)
class StoredRow(TypedDict):
    """rows/NAME.json."""

    scores: dict[str, Score]
    per_clip: dict[str, Annotated[StoredValues, pydantic.AfterValidator(_check_lengths)]]
    transcripts: dict[str, list[str]] | Annotated[list[str], pydantic.Field(max_length=0)]
    controls: list[Control]
    own: NotRequired[list[str]]
    energy: NotRequired[EnergyLaw]


def save_row(path: Path, row: RowResult, own: Sequence[str] = ()) -> None:
    """Write a scored row; `own` are the digests of the user's metrics behind it."""
    per_clip = {
        name: {**v._asdict(), "totals": v.totals.tolist(), "weights": v.weights.tolist()}
        for name, v in row.per_clip.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {name: score._asdict() for name, score in row.scores.items()}
    controls = [control._asdict() for control in row.controls]
    made_by = {"own": list(own)} if own else {}
    write_json(
        path,
        {
            **made_by,
            "scores": scores,
            "per_clip": per_clip,
            "transcripts": row.transcripts,
            "controls": controls,
            "energy": ENERGY_LAW,
        },
    )


def load_row(path: Path, own: Sequence[str] | None = None) -> RowResult | None:
    """Return the row, or None if it was not scored yet, or by other metrics of the user than `own`;
    a damaged one is said and counts as not scored.
    """
    values = read_again(path, StoredRow, doing="scoring it again", may_be_nan=True)
    if values is None or any("runs" not in found for found in values["per_clip"].values()):
        return None  # the latter from a version that did not record training runs: score it again
    if own is not None and values.get("own", []) != list(own):
        return None
    per_clip = {
        name: ClipValues(
            np.array(found["totals"], np.float64),
            np.array(found["weights"], np.float64),
            tuple(found["clusters"]),
            found["validity"],
            tuple(found.get("runs", ())),
            tuple(found.get("draws", ())),
        )
        for name, found in values["per_clip"].items()
    }
    transcripts = values["transcripts"]
    written = transcripts if isinstance(transcripts, dict) else {}
    scores = values["scores"]
    if "energy" not in values:  # of a version whose energy was of the arm's own sampler
        scores, per_clip = name_energies(scores), name_energies(per_clip)
    return RowResult(scores, per_clip, written, tuple(values["controls"]))
