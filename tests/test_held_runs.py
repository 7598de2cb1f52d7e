"""A run directory belongs to one command at a time; one that is refused changes nothing there."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from comparison_toys import make_comparison

from genlab.arms import train_arm
from genlab.cli import main
from genlab.machine.stopping import EXIT_LOCKED, LockedError
from genlab.run.status import hold_run, lock_run, lock_to_delete
from genlab.studies.tune import Tuning, tune

CODEC = Path(__file__).parents[1] / "configs" / "codec_16khz.py"


def read_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_who_holds_a_run_may_take_it_again_and_nobody_else(tmp_path):
    run_dir = tmp_path / "run"

    def take():
        with hold_run(run_dir):
            return True

    with hold_run(run_dir), ThreadPoolExecutor(1) as other:
        assert take()
        with pytest.raises(LockedError):
            other.submit(take).result()
        with pytest.raises(LockedError), lock_to_delete(run_dir):
            pass
    with lock_to_delete(run_dir):
        shutil.rmtree(run_dir)
    with lock_to_delete(run_dir):
        assert not run_dir.exists()


def test_a_refused_training_changes_nothing_of_the_one_that_works_there(tmp_path):
    run, tuned = make_comparison().run("ar", 0, 1), make_comparison("budget.train_flops=1e12")
    with (
        lock_run(tmp_path),
        ThreadPoolExecutor(1) as other,
    ):
        before = read_all(tmp_path)
        with pytest.raises(LockedError):
            other.submit(train_arm, run, None, tmp_path, None).result()
        with pytest.raises(LockedError):
            other.submit(tune, tuned, Tuning(), tmp_path, None).result()
        told = other.submit(main, ["train", str(CODEC), "--out", str(tmp_path)])
        assert told.result() == EXIT_LOCKED
        assert read_all(tmp_path) == before
