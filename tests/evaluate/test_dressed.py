"""Baselines with a spread, on data whose law is known: what they draw and what they come to."""

from types import SimpleNamespace

import numpy as np
import pytest
from comparison_toys import make_comparison

from genlab.data.corpus import Embedded
from genlab.data.known_entropy import KnownEntropy
from genlab.data.store import SplitInfo
from genlab.decoders.conditioning import ConditionConfig
from genlab.evaluate.blocks import Blocks, score_energy
from genlab.evaluate.energy import BLOCK_S
from genlab.experiment import TokenData
from genlab.forecasts.dressed import (
    choose_residual_clips,
    cut_blocks,
    draw_climatology,
    dress,
    look_up_blocks,
)
from genlab.prompts import choose_prompts
from genlab.run.bounds import CLIMATOLOGY, LOOKUP_RESIDUALS, REGRESSION_RESIDUALS

CLIPS, FRAMES, CHANNELS = 3000, 6, 3
SOURCE = KnownEntropy(states=4, entries=6, clips=60, clip_frames=40, latent_channels=4)


def errors(count, seed, keeps=0.8):
    """Walks of unit variance: what a forecast of zeros misses."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((count, FRAMES, CHANNELS))
    for t in range(1, FRAMES):
        found[:, t] = keeps * found[:, t - 1] + (1 - keeps**2) ** 0.5 * found[:, t]
    return found


def test_a_dressed_forecast_scores_as_the_true_law_does():
    means = np.random.default_rng(5).normal(0, 3, (CLIPS, FRAMES, CHANNELS))
    truth = means + errors(CLIPS, 0)
    true = Blocks(means[:, None] + errors(4 * CLIPS, 1).reshape(CLIPS, 4, FRAMES, CHANNELS), truth)
    dressed = dress(means, truth, errors(500, 2), num_draws=4, seed=3)
    assert dressed is not None and dressed.draws.shape == (CLIPS, 4, FRAMES, CHANNELS)
    law, ours = score_energy(true), score_energy(dressed)
    gap = ours - law
    assert abs(gap.mean()) < 4 * gap.std() / CLIPS**0.5
    # Any change of the spread is worse, and so is none, though the mean is the true one.
    for scale in (0.0, 0.5, 1.6):
        spoiled = dress(means, truth, scale * errors(500, 2), num_draws=4, seed=3)
        assert spoiled is not None
        worse = score_energy(spoiled) - ours
        assert worse.mean() > 4 * worse.std() / CLIPS**0.5, scale
    # Of one sure forecast the energy is its distance.
    point = score_energy(Blocks(means[:, None], truth))
    expected = np.sqrt(np.square(truth - means).mean(axis=(1, 2)))
    np.testing.assert_allclose(point, expected, rtol=1e-5)


def test_errors_are_drawn_whole_and_none_twice_for_a_clip():
    forecast = np.arange(20.0)[:, None, None] * np.ones((20, FRAMES, CHANNELS))
    pool = errors(9, 0)
    pool[4, 2] = np.nan  # a clip with less than a block
    found = dress(forecast, forecast, pool, num_draws=5, seed=0)
    assert found is not None
    used = set()
    for clip, draws in zip(forecast, found.draws):
        chosen = [
            next(n for n, error in enumerate(pool) if np.allclose(error, draw - clip))
            for draw in draws
        ]
        assert len(set(chosen)) == 5
        used |= set(chosen)
    assert used == set(range(9)) - {4}
    # No more draws than there are errors, and no spread of a single one.
    few = dress(forecast, forecast, pool[:3], num_draws=5, seed=0)
    assert few is not None and few.draws.shape[1] == 3
    assert dress(forecast, forecast, pool[:1], num_draws=5, seed=0) is None
    assert dress(forecast, forecast, pool[:0], num_draws=5, seed=0) is None


class Store:
    """Clips of a known law: twenty of training, six of validation, six of test."""

    def __init__(self):
        clips = SOURCE.fresh_clips(32, 40)
        self.clips = [clip._replace(id=f"clip{n}") for n, clip in enumerate(clips)]
        sizes = {"train": (0, 20), "valid": (20, 6), "test": (26, 6)}
        splits = {
            name: SplitInfo(first=first, clips=count, seconds=1.0)
            for name, (first, count) in sizes.items()
        }
        self.info = SimpleNamespace(spec=SOURCE.spec, splits=splits)

    def split(self, name):
        return self.info.splits[name]

    def numbers(self, split, clips=None):
        part = self.info.splits[split]
        return list(range(part.first, part.first + part.clips))[:clips]

    def frames(self, numbers):
        return np.array([len(self.clip(number).units) for number in numbers])

    def heading(self, number):
        return self.clip(number)

    def clip(self, number):
        return self.clips[number]

    def normalise(self, latents):
        return latents / 2 + 1


@pytest.fixture(scope="module")
def store():
    return Store()


def config_of(split="test", train_clips=None):
    data = TokenData(corpus=Embedded(), num_frames=40, train_clips=train_clips)
    condition = ConditionConfig(content="semantic", speaker=False)
    return SimpleNamespace(data=data, condition=condition, prompts_split=split)


def test_climatology_draws_blocks_of_the_training_clips_it_may_use(store):
    frames = round(BLOCK_S * store.info.spec.frame_hz)
    used = [store.normalise(store.clip(n).latents) for n in store.numbers("train", 5)]
    windows = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(clip, frames, axis=0) for clip in used]
    ).swapaxes(1, 2)
    truth = np.zeros((30, frames, SOURCE.latent_channels))
    found = draw_climatology(store, config_of(train_clips=5), truth, num_draws=3, seed=0)
    assert found is not None and found.draws.shape == (30, 3, *truth.shape[1:])
    places = {
        int(np.abs(windows - draw).max(axis=(1, 2)).argmin())
        for draw in found.draws.reshape(-1, *truth.shape[1:])
    }
    nearest = [
        np.abs(windows - draw).max(axis=(1, 2)).min()
        for draw in found.draws.reshape(-1, *truth.shape[1:])
    ]
    assert max(nearest) < 1e-5 and len(places) > 40
    assert draw_climatology(store, config_of(train_clips=1), truth, num_draws=3, seed=0) is None


def test_errors_are_those_of_validation_clips_and_never_of_prompts(store):
    chosen = choose_residual_clips(store, config_of())
    assert {clip.id for clip in chosen} == {f"clip{number}" for number in range(20, 26)}
    assert choose_residual_clips(store, config_of("valid")) == []


def test_mean_latents_are_cut_where_arms_continue(store):
    frames = round(BLOCK_S * store.info.spec.frame_hz)
    clips = choose_prompts(store, config_of().data, "test", 4)
    assert {clip.id for clip in clips} < {f"clip{number}" for number in range(26, 32)}
    blocks = cut_blocks([clip.latents for clip in clips], store)
    for clip, block in zip(clips, blocks):
        np.testing.assert_allclose(block, clip.latents[20 : 20 + frames] / 2 + 1, rtol=1e-5)
    assert np.isnan(cut_blocks([clips[0].latents[: 2 * frames - 2]], store)).all()
    # All frames are of one unit and no speaker is told: every forecast is the mean of training.
    mean = np.mean([clip.latents for clip in store.clips[:20]], axis=(0, 1)) / 2 + 1
    found = look_up_blocks(store, config_of(), clips)
    np.testing.assert_allclose(found, np.broadcast_to(mean, blocks.shape), rtol=1e-4)


def test_whoever_wants_a_forecast_gets_it_dressed():
    config = make_comparison('baselines=["lookup","unigram"]')
    assert config.measured_baselines == ("lookup", CLIMATOLOGY, LOOKUP_RESIDUALS, "unigram")
    assert make_comparison('baselines=["regression"]').measured_baselines == (
        "regression",
        REGRESSION_RESIDUALS,
    )
    assert make_comparison('baselines=["bigram"]').measured_baselines == ("bigram",)
    silent = make_comparison('baselines=["lookup"]', "evaluation.energy_draws=0")
    assert silent.measured_baselines == ("lookup",)
