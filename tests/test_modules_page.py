"""The page for those who import the modules: its blocks run from top to bottom, and its tables are
what is on disk.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comparison_toys import make_comparison
from report_toys import make_ledger, make_results
from test_surface import SURFACE

from genlab.config import GenlabError
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import save_row
from genlab.evaluate.scores import ClipValues, Score
from genlab.report.written import write_text_reports
from genlab.run.files import write_json
from genlab.studies.finished import load_run

PAGE = Path(__file__).parents[1] / "docs" / "modules.md"


def finished_run(directory: Path) -> Path:
    """Write what a comparison leaves of an arm, less its weights."""
    directory.mkdir()
    comparison = make_comparison()
    write_json(directory / "config.json", comparison.to_dict())
    for name in comparison.arms:
        trained = directory / "arms" / name / "seed0"
        trained.mkdir(parents=True)
        write_json(trained / "config.json", comparison.run(name, seed=0, steps=3).to_dict())
    values = ClipValues(np.array([1.0, 0.0]), np.array([4.0, 5.0]), ("a", "b"), runs=(0, 0))
    score = Score(1 / 9, 0.0, 0.25, 2, 1, "errors per word", "lower")
    save_row(
        directory / "rows" / "ar.json", RowResult({"wer_ctc": score}, {"wer_ctc": values}, {}, ())
    )
    write_text_reports(directory, make_results(), make_ledger())
    return directory


def test_the_blocks_run(tmp_path: Path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 10
    run = finished_run(tmp_path / "run")
    script = tmp_path / "page.py"
    script.write_text(f"RUN_DIR = {str(run)!r}\n" + "\n".join(blocks))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUMPY_RANK_PROMOTION": "allow"}
    command = [sys.executable, "-W", "error::UserWarning:genlab", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_page_names_the_surface():
    names = PAGE.read_text(encoding="utf-8").split("## The names that stay")[1]
    assert {name for found in SURFACE.values() for name in found} <= set(
        re.findall(r"`(\w+)`", names)
    )


def fields(heading: str) -> set[str]:
    """Return the names in the first column of the table under a heading."""
    table = PAGE.read_text(encoding="utf-8").split(f"**{heading}**")[1].split("\n\n")[1]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {name for cell in cells for name in re.findall(r"`(\w+)(?:\[\])?`", cell)}


def test_the_tables_are_what_is_on_disk(tmp_path: Path):
    run = finished_run(tmp_path / "run")
    assert fields("scores.csv") == set(next(csv.reader((run / "scores.csv").open())))
    assert fields("rows/NAME.json") == set(json.loads((run / "rows" / "ar.json").read_text()))


def test_a_run_opens_from_either_directory(tmp_path: Path):
    whole = finished_run(tmp_path / "run")
    ours, theirs = load_run(whole, arm="ar"), load_run(whole / "arms" / "ar" / "seed0")
    assert ours.directory == theirs.directory and ours.config == theirs.config and ours.arm == "ar"
    assert ours.comparison == theirs.comparison == make_comparison()
    assert ours.scores["wer_ctc"].value == pytest.approx(1 / 9) and ours.per_clip[
        "wer_ctc"
    ].clusters == ("a", "b")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "holds several arms; give arm=, one of ar, masked, diffusion"),
        ({"arm": "gan"}, "arm='gan': expected one of ar, masked, diffusion"),
        ({"arm": "ar", "seed": 7}, "seed=7: expected one of 0"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path: Path, asked, message):
    with pytest.raises(GenlabError, match=message):
        load_run(finished_run(tmp_path / "run"), **asked)


def test_an_arm_without_scores_says_so(tmp_path: Path):
    with pytest.raises(GenlabError, match=r"masked.json: no scores of this arm"):
        _ = load_run(finished_run(tmp_path / "run"), arm="masked").scores
