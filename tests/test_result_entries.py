"""results.json that somebody edited: rows that the pages need and that are not there are named, not
a traceback.
"""

import json

import json_toys
import pytest

from genlab.report.inputs import read_results
from genlab.report.results import _entries_of
from genlab.run.stored import DamagedError

ROWS = {"arms": [{"name": "real", "steps": 0}, {"name": "ar", "steps": 4}, {"name": "masked"}]}


def test_rows_are_found_by_their_names(tmp_path):
    assert _entries_of(ROWS, ["real", "ar"], tmp_path)["ar"]["steps"] == 4


@pytest.mark.parametrize("name", ["masked", "diffusion"])
def test_a_row_that_is_gone_or_has_no_steps_is_damage(tmp_path, name):
    with pytest.raises(
        DamagedError, match=f"results.json: damaged: expected an entry with steps of row '{name}'"
    ):
        _entries_of(ROWS, ["real", name], tmp_path)


@pytest.mark.parametrize("steps", [0, 2**31])
def test_a_trained_arm_has_a_number_of_steps_that_a_run_can_have(tmp_path, steps):
    results = json_toys.whole_results()
    trained = next(arm for arm in results["arms"] if arm["family"] not in ("real", "floor"))
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert read_results(tmp_path) is not None
    trained["steps"] = steps
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(DamagedError, match=f"at least one step of arm '{trained['name']}'"):
        read_results(tmp_path)
