"""An arm that would train to the same bits as an earlier one gets its training as a copy, whole."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from kill_points import forked

from genlab.arms import _copy_training
from genlab.machine.stopping import LockedError
from genlab.run.checkpoint import saved_steps
from genlab.run.status import hold_run

TRAINED = {
    "checkpoints/4/_CHECKPOINT_METADATA": "{}",
    "checkpoints/4/model": "weights",
    "batch_hashes.txt": "0123456789abcdef\n" * 4,
    "code.json": "{}",
    "events.out.tfevents.1.host.2.0.a": "curves",
}
OF_THE_DIRECTORY = {"config.json": '{"kind": "decoder"}', "lock": "7 on host\n"}
OF_THE_SAMPLER = {"samples.json": "{}", "samples/prompt00.flac": "", "events.out.x.samples": ""}
ABANDONED = {"batch_hashes.txt": "", "events.out.tfevents.0.host.1.0.b": "half a curve"}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder):
    found = {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }
    found.pop("lock")
    return found


@pytest.fixture
def arms(tmp_path):
    """Return a trained arm, and one that ended before its first checkpoint."""
    trained, other = tmp_path / "trained", tmp_path / "other"
    write(trained, {**TRAINED, **OF_THE_DIRECTORY, **OF_THE_SAMPLER})
    write(other, {**ABANDONED, **OF_THE_DIRECTORY})
    return trained, other


def test_a_copy_holds_the_training_and_keeps_what_is_of_its_directory(arms):
    trained, other = arms
    before = read(trained)
    _copy_training(trained, other)
    assert read(other) == {**TRAINED, "config.json": OF_THE_DIRECTORY["config.json"]}
    assert saved_steps(other) == [4] and read(trained) == before
    (other / "batch_hashes.txt").write_text("its own by now")
    _copy_training(trained, other)
    assert read(other)["batch_hashes.txt"] == "its own by now"


def test_a_directory_in_which_a_process_works_is_not_copied_over(arms):
    trained, other = arms
    for held in arms:
        with hold_run(held), ThreadPoolExecutor(1) as process:
            with pytest.raises(LockedError):
                process.submit(_copy_training, trained, other).result()
    assert read(other).keys() == {*ABANDONED, "config.json"}


def test_a_copy_that_is_killed_anywhere_is_made_again(arms, tmp_path):
    trained, other = arms
    for at in range(1, 100):
        shutil.rmtree(other)
        write(other, {**ABANDONED, **OF_THE_DIRECTORY})
        if forked(tmp_path, at, lambda: _copy_training(trained, other)) == 0:
            break
        # Without checkpoints it has not begun; with them all the rest is there.
        assert not saved_steps(other) or read(other).keys() >= TRAINED.keys(), at
        _copy_training(trained, other)
        assert read(other) == {**TRAINED, "config.json": OF_THE_DIRECTORY["config.json"]}, at
    assert 15 < at < 99
