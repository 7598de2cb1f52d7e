"""A run directory is genlab's own, new, or refused; nothing is changed behind a link that leads
out.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from comparison_toys import make_comparison
from sweep_toys import make_sweep

from genlab.config import GenlabError
from genlab.data.listing import walk_files
from genlab.report import outputs
from genlab.run.files import write_config, write_json
from genlab.run.ownership import WRITTEN, check_is_ours, is_ours, refuse_to_replace
from genlab.run.status import lock_run, write_status
from genlab.run.stored import partial_path
from genlab.sweeps.page import expand
from genlab.sweeps.runs import find_prunable, run_directory, write_page


def tree(path):
    return {
        str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("name", WRITTEN)
def test_a_directory_with_somebodys_own_file_of_such_a_name_is_refused_and_stays_as_it_is(
    tmp_path, name
):
    (tmp_path / name).write_text('{"state": "of my own", "width": 3}')
    (tmp_path / ".diary.999999.tmp").write_text("mine")
    before = tree(tmp_path)
    with (
        pytest.raises(GenlabError, match=f"{name}: already exists, and genlab did not make it"),
        lock_run(tmp_path),
    ):
        pass
    with pytest.raises(GenlabError, match="genlab did not make it"):
        write_config(tmp_path, make_comparison().to_dict())
    assert tree(tmp_path) == before


def test_a_directory_with_other_files_is_used_and_they_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".notes.999999.tmp").write_text("mine")
    with lock_run(tmp_path):
        write_config(tmp_path, make_comparison().to_dict())
    assert (
        (tmp_path / "notes.txt").read_text()
        == (tmp_path / ".notes.999999.tmp").read_text()
        == "mine"
    )


@pytest.mark.parametrize("begin", ["lock", "empty lock", "config", "status"])
def test_what_genlab_has_begun_goes_on(tmp_path, begin):
    if begin == "lock":
        (tmp_path / "lock").write_text("7 on elsewhere\n")
    elif begin == "empty lock":  # killed before it wrote into it
        (tmp_path / "lock").touch()
    elif begin == "config":
        write_config(tmp_path, make_comparison().to_dict())
    else:
        write_status(tmp_path, "interrupted", 3)
    with lock_run(tmp_path):
        pass
    (tmp_path / "report.md").write_text("# Of genlab")
    check_is_ours(tmp_path)
    assert is_ours(tmp_path)


@pytest.mark.parametrize(
    "name", ["lock", "arms/ar/seed0/batch_hashes.txt", "checkpoints", "floors", "arms/ar"]
)
def test_a_link_out_of_a_run_directory_is_refused_before_anything_is_written(tmp_path, name):
    run_dir, mine = tmp_path / "run", tmp_path / "mine"
    (mine / "2019").mkdir(parents=True)
    (mine / "2019" / "photo").write_text("precious")
    (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "config.json", make_comparison().to_dict())
    target = mine / "2019" / "photo" if "." in name or name == "lock" else mine
    (run_dir / name).symlink_to(target)
    before = tree(mine)
    with pytest.raises(GenlabError, match=f"run/{name}: a link to "), lock_run(run_dir):
        pass
    assert tree(mine) == before


def test_links_inside_a_run_directory_and_to_it_are_followed(tmp_path):
    real = tmp_path / "disk"
    (real / "arms" / "ar").mkdir(parents=True)
    write_json(real / "config.json", make_comparison().to_dict())
    (real / "latest").symlink_to("arms/ar")
    (tmp_path / "run").symlink_to(real)
    with lock_run(tmp_path / "run"):
        assert (real / "lock").read_text().startswith(f"{os.getpid()} on ")


def test_prepared_outputs_are_not_moved_behind_a_link(tmp_path):
    """A stranger's run directory could replace any file by name: staged outputs are moved into
    place as they lie.
    """
    run_dir, mine = tmp_path / "run", tmp_path / "ssh"
    mine.mkdir()
    (mine / "authorized_keys").write_text("mine")
    (run_dir / outputs.STAGE / "keys").mkdir(parents=True)
    write_json(run_dir / "config.json", make_comparison().to_dict())
    (run_dir / outputs.STAGE / "keys" / "authorized_keys").write_text("theirs")
    (run_dir / "keys").symlink_to(mine)
    listed = {"report.md": hashlib.sha256(b"x").hexdigest()}
    (run_dir / "report.md").write_text("x")
    write_json(run_dir / outputs.STAGE / outputs.MANIFEST, {"files": listed})
    with pytest.raises(GenlabError, match="run/keys: a link"), lock_run(run_dir):
        outputs.settle(run_dir)
    assert (mine / "authorized_keys").read_text() == "mine"


def test_prune_deletes_nothing_behind_a_link(tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine"
    sweep = make_sweep()
    runs = write_page(sweep, out)
    (mine / "ar" / "seed0" / "checkpoints").mkdir(parents=True)
    directory = run_directory(out, runs[0])
    directory.mkdir()
    (directory / "results.json").write_text("{}")
    (directory / "report.html").touch()
    (directory / "arms").symlink_to(mine)
    assert find_prunable(sweep, expand(sweep), out).paths == []
    shutil.move(out / "runs", tmp_path / "elsewhere")
    (out / "runs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "gone-1.json").write_text("{}")
    facts = json.loads((out / "sweep.json").read_text())
    write_json(out / "sweep.json", {**facts, "made": [*facts["made"], "gone-1"]})
    found = find_prunable(sweep, expand(sweep), out)
    assert found.paths == [] and out / "runs" / "gone-1.json" in found.strangers
    with pytest.raises(GenlabError, match="out/runs: a link"):
        write_page(sweep, out)


@pytest.mark.parametrize(
    "name", ["report.html", "report.md", "figure.svg", "findings.json", "hparams", "runs"]
)
def test_a_sweep_begins_in_no_directory_where_its_report_would_replace_a_file(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(GenlabError, match=f"{name}: already exists, and no sweep made it"):
        write_page(make_sweep(), tmp_path)
    assert tree(tmp_path) == {name: b"mine"}


def test_runs_and_samples_among_the_recordings_are_not_read_as_recordings(tmp_path):
    with lock_run(tmp_path / "runs" / "r1"):
        write_config(tmp_path / "runs" / "r1", make_comparison().to_dict())
        write_status(tmp_path / "runs" / "r1", "running", 0)
    for name in (
        "a.flac",
        "ann/b.flac",
        "runs/r1/arms/ar/seed0/samples/prompt00.flac",
        "said/b-1.flac",
        "x/config.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "x" / "c.flac").touch()
    (tmp_path / "said" / "sampled.json").write_text("[]")
    notes: list[str] = []
    found = [path.relative_to(tmp_path).as_posix() for path in walk_files(tmp_path, [], notes)]
    assert found == ["a.flac", "ann/b.flac", "x/c.flac", "x/config.json"]
    assert sorted(notes) == [
        f"{name}: what genlab made in a run, not recordings; not read"
        for name in ("runs/r1", "said")
    ]


def test_a_path_that_leaves_no_room_for_names_is_refused_before_training(tmp_path):
    deep = tmp_path.joinpath(*["d" * 100] * 35)
    with pytest.raises(GenlabError, match="more than 3400 bytes"), lock_run(deep):
        pass
    assert not any(tmp_path.iterdir())


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_written_again(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    target, long = tmp_path / "own.safetensors", tmp_path / f"{'n' * 240}.wav"
    gone = [
        partial_path(path).name.replace(str(os.getpid()), str(dead.pid)) for path in (target, long)
    ]
    kept = [partial_path(target).name, f".other.safetensors.genlab-{dead.pid}.tmp", "own.5.tmp"]
    for name in (*gone, *kept):
        (tmp_path / name).touch()
    for path in (target, long):
        refuse_to_replace(path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_a_file_in_a_place_where_there_can_be_none_is_refused_before_it_costs_anything(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file/own.wav", tmp_path / "file/folder/own.wav"):
        with pytest.raises(GenlabError, match=r"own\.wav: .*file is no folder; name a file in"):
            refuse_to_replace(path)
    refuse_to_replace(tmp_path / "new/folder/own.wav")
    assert not (tmp_path / "new").exists()
