import io
import json
import threading
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train_toy import WIDTH, Toy, build, digest, make_source

from genlab import train as train_module
from genlab.config import GenlabError
from genlab.data.batches import BatchSource, batch_digest
from genlab.run.checkpoint import CheckpointWriter
from genlab.run.digests import chain_digest
from genlab.tokens import LossOut, Tokens
from genlab.train import TrainingDiverged, TrainSettings, load_trained, train
from genlab.training.optim import OptimConfig
from genlab.training.step import create_state, make_update
from genlab.watch.profiling import ProfileConfig
from genlab.watch.progress import Progress

QUIET = TrainSettings(log_every=5, save_every_s=None)


class Writer:
    def __init__(self):
        self.rows = {}
        self.flushes = 0

    def flush(self):
        self.flushes += 1

    def scalars(self, step, values):
        self.rows[step] = values


def run(run_dir, steps=10, build=build, source=None, optim=None, seed=1, settings=QUIET, **more):
    optim = optim or OptimConfig(peak_lr=1e-2)
    return train(
        build,
        source or make_source(),
        steps=steps,
        optim=optim,
        seed=seed,
        settings=settings,
        run_dir=run_dir,
        **more,
    )


# --- batches ---


def test_batch_is_a_function_of_seed_and_step():
    source = make_source()
    whole = [batch_digest(batch) for batch, _ in zip(source.iterate(), range(12), strict=False)]
    late = [batch_digest(batch) for batch, _ in zip(source.iterate(7), range(5), strict=False)]
    assert late == whole[7:]
    assert [batch_digest(source.batch_at(step)) for step in (0, 7, 11)] == [
        whole[step] for step in (0, 7, 11)
    ]
    assert len(set(whole)) == 12
    assert batch_digest(make_source(seed=6).batch_at(0)) != whole[0]


def test_tokens_and_missing_views_pass_through():
    def element(index):
        tokens = Tokens(np.full((4, 2), index, np.int16), None, np.int32(4))
        return (tokens, np.float32(index)), np.int32(index)

    source = BatchSource(grain.MapDataset.range(10).map(element).repeat(None), 3)
    for batch in (source.batch_at(1), next(source.iterate(1))):
        tokens, values = batch.args
        assert (
            isinstance(tokens, Tokens)
            and tokens.latents is None
            and tokens.codes.shape == (3, 4, 2)
        )
        assert values.tolist() == [3.0, 4.0, 5.0] and batch.clip_ids.tolist() == [3, 4, 5]


def test_too_little_data_is_refused(tmp_path):
    with pytest.raises(GenlabError, match="fewer than one batch"):
        BatchSource(grain.MapDataset.range(3), 4)
    with pytest.raises(GenlabError, match="ends after 8 batches"):
        run(tmp_path, steps=9, source=make_source(repeat=1))


# --- the update ---


def one_update(optim, build=build, steps=10):
    source = make_source(batch_size=12)
    graphdef, state = jax.jit(lambda key: create_state(build, optim, steps, key))(jax.random.key(0))
    before = jax.tree.map(np.array, state)
    state, metrics = make_update(graphdef, optim, steps)(
        state, source.batch_at(0).args, jax.random.key(1)
    )
    return before, state, metrics, source


def test_loss_is_the_weighted_mean_and_everything_moves():
    before, state, metrics, source = one_update(OptimConfig(peak_lr=1e-2))
    graphdef, _, rest = nnx.split(build(jax.random.key(0)), nnx.Param, ...)
    model = nnx.merge(graphdef, before["params"], rest)
    out = model.loss(*source.batch_at(0).args, key=jax.random.fold_in(jax.random.key(1), 0))
    expected = (out.per_example * out.weight).sum() / out.weight.sum()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["hidden"], (out.metrics["hidden"] * out.weight).sum() / out.weight.sum(), 1e-5
    )
    for name in ("params", "rest", "ema"):
        for old, new in zip(
            jax.tree.leaves(before[name]), jax.tree.leaves(state[name]), strict=True
        ):
            assert (old != np.asarray(new)).any(), f"{name} did not move"
    assert int(state["step"]) == 1 and int(state["first_bad_step"]) == -1


