"""Run directories in a bucket: mirrored, killed, gone on with elsewhere, shared by processes that
share no disk.
"""

import fcntl
import functools
import itertools
import json
import shutil
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bucket_server import BUCKET, serve_bucket
from processes import LIMIT_S, finish, start

from genlab.cli import main
from genlab.config import GenlabError
from genlab.machine.stopping import EXIT_LOCKED, LockedError
from genlab.run import bucket, checkpoint, status
from genlab.run.cache import cache_root
from genlab.run.digests import chain_digest
from genlab.run.status import lock_run

KNOWN_ENTROPY = str(Path(__file__).parents[1] / "configs/known_entropy.py")
STEPS = 12
SLOWLY = ("delay_s=0.2", f"steps={STEPS}", "save_every_steps=4")


@pytest.fixture(scope="module")
def environ():
    with pytest.MonkeyPatch.context() as patch, serve_bucket() as environ:
        for name, value in environ.items():
            patch.setenv(name, value)
        yield environ


@pytest.fixture(scope="module")
def files(environ):
    """The bucket through eyes that remember nothing."""
    import gcsfs

    return gcsfs.GCSFileSystem(use_listings_cache=False, skip_instance_cache=True)


@pytest.fixture
def url(environ, tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_CACHE", str(tmp_path / "cache"))
    return f"gs://{BUCKET}/{tmp_path.name}"


def names(files, url):
    return sorted(f"gs://{path}".removeprefix(f"{url}/") for path in files.find(url))


def leaves(path, step):
    """What a checkpoint says of every leaf, with the checksum of its bits."""
    return checkpoint._read_meta(path, step)["leaves"]


def test_a_copy_is_mirrored(url, files):
    with bucket.working_copy(url) as copy:
        (copy / "rows").mkdir()
        (copy / "rows/a.json").write_text("{}")
        (copy / "empty").touch()
        (copy / "report.html").write_text("<p>")
        for left_out in ("lock", ".status.json.7.tmp", "seed0.partial"):
            (copy / left_out).write_text("x")
        bucket.push(copy / "rows")
        assert names(files, url) == ["rows/a.json"]
        (copy / "rows/a.json").write_text("[1]")
    assert names(files, url) == ["empty", "report.html", "rows/a.json"]
    assert files.info(f"{url}/report.html")["contentType"] == "text/html"
    (copy / "stale").touch()
    with bucket.working_copy(url) as copy:  # the bucket is right, not what lies here
        found = sorted(
            path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()
        )
        assert found == ["empty", "report.html", "rows/a.json"]
        assert (copy / "rows/a.json").read_text() == "[1]"
        (copy / "rows/a.json").unlink()
    assert names(files, url) == ["empty", "report.html"]


def test_a_file_that_was_written_again_at_the_same_size_is_pushed(url, files):
    with bucket.working_copy(url) as copy:
        for name in ("results.json", "rows/a.json"):
            (copy / name).parent.mkdir(exist_ok=True)
            (copy / name).write_text("{}")
        bucket.push(copy)
        (copy / "results.json").write_text("[]")
        (copy / "rows/a.json").unlink()
        (copy / "rows/a.json").write_text("[]")
        bucket.push(copy)
        assert files.cat(f"{url}/results.json") == files.cat(f"{url}/rows/a.json") == b"[]"
        (copy / "results.json").unlink()
        bucket.push(copy / "rows")
        assert names(files, url) == ["results.json", "rows/a.json"], "only what lies in rows/"


def test_a_copy_has_one_user(url):
    with bucket.working_copy(url) as copy:
        with bucket.working_copy(f"{url}/") as same:
            assert same == copy
    with open(copy.with_name(f"{copy.name}.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(LockedError, match="another command on this machine"),
            bucket.working_copy(url),
        ):
            pass


def test_an_error_leaves_its_files_in_the_bucket(url, files):
    with pytest.raises(ValueError), bucket.working_copy(url) as copy:
        (copy / "made").touch()
        raise ValueError
    assert names(files, url) == ["made"]


def test_what_cannot_be_read_is_told_in_one_line(url):
    for wrong in ("s3://bucket/run", "gs://", "gs://no-such-bucket/run"):
        with pytest.raises(GenlabError, match=wrong), bucket.working_copy(wrong) as copy:
            (copy / "made").touch()


def test_a_cache_in_a_bucket_is_refused(url, monkeypatch, capsys):
    monkeypatch.setenv("GENLAB_CACHE", "gs://lab/cache")
    assert main(["budget", KNOWN_ENTROPY]) == 2
    assert "name a directory on a local disk" in capsys.readouterr().err


def test_commands_read_and_write_a_run_in_the_bucket(url, files, capsys):
    small = [
        "budget.steps=2",
        "backbone.width=32",
        "backbone.layers=1",
        "data.corpus.clips=16",
        "data.num_frames=12",
    ]
    assert main(["train", KNOWN_ENTROPY, "--arm", "ar", "--out", f"{url}/run", *small]) == 0
    shutil.rmtree(cache_root() / "buckets")
    assert main(["evaluate", f"{url}/run"]) == 0
    out = capsys.readouterr().out
    assert f"{url}/run: 2 steps" in out and "not below the source" in out
    assert main(["evaluate", f"{url}/other"]) == 2
    assert f"{url}/other: nothing is there" in capsys.readouterr().err


def make_state(seed):
    return {
        "params": {
            "kernel": jax.random.normal(jax.random.key(seed), (60, 50)),
            "count": jnp.int32(seed),
        }
    }


def expect(meta):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), make_state(0))


def save(run_dir, *steps):
    writer = checkpoint.CheckpointWriter(run_dir, keep=3)
    for step in steps:
        writer.save(step, make_state(step), {})
    writer.close()


