import fcntl
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlab.config import GenlabError, digest
from genlab.machine.stopping import LockedError, TrainingInterrupted, stop_on_signal
from genlab.run import status
from genlab.run.checkpoint import (
    CheckpointMismatch,
    CheckpointWriter,
    HashLog,
    checksum,
    restore_latest,
    saved_steps,
)
from genlab.run.digests import chain_digest, combine_digests
from genlab.run.files import read_json, write_json
from genlab.run.status import check_held, lock_run, track_status, write_status
from genlab.training.settings import TrainSettings
from genlab.training.tally import read_meta


def make_state(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "layers": {
            0: {"kernel": jax.random.normal(keys[0], (40, 30))},
            1: {"kernel": jnp.full((3, 2), seed + 0.5)},
        },
        "half": jax.random.normal(keys[1], (7, 5)).astype(jnp.bfloat16),
        "count": jnp.int32(seed),
        "is_used": jnp.array([True, False]),
    }
    return {"params": params, "opt": optax.adamw(1e-3).init(params["layers"]), "ema": {}}


def expect_same(state):
    return lambda meta: jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state
    )


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def run_dir(tmp_path):
    writer = CheckpointWriter(tmp_path, keep=3)
    for step in (1, 2, 3, 4):
        writer.save(step, make_state(step), {"note": f"step {step}"})
    writer.close()
    return tmp_path


def data_files(run_dir, step):
    """Files that hold array bytes, the largest first."""
    files = [
        path
        for path in (run_dir / "checkpoints" / str(step)).rglob("*")
        if path.is_file() and path.parent.name == "d"
    ]
    return sorted(files, key=lambda path: -path.stat().st_size)


def test_round_trip_and_keep(run_dir):
    assert saved_steps(run_dir) == [2, 3, 4]
    restored = restore_latest(run_dir, expect_same(make_state(0)), move_damaged=False)
    assert restored.step == 4 and restored.meta["note"] == "step 4"
    assert_same(restored.state, make_state(4))


def test_checkpoints_of_some_steps_are_kept_beside_the_newest(tmp_path):
    writer = CheckpointWriter(tmp_path, keep=2, keep_every_steps=4)
    for step in range(1, 10):
        writer.save(step, make_state(step), {})
    writer.close()
    assert saved_steps(tmp_path) == [4, 8, 9]


def test_of_checkpoints_that_are_close_in_time_the_newest_are_kept(tmp_path):
    writer = CheckpointWriter(tmp_path, keep=1, keep_every_s=3600.0)
    for step in (1, 2, 3):
        writer.save(step, make_state(step), {})
    writer.close()
    assert saved_steps(tmp_path) == [1, 3]  # the first begins the hour


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"keep_every_steps": 100},
            "keep_every_steps=100: expected a multiple of save_every_steps",
        ),
        ({"keep_every_steps": 15, "save_every_steps": 10}, "keep_every_steps=15"),
        ({"keep_every_s": 0.2}, "keep_every_s=0.2: expected at least 1 second"),
        ({"keep_every_steps": 0, "save_every_steps": 10}, "keep_every_steps=0"),
    ],
)
def test_what_is_never_saved_cannot_be_kept(values, told):
    with pytest.raises(ValueError, match=told):
        TrainSettings(**values)


def test_metadata_with_the_right_checksum_and_wrong_content_is_refused(run_dir):
    path = run_dir / "checkpoints" / "4" / "_CHECKPOINT_METADATA"
    whole = json.loads(path.read_text())
    for change in ({"leaves": 5}, {"leaves": {"count": 5}}, {"leaves": None}, {"step": "4"}):
        meta = {**whole["custom_metadata"]["meta"], **change}
        path.write_text(
            json.dumps({**whole, "custom_metadata": {"meta": meta, "digest": digest(meta)}})
        )
        with pytest.warns(UserWarning, match="checkpoint 4 is damaged"):
            restored = restore_latest(run_dir, expect_same(make_state(0)), move_damaged=False)
        assert restored.step == 3
    for meta, told in (
        ({}, "field identity"),
        ({"identity": {}, "tally": {"wall_s": "x"}}, "tally.wall_s"),
    ):
        with pytest.raises(CheckpointMismatch, match=f"of the checkpoint: .*{told}"):
            read_meta(meta, run_dir)