def test_accumulation_equals_the_whole_batch():
    # the noise differs between micro-batches by design, so this model draws none
    class Quiet(nnx.Module):
        def __init__(self, inner):
            self.layers, self.norm_scale = inner.layers, inner.norm_scale

        def loss(self, inputs, targets, weight, *, key):
            hidden, _ = jax.lax.scan(
                lambda h, layer: (jnp.tanh(layer(h)), None), inputs, self.layers
            )
            return LossOut(
                jnp.square(hidden * self.norm_scale[None] - targets).mean(-1), weight, {}
            )

    def plain_build(key):
        return Quiet(Toy(nnx.Rngs(key)))

    # SGD-like: Adam divides by the size of the gradient, and would hide a wrong scale.
    whole, parts = (
        OptimConfig(accumulate=count, b1=0.0, b2=0.0, clip_norm=None) for count in (1, 4)
    )
    (_, one, metrics, _), (_, four, metrics_four, _) = (
        one_update(whole, plain_build),
        one_update(parts, plain_build),
    )
    np.testing.assert_allclose(metrics["loss"], metrics_four["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], metrics_four["grad_norm"], rtol=1e-5)
    for left, right in zip(
        jax.tree.leaves(one["params"]), jax.tree.leaves(four["params"]), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


def test_accumulation_moves_the_rest_and_must_divide_the_batch(tmp_path):
    before, state, _, _ = one_update(OptimConfig(accumulate=3))
    assert (before["rest"]["average"] != np.asarray(state["rest"]["average"])).all()
    with pytest.raises(GenlabError, match="does not divide the batch size 8"):
        run(tmp_path, optim=OptimConfig(accumulate=3))


def test_micro_batches_draw_noise_of_their_own():
    """Four copies of one example in four parts: what differs between them is their noise alone."""
    first = make_source(batch_size=12).batch_at(0).args
    alike = jax.tree.map(lambda leaf: np.repeat(leaf[:1], 4, axis=0), first)
    optim = OptimConfig(accumulate=4)
    graphdef, state = create_state(build, optim, 10, jax.random.key(0))
    model = nnx.merge(graphdef, state["params"], state["rest"])
    key = jax.random.fold_in(jax.random.key(1), 0)
    one = jax.tree.map(lambda leaf: leaf[:1], alike)
    drawn = [
        float(model.loss(*one, key=jax.random.fold_in(key, part)).per_example[0])
        for part in range(4)
    ]
    assert len(set(drawn)) == 4
    _, metrics = make_update(graphdef, optim, 10)(state, alike, jax.random.key(1))
    assert float(metrics["loss"]) == pytest.approx(np.mean(drawn), rel=1e-5)


def test_random_streams_are_refused(tmp_path):
    class Streamed(Toy):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.stream = nnx.Rngs(0)

    with pytest.raises(GenlabError, match="pass keys explicitly"):
        run(tmp_path, build=lambda key: Streamed(nnx.Rngs(key)))


def seconds_of(row, steps=5):
    """Return where the time of the `steps` before a row of metrics went."""
    return {
        name: row[f"{name}_fraction"] * steps / row["steps_per_s"]
        for name in ("data_wait", "host", "device")
    }


def test_time_is_put_down_to_who_kept_the_device_waiting(tmp_path):
    class SlowWriter(Writer):
        def scalars(self, step, values):
            super().scalars(step, values)
            time.sleep(0.1)

    writer = SlowWriter()
    run(tmp_path / "toy", steps=40, writer=writer)
    assert seconds_of(writer.rows[40])["host"] >= 0.1, "the writer's pause after the stretch before"


# --- the loop ---


def test_result_log_status_and_second_call(tmp_path):
    writer, stream = Writer(), io.StringIO()
    with Progress(stream=stream) as progress:
        result = run(tmp_path / "toy", steps=40, writer=writer, progress=progress)
    assert result.steps == 40 and result.compile_s > 0 and 0 <= result.data_wait_s <= result.wall_s
    assert sorted(writer.rows) == [5, 10, 15, 20, 25, 30, 35, 40]
    row = writer.rows[40]
    shares = {"data_wait_fraction", "host_fraction", "device_fraction"}
    assert {"loss", "hidden", "grad_norm", "learning_rate", "steps_per_s"} | shares == set(row)
    assert (
        sum(row[name] for name in shares) == pytest.approx(1.0)
        and min(row[name] for name in shares) >= 0
    )
    assert row["loss"] < writer.rows[5]["loss"]
    assert result.last_metrics["loss"] == row["loss"]
    assert writer.flushes == 1, "once for the one checkpoint, of the last step"
    assert "toy" in stream.getvalue()
    status = json.loads((tmp_path / "toy/status.json").read_text())
    assert (status["state"], status["step"], status["attempt"]) == ("finished", 40, 1)

    lines = (tmp_path / "toy/batch_hashes.txt").read_text().split()
    assert lines == [batch_digest(make_source().batch_at(step)) for step in range(40)]
    running = ""
    for line in lines:
        running = chain_digest(running, line)
    assert running == result.batch_hash

    # A second call compiles nothing, trains nothing, and returns the same.
    again = run(tmp_path / "toy", steps=40)
    assert digest(again.model) == digest(result.model)
    assert again._replace(model=None) == result._replace(model=None)
    assert json.loads((tmp_path / "toy/status.json").read_text()) == status
    # Killed after the last save and before the last word: the status is corrected.
    (tmp_path / "toy/status.json").write_text(json.dumps({**status, "state": "running"}))
    run(tmp_path / "toy", steps=40)
    assert json.loads((tmp_path / "toy/status.json").read_text())["state"] == "finished"


def test_waiting_for_a_slow_step_is_no_time_of_the_next_stretch(tmp_path, monkeypatch):
    writer, fetch, pauses = Writer(), train_module._fetch, iter([0.0, 0.5])

    def fetch_slowly(*args):
        time.sleep(next(pauses, 0.0))  # as if the device were still at the step
        return fetch(*args)

    monkeypatch.setattr(train_module, "_fetch", fetch_slowly)
    run(tmp_path, steps=20, writer=writer)
    for step in (5, 10, 15, 20):
        assert sum(seconds_of(writer.rows[step]).values()) == pytest.approx(
            5 / writer.rows[step]["steps_per_s"]
        )
    assert seconds_of(writer.rows[10])["device"] >= 0.5, (
        "the pause is the device's, in the stretch it belongs to"
    )


def test_parts_equal_the_whole(tmp_path):
    whole = run(tmp_path / "whole", steps=10)
    hurry = TrainSettings(log_every=1, save_every_s=None, save_every_steps=4)

    class Stop(Writer):
        def scalars(self, step, values):
            if step == 6:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run(tmp_path / "parts", steps=10, settings=hurry, writer=Stop())
    status = json.loads((tmp_path / "parts/status.json").read_text())
    assert status["state"] == "failed" and "power cut" in status["error"]
    writer = Writer()
    parts = run(tmp_path / "parts", steps=10, settings=hurry, writer=writer)
    assert sorted(writer.rows) == [5, 6, 7, 8, 9, 10], "it went on from the checkpoint of step 4"
    assert digest(parts.model) == digest(whole.model)
    assert parts.batch_hash == whole.batch_hash
    assert (tmp_path / "parts/batch_hashes.txt").read_bytes() == (
        tmp_path / "whole/batch_hashes.txt"
    ).read_bytes()


def test_steps_wait_for_checkpoints_by_time_for_two_percent_of_it(tmp_path, monkeypatch):
    settings = TrainSettings(save_every_s=10.0, save_every_steps=7)
    assert not settings.is_save_due(1, age_s=9.9) and settings.is_save_due(1, age_s=10.0)
    assert settings.is_save_due(1, age_s=10.0, cost_s=0.2)
    assert not settings.is_save_due(1, age_s=24.9, cost_s=0.5)
    assert settings.is_save_due(1, age_s=25.0, cost_s=0.5)
    assert settings.is_save_due(7, age_s=0.0, cost_s=0.5), "what was asked by steps is saved"

    saved, save = [], CheckpointWriter.save

    def slow(writer, step, state, meta):
        saved.append(step)
        save(writer, step, state, meta)
        assert writer.wait_s > 0
        writer.wait_s = 0.5

    monkeypatch.setattr(CheckpointWriter, "save", slow)
    run(tmp_path, steps=12, settings=TrainSettings(log_every=5, save_every_s=1e-6))
    assert saved == [1, 12], "the next one by time would be due after 25 seconds, or later"


def test_seed_changes_the_result_and_settings_do_not(tmp_path):
    one = run(tmp_path / "one")
    other = run(tmp_path / "other", seed=2)
    same = run(
        tmp_path / "same",
        settings=TrainSettings(log_every=3, save_every_steps=2, save_every_s=None),
    )
    assert digest(one.model) != digest(other.model)
    assert digest(one.model) == digest(same.model)


def test_other_settings_in_the_same_directory_are_refused(tmp_path):
    run(tmp_path)
    for change, field in [
        ({"steps": 11}, "steps: now 11, but the run here was started with 10"),
        ({"seed": 9}, "seed: now 9"),
        ({"optim": OptimConfig(peak_lr=1e-3)}, "optim.peak_lr: now 0.001"),
        ({"source": make_source(seed=6)}, "digest of the first batch"),
    ]:
        with pytest.raises(GenlabError, match=field):
            run(tmp_path, **change)
    with pytest.raises(
        GenlabError, match=r"ema/layers/bias: the checkpoint has .* this model needs"
    ):
        run(tmp_path, build=lambda key: Toy(nnx.Rngs(key), layers=3))


def test_load_trained_average_and_raw(tmp_path):
    result = run(tmp_path)
    averaged, raw = load_trained(build, tmp_path), load_trained(build, tmp_path, use_ema=False)
    assert digest(averaged) == digest(result.model) != digest(raw)
    inputs = jnp.ones((2, WIDTH))
    out = averaged.loss(inputs, inputs, jnp.ones(2), key=jax.random.key(0))
    assert out.per_example.shape == (2,)
    with pytest.raises(GenlabError, match="no intact checkpoint"):
        load_trained(build, tmp_path / "nowhere")
    plain = run(tmp_path / "plain", optim=OptimConfig(ema_decay=None))
    assert digest(load_trained(build, tmp_path / "plain")) == digest(plain.model)


def test_a_model_with_nothing_but_parameters(tmp_path):
    class Line(nnx.Module):
        def __init__(self):
            self.slope = nnx.Param(jnp.ones((WIDTH,), jnp.bfloat16))

        def loss(self, inputs, targets, weight, *, key):
            error = jnp.square(inputs * self.slope[None] - targets).mean(-1)
            return LossOut(error.astype(jnp.float32), weight, {})

    result = run(tmp_path, build=lambda key: Line())
    loaded = load_trained(lambda key: Line(), tmp_path)
    assert loaded.slope.dtype == jnp.bfloat16
    assert digest(loaded) == digest(result.model)


def test_nan_stops_with_the_step_and_the_clips(tmp_path):
    source = make_source(repeat=None)
    bad = 4

    class Poisoned(Toy):
        def loss(self, inputs, targets, weight, *, key):
            out = super().loss(inputs, targets, weight, key=key)
            is_bad = jnp.all(inputs[0] == jnp.asarray(source.batch_at(bad).args[0][0]))
            return out._replace(per_example=jnp.where(is_bad, jnp.nan, out.per_example))

    settings = TrainSettings(log_every=7, save_every_s=None, save_every_steps=3)
    with pytest.raises(TrainingDiverged, match=f"step {bad}:") as error:
        run(tmp_path, build=lambda key: Poisoned(nnx.Rngs(key)), source=source, settings=settings)
    assert str(source.batch_at(bad).clip_ids.tolist()) in str(error.value)
    assert error.value.exit_code == 3
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "diverged" and f"step {bad}" in status["error"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"], (
        "no checkpoint after the bad step"
    )
    model = load_trained(lambda key: Poisoned(nnx.Rngs(key)), tmp_path)
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))
    )


