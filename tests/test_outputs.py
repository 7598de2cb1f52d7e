"""Outputs that are replaced while the process is killed: all old or all new, no mixture counts."""

import json
import shutil
from pathlib import Path

import jax
import pytest
from comparison_toys import make_comparison
from kill_points import forked

from genlab.changes import SCORING, check_changes, check_same_training
from genlab.config import ConfigError, GenlabError
from genlab.report import outputs
from genlab.run.files import write_config, write_json

ROWS = ("rows/ar.json", "rows/real.json")


def stage(run_dir: Path, version: str) -> None:
    """Write whole outputs that all say their version, ready to be published."""
    staged = outputs.open_stage(run_dir, {"version": version})
    (staged / "rows").mkdir()
    results, ledger = {"version": version}, {"version": version, "rows": []}
    outputs.seal(results, ledger)
    write_json(staged / "results.json", results)
    write_json(staged / "ledger.json", ledger)
    for name in (*outputs.RENDERED, *ROWS):
        (staged / name).write_text(json.dumps({"version": version}))


def versions(run_dir: Path) -> set[str]:
    names = (*outputs.SCORED, *outputs.RENDERED, *ROWS, "config.json")
    return {json.loads((run_dir / name).read_text())["version"] for name in names}


@pytest.fixture
def replaced(tmp_path: Path) -> Path:
    """A finished run with other outputs staged."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    stage(run_dir, "old")
    outputs.publish(run_dir)
    assert outputs.is_finished(run_dir) and versions(run_dir) == {"old"}
    stage(run_dir, "new")
    return run_dir


def test_a_kill_at_any_change_leaves_old_or_new_outputs(replaced: Path, tmp_path: Path):
    jax.process_index()  # before the fork
    seen, at, code = [], 0, -9
    while code != 0:
        at += 1
        run_dir = tmp_path / f"at{at}"
        shutil.copytree(replaced, run_dir)
        code = forked(run_dir, at, lambda run_dir=run_dir: outputs.publish(run_dir))
        assert code in (-9, 0)
        if outputs.is_finished(run_dir):
            assert len(versions(run_dir)) == 1, f"a mixture counts after change {at}"
        completed = outputs.settle(run_dir)
        assert outputs.is_finished(run_dir) and not outputs.settle(run_dir)
        found = versions(run_dir)
        assert found in ({"old"}, {"new"}) and (completed <= (found == {"new"}))
        assert found == {"old"} or not (run_dir / outputs.STAGE).exists()
        seen += found
    assert at > 15 and seen == sorted(seen, reverse=True) and {*seen} == {"old", "new"}
    assert not (run_dir / outputs.STAGE).exists()


def test_a_file_that_is_not_the_listed_one_makes_a_run_unfinished(replaced: Path):
    shutil.rmtree(replaced / outputs.STAGE)
    for name in (*outputs.SCORED, *outputs.RENDERED, *ROWS):
        path, content = replaced / name, (replaced / name).read_bytes()
        path.write_bytes(content + b" ")
        assert not outputs.is_finished(replaced) and outputs.find_wrong(replaced) == [name]
        path.unlink()
        assert not outputs.is_finished(replaced) and outputs.find_wrong(replaced) == [name]
        path.write_bytes(content)
        assert outputs.is_finished(replaced)
    (replaced / outputs.MANIFEST).unlink()
    assert not outputs.is_finished(replaced), "its results say that there was one"


def test_damaged_staged_outputs_replace_nothing(replaced: Path):
    staged = replaced / outputs.STAGE
    jax.process_index()
    first_move = "os.rename outputs.partial/config.json"
    assert forked(replaced, first_move, lambda: outputs.publish(replaced)) == -9
    (staged / "report.md").write_text("damaged")
    assert not outputs.settle(replaced) and not staged.exists()
    assert outputs.is_finished(replaced) and versions(replaced) == {"old"}


def test_a_run_made_before_there_was_a_list_is_finished_by_its_results_and_report(tmp_path: Path):
    write_json(tmp_path / "results.json", {"arms": []})
    assert not outputs.is_finished(tmp_path)
    (tmp_path / "report.html").touch()
    assert outputs.is_finished(tmp_path)


def test_results_and_ledger_of_two_evaluations_are_refused(replaced: Path):
    shutil.copy(replaced / outputs.STAGE / "ledger.json", replaced / "ledger.json")
    with pytest.raises(GenlabError, match="do not belong together"):
        outputs.read_results(replaced)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seeds=[1]", r"^seeds=\[1\]: the run was made with \[0\]"),
        ("backbone.width=64", "^backbone.width=64: the run was made with 32"),
        ("arms.ar.sampler.temperature=0.5", "^arms.ar.sampler.temperature=0.5"),
        ("num_prompts=4", "^num_prompts=4"),
        ("prompts_split=valid", "^prompts_split='valid'"),
        ("data.corpus.minutes=2.0", "^data.corpus.minutes=2.0"),
        ("evaluation.lengths_s=[3.0]", r"^evaluation.lengths_s=\[3.0\]"),
    ],
)
def test_a_finished_run_is_scored_again_by_scoring_fields_alone(override: str, named: str):
    made = make_comparison()
    with pytest.raises(ConfigError, match=named):
        check_changes(made, made.override([override, "evaluation.seed=3"]), SCORING)
    scoring = ["evaluation.seed=3", "equivalence.wer_ctc=0.1", "audit=true", "question=Why?"]
    check_changes(made, made.override(scoring), SCORING)


def test_another_training_is_refused_and_the_config_stays(tmp_path: Path):
    run = make_comparison().run("ar", 0, steps=5)
    write_config(tmp_path, run.to_dict())
    check_same_training(run.override(["steps=6"]), tmp_path)  # nothing was trained yet
    (tmp_path / "checkpoints/5").mkdir(parents=True)
    check_same_training(run, tmp_path)
    check_same_training(run.override(["arm.sampler.temperature=0.5", "settings.keep=2"]), tmp_path)
    with pytest.raises(
        ConfigError, match=r"backbone.width=64: the run was made with 32; use another --out"
    ):
        check_same_training(run.override(["backbone.width=64"]), tmp_path)
    with pytest.raises(ConfigError, match=r"arm.decoder.kind='masked': the run was made with 'ar'"):
        check_same_training(make_comparison().run("masked", 0, steps=5), tmp_path)
    values = {**run.to_dict(), "kind": "codec"}
    write_json(tmp_path / "config.json", values)
    with pytest.raises(ConfigError, match="holds a run of kind 'codec', expected 'decoder'"):
        check_same_training(run, tmp_path)


def test_nothing_is_trained_into_the_directory_of_a_comparison(tmp_path):
    """It has no checkpoints of its own, and its config.json would be replaced."""
    config = make_comparison()
    write_config(tmp_path, config.to_dict())
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(GenlabError, match="holds a run of kind 'compare', expected 'decoder'"):
        check_same_training(config.run("ar", 0, 4), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_config_that_was_edited_after_the_run_is_refused(tmp_path: Path):
    config = make_comparison()
    staged = outputs.open_stage(tmp_path, config.to_dict())
    for name in (*outputs.SCORED, *outputs.RENDERED):
        (staged / name).write_text("{}")
    outputs.publish(tmp_path)
    outputs.check_made_with(tmp_path)
    path = tmp_path / "config.json"
    write_json(path, config.override(["settings.log_every=3"]).to_dict())  # says not what it is
    outputs.check_made_with(tmp_path)
    for change in ("arms.masked.sampler.steps=[1,1]", "budget.train_flops=3e10", "question=Other?"):
        write_json(path, config.override([change]).to_dict())
        with pytest.raises(GenlabError, match=r"config\.json: changed since the results here"):
            outputs.check_made_with(tmp_path)
    path.write_text("{}")
    with pytest.raises(GenlabError, match=r"config\.json: changed since the results here"):
        outputs.check_made_with(tmp_path)
    manifest = json.loads((tmp_path / outputs.MANIFEST).read_text())
    del manifest["config"]  # of an earlier version
    write_json(tmp_path / outputs.MANIFEST, manifest)
    outputs.check_made_with(tmp_path)
