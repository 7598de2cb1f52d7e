"""The IsoFLOP planner: shapes around the expected best, and fits that find a known law."""

import json

import numpy as np
import pytest
from comparison_toys import make_comparison
from sweep_toys import finish

from genlab import cli
from genlab.config import GenlabError
from genlab.sweeps.isoflop import GRID, fit_scaling, isoflop_points
from genlab.sweeps.notebook import write_notebook
from genlab.sweeps.page import load_sweep
from genlab.sweeps.runs import run_directory
from genlab.sweeps.runs import write_page as write_files

BUDGETS = np.array([1e14, 3e14, 1e15])


def draw_runs(rng, exponent=0.5, noise=0.01, seeds=3):
    """Scores of runs whose best size is 1e6 (C / 1e14)^exponent and whose best score is 3 (C /
    1e14)^-0.1.
    """
    flops, params = [], []
    for budget in BUDGETS:
        best = 1e6 * (budget / 1e14) ** exponent
        for size in best * np.array([0.35, 0.6, 1.1, 1.9, 3.2]):
            flops += [budget] * seeds
            params += [size] * seeds
    flops, params = np.array(flops), np.array(params)
    off = np.log(params / (1e6 * (flops / 1e14) ** exponent))
    scores = 3 * (flops / 1e14) ** -0.1 + 0.1 * off**2 + noise * rng.standard_normal(len(flops))
    return flops, params, scores


def test_a_law_without_noise_is_found():
    found = fit_scaling(*draw_runs(np.random.default_rng(0), exponent=0.6, noise=1e-5))
    assert found.exponent == pytest.approx(0.6, abs=1e-3) and found.high - found.low < 1e-2
    assert [one.params for one in found.optima] == pytest.approx(
        list(1e6 * (BUDGETS / 1e14) ** 0.6), rel=1e-2
    )
    assert found.held_out_error == pytest.approx(0, abs=1e-3)


def test_the_interval_of_the_exponent_covers_what_it_says():
    rng, hits, trials = np.random.default_rng(4), 0, 200
    for trial in range(trials):
        found = fit_scaling(*draw_runs(rng, noise=0.03), seed=trial)
        hits += found.low <= 0.5 <= found.high
    assert 0.91 <= hits / trials <= 0.99


def test_an_optimum_at_the_edge_is_none():
    flops, params, scores = draw_runs(np.random.default_rng(0), noise=1e-6)
    is_small = params < 1e6 * (flops / 1e14) ** 0.5
    with pytest.raises(GenlabError, match="3 shapes or more"):
        fit_scaling(flops[is_small], params[is_small], scores[is_small])
    with pytest.raises(GenlabError, match="inside the grid at 0 of 3 budgets"):
        fit_scaling(flops, params, -scores)


def test_shapes_lie_around_the_expected_best_one():
    points = isoflop_points([1e13, 1e15])
    assert len(points) == 10 and all(
        p["backbone.width"] % (2 * p["backbone.heads"]) == 0 for p in points
    )
    sizes = [12 * point["backbone.layers"] * point["backbone.width"] ** 2 for point in points]
    for flops, group in ((1e13, sizes[:5]), (1e15, sizes[5:])):
        assert min(group) < (flops / 120) ** 0.5 < max(group)
    assert all((point["backbone.width"], point["backbone.layers"]) in GRID for point in points)
    with pytest.raises(GenlabError, match="leave the grid"):
        isoflop_points([1e25])


def test_a_plan_becomes_a_page_whose_report_names_the_best_sizes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    config, page, out = tmp_path / "config.json", tmp_path / "isoflop.py", tmp_path / "out"
    config.write_text(
        json.dumps(make_comparison("data.num_frames=96", "data.corpus.minutes=1.5").to_dict())
    )
    arguments = [
        "sweep",
        "plan",
        str(config),
        "--flops",
        "2e13,4e13,8e13",
        "--families",
        "ar",
        "--out",
        str(page),
    ]
    assert cli.main(arguments) == 0
    table = capsys.readouterr().out
    assert (
        table.count(" ar ") == 15 and "masked" not in table and f"genlab sweep run {page}" in table
    )
    assert cli.main(arguments) == 2 and "already exists" in capsys.readouterr().err
    sweep = load_sweep(page)
    runs, rng = write_files(sweep, out), np.random.default_rng(2)
    for run in runs:
        budget, params = (
            run.point["budget.train_flops"],
            run.point["backbone.layers"] * run.point["backbone.width"] ** 2,
        )
        off = np.log(12 * params / (budget / 120) ** 0.5)
        finish(run, out)
        by_seed = (3000 + 100 * off**2 + rng.normal(size=3)).tolist()
        score = {"value": np.mean(by_seed), "low": 0, "high": 1, "by_seed": by_seed}
        arm = {
            "name": "ar",
            "family": "ar",
            "scores": {"bits_per_s": score},
            "steps": 1,
            "network_calls": 1,
        }
        arm |= {"train_flops": budget, "params": 12 * params, "epochs": 1.0, "train_wall_s": 1.0}
        results = {"arms": [arm], "differences": [], "wall_s": 1.0}
        (run_directory(out, run) / "results.json").write_text(json.dumps(results))
    text, _ = write_notebook(sweep, runs, page, out)
    assert "## Best sizes" in text and "Autoregressive: best size" in text and "N ~ C^0.5" in text
