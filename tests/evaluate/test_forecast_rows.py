"""The rows of forecasts: every baseline with a spread is scored on the clips of the arms, per
training run where it was trained, and kept.
"""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from comparison_toys import make_comparison
from flax import nnx

from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.data.store import SplitInfo
from genlab.decoders.regression import RegressionConfig, RegressionSampler
from genlab.evaluate.energy import BARE_ENERGY, BLOCK_S, ENERGIES, TUNED_ENERGY
from genlab.evaluate.metrics import RowResult
from genlab.evaluate.rows import load_row
from genlab.experiment import Arm
from genlab.forecasts import rows as forecast_rows
from genlab.prompts import choose_scored
from genlab.run.bounds import (
    CLIMATOLOGY,
    LOOKUP,
    LOOKUP_RESIDUALS,
    REGRESSION,
    REGRESSION_RESIDUALS,
)
from genlab.tokens import SampleOut, make_tokens

SOURCE = KnownEntropy(states=4, entries=6, clips=60, clip_frames=40, latent_channels=4)
SPLITS = {"train": (0, 36), "valid": (36, 12), "test": (48, 12)}


class Constant(nnx.Module):
    """Predicts the same number everywhere."""

    def __init__(self, value):
        self.value = nnx.Variable(jnp.asarray(value))

    def sample(self, cond, *, num_frames, key, sampler, prompt):
        """Return it for every frame that is not known."""
        latents = jnp.where(prompt.is_known[:, :, None], prompt.tokens.latents, self.value[...])
        return SampleOut(make_tokens(latents=latents, num_frames=num_frames), 1)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    store = draw_store(SOURCE, tmp_path_factory.mktemp("rows"))
    splits = {
        name: SplitInfo(first=first, clips=clips, seconds=1.0)
        for name, (first, clips) in SPLITS.items()
    }
    store.info = store.info.model_copy(update={"splits": splits})
    return SimpleNamespace(store=store, prompts=[None, None])


CONFIG = make_comparison(
    "data.num_frames=40",
    "num_prompts=10",
    'baselines=["lookup","regression"]',
    "condition.content=none",
    "condition.speaker=false",
    "condition.dropout=0",
)


def regressions(*values):
    arm = Arm(decoder=RegressionConfig(), sampler=RegressionSampler())
    run = CONFIG.model_copy(update={"arms": {REGRESSION: arm}}).run(REGRESSION, 0, steps=1)
    models = [SimpleNamespace(model=Constant(value)) for value in values]
    return [SimpleNamespace(run=run, result=result, name=REGRESSION) for result in models]


def test_every_forecast_is_dressed_and_kept(material, tmp_path):
    found = forecast_rows.dress_rows(CONFIG, material, regressions(0.0, 3.0), tmp_path)
    assert list(found) == [CLIMATOLOGY, LOOKUP_RESIDUALS, REGRESSION_RESIDUALS]
    assert all({*row.scores} >= {*ENERGIES} for row in found.values())
    for name, seeds in ((CLIMATOLOGY, 1), (LOOKUP_RESIDUALS, 1), (REGRESSION_RESIDUALS, 2)):
        values = found[name].per_clip[BARE_ENERGY]
        assert values.runs == tuple(np.repeat(range(seeds), 10).tolist())
        assert found[name].scores[BARE_ENERGY].seeds == seeds and np.isfinite(values.values).all()
        # No sampler moves it, and at own samplers the two prompts alone are scored.
        heard = found[name].per_clip[TUNED_ENERGY].values
        np.testing.assert_array_equal(heard, values.values.reshape(seeds, 10)[:, :2].ravel())
    # A mean that is off by three everywhere is off by three in its errors too.
    first, second = np.split(found[REGRESSION_RESIDUALS].per_clip[BARE_ENERGY].values, 2)
    assert np.abs(first - second).max() < 0.5 and not np.array_equal(first, second)
    note = found[REGRESSION_RESIDUALS].scores[BARE_ENERGY].note
    assert note.startswith("4 draws per clip, each the prediction plus what it missed in one of 12")
    # What is kept is read: with models that say otherwise nothing changes.
    again = forecast_rows.dress_rows(CONFIG, material, regressions(9.0, 9.0), tmp_path)
    for name, row in found.items():
        kept = load_row(tmp_path / f"{name}.json", ())
        assert kept is not None and kept.scores == row.scores == again[name].scores


def test_dressing_helps_a_sure_forecast_and_is_left_out_where_nothing_was_trained(
    material, tmp_path
):
    empty = RowResult({}, {}, {}, ())
    sure = forecast_rows.add_lookup(empty, CONFIG, material).per_clip
    found = forecast_rows.dress_rows(CONFIG, material, [], tmp_path)
    assert list(found) == [CLIMATOLOGY, LOOKUP_RESIDUALS]
    dressed = found[LOOKUP_RESIDUALS].per_clip
    gain = sure[BARE_ENERGY].values - dressed[BARE_ENERGY].values
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5
    clips = choose_scored(material.store, CONFIG)
    frames = round(BLOCK_S * material.store.info.spec.frame_hz)
    blocks = [material.store.normalise(clip.latents)[20 : 20 + frames] for clip in clips]
    # Nothing is told but the number of the frame.
    train = [material.store.normalise(material.store.clip(n).latents) for n in range(36)]
    mean = np.mean(train, axis=0)[20 : 20 + frames]
    expected = [np.sqrt(np.square(block - mean).mean()) for block in blocks]
    np.testing.assert_allclose(sure[BARE_ENERGY].values, expected, rtol=1e-4)
    no_energies = CONFIG.override(["evaluation.energy_draws=0"])
    assert forecast_rows.dress_rows(no_energies, material, [], tmp_path) == {}
    silent = SimpleNamespace(store=material.store, prompts=[])
    assert forecast_rows.dress_rows(CONFIG, silent, [], tmp_path) == {}
    # Prompts of validation leave no clips for its errors.
    valid = CONFIG.override(['prompts_split="valid"'])
    assert list(forecast_rows.dress_rows(valid, material, [], tmp_path / "valid")) == [CLIMATOLOGY]
    assert LOOKUP in valid.measured_baselines
