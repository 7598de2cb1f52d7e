"""As many calls as the bare law takes: on laws that are known, the bare number of them draws the
law, and twice as many change next to nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import tiny_worlds
from decoder_toys import BACKBONE, VOCAB
from test_discrete import make_oracle, shares_drawn

from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.discrete import DiscreteConfig
from genlab.decoders.noise.corruption import AbsorbingNoise, UniformNoise
from genlab.decoders.noise.solvers import Denoiser
from genlab.decoders.task import Task

TASK = Task(tiny_worlds.SPEC, VOCAB, BACKBONE, tiny_worlds.NOTHING, num_frames=2)
DRAWS = 20_000
MIDDLE, SPREAD = 1.0, 0.2  # two Gaussians around -1 and 1 in every channel


def two_gaussians(path):
    """Return the denoiser that knows the law of two Gaussians."""

    def clean(noisy, level):
        alpha, sigma = path.alpha(level), path.sigma(level)
        variance = alpha**2 * SPREAD**2 + sigma**2
        signs = jnp.asarray([-1.0, 1.0])[:, None, None, None]
        off = noisy[None] - alpha * MIDDLE * signs
        weights = jax.nn.softmax(-(off**2).sum(-1, keepdims=True) / (2 * variance), axis=0)
        means = MIDDLE * signs + alpha * SPREAD**2 / variance * off
        return (weights * means).sum(axis=0)

    def velocity(noisy, level):
        levels = jnp.broadcast_to(level, (noisy.shape[0],))
        return path.convert(clean(noisy, level), noisy, levels, predicts="clean", wanted="velocity")

    return Denoiser(path, velocity, clean)


def mean_distance(a, b):
    return float(np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).mean())


def test_the_bare_steps_of_diffusion_draw_a_known_law_and_twice_as_many_change_little(key):
    path = DiffusionConfig().path
    bare = DiffusionConfig().bare_sampler(TASK)
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (1500, 1))
    truth = MIDDLE * signs + SPREAD * rng.standard_normal((1500, 4))
    noise = jax.random.normal(key, (1500, 1, 4))
    start = path.noisy(jnp.zeros_like(noise), noise, jnp.full(1500, path.noisiest_level))

    def energy(steps):
        """Return E |X - y| - 1/2 E |X - X'|, which the law itself makes least."""
        drawn = bare.solver.solve(two_gaussians(path), start, path.grid(steps, bare.shift), key=key)
        drawn = np.asarray(drawn)[:, 0]
        return mean_distance(drawn, truth) - mean_distance(drawn, drawn) / 2

    least = mean_distance(truth, truth) / 2
    assert energy(bare.steps) == pytest.approx(least, rel=0.01)
    assert abs(energy(2 * bare.steps) - energy(bare.steps)) < 0.002 * least
    assert energy(2) > 1.01 * energy(bare.steps)


@pytest.mark.parametrize("noise", [AbsorbingNoise(), UniformNoise()], ids=["absorbing", "uniform"])
def test_the_bare_steps_of_discrete_draw_a_known_law_and_twice_as_many_change_little(noise, key):
    bare = DiscreteConfig(noise=noise).bare_sampler(TASK)
    make_oracle(noise).config.check(bare)
    drawn = shares_drawn(noise, bare, key, DRAWS)
    p_value = scipy.stats.chisquare(drawn * DRAWS, tiny_worlds.SHARES * DRAWS).pvalue
    assert p_value > 0.001
    # A few steps of the ancestral order draw codes together that hang together: another law.
    few = bare.model_copy(update={"steps": 4, "order": "ancestral"})
    together = shares_drawn(noise, few, key, DRAWS)
    assert scipy.stats.chisquare(together * DRAWS, tiny_worlds.SHARES * DRAWS).pvalue < 1e-6
    if noise.kind == "uniform":
        doubled = shares_drawn(noise, bare.model_copy(update={"steps": 2 * bare.steps}), key, DRAWS)
        # Two samples of so many draws of one law differ by as much.
        expected = np.sqrt(4 * tiny_worlds.SHARES / (np.pi * DRAWS)).sum()
        assert np.abs(doubled - drawn).sum() < 2 * expected
