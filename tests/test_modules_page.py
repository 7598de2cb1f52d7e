"""The page for those who import the modules: its blocks run from top to bottom, and its tables are
what is on disk.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comparison_toys import make_comparison
from report_toys import make_ledger, make_results
from test_surface import SURFACE

from genlab.config import GenlabError
from genlab.evaluate.entries import ControlEntry, DifferenceEntry, ScoreEntry
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import StoredRow, save_row
from genlab.evaluate.scores import ClipValues, Score
from genlab.report.inputs import Row, WholeResults
from genlab.report.written import write_text_reports
from genlab.run.files import write_json
from genlab.studies.finished import load_run

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "modules.md"
SURFACE_PAGE = DOCS / "surface.md"

# What must hold after each block; the page itself shows calls alone.
CHECKS = (
    "assert losses[-1] < losses[0] and drawn.shape == (8, 12, 2) and score.validity == 'exact'",
    "assert own_units.shape == raw.shape and np.isfinite(own_units).all()",
    "assert guided.num_network_calls == 2 * (3 + 1)",
    "assert own.score(tokens, cond).bits.shape == (8,) and arm.decoder.kind == 'once'",
    "assert result.steps == 6 and np.isfinite(result.last_metrics['loss'])",
    "assert first.shape == (50, codec.spec.codebooks) and gradient.shape == (1, 16_000)",
    "assert 0 < one_seed.low < one_seed.high and seeds.p_value() < 0.05 and quality.shape == (2,)\n"
    "assert energy.shape == (8, 12) and np.isfinite(distance.value)",
    "alone = model.loss(tokens, cond, key=jax.random.key(0)).mean()\n"
    "np.testing.assert_allclose([together, in_mesh], alone, rtol=1e-4)",
    "assert list(Path('own').glob('events*'))",
    "assert errors.tolist() == [0.25, 0.0] and run.config.arm.sampler == ARSampler()",
)


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
    assert len(blocks) == len(CHECKS) == 10
    run = finished_run(tmp_path / "run")
    script = tmp_path / "page.py"
    steps = [f"{block}{check}\n" for block, check in zip(blocks, CHECKS)]
    script.write_text(f"RUN_DIR = {str(run)!r}\n" + "".join(steps), encoding="utf-8")
    for name in ("own_decoder.py", "own_mixer.py"):
        shutil.copy(DOCS / name, tmp_path)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUMPY_RANK_PROMOTION": "allow"}
    command = [sys.executable, "-W", "error::UserWarning:genlab", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_page_is_short():
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 150


def test_the_page_names_the_surface():
    text = SURFACE_PAGE.read_text(encoding="utf-8")
    names = text.split("## Names")[1].split("## Types")[0]
    listed = re.findall(r"`(\w+)`", "\n".join(line.split("|")[2] for line in rows_of(names)))
    assert sorted(listed) == sorted(name for found in SURFACE.values() for name in found)


def rows_of(text: str) -> list[str]:
    """Return the rows of the first table in a text, without its head."""
    return [line for line in text.splitlines() if line.startswith("| `")]


def table_under(heading: str) -> list[str]:
    """Return the rows of the table under a heading."""
    found = SURFACE_PAGE.read_text(encoding="utf-8").split(f"**{heading}**")[1]
    return rows_of(found.split("\n**")[0])


def fields(heading: str) -> set[str]:
    """Return the names in the first column of the table under a heading."""
    return {
        name
        for row in table_under(heading)
        for name in re.findall(r"`(\w+)`", row[: row.index("|", 2)])
    }


def parts(heading: str, field: str) -> set[str]:
    """Return the names that a table gives for the parts of a field."""
    [row] = [row for row in table_under(heading) if row.startswith(f"| `{field}` |")]
    return set(re.findall(r"`(\w+)`", row.split("|")[2]))


def test_the_tables_are_what_is_on_disk(tmp_path: Path):
    run = finished_run(tmp_path / "run")
    assert fields("scores.csv") == set(next(csv.reader((run / "scores.csv").open())))
    assert fields("rows/NAME.json") == set(StoredRow.__annotations__)
    row = json.loads((run / "rows" / "ar.json").read_text())
    assert set(row) == fields("rows/NAME.json") - {"own"}
    assert parts("rows/NAME.json", "per_clip") == set(row["per_clip"]["wer_ctc"])
    assert set(row["scores"]["wer_ctc"]) == set(ScoreEntry.__annotations__) - {"by_seed"}


def test_the_tables_are_the_types_of_the_files():
    assert fields("results.json") == set(WholeResults.__annotations__)
    assert fields("Each of `arms`") == set(Row.__annotations__)
    assert parts("Each of `arms`", "scores") == set(ScoreEntry.__annotations__)
    assert parts("results.json", "differences") == set(DifferenceEntry.__annotations__)
    assert parts("results.json", "controls") == set(ControlEntry.__annotations__)


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