def test_only_directories_with_the_names_of_steps_are_steps(run_dir):
    for name in ("\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT SEVEN}", "007", "9" * 30, "-1"):
        (run_dir / "checkpoints" / name).mkdir()
    assert saved_steps(run_dir) == [2, 3, 4]
    CheckpointWriter(run_dir, keep=3).close()
    assert restore_latest(run_dir, expect_same(make_state(0)), move_damaged=False).step == 4


def test_only_the_named_parts_are_read(run_dir):
    params = make_state(0)["params"]
    restored = restore_latest(
        run_dir, lambda meta: expect_same({"params": params})(meta), move_damaged=False
    )
    assert set(restored.state) == {"params"}
    assert_same(restored.state["params"], make_state(4)["params"])


def test_nothing_saved_gives_none(tmp_path):
    assert restore_latest(tmp_path, expect_same(make_state(0)), move_damaged=True) is None


def test_what_is_saved_is_the_state_at_the_call(tmp_path):
    # The next donated update reuses the memory of the state while the save still writes in the
    # background.
    bump = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    tree = {"big": jnp.zeros((400, 1000))}
    bump.lower(tree).compile()
    writer = CheckpointWriter(tmp_path, keep=9)
    for step in range(6):
        writer.save(step, {"params": tree}, {})
        for _ in range(5):
            tree = bump(tree)
    writer.close()
    restored = restore_latest(tmp_path, expect_same({"params": tree}), move_damaged=False)
    assert restored.step == 5
    np.testing.assert_array_equal(restored.state["params"]["big"], np.full((400, 1000), 25.0))


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip_byte, truncate, os.remove])
def test_damaged_data_falls_back_with_a_warning(run_dir, damage):
    damage(data_files(run_dir, 4)[0])
    with pytest.warns(UserWarning, match="checkpoint 4 is damaged"):
        restored = restore_latest(run_dir, expect_same(make_state(0)), move_damaged=True)
    assert restored.step == 3
    assert_same(restored.state, make_state(3))
    assert saved_steps(run_dir) == [2, 3]
    assert [path.name.split("-")[0] for path in (run_dir / "bad_checkpoints").iterdir()] == ["4"]
    writer = CheckpointWriter(run_dir, keep=3)  # the step can be saved again
    writer.save(4, make_state(9), {})
    writer.close()
    assert restore_latest(run_dir, expect_same(make_state(0)), move_damaged=False).step == 4


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "params/_METADATA", "params/_sharding"])
def test_of_a_damaged_checkpoint_orbax_itself_says_nothing(run_dir, name, caplog, capfd):
    damaged = run_dir / "checkpoints/4" / name
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step = restore_latest(run_dir, expect_same(make_state(0)), move_damaged=False).step
    assert step == (4 if name.endswith("_sharding") else 3)
    assert [record.getMessage() for record in caplog.records] == []
    assert capfd.readouterr().err == ""


def test_every_flipped_byte_is_seen_or_harmless(run_dir):
    """Flip one byte at many places of every file: the result is step 4 unharmed, or step 3."""
    state, outcomes = make_state(4), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = run_dir / "checkpoints/4"
        for path in sorted(
            item for item in root.rglob("*") if item.is_file() and item.stat().st_size
        ):
            content = path.read_bytes()
            for place in np.linspace(0, len(content) - 1, 3).astype(int):
                path.write_bytes(
                    content[:place] + bytes([content[place] ^ 0x04]) + content[place + 1 :]
                )
                restored = restore_latest(run_dir, expect_same(state), move_damaged=False)
                assert_same(restored.state, make_state(restored.step))
                outcomes.append(restored.step)
            path.write_bytes(content)
    assert set(outcomes) == {3, 4}


@pytest.mark.parametrize(
    "name", ["_CHECKPOINT_METADATA", "params/_METADATA", "params/manifest.ocdbt"]
)
def test_missing_metadata_falls_back(run_dir, name):
    (run_dir / "checkpoints/4" / name).unlink()
    with pytest.warns(UserWarning, match="checkpoint 4 is damaged"):
        assert restore_latest(run_dir, expect_same(make_state(0)), move_damaged=False).step == 3
    assert saved_steps(run_dir) == [2, 3, 4], "without move_damaged nothing is touched"


def test_another_steps_directory_is_not_believed(run_dir):
    shutil.copytree(run_dir / "checkpoints/3", run_dir / "checkpoints/7")
    with pytest.warns(UserWarning, match="checkpoint 7 is damaged"):
        assert restore_latest(run_dir, expect_same(make_state(0)), move_damaged=False).step == 4


