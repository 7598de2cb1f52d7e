"""Sweeps: pure expansion, what is refused, states read from files, verdicts on data with a known
truth, the page.
"""

import json
import os
import socket
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from sweep_toys import finish, make_sweep, write_page
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genlab import cli
from genlab.config import ConfigError, GenlabError
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import save_row
from genlab.evaluate.scores import ClipValues
from genlab.machine.stopping import EXIT_DISK_FULL, EXIT_DIVERGED, EXIT_LOCKED, EXIT_RESUME
from genlab.run.files import read_json, write_json
from genlab.sweeps.executors import command_of, launch_on_skypilot, print_commands
from genlab.sweeps.judge import judge
from genlab.sweeps.notebook import verdict_of, write_notebook
from genlab.sweeps.page import (
    Contrast,
    Crossing,
    Ratio,
    chain,
    expand,
    load_sweep,
    product,
    subsample,
    zipped,
)
from genlab.sweeps.runs import (
    add_attempt,
    config_path,
    delete,
    find_prunable,
    forget_failures,
    read_state,
    run_directory,
)
from genlab.sweeps.runs import write_page as write_files

LOW, HIGH = "FLOPs=2e+10", "FLOPs=4e+10"


def test_points_are_made_by_four_pure_functions():
    assert product({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]
    assert zipped({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(ValueError, match="shorter"):
        zipped({"a": [1, 2], "b": [3]})
    assert chain([{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 3}]) == [{"a": 1}, {"a": 2}, {"a": 3}]
    many = product({"a": list(range(20))})
    picked = subsample(many, 5, seed=1)
    assert picked == subsample(many, 5, seed=1) != subsample(many, 5, seed=2) and len(picked) == 5
    assert picked == sorted(picked, key=lambda point: point["a"])


def test_a_run_is_named_by_what_changes_its_result():
    runs = expand(make_sweep())
    assert [run.label for run in runs] == [LOW, HIGH] and len({run.id for run in runs}) == 2
    assert runs[1].config.budget.train_flops == 4e10
    assert [run.id for run in expand(make_sweep(name="other", question="?"))] == [
        run.id for run in runs
    ]
    faster = make_sweep(base=make_sweep().base.override(["settings.log_every=7"]))
    assert [run.id for run in expand(faster)] == [run.id for run in runs]
    wider = make_sweep(base=make_sweep().base.override(["backbone.width=64"]))
    assert not {run.id for run in expand(wider)} & {run.id for run in runs}


@pytest.mark.parametrize(
    ("update", "told"),
    [
        ({"points": ({"budget.train_flop": 1e10},)}, "did you mean 'budget.train_flops'"),
        (
            {"points": ({"budget.train_flops": 2e10}, {"budget.train_flops": 2e10})},
            "two are called",
        ),
        ({"predictions": ({"terms": {f"nobody @ {LOW}": 1}},)}, "no row 'nobody"),
        ({"predictions": ({"terms": {"ar": 1, "masked": -1}},)}, "write ARM @ LABEL"),
        (
            {"predictions": ({"terms": {f"ar @ {LOW}": 1, f"masked @ {HIGH}": -1}},)},
            "compare arms within a point",
        ),
        ({"predictions": ({"terms": {f"ar @ {LOW}": 1}, "margin": 1.0},)}, "a margin belongs to"),
        (
            {"predictions": ({"terms": {f"ar @ {LOW}": 1}, "score": "kad"},)},
            "not compared prompt by prompt",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(update, told):
    with pytest.raises((ValueError, ConfigError), match=told):
        if "predictions" in update:
            whole = {"text": "t", "score": "bits_per_s", "expect": "below"}
            update = {
                "predictions": tuple(Contrast(**{**whole, **one}) for one in update["predictions"])
            }
        make_sweep(**update)


def test_an_effect_and_an_interaction_are_fair():
    effect = {f"ar @ {HIGH}": 1.0, f"ar @ {LOW}": -1.0}
    interaction = {**effect, f"masked @ {HIGH}": -1.0, f"masked @ {LOW}": 1.0}
    for terms in (effect, interaction):
        sweep = make_sweep(
            predictions=(Contrast(text="t", score="bits_per_s", terms=terms, expect="below"),)
        )
        assert sweep.predictions[0].rows([LOW, HIGH]) == list(terms)


def test_pages_that_compare_other_prompts_are_refused_before_training(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    page = write_page(tmp_path)
    text = page.read_text().replace('"budget.steps": [300, 600]', '"num_prompts": [2, 3]')
    page.write_text(
        text.replace("@ steps=600", "@ num_prompts=3").replace("@ steps=300", "@ num_prompts=2")
    )
    assert cli.main(["sweep", "run", str(page), "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "do not have the same codec and prompts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_the_cost_and_starts_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    arguments = ["sweep", "run", str(write_page(tmp_path)), "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert "2 runs" in told and "FLOP of training" in told and "of this device at least" in told
    assert cli.main([*arguments, "--executor", "print"]) == 0
    commands = capsys.readouterr().out.strip().splitlines()
    assert len(commands) == 2 and all(line.startswith("genlab compare ") for line in commands)
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir() if path.is_dir()] == []
    assert cli.main(["sweep", "list", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "twice the updates" in told and "reversed" not in told
    (tmp_path / "page.md").write_text("# page: split: 1 reproduced, 1 reversed\n\ntext\n")
    assert cli.main(["sweep", "list", str(tmp_path)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("  split: 1 reproduced, 1 reversed")
    assert (
        cli.main(["sweep", "report", str(tmp_path / "page.py"), "--out", str(tmp_path / "never")])
        == 2
    )
    assert "no sweep here; run `genlab sweep run" in capsys.readouterr().err
    assert (
        cli.main(["sweep", "report", str(tmp_path / "page.py"), "--out", str(tmp_path / "out")])
        == 2
    )
    told = capsys.readouterr().err
    assert "no run of this page has finished (2 waiting); run `genlab sweep run" in told
    assert not (tmp_path / "out" / "report.html").exists()
    assert cli.main(["sweep", "run", str(tmp_path / "no.py")]) == 2 == cli.main(["sweep", "status"])


def test_the_state_of_a_run_is_read_from_its_files(tmp_path):
    runs = write_files(make_sweep(), tmp_path)
    run, other = runs
    state = lambda: read_state(run, tmp_path).state  # noqa: E731
    assert state() == "waiting" and len(print_commands(runs, tmp_path)) == 2
    assert json.loads(config_path(tmp_path, run).read_text())["budget"]["train_flops"] == 2e10
    add_attempt(run, tmp_path, EXIT_LOCKED, 1.0)
    assert state() == "waiting"
    for harmless in (EXIT_RESUME, EXIT_DISK_FULL, -9, 1):
        add_attempt(run, tmp_path, harmless, 1.0)
        assert state() == "interrupted"
    (run_directory(tmp_path, run) / "log.txt").write_text(
        "...\ngenlab compare: step 3: loss is not finite\n"
    )
    add_attempt(run, tmp_path, -11, 1.0)
    assert state() == "failed", "three crashes are no accident"
    assert forget_failures(runs, tmp_path) == 1 and state() == "waiting"
    add_attempt(run, tmp_path, EXIT_DIVERGED, 1.0)
    failed = read_state(run, tmp_path)
    assert failed.state == "failed" and "loss is not finite" in failed.reason
    alive = {
        "state": "running",
        "heartbeat": time.time(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    write_json(run_directory(tmp_path, run) / "status.json", alive)
    assert state() == "running"
    write_json(run_directory(tmp_path, run) / "status.json", {**alive, "pid": 2**22 + 1})
    assert state() == "failed", "its process has gone"
    write_json(
        run_directory(tmp_path, run) / "status.json", {**alive, "host": "a", "heartbeat": 0.0}
    )
    assert state() == "failed", "its heart has stopped"
    finish(other, tmp_path)
    assert read_state(other, tmp_path).state == "finished" and print_commands(runs, tmp_path) == []


def test_pruning_deletes_what_the_sweep_made_and_nothing_else(tmp_path):
    sweep = make_sweep()
    run, other, gone = write_files(make_sweep(points=(*sweep.points, {"batch_size": 2})), tmp_path)
    write_files(sweep, tmp_path)  # the page has lost a point
    finish(run, tmp_path)
    for each in (run, other, gone):
        (run_directory(tmp_path, each) / "arms/ar/seed0/checkpoints/8").mkdir(parents=True)
    precious = tmp_path / "runs" / "thesis"
    precious.mkdir()
    (tmp_path / "runs" / "notes.json").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    paths, strangers = find_prunable(sweep, [run, other], tmp_path)
    assert {path.name for path in strangers} == {"thesis", "notes.json"}
    checkpoints = run_directory(tmp_path, run) / "arms/ar/seed0/checkpoints"
    assert set(paths) == {run_directory(tmp_path, gone), config_path(tmp_path, gone), checkpoints}
    assert all(path.exists() for path in paths), "finding deletes nothing"
    delete(paths)
    assert not any(path.exists() for path in paths) and precious.exists()
    assert (run_directory(tmp_path, other) / "arms/ar/seed0/checkpoints/8").exists()
    assert find_prunable(sweep, [run, other], tmp_path).paths == []


def test_pruning_leaves_a_run_at_work(tmp_path):
    sweep = make_sweep()
    gone = write_files(make_sweep(points=(*sweep.points, {"batch_size": 2})), tmp_path)[2]
    alive = {
        "state": "running",
        "heartbeat": time.time(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    run_directory(tmp_path, gone).mkdir()
    write_json(run_directory(tmp_path, gone) / "status.json", alive)
    assert find_prunable(sweep, write_files(sweep, tmp_path), tmp_path).paths == []


def test_pruning_asks_and_wants_a_sweep(tmp_path, capsys):
    write_page(tmp_path, 10, 20)
    page, out = str(tmp_path / "page.py"), tmp_path / "mine"
    (out / "runs" / "thesis").mkdir(parents=True)
    for more in ([], ["--yes"]):
        assert cli.main(["sweep", "prune", page, "--out", str(out), *more]) == 2
        assert (
            "mine: no sweep here, so nothing in it is genlab's to delete" in capsys.readouterr().err
        )
    with pytest.raises(GenlabError, match="already exists, and no sweep made it"):
        write_files(make_sweep(), out)
    sweep = load_sweep(page)
    write_files(make_sweep(), tmp_path / "toy")
    assert cli.main(["sweep", "prune", page, "--out", str(tmp_path / "toy"), "--yes"]) == 2
    assert f"toy: holds the sweep 'toy', this page is {sweep.name!r}" in capsys.readouterr().err
    run = write_files(sweep, tmp_path / "out")[0]
    finish(run, tmp_path / "out")
    kept = run_directory(tmp_path / "out", run) / "arms/ar/seed0/checkpoints"
    kept.mkdir(parents=True)
    argv = ["sweep", "prune", page, "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 2  # nobody can be asked here
    out_text, err = capsys.readouterr()
    assert str(kept) in out_text and "1 items would be deleted; add --yes" in err and kept.exists()
    assert cli.main([*argv, "--dry-run"]) == 0 and kept.exists()
    assert cli.main([*argv, "--yes"]) == 0 and not kept.exists()
    assert (out / "runs" / "thesis").exists()


def test_a_card_is_not_written_over_a_text_of_a_person(tmp_path, capsys):
    from genlab.cli.sweeps import _check_card

    card = tmp_path / "page.md"
    _check_card(card, make_sweep())
    card.write_text("# toy: inconclusive\n")
    _check_card(card, make_sweep())
    card.write_text("# My notes\n")
    with pytest.raises(GenlabError, match="is not the card of this page"):
        _check_card(card, make_sweep())


def test_a_managed_job_is_the_same_command_in_the_bucket(tmp_path, monkeypatch):
    launched = []
    task = SimpleNamespace(update_envs=lambda envs: launched.append(envs))
    fake = SimpleNamespace(
        Task=SimpleNamespace(from_yaml=lambda path: task),
        jobs=SimpleNamespace(launch=lambda task, name: None),
    )
    monkeypatch.setitem(sys.modules, "sky", fake)
    runs = write_files(make_sweep(), tmp_path / "sweep-toy")
    names = launch_on_skypilot(runs, tmp_path / "sweep-toy", tmp_path / "task.yaml")
    assert names == [run.id for run in runs]
    assert launched[0] == {
        "CONFIG": str(config_path(tmp_path / "sweep-toy", runs[0])),
        "RUN": f"sweep-toy/runs/{runs[0].id}",
        "NAMED": "",
    }
    assert command_of(tmp_path / "sweep-toy", runs[0])[-1].endswith(launched[0]["RUN"])


def write_rows(out, run, effects, rng, *, seeds=3, prompts=24, validity=None, seed_spread=0.5):
    """Make a finished run whose rows have these true values."""
    finish(run, out)
    hardness = rng.normal(size=prompts)
    arms = []
    for arm, effect in effects.items():
        luck = seed_spread * rng.normal(size=seeds)
        values = effect + hardness + luck[:, None] + 0.5 * rng.normal(size=(seeds, prompts))
        clusters = tuple(str(i) for i in range(prompts)) * seeds
        runs = tuple(int(i) for i in np.repeat(np.arange(seeds), prompts))
        kind = (validity or {}).get(arm, "exact")
        clips = ClipValues(values.ravel(), np.ones(values.size), clusters, kind, runs)
        save_row(
            run_directory(out, run) / "rows" / f"{arm}.json",
            RowResult({}, {"bits_per_s": clips}, [], ()),
        )
        score = {
            "value": values.mean(),
            "low": values.mean() - 1,
            "high": values.mean() + 1,
            "validity": kind,
        }
        score |= {
            "by_seed": values.mean(axis=1).tolist(),
            "unit": "bits per second of audio",
            "direction": "lower",
        }
        arms.append(
            {
                "name": arm,
                "family": arm,
                "scores": {"bits_per_s": score},
                "steps": 3,
                "network_calls": 4,
                "epochs": 1.0,
                "train_flops": run.config.budget.train_flops,
                "train_wall_s": 1.0,
            }
        )
    results = {
        "arms": arms,
        "differences": [],
        "commit": "abc",
        "wall_s": 2.0,
        "versions": {"genlab": "0"},
    }
    write_json(run_directory(out, run) / "results.json", results)


def verdicts(tmp_path, effects, *predictions, **kinds):
    whole = [
        Contrast(
            **{
                "text": "t",
                "score": "bits_per_s",
                "terms": {"ar": 1.0, "masked": -1.0},
                "expect": "below",
                **one,
            }
        )
        for one in predictions
    ]
    sweep = make_sweep(points=({},), predictions=tuple(whole))
    runs = write_files(sweep, tmp_path)
    write_rows(tmp_path, runs[0], effects, np.random.default_rng(0), **kinds)
    return judge(sweep, runs, tmp_path)


def test_verdicts_on_a_known_truth(tmp_path):
    found = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {"size": -9.0}, {"expect": "above"})
    assert [one.verdict for one in found] == ["reproduced", "reversed"]
    assert found[0].low < -9.0 < found[0].high and "inside" in found[0].note and found[0].seeds == 3
    [none] = verdicts(tmp_path, {"ar": 0.0, "masked": 0.3}, {})
    assert none.verdict == "inconclusive"
    alike = {"expect": "within", "margin": 5.0}
    assert verdicts(tmp_path, {"ar": 0.0, "masked": 0.3}, alike)[0].verdict == "reproduced"
    assert verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, alike)[0].verdict == "reversed"
    few = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {}, seeds=2)
    assert few[0].verdict == "inconclusive" and "insufficient seeds" in few[0].note


def test_a_bound_shows_only_the_harmless_direction(tmp_path):
    bound = {"validity": {"masked": "upper bound"}}
    hidden = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {}, **bound)[0]
    assert hidden.verdict == "inconclusive" and "could hide the opposite" in hidden.note
    taken = verdicts(tmp_path, {"ar": 0.0, "masked": 9.0}, {"bounds_as_values": True}, **bound)[0]
    assert taken.verdict == "reproduced" and "taken as values" in taken.note
    assert verdicts(tmp_path, {"ar": 9.0, "masked": 0.0}, {}, **bound)[0].verdict == "reversed"


def test_no_effect_is_seldom_called_one(tmp_path):
    sweep = make_sweep(
        points=({},),
        predictions=(
            Contrast(
                text="t", score="bits_per_s", terms={"ar": 1.0, "masked": -1.0}, expect="below"
            ),
        ),
    )
    runs, rng = write_files(sweep, tmp_path), np.random.default_rng(5)
    called = 0
    for _ in range(300):
        write_rows(tmp_path, runs[0], {"ar": 0.0, "masked": 0.0}, rng, prompts=12)
        called += judge(sweep, runs, tmp_path)[0].verdict != "inconclusive"
    assert called / 300 < 0.08


@pytest.fixture
def crossing_sweep(tmp_path):
    flops = [1e10, 2e10, 4e10, 8e10]
    rows = {f"{arm} @ FLOPs=8e+10": weight for arm, weight in (("ar", 1.0), ("masked", -1.0))}
    predictions = (
        Crossing(text="masked passes", score="bits_per_s", before="ar", after="masked"),
        Contrast(text="masked leads at the end", score="bits_per_s", terms=rows, expect="above"),
    )
    sweep = make_sweep(
        points=tuple(product({"budget.train_flops": flops})), predictions=predictions
    )
    return sweep, write_files(sweep, tmp_path)


@pytest.mark.parametrize(("slope", "verdict"), [(-6.0, "reproduced"), (0.0, "inconclusive")])
def test_a_crossing_is_found_where_it_is(tmp_path, crossing_sweep, slope, verdict):
    (sweep, runs), rng = crossing_sweep, np.random.default_rng(3)
    assert [one.verdict for one in judge(sweep, runs, tmp_path)] == ["not run", "not run"]
    for index, run in enumerate(runs):
        write_rows(tmp_path, run, {"ar": 0.0, "masked": 9.0 + slope * index}, rng, seed_spread=0.1)
    found = judge(sweep, runs, tmp_path)[0]
    assert found.verdict == verdict
    if slope:
        assert found.low < 1e10 * 2**1.5 < found.high


def test_ratios_of_cost_are_exact_or_have_an_interval_over_seeds(tmp_path):
    def ratio(**update):
        told = {
            "text": "t",
            "cost": "latency_s",
            "length_s": 10.0,
            "over": "ar",
            "under": "masked",
            "expect": "above",
        }
        return Ratio(**{**told, **update})

    base = make_sweep().base
    timed = base.model_copy(
        update={"evaluation": base.evaluation.model_copy(update={"lengths_s": (10.0,)})}
    )
    wanted = (
        ratio(times=2.0),
        ratio(times=9.0),
        ratio(times=4.0),
        ratio(cost="network_calls"),
        ratio(cost="network_calls", times=8.0),
        ratio(over="masked", under="ar", expect="below"),
    )
    with pytest.raises(ValueError, match="add it there"):
        make_sweep(points=({},), predictions=wanted[:1])
    sweep = make_sweep(base=timed, points=({},), predictions=wanted)
    runs = write_files(sweep, tmp_path)
    write_rows(tmp_path, runs[0], {"ar": 0.0, "masked": 1.0}, np.random.default_rng(0))
    path = run_directory(tmp_path, runs[0]) / "results.json"
    results = read_json(path)
    seconds = {"ar": [4.0, 4.4, 3.6], "masked": [1.0, 1.0, 1.0]}
    for arm in results["arms"]:
        cost = {
            "latency_s": seconds[arm["name"]],
            "network_calls": 800 if arm["name"] == "ar" else 100,
            "flops": 1e9,
        }
        arm["by_length"] = {"10": cost}
    write_json(path, results)
    found = judge(sweep, runs, tmp_path)
    verdicts = [
        "reproduced",
        "reversed",
        "inconclusive",
        "reproduced",
        "inconclusive",
        "reproduced",
    ]
    assert [one.verdict for one in found] == verdicts
    # Geometric mean 3.987; Student's t with 2 degrees of freedom on the logs: a factor of 1.283.
    np.testing.assert_allclose(
        [found[0].value, found[0].low, found[0].high], [3.9866, 3.1068, 5.1156], rtol=1e-4
    )
    assert (found[3].value, found[3].low, found[3].high) == (8.0, 8.0, 8.0)
    text, _ = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert (
        "## Cost by length" in text
        and "| 10 s | the run | Autoregressive | 800 | 1.00 G | 4.00 s, 4.40 s, 3.60 s | 2.50 |"
        in text
    )


def test_the_page_tells_what_was_predicted_and_found(tmp_path, crossing_sweep):
    (sweep, runs), rng = crossing_sweep, np.random.default_rng(3)
    for index, run in enumerate(runs[:-1]):
        write_rows(tmp_path, run, {"ar": 0.0, "masked": 9.0 - 6 * index}, rng)
    half, findings = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert "waits for FLOPs=8e+10" in half and verdict_of(findings) == "not run"
    write_rows(tmp_path, runs[-1], {"ar": 0.0, "masked": -9.0}, rng)
    text, findings = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert verdict_of(findings) == "reproduced" and "# toy: reproduced" in text
    assert (
        "masked leads at the end" in text and "genlab sweep run" in text and "(figure.svg)" in text
    )
    page = (tmp_path / "report.html").read_text()
    assert page.count('<svg class="plot"') == 2 and page.count('href="runs/') == 4
    figure = (tmp_path / "figure.svg").read_text()
    assert figure.startswith("<svg") and "<style>" in figure and figure.count('class="front"') == 2
    assert read_json(tmp_path / "findings.json")["findings"][1]["verdict"] == "reproduced"
    [events] = (tmp_path / "hparams" / f"{runs[0].id}-ar").iterdir()
    read = EventAccumulator(str(events)).Reload()
    assert "score/bits_per_s" in read.Tags()["scalars"] and read.summary_metadata


def test_what_the_page_does_not_ask_is_listed_and_counts_for_nothing(tmp_path):
    sweep = make_sweep(
        points=({},),
        predictions=(
            Contrast(
                text="t", score="bits_per_s", terms={"ar": 1.0, "masked": -1.0}, expect="below"
            ),
        ),
        untested=("listeners agree: nobody was asked",),
        noticed=("one arm hums",),
    )
    runs = write_files(sweep, tmp_path)
    write_rows(tmp_path, runs[0], {"ar": 0.0, "masked": 9.0}, np.random.default_rng(0))
    text, findings = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert [one.verdict for one in findings] == ["reproduced", "not tested at this scale"]
    assert verdict_of(findings) == "reproduced" and "| listeners agree: nobody was asked |" in text
    assert "## Noticed afterwards\n\n- one arm hums" in text
    assert "<li>one arm hums</li>" in (tmp_path / "report.html").read_text()
    # Nothing was varied, so the page's figure is that of its predictions.
    assert "(figure.svg)" in text and 'class="bar"' in (tmp_path / "figure.svg").read_text()


def test_a_withdrawn_verdict_keeps_what_was_found_and_says_why(tmp_path):
    terms = {"ar": 1.0, "masked": -1.0}
    withdrawn = {"t": "both arms lose to counting"}
    sweep = make_sweep(
        points=({},),
        predictions=(Contrast(text="t", score="bits_per_s", terms=terms, expect="below"),),
        withdrawn=withdrawn,
    )
    runs = write_files(sweep, tmp_path)
    assert judge(sweep, runs, tmp_path / "not run")[0].verdict == "not run"
    write_rows(tmp_path, runs[0], {"ar": 0.0, "masked": 9.0}, np.random.default_rng(0))
    text, [finding] = write_notebook(sweep, runs, tmp_path / "page.py", tmp_path)
    assert finding.verdict == "withdrawn" and finding.note == withdrawn["t"]
    assert -9.5 < finding.value < -8.5 and text.startswith(f"# {sweep.name}: withdrawn\n")
    with pytest.raises(ValueError, match="withdrawn: no prediction 'u'"):
        make_sweep(predictions=sweep.predictions, withdrawn={"u": "no such prediction"})


def test_a_page_must_hold_a_sweep(tmp_path):
    for text, told in {
        "x = 1": "expected a function sweep",
        "def sweep(): return 1 +": "SyntaxError",
    }.items():
        (tmp_path / "page.py").write_text(text)
        with pytest.raises(ConfigError, match=told):
            load_sweep(tmp_path / "page.py")
