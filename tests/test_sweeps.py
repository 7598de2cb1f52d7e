"""Sweeps: pure expansion, what is refused, and states read from files."""

import contextlib
import json
import os
import shutil
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from sweep_toys import finish, make_sweep, write_page

from genlab import cli
from genlab.config import ConfigError, GenlabError
from genlab.experiment import TokenData
from genlab.machine.stopping import EXIT_DISK_FULL, EXIT_DIVERGED, EXIT_LOCKED, EXIT_RESUME
from genlab.run.files import write_json
from genlab.run.status import lock_run
from genlab.sweeps import runs as runs_module
from genlab.sweeps.executors import command_of, launch_on_skypilot, print_commands
from genlab.sweeps.page import (
    Contrast,
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
    find_cost,
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
    assert "2 runs" in told and "FLOP of training" in told and ", an estimated " in told
    assert cli.main([*arguments, "--executor", "print"]) == 0
    commands = capsys.readouterr().out.strip().splitlines()
    assert len(commands) == 2 and all(line.startswith("genlab compare ") for line in commands)
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir() if path.is_dir()] == []
    assert cli.main(["sweep", "list", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "twice the updates" in told and "reversed" not in told
    head, row = told.splitlines()  # a question begins below its head
    assert row[head.index("question") - 1] == " " != row[head.index("question")]
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
    # before the run a card states what is predicted, and shows no figure of an earlier one
    (tmp_path / "page.md").write_text("# first_sweep: reproduced\n\n![](page.svg)\n")
    (tmp_path / "page.svg").write_text("<svg/>")
    card = ["sweep", "report", str(tmp_path / "page.py"), "--out", str(tmp_path / "out"), "--card"]
    assert cli.main(card) == 0
    told = (tmp_path / "page.md").read_text()
    assert told.startswith("# first_sweep: not run\n") and "Nothing has been run yet." in told
    assert "| not run | waits for steps=300, steps=600 |" in told
    assert not (tmp_path / "page.svg").exists()
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


def test_a_run_that_was_preempted_after_its_crashes_goes_on(tmp_path):
    run = write_files(make_sweep(), tmp_path)[0]
    state = lambda: read_state(run, tmp_path).state  # noqa: E731
    for crash in (1, -9, -11):
        add_attempt(run, tmp_path, crash, 2.0)
    assert state() == "failed"
    for harmless in (EXIT_RESUME, EXIT_DISK_FULL):
        add_attempt(run, tmp_path, harmless, 3.0)
        assert state() == "interrupted", "it was asked to stop, and had not crashed again"
    add_attempt(run, tmp_path, 1, 2.0)
    assert state() == "failed"
    assert read_state(run, tmp_path).attempts == 6 and read_state(run, tmp_path).seconds == 14.0


def test_the_cost_of_a_sweep_counts_every_seed(tmp_path, monkeypatch):
    spent = SimpleNamespace(train_flops=7.0, params=10, steps=5)
    split = SimpleNamespace(info=SimpleNamespace(codec_fingerprint="c"))
    monkeypatch.setattr(TokenData, "open", lambda *_, **__: split)
    monkeypatch.setattr(runs_module, "solve_budget", lambda *_: {"ar": spent})
    monkeypatch.setattr(runs_module, "solve_trained", lambda *_: {"ar": spent, "floor": spent})
    monkeypatch.setattr(runs_module, "check_flops", lambda *_: 1.0)
    monkeypatch.setattr(runs_module, "choose_prompts", lambda *_: [])
    costs = []
    for seeds in ([0], [0, 1, 2]):
        sweep = make_sweep(base=make_sweep().base.override([f"seeds={seeds}"]))
        costs.append(find_cost(sweep, expand(sweep), lambda *_: None))
    # Two runs of an arm and a trained baseline; then each on three seeds.
    assert [cost.train_flops for cost in costs] == [2 * 2 * 7.0, 3 * 2 * 2 * 7.0]
    assert costs[1].disk_bytes == 3 * costs[0].disk_bytes > 0
    assert costs[1].device_hours == pytest.approx(
        costs[1].train_flops / costs[1].flops_per_s / 3600
    )


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


def test_pruning_leaves_a_run_that_began_after_it_was_listed(tmp_path):
    sweep = make_sweep()
    run, _, gone = write_files(make_sweep(points=(*sweep.points, {"batch_size": 2})), tmp_path)
    finish(run, tmp_path)
    directories = [run_directory(tmp_path, each) for each in (run, gone)]
    for directory in directories:
        (directory / "arms/ar/seed0/checkpoints/8").mkdir(parents=True)
        (directory / "lock").write_text("7 on elsewhere\n")  # of the process that made it
    paths = find_prunable(sweep, write_files(sweep, tmp_path), tmp_path).paths
    assert len(paths) == 3
    with lock_run(directories[0]), lock_run(directories[1]):
        assert delete(paths) == paths
        assert all(path.exists() for path in paths)
    assert delete(paths) == [] and not any(path.exists() for path in paths)


def test_pruning_that_is_killed_leaves_no_half_a_run(tmp_path, monkeypatch):
    sweep = make_sweep()
    three = make_sweep(points=(*sweep.points, {"batch_size": 2}))
    run, other, gone = write_files(three, tmp_path)
    pair = write_files(sweep, tmp_path)
    finish(run, tmp_path)
    wholes = [run_directory(tmp_path, gone), run_directory(tmp_path, run) / "arms/ar/seed0"]
    for folder in wholes:
        (folder / "checkpoints/8").mkdir(parents=True)
        (folder / "checkpoints/8/model").touch()
    paths = find_prunable(sweep, pair, tmp_path).paths
    assert len(paths) == 3

    def begin(folder):
        next(path for path in folder.rglob("model")).unlink()
        raise KeyboardInterrupt

    for path in paths:
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(shutil, "rmtree", begin)
            delete([path])
    assert not any(path.exists() for path in paths)
    again = find_prunable(sweep, pair, tmp_path).paths
    assert [path.name for path in again] == [f"{gone.id}.deleted", "checkpoints.deleted"]
    assert delete(again) == [] and not list(tmp_path.rglob("*.deleted"))
    # What is left of a deletion goes even if the page has its run again.
    (tmp_path / "runs" / f"{gone.id}.deleted/arms").mkdir(parents=True)
    paths = find_prunable(three, write_files(three, tmp_path), tmp_path).paths
    assert [path.name for path in paths] == [f"{gone.id}.deleted"]
    assert run_directory(tmp_path, other).parent.exists()


def test_two_coordinators_note_all_attempts(tmp_path):
    run = write_files(make_sweep(), tmp_path)[0]
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda number: add_attempt(run, tmp_path, 1, number), range(40)):
            pass
    noted = json.loads((run_directory(tmp_path, run) / "attempts.json").read_text())
    assert sorted(attempt["seconds"] for attempt in noted) == list(range(40))


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

    page, card = tmp_path / "page.py", tmp_path / "page.md"
    _check_card(page, make_sweep())
    card.write_text("# toy: inconclusive\n")
    _check_card(page, make_sweep())
    card.write_text("# My notes\n")
    with pytest.raises(GenlabError, match="is not the card of this page"):
        _check_card(page, make_sweep())


def test_a_managed_job_is_the_same_command_in_the_bucket(tmp_path, monkeypatch):
    launched = []
    monkeypatch.chdir(tmp_path)

    class Task:
        """What is used of SkyPilot's task; each job has one of its own."""

        def __init__(self):
            self.envs, self.file_mounts = {}, {}
            self.update_envs, self.update_file_mounts = self.envs.update, self.file_mounts.update

    fake = SimpleNamespace(
        Task=SimpleNamespace(from_yaml=lambda path: Task()),
        jobs=SimpleNamespace(launch=lambda task, name: launched.append((name, task))),
    )
    monkeypatch.setitem(sys.modules, "sky", fake)
    out = Path("sweep-toy")
    runs = write_files(make_sweep(), out)
    names = launch_on_skypilot(runs, out, tmp_path / "task.yaml")
    assert names == [run.id for run in runs] == [name for name, _ in launched]
    for run, (_, task) in zip(runs, launched):
        assert task.envs == {
            "CONFIG": "/tmp/genlab_launch/config.json",
            "RUN": f"sweep-toy/runs/{run.id}",
            "NAMED": "",
        }
        assert command_of(out, run)[-1].endswith(task.envs["RUN"])
        # A file of its own beside the source: SkyPilot copies that without what git ignores, and
        # git ignores runs/, where the config lies.
        place = task.file_mounts.pop(task.envs["CONFIG"])
        assert place == str(tmp_path / config_path(out, run)) and not task.file_mounts
        assert json.loads(Path(place).read_text()) == run.config.to_dict()


def test_a_page_must_hold_a_sweep(tmp_path):
    for text, told in {
        "x = 1": "expected a function sweep",
        "def sweep(): return 1 +": "SyntaxError",
    }.items():
        (tmp_path / "page.py").write_text(text)
        with pytest.raises(ConfigError, match=told):
            load_sweep(tmp_path / "page.py")