def test_half_written_and_damaged_checkpoints_are_passed_over(url, files):
    with bucket.working_copy(url) as copy:
        save(copy / "arm", 1, 2, 3, 4)
        root = f"{url}/arm/checkpoints"
        assert checkpoint.saved_steps(copy / "arm") == [2, 3, 4]
        assert not (copy / "arm/checkpoints").exists()
        files.rm_file(f"{root}/4/commit_success.txt")  # as after a kill in the middle of a save
        assert checkpoint.saved_steps(copy / "arm") == [2, 3]
        data = max(files.find(f"{root}/3/params/d"), key=files.size)
        content = bytearray(files.cat_file(data))
        content[len(content) // 2] ^= 0x10
        files.pipe_file(data, bytes(content))
        with pytest.warns(UserWarning, match="checkpoint 3 is damaged"):
            restored = checkpoint.restore_latest(copy / "arm", expect, move_damaged=True)
        assert restored.step == 2
        np.testing.assert_array_equal(
            restored.state["params"]["kernel"], make_state(2)["params"]["kernel"]
        )
        assert checkpoint.saved_steps(copy / "arm") == [2]
        assert {
            name.split("/")[2].split("-")[0] for name in names(files, url) if "bad_" in name
        } == {"3"}
        save(copy / "arm", 3, 4)
        assert checkpoint.restore_latest(copy / "arm", expect, move_damaged=False).step == 4
    # An arm that trains like another is given its checkpoints.
    with bucket.working_copy(url) as copy:
        (copy / "twin").mkdir()
        (copy / "twin/batch_hashes.txt").touch()
        for _ in range(2):
            bucket.copy_checkpoints(copy / "arm", copy / "twin")
        assert checkpoint.saved_steps(copy / "twin") == [2, 3, 4]
    with bucket.working_copy(f"{url}/twin") as copy, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.restore_latest(copy, expect, move_damaged=False).step == 4


def test_a_run_on_another_host_is_waited_for_and_respected_if_it_lives(url, files, monkeypatch):
    monkeypatch.setattr(status, "HEARTBEAT_S", 0.1)

    def beat(age_s):
        status = {
            "state": "running",
            "host": "elsewhere",
            "pid": 7,
            "heartbeat": time.time() - age_s,
        }
        files.pipe_file(f"{url}/status.json", json.dumps(status).encode())

    beat(5)
    with bucket.working_copy(url) as copy:
        monkeypatch.setattr(status, "REMOTE_ALIVE_S", 5.5)  # it is silent, and then it is dead
        with lock_run(copy):
            pass
        monkeypatch.setattr(status, "REMOTE_ALIVE_S", 600)
        # only there: the bucket's own threads sleep too
        clock = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: beat(0)})
        monkeypatch.setattr(status, "time", clock)  # it lives
        with (
            pytest.raises(LockedError, match="process 7 on elsewhere") as error,
            lock_run(copy),
        ):
            pass
    assert error.value.exit_code == EXIT_LOCKED


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What is made on a local disk without a stop, and where."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    return finish(start(run_dir, "ar", f"steps={STEPS}", devices=1)), run_dir


@pytest.fixture
def on_new_machines(environ, tmp_path):
    """Starts processes that share no disk with each other or with earlier ones."""
    count = itertools.count()

    def start_there(url, *options, **more):
        machine = lambda number: {**environ, "GENLAB_CACHE": str(tmp_path / f"disk{next(count)}")}  # noqa: E731
        return start(url, "ar", *options, devices=1, environ=machine, **more)

    return start_there


def kill_after_step(files, url, step, processes):
    deadline = time.time() + LIMIT_S
    while not files.exists(f"{url}/checkpoints/{step}/commit_success.txt"):
        assert all(process.poll() is None for process in processes), [
            process.communicate() for process in processes
        ]
        assert time.time() < deadline
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.communicate()


def read(files, url, name):
    return files.cat_file(f"{url}/{name}").decode()


def test_a_killed_run_goes_on_on_another_machine_to_the_same_bits(
    url, files, whole, on_new_machines
):
    kill_after_step(files, url, 4, on_new_machines(url, *SLOWLY))
    assert json.loads(read(files, url, "status.json"))["state"] == "running"
    rest, (run, run_dir) = finish(on_new_machines(url, f"steps={STEPS}")), whole
    assert 4 < min(map(int, rest["losses"])) < STEPS
    assert rest["losses"][str(STEPS)] == run["losses"][str(STEPS)]
    assert (rest["total"], rest["batch_hash"]) == (run["total"], run["batch_hash"])
    with bucket.working_copy(url) as copy:
        ours = leaves(bucket.stored_at(copy / "checkpoints" / str(STEPS)), STEPS)
    assert ours == leaves(run_dir / "checkpoints" / str(STEPS), STEPS)
    assert read(files, url, "batch_hashes.txt") == (run_dir / "batch_hashes.txt").read_text()
    assert json.loads(read(files, url, "status.json"))["state"] == "finished"


def test_two_processes_share_nothing_but_the_bucket(url, files, whole, on_new_machines):
    kill_after_step(files, url, 4, on_new_machines(url, *SLOWLY, count=2))
    rest, (run, _) = finish(on_new_machines(url, f"steps={STEPS}", count=2)), whole
    assert 4 < min(map(int, rest["losses"])) < STEPS
    np.testing.assert_allclose(rest["losses"][str(STEPS)], run["losses"][str(STEPS)], rtol=1e-4)
    assert rest["batch_hash"] == run["batch_hash"]
    hashes = read(files, url, "batch_hashes.txt").split()
    assert len(hashes) == STEPS and functools.reduce(chain_digest, hashes, "") == run["batch_hash"]
