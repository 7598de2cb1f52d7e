"""Rows of the table on disk, so that an interrupted comparison does not score anything twice.

In: a `RowResult`. Out: `rows/NAME.json`, written atomically, and back. The file holds the scores, the per-clip values
that the paired statistics need, the transcripts and the controls.
"""

import json
from pathlib import Path

import numpy as np

from genlab.checkpoint import write_json
from genlab.evaluate.comparisons import Control
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.scores import ClipValues, Score


def save_row(path: Path, row: RowResult) -> None:
    """Write a scored row."""
    per_clip = {
        name: {**v._asdict(), "totals": v.totals.tolist(), "weights": v.weights.tolist()}
        for name, v in row.per_clip.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {name: score._asdict() for name, score in row.scores.items()}
    controls = [control._asdict() for control in row.controls]
    write_json(path, {"scores": scores, "per_clip": per_clip, "transcripts": row.transcripts, "controls": controls})


def load_row(path: Path) -> RowResult | None:
    """Return the row, or None if it was not scored yet."""
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    if any("runs" not in v for v in values["per_clip"].values()):
        return None  # of a version that did not tell training runs apart: score it again
    per_clip = {
        name: ClipValues(
            np.array(v["totals"]), np.array(v["weights"]), tuple(v["clusters"]), v["validity"], tuple(v["runs"])
        )
        for name, v in values["per_clip"].items()
    }
    scores = {name: Score(**score) for name, score in values["scores"].items()}
    controls = tuple(Control(**control) for control in values["controls"])
    return RowResult(scores, per_clip, values["transcripts"], controls)
