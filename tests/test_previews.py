"""Previews: the same prompts of every arm at the same shares of training, and training none the
wiser.
"""

import time

import jax
import numpy as np
import pytest
from comparison_toys import make_comparison
from flax import nnx
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_train import run as run_toy

from genlab.compare import show_previews
from genlab.data.audio import read_wave
from genlab.material import gather
from genlab.report.previews import PERCENTS, plan_previews
from genlab.watch.mel import grid_png, log_mel_db


def params_of(model):
    return jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def test_watching_changes_no_bit_and_is_not_timed(tmp_path):
    plain = run_toy(tmp_path / "plain")
    seen, halves = {}, run_toy(tmp_path / "half", steps=5, optim=None)

    def look(step):
        def note(model):
            seen[step] = [np.array(leaf) for leaf in params_of(model)]
            time.sleep(0.5)

        return note

    watched = run_toy(tmp_path / "watched", watch={step: look(step) for step in (3, 5, 10)})
    assert sorted(seen) == [3, 5, 10] and halves.steps == 5
    for ours, theirs, last in zip(params_of(watched.model), params_of(plain.model), seen[10]):
        assert np.array_equal(ours, theirs) and np.array_equal(ours, last)
    assert not all(np.array_equal(early, late) for early, late in zip(seen[3], seen[5]))
    assert watched.wall_s < 1.5 and watched.batch_hash == plain.batch_hash
    run_toy(tmp_path / "watched", watch={5: look("again")})
    assert "again" not in seen  # a finished run is not looked at


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENLAB_CACHE", str(tmp_path_factory.getbasetemp() / "previews_cache"))
        config = make_comparison(
            "data.num_frames=96", "data.corpus.minutes=1.5", "settings.previews=2"
        )
        yield config, gather(config, lambda *args: None), tmp_path_factory.mktemp("previews")


def test_every_arm_is_heard_under_the_same_tags_at_the_same_steps(place):
    config, material, out = place
    first = {}
    for name in ("masked", "diffusion"):
        run = config.run(name, 0, steps=40)
        model = run.build_for(material.store, jax.random.key(0))
        planned = plan_previews(run, material.store, material.codec, out)
        assert sorted(planned) == [10, 20, 40]
        for show in planned.values():
            show(model)
        path = out / name / "at025" / "prompt01.flac"
        first[name] = path.read_bytes()
        planned[10](model)  # after a restart: the same audio, in the same place
        assert path.read_bytes() == first[name]
    show_previews(config, material, out)
    tags = {f"validation{number:02}/preview" for number in range(2)}
    for name in ("masked", "diffusion", "real", "codec_floor_codes", "codec_floor_latents"):
        events = EventAccumulator(str(out / name), size_guidance={"tensors": 0}).Reload()
        steps = {tag: [event.step for event in events.Tensors(tag)] for tag in tags}
        expected = list(PERCENTS) if name in ("masked", "diffusion") else [100]
        assert all(sorted(found) == expected for found in steps.values())
    grid = EventAccumulator(str(out / "grid"), size_guidance={"tensors": 0}).Reload()
    assert set(grid.Tags()["tensors"]) == {f"{tag}_mel" for tag in tags}
    waves = [
        read_wave(out / name / "at100" / "prompt00.flac") for name in ("real", "codec_floor_codes")
    ]
    mels = [log_mel_db(wave[: min(map(len, waves))]).ravel() for wave in waves]
    assert np.corrcoef(*mels)[0, 1] > 0.8
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 5e6


def test_nothing_is_previewed_unless_asked(place):
    config, material, out = place
    config = config.override(["settings.previews=0"])
    assert plan_previews(config.run("ar", 0, steps=40), material.store, material.codec, out) == {}
    show_previews(config, material, out / "none")
    assert not (out / "none").exists()


def test_a_grid_has_a_row_per_name_and_a_column_per_moment():
    import io

    rng = np.random.default_rng(0)
    waves = [0.1 * rng.standard_normal(8000).astype(np.float32) for _ in range(3)]
    png = grid_png({"ar": {"25 %": waves[0], "100 %": waves[1]}, "real": {"100 %": waves[2]}})
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert picture.size == (200 + 2 * 320, 30 + 2 * 160)
    empty = np.asarray(picture)[30 + 170 : 30 + 300, 220 : 200 + 300]
    filled = np.asarray(picture)[30 + 170 : 30 + 300, 220 + 320 : 200 + 300 + 320]
    assert np.ptp(empty) < 20 < np.ptp(filled)
