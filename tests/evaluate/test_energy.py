"""The energy score of the next block: closed forms, what is given, and which clips count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genlab.data.known_entropy import KnownEntropy, draw_store
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.evaluate.energy import BLOCK_S
from genlab.experiment import Arm, DecoderRun, TokenData
from genlab.nets.backbone import BackboneConfig
from genlab.score import block_energies
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


def energies(model, clips, store, num_draws=4, seed=0):
    return block_energies(model, RUN, store, clips, num_draws=num_draws, seed=seed)


def test_the_truth_has_no_energy_and_noise_has_its_closed_form(store):
    clips = SOURCE.fresh_clips(64, NUM_FRAMES)
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