def test_all_damaged_gives_none(run_dir):
    for step in saved_steps(run_dir):
        truncate(data_files(run_dir, step)[0])
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged"):
        assert restore_latest(run_dir, expect_same(make_state(0)), move_damaged=True) is None


def test_half_written_saves_are_ignored_and_cleaned(run_dir):
    half = run_dir / "checkpoints/5.orbax-checkpoint-tmp"
    shutil.copytree(run_dir / "checkpoints/4", half)
    assert restore_latest(run_dir, expect_same(make_state(0)), move_damaged=True).step == 4
    CheckpointWriter(run_dir, keep=3).close()
    assert not half.exists()


@pytest.mark.parametrize(
    "change",
    [
        # Orbax would cast without a word
        lambda params: {**params, "half": params["half"].astype(jnp.float32)},
        lambda params: {**params, "half": params["half"][:, :4]},
        lambda params: {**params, "extra": jnp.zeros(3)},
        lambda params: {name: leaf for name, leaf in params.items() if name != "half"},
    ],
)
def test_another_model_is_refused_not_replaced(run_dir, change):
    state = make_state(0)
    state["params"] = change(state["params"])
    with pytest.raises(CheckpointMismatch, match=r"params/(half|extra)"):
        restore_latest(run_dir, expect_same(state), move_damaged=True)
    assert saved_steps(run_dir) == [2, 3, 4]


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "status.json"
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            values = read_json(path)
            if values is not None:
                seen.append(len(set(values["fill"])))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        write_json(path, {"fill": [number] * 2000})
    stop.set()
    reader.join()
    assert seen and set(seen) == {1}
    assert [item.name for item in tmp_path.iterdir()] == ["status.json"]
    path.write_text('{"half":')
    assert read_json(path) is None


def test_lock_excludes_and_is_freed(tmp_path):
    with lock_run(tmp_path):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"), lock_run(tmp_path):
            pass
    with pytest.raises(ValueError), lock_run(tmp_path):
        raise ValueError
    with lock_run(tmp_path):
        pass


def test_a_live_process_on_another_host_is_respected(tmp_path):
    def beat(age_s, state="running", host="elsewhere"):
        write_json(
            tmp_path / "status.json",
            {"state": state, "host": host, "pid": 7, "heartbeat": time.time() - age_s},
        )

    beat(5)
    with pytest.raises(LockedError, match="process 7 on elsewhere"), lock_run(tmp_path):
        pass
    for stale in ({"age_s": 2 * status.REMOTE_ALIVE_S}, {"age_s": 5, "state": "failed"}):
        beat(**stale)
        with lock_run(tmp_path):
            pass
    beat(5, host=socket.gethostname())  # the lock itself says that nobody on this host is alive
    with lock_run(tmp_path):
        pass


@pytest.mark.parametrize("beat", [1e12, float("nan"), float("inf"), "soon", None, True, [1]])
def test_a_heartbeat_that_cannot_be_true_locks_nothing(tmp_path, beat, monkeypatch):
    monkeypatch.setattr(status, "HEARTBEAT_S", 0.01)
    found = {"state": "running", "host": "elsewhere", "heartbeat": beat}
    write_json(tmp_path / "status.json", found)
    with lock_run(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} on ")


def test_a_heartbeat_an_hour_ahead_locks_only_if_it_moves(tmp_path, monkeypatch):
    found = {"state": "running", "host": "elsewhere", "pid": 7}
    ahead = time.time() + 3600

    def beat(seconds):
        write_json(tmp_path / "status.json", {**found, "heartbeat": ahead + seconds})

    beat(0.0)
    clock = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    monkeypatch.setattr(status, "time", clock)
    with lock_run(tmp_path):  # of a process that died, or the clock was set back
        pass
    clock.sleep = beat
    with pytest.raises(LockedError, match="s ahead of this clock"), lock_run(tmp_path):
        pass
    write_json(tmp_path / "status.json", {**found, "heartbeat": time.time() + 20})
    with pytest.raises(LockedError), lock_run(tmp_path):
        pass