class Rooted(nnx.Module):
    """A finite loss whose gradient at zero is infinite, and the one beside it NaN."""

    def __init__(self):
        self.slope = nnx.Param(jnp.zeros((WIDTH,)))

    def loss(self, inputs, targets, weight, *, key):
        error = jnp.sqrt(jnp.abs(self.slope[...])).sum() + 0.0 * inputs.mean(-1)
        return LossOut(error, weight, {})


def test_a_gradient_that_is_not_finite_stops_a_finite_loss(tmp_path):
    _, state, metrics, _ = one_update(OptimConfig(), build=lambda key: Rooted())
    assert np.isfinite(float(metrics["loss"])) and not np.isfinite(float(metrics["grad_norm"]))
    assert int(state["first_bad_step"]) == 0
    with pytest.raises(TrainingDiverged, match="step 0:"):
        run(tmp_path, build=lambda key: Rooted())


def test_nothing_compiles_after_the_first_step(tmp_path):
    compiled = []

    class Mark(Writer):
        def scalars(self, step, values):
            compiled.append(step)

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        settings = TrainSettings(log_every=1, save_every_s=None, save_every_steps=2)
        run(tmp_path, steps=8, settings=settings, writer=Mark())
    finally:
        jax.monitoring.clear_event_listeners()
    first = compiled.index(1)
    assert first > 0, "the listener must have seen the compilation before step 1"
    assert compiled[first:] == list(range(1, 9))


def test_two_trainers_in_one_directory(tmp_path):
    inside, go_on, errors = threading.Event(), threading.Event(), []

    class Wait(Writer):
        def scalars(self, step, values):
            inside.set()
            assert go_on.wait(60)

    worker = threading.Thread(target=lambda: run(tmp_path, writer=Wait()))
    worker.start()
    assert inside.wait(60)
    try:
        run(tmp_path)
    except GenlabError as error:
        errors.append(error)
    go_on.set()
    worker.join()
    assert "trains here" in str(errors[0]) and errors[0].exit_code == 4


def test_profile_is_written(tmp_path):
    run(tmp_path, settings=TrainSettings(save_every_s=None, profile=ProfileConfig(steps=2)))
    assert list(tmp_path.rglob("plugins/profile/*/*.xplane.pb"))
