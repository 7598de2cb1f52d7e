"""The energy score of the next block: closed forms, what is given, which clips count, and that it
is proper.
"""

from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from walk_toys import WalkStore

from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.evaluate.controls import prefix_swap
from genlab.evaluate.energy import BARE_ENERGY, BLOCK_S
from genlab.evaluate.scores import clip_means
from genlab.experiment import Arm, DecoderRun, TokenData
from genlab.forecasts.draws import BlockEnergy
from genlab.forecasts.prompted import BATCH_CLIPS
from genlab.forecasts.swap import swap_partners
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import SampleOut, make_tokens

SOURCE = KnownEntropy(states=4, entries=6, clips=8, clip_frames=40, latent_channels=16)
NUM_FRAMES, BLOCK_FRAMES = 40, round(BLOCK_S * 50)
RUN = DecoderRun(
    name="ar",
    steps=1,
    batch_size=4,
    data=TokenData(corpus=SOURCE, num_frames=NUM_FRAMES),
    backbone=BackboneConfig(width=32, layers=1, heads=4),
    condition=ConditionConfig(content="none", dropout=0.0, layers=1),
    arm=Arm(decoder=ARConfig(), sampler=ARSampler()),
)


class Forecaster(nnx.Module):
    """Draws the real clips plus noise behind what it is given, and the wrong clips if it is given
    nothing.
    """

    def __init__(self, clips, store, noise=0.0, reads="latents"):
        tokens = [store.example(clip, NUM_FRAMES)[0] for clip in clips]
        self.truth = nnx.Variable(jnp.stack([getattr(one, reads) for one in tokens]))
        self.noise, self.reads = noise, reads

    def sample(self, cond, *, num_frames, key, sampler, prompt):
        """Return the draws."""
        given = getattr(prompt.tokens, self.reads)
        is_known = prompt.is_known[:, :, None]
        drawn = jnp.where(is_known, given, self.truth[...])
        if self.noise:
            drawn = drawn + jnp.where(is_known, 0, self.noise * jax.random.normal(key, drawn.shape))
        half = (num_frames // 2)[:, None]
        is_half = (prompt.is_known == (jnp.arange(NUM_FRAMES)[None, :] < half)).all()
        drawn = jnp.where(is_half, drawn, drawn + 100)  # anything but the first half would show
        return SampleOut(make_tokens(**{self.reads: drawn}, num_frames=num_frames), 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return draw_store(SOURCE, tmp_path_factory.mktemp("energy"))


def energies(model, clips, store, num_draws=4, seed=0, sampler=None):
    return BlockEnergy(RUN, store, clips, sampler)(model, num_draws=num_draws, seed=seed)


def test_the_truth_has_no_energy_and_noise_has_its_closed_form(store):
    clips = SOURCE.fresh_clips(BATCH_CLIPS, NUM_FRAMES)
    assert np.abs(energies(Forecaster(clips, store), clips, store)).max() < 1e-4
    noisy = energies(Forecaster(clips, store, noise=0.5), clips, store, num_draws=8)
    # |noise| - |difference of two| / 2, each a chi distribution that is nearly its mean in
    # 12 x 16 dimensions.
    assert noisy.mean() == pytest.approx(0.5 * (1 - 0.5**0.5), rel=0.02)
    assert not np.array_equal(
        noisy, energies(Forecaster(clips, store, noise=0.5), clips, store, num_draws=8, seed=1)
    )


def test_codes_count_as_the_latents_they_stand_for(store):
    clips = SOURCE.fresh_clips(8, NUM_FRAMES)
    found = energies(Forecaster(clips, store, reads="codes"), clips, store)
    vectors = store.code_vectors
    expected = []
    for clip in clips:
        quantised = sum(vectors[level][clip.codes[:, level]] for level in range(SOURCE.codebooks))
        block = slice(NUM_FRAMES // 2, NUM_FRAMES // 2 + BLOCK_FRAMES)
        expected.append(np.sqrt(np.mean((quantised - store.normalise(clip.latents))[block] ** 2)))
    assert min(expected) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_clip_without_a_whole_block_has_no_score(store):
    long, short = SOURCE.fresh_clips(2, NUM_FRAMES)
    frames = 2 * BLOCK_FRAMES - 2
    short = short._replace(
        codes=short.codes[:frames], latents=short.latents[:frames], units=short.units[:frames]
    )
    found = energies(Forecaster([long, short], store), [long, short], store)
    assert np.isfinite(found[0]) and np.isnan(found[1])


class Walk(nnx.Module):
    """Knows the law of `walks`, and draws from it at the temperature of the sampler."""

    def sample(self, cond, *, num_frames, key, sampler, prompt):
        """Return the draws: what is known is kept, and the walk goes on from there."""
        given = jnp.moveaxis(prompt.tokens.latents, 1, 0)
        is_known = jnp.moveaxis(prompt.is_known, 1, 0)[:, :, None]
        noise = sampler.temperature * jax.random.normal(key, given.shape)

        def step(before, inputs):
            known, is_known, noise = inputs
            now = jnp.where(is_known, known, KEEPS * before + (1 - KEEPS**2) ** 0.5 * noise)
            return now, now

        _, frames = jax.lax.scan(step, jnp.zeros(given.shape[1:]), (given, is_known, noise))
        latents = jnp.moveaxis(frames, 0, 1)
        return SampleOut(make_tokens(latents=latents, num_frames=num_frames), 1)


KEEPS = 0.9
CHANNELS = 4


class Walks(WalkStore):
    """Walks: x(t) = 0.9 x(t - 1) + noise, of unit variance, in every channel."""

    def __init__(self, num_clips):
        rng = np.random.default_rng(0)
        latents = np.zeros((num_clips, NUM_FRAMES, CHANNELS), np.float32)
        latents[:, 0] = rng.normal(size=(num_clips, CHANNELS))
        for t in range(1, NUM_FRAMES):
            noise = rng.normal(size=(num_clips, CHANNELS))
            latents[:, t] = KEEPS * latents[:, t - 1] + (1 - KEEPS**2) ** 0.5 * noise
        super().__init__(latents)


def test_no_temperature_beats_the_true_law():
    """The energy score is proper: whoever lowers the temperature loses, and whoever raises it."""
    store = Walks(12 * BATCH_CLIPS)
    true = energies(Walk(), store.clips, store, 8, sampler=ARSampler())
    for temperature in (0.0, 0.3, 0.6, 1.6):
        sampler = ARSampler(temperature=temperature)
        more = energies(Walk(), store.clips, store, 8, sampler=sampler) - true
        assert more.mean() > 3 * more.std() / len(more) ** 0.5, temperature


def test_batches_change_no_score_and_are_of_one_shape(store):
    """More clips than a batch: the last one is filled up with clips that are not counted."""

    class Counting(Walk):
        shapes: ClassVar[list] = []

        def sample(self, cond, *, num_frames, key, sampler, prompt):
            """Return the conditional mean, and note the shape that is compiled."""
            self.shapes.append(prompt.is_known.shape)
            cold = sampler.model_copy(update={"temperature": 0.0})
            return super().sample(cond, num_frames=num_frames, key=key, sampler=cold, prompt=prompt)

    walks = Walks(BATCH_CLIPS + 5)
    found = energies(Counting(), walks.clips, walks)
    assert found.shape == (BATCH_CLIPS + 5,) and Counting.shapes == [(BATCH_CLIPS, NUM_FRAMES)]
    alone = [energies(Counting(), [clip], walks)[0] for clip in walks.clips[-3:]]
    np.testing.assert_allclose(found[-3:], alone, rtol=1e-5)


class Deaf(Walk):
    """Draws from the law of `walks` as if nothing were known."""

    def sample(self, cond, *, num_frames, key, sampler, prompt):
        """Return the draws."""
        nothing = prompt._replace(is_known=jnp.zeros_like(prompt.is_known))
        return super().sample(cond, num_frames=num_frames, key=key, sampler=sampler, prompt=nothing)


def test_who_listens_passes_the_prefix_swap_and_who_is_deaf_fails():
    walks = Walks(BATCH_CLIPS + 5)
    heard = [None if number == 3 else clip for number, clip in enumerate(walks.clips[1:35])]
    found = {}
    for model in (Walk(), Deaf()):
        draw = BlockEnergy(RUN, walks, walks.clips, ARSampler())
        own = draw(model, num_draws=4, seed=0)
        # The same beginning gives the same draws.
        again = draw.energy_after(model, walks.clips, num_draws=4, seed=0)
        np.testing.assert_array_equal(own, again)
        swapped = draw.energy_after(model, heard, num_draws=4, seed=0)
        assert np.flatnonzero(np.isnan(swapped)).tolist() == [3, 34, 35, 36]
        values = clip_means(own, tuple(range(len(own))))
        found[type(model)] = prefix_swap(BARE_ENERGY, values, swapped)
    assert found[Walk].passed and found[Walk].difference > 0.1
    assert found[Deaf].status == "failed" and found[Deaf].difference == 0
    none = prefix_swap(BARE_ENERGY, values, np.full(len(own), np.nan))
    assert none.status == "not applicable" and "long enough" in none.reason


def test_partners_have_another_unit_and_if_they_can_another_voice():
    listed = [("a", "x", 40), ("a", "y", 40), ("b", "x", 38), ("c", "y", 30), ("d", "z", 10)]
    listed.append(("e", "z", 90))
    clips = [SimpleNamespace(speaker=who, units=[0] * frames) for _, who, frames in listed]
    found = swap_partners(clips, [unit for unit, _, _ in listed], num_pairs=6)
    order = [None if other is None else clips.index(other) for other in found]
    # Frames 20 on are what follows the middle of clip 0, so clip 4 is too short for it.
    assert order == [3, 2, 1, 2, 3, None]
    assert len(swap_partners(clips, list("abcdef"), num_pairs=2)) == 2
