"""Energies of two laws: files of earlier versions, whose one energy was of the arm's own sampler,
are never read as the proper score. Draws of audio survive a round trip.
"""

import json

import numpy as np
import pytest
from report_toys import make_results, score

from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import load_row, save_row
from genlab.evaluate.scores import clip_means
from genlab.evaluate.table import make_score
from genlab.report.inputs import read_scores


def row_of(*names: str, draws: int = 1) -> RowResult:
    values = clip_means(np.linspace(0.1, 0.6, 3 * draws), tuple("abc") * draws)
    values = values._replace(runs=(0,) * 3 * draws)
    if draws > 1:
        values = values._replace(draws=tuple(np.repeat(range(draws), 3).tolist()))
    scores = {name: make_score(name, values.estimate(), seeds=1) for name in names}
    return RowResult(scores, dict.fromkeys(names, values), {}, ())


def test_a_row_keeps_both_energies_and_an_old_one_has_that_of_its_sampler(tmp_path):
    path = tmp_path / "ar.json"
    save_row(path, row_of("block_energy", "block_energy_tuned", "mcd"))
    new = load_row(path)
    assert new is not None and set(new.scores) == {"block_energy", "block_energy_tuned", "mcd"}
    values = json.loads(path.read_text())
    assert values.pop("energy") == "bare law"
    for part in ("scores", "per_clip"):
        del values[part]["block_energy_tuned"]
    path.write_text(json.dumps(values))
    old = load_row(path)
    assert old is not None and set(old.scores) == {"block_energy_tuned", "mcd"} == {*old.per_clip}


@pytest.mark.parametrize(
    ("law", "name"), [({}, "block_energy_tuned"), ({"energy": "bare law"}, "block_energy")]
)
def test_old_results_are_not_decided_by_the_energy_of_a_sampler(tmp_path, law, name):
    results = {**make_results(), "primary_score": "block_energy", **law}
    for arm in results["arms"]:
        arm["scores"] = {**arm["scores"], "block_energy": score(0.5, 0.1)}
    results["differences"][0]["score"] = "block_energy"
    (tmp_path / "results.json").write_text(json.dumps(results))
    found = read_scores(tmp_path)
    assert found is not None and found["primary_score"] == name
    energies = [{*arm["scores"]} & {"block_energy", "block_energy_tuned"} for arm in found["arms"]]
    assert energies == [{name}] * len(energies)
    assert found["differences"][0]["score"] == name


def test_draws_of_a_prompt_are_kept_and_averaged(tmp_path):
    path = tmp_path / "ar.json"
    row = row_of("mcd", draws=2)
    save_row(path, row)
    again = load_row(path)
    assert again is not None and again.per_clip["mcd"].draws == (0, 0, 0, 1, 1, 1)
    # One value per prompt and training run: the mean of its draws.
    np.testing.assert_allclose(again.per_clip["mcd"].pseudo_values(), [[0.25, 0.35, 0.45]])
    assert again.scores["mcd"].n == 3
    values = json.loads(path.read_text())
    values["per_clip"]["mcd"]["draws"] = [0, 1]
    path.write_text(json.dumps(values))
    assert load_row(path) is None  # damaged: it is scored again