def test_a_lock_whose_file_was_deleted_meanwhile_is_no_lock(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    flock = fcntl.flock

    def delete_first(file, operation):
        shutil.rmtree(run_dir)  # another process prunes it between the opening and the locking
        flock(file, operation)

    monkeypatch.setattr(status.fcntl, "flock", delete_first)
    with pytest.raises(LockedError, match="run: was deleted just now"), lock_run(run_dir):
        pass
    assert not run_dir.exists()


def test_what_killed_processes_left_is_removed_by_the_next_and_what_lives_writes_on(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = [f"rows/.ar.json.genlab-{dead.pid}.tmp", f".report.html.genlab-{dead.pid}.tmp"]
    living = f".results.json.genlab-{os.getpid()}.tmp"
    kept = [
        living,
        f"checkpoints/.x.genlab-{dead.pid}.tmp",
        f".own.{dead.pid}.tmp",
        "own.7.tmp",
        ".own",
    ]
    write_status(tmp_path, "interrupted", 3)
    for name in (*gone, *kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with lock_run(tmp_path):
        assert not any((tmp_path / name).exists() for name in gone)
        assert all((tmp_path / name).exists() for name in kept)


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_run_directory_that_is_deleted_meanwhile_is_an_error(tmp_path, is_made_again):
    run_dir = tmp_path / "run"
    with pytest.raises(GenlabError, match="run: deleted or replaced"), lock_run(run_dir):
        check_held(run_dir / "rows")
        run_dir.rename(tmp_path / "elsewhere")
        if is_made_again:
            run_dir.mkdir()
            (run_dir / "lock").touch()
        with pytest.raises(GenlabError, match="run: deleted or replaced"):
            check_held(run_dir / "rows")
        check_held(tmp_path / "elsewhere")


def test_status_follows_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "HEARTBEAT_S", 0.0)
    with track_status(tmp_path, 0, 9) as beat:
        assert read_json(tmp_path / "status.json")["state"] == "running"
        beat(4)
        assert read_json(tmp_path / "status.json")["step"] == 4
    assert read_json(tmp_path / "status.json")["state"] == "finished"
    with pytest.raises(TrainingInterrupted), track_status(tmp_path, 0, 9) as beat:
        beat(5)
        raise TrainingInterrupted("stopped")
    found = json.loads((tmp_path / "status.json").read_text())
    assert [found[name] for name in ("state", "step", "attempt")] == ["interrupted", 5, 2]
    assert found["error"] == "stopped"
    assert {"heartbeat", "host", "pid"} <= set(found)


def test_hash_log_is_cut_at_the_restart(tmp_path):
    examples = np.arange(12, dtype=np.uint32).reshape(6, 2)
    lines = [combine_digests(step) for step in examples]
    log = HashLog(tmp_path, 0, "")
    for step in examples[:5]:
        log.append(step)
    log.flush()
    log.close()
    assert log.chained == functools.reduce(chain_digest, lines[:5], "")
    log = HashLog(tmp_path, 3, "before")
    log.append(examples[5])
    log.flush()
    log.append(examples[0])  # not flushed: a restart will write it again
    log.close()
    assert log.chained == chain_digest("before", lines[5])
    assert (tmp_path / "batch_hashes.txt").read_text().split() == [*lines[:3], lines[5]]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["float32", "bfloat16", "int32", "uint8", "bool"]), st.data())
def test_a_checksum_misses_no_change_of_one_element_and_no_swap(dtype, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.integers(0, 2 if dtype == "bool" else 100, (3, 4, 5))
    array = jnp.asarray(values).astype(dtype)
    before = int(checksum(array))
    place = tuple(data.draw(st.integers(0, size - 1)) for size in array.shape)
    other = (
        jnp.asarray(values)
        .at[place]
        .add(1 if dtype != "bool" else 1 - 2 * values[place])
        .astype(dtype)
    )
    assert int(checksum(other)) != before
    flat = values.reshape(-1)
    first, second = 7, data.draw(st.integers(8, 59))
    if flat[first] != flat[second]:
        swapped = flat.copy()
        swapped[[first, second]] = flat[[second, first]]
        assert int(checksum(jnp.asarray(swapped.reshape(3, 4, 5)).astype(dtype))) != before


def test_a_checksum_does_not_depend_on_the_mesh():
    array = jax.random.normal(jax.random.key(0), (16, 24))
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spread = jax.device_put(array, jax.NamedSharding(mesh, jax.P("data", "fsdp")))
    assert int(jax.jit(checksum)(spread)) == int(checksum(array))


def test_first_signal_asks_and_the_second_acts(request):
    # a shell's background jobs ignore SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt), stop_on_signal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
