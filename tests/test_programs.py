"""Compiled programs are kept from one command to the next, and other seeds compile nothing."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from quick_commands import QUICKLY

from genlab.run import programs
from genlab.run.programs import keep_programs

# Trains a toy arm on the seed that is given, as a command does, and prints how many
# programs were asked of the cache and how many it had.
PROGRAM = """
import sys, tempfile
from pathlib import Path
import grain, jax
from genlab.run.programs import keep_programs
print(keep_programs())
asked = []
jax.monitoring.register_event_listener(lambda event, **facts: asked.append(event))
from genlab.data.batches import BatchSource
from genlab.decoders.ar import ARConfig
from genlab.speed.hardware.resume import Clips
from genlab.speed.hardware.size import TOY
from genlab.speed.hardware.families import random_batch
from genlab.train import TrainSettings, train
from genlab.training.optim import OptimConfig

seed, task = int(sys.argv[1]), TOY.task(TOY.models[0])
clips = Clips(*random_batch(task.spec, task.num_frames, 64, seed))
source = BatchSource(grain.MapDataset.source(clips).seed(seed).shuffle().repeat(None), 4)
build = lambda key: ARConfig().build(task, key=key)
with tempfile.TemporaryDirectory() as folder:
    result = train(build, source, steps=3, optim=OptimConfig(), seed=seed,
                   settings=TrainSettings(save_every_s=None), run_dir=Path(folder) / "run")
for end in ("compile_requests_use_cache", "cache_hits"):
    print(sum(event.endswith(end) for event in asked))
"""


def run_on(seed: int, cache: Path) -> tuple[str, int, int]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"))
    }
    environment |= {**QUICKLY, "GENLAB_CACHE": str(cache)}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(seed)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    folder, asked, found = ended.stdout.split()
    return folder, int(asked), int(found)


def test_a_second_run_with_another_seed_compiles_nothing(tmp_path):
    folder, asked, found = run_on(0, tmp_path / "cache")
    assert Path(folder).parent == tmp_path / "cache" and found < asked
    again, asked_again, found_again = run_on(7, tmp_path / "cache")
    assert again == folder and asked_again == asked == found_again
    # A program that a killed process left half-written is compiled again, without a word.
    for path in Path(folder).glob("*-cache"):
        path.write_bytes(path.read_bytes()[:20])
    assert run_on(7, tmp_path / "cache")[1:] == (asked, 0)


@pytest.fixture
def unset(monkeypatch):
    """Return jax as a user has it, who keeps no programs of his own."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_folder_that_is_chosen_stays_chosen(monkeypatch, tmp_path, unset):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    assert keep_programs() is None and jax.config.jax_compilation_cache_dir == "elsewhere"


def test_nobody_else_may_write_where_programs_are_kept(monkeypatch, tmp_path, unset):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    before = os.umask(0o002)
    try:
        folder = keep_programs()
    finally:
        os.umask(before)
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_a_cache_that_cannot_be_used_costs_nothing_else(monkeypatch, tmp_path, unset):
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file"), "gs://bucket/cache"):
        monkeypatch.setenv("GENLAB_CACHE", place)
        assert keep_programs() is None and jax.config.jax_compilation_cache_dir is None


def test_programs_of_a_directory_that_others_made_are_not_run(monkeypatch, tmp_path, unset):
    """They are machine code: what lies in the current directory is not where they are kept."""
    monkeypatch.delenv("GENLAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine/genlab" / f"programs-{programs._machine()}"
    assert keep_programs() == folder
    folder.chmod(0o777)
    jax.config.update("jax_compilation_cache_dir", None)
    assert keep_programs() is None and jax.config.jax_compilation_cache_dir is None


def test_the_oldest_programs_make_room(monkeypatch, tmp_path, unset):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path))
    folder = tmp_path / f"programs-{programs._machine()}"
    folder.mkdir(mode=0o700)
    for number in range(5):
        (folder / f"{number}-cache").write_bytes(bytes(10))
        os.utime(folder / f"{number}-cache", (number, number))
    monkeypatch.setattr(programs, "KEPT_BYTES", 30)
    assert keep_programs() == folder
    assert sorted(path.name for path in folder.iterdir()) == ["2-cache", "3-cache", "4-cache"]


def test_the_commands_that_compute_keep_their_programs(monkeypatch, capsys):
    from genlab import cli

    kept = []
    monkeypatch.setattr(programs, "keep_programs", lambda: kept.append(True))
    assert cli.main(["doctor"]) in (0, 1)
    assert kept == []
    assert cli.main(["compare", "no_such_config.py"]) == 2
    assert kept == [True]
