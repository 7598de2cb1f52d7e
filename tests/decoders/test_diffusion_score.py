"""The bound on the bits of codes where the entropy is known, and the density of latents in closed
form.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import BACKBONE, SEMANTIC, SPEC, VOCAB, toy_batch, train
from flax import nnx

from genlab.config import GenlabError
from genlab.decoders.diffusion import DiffusionConfig
from genlab.decoders.noise.code_given_latent import (
    code_log_probability,
    draw_latents,
    level_variances,
    posterior_std,
)
from genlab.decoders.noise.diffusion_score import codes_bound, log_density
from genlab.decoders.noise.paths import CosinePath, EDMPath, StraightPath
from genlab.decoders.task import Task

PATHS = [StraightPath(), CosinePath(), EDMPath()]
NUM_CLIPS, NUM_FRAMES = 64, 8


class Source:
    """Frames drawn independently, each the sum of one entry per level; the optimal denoiser is a
    posterior mean.
    """

    def __init__(self, scales, entries, channels, is_uniform, seed=0):
        rng = np.random.default_rng(seed)
        self.vectors = jnp.asarray(
            np.stack([scale * rng.normal(size=(entries, channels)) for scale in scales]),
            jnp.float32,
        )
        self.log_shares = np.full((len(scales), entries), -np.log(entries), np.float32)
        if not is_uniform:
            self.log_shares = np.log(rng.dirichlet(np.ones(entries), size=len(scales))).astype(
                np.float32
            )
        sums, joint = jnp.zeros((1, channels)), jnp.zeros(1)
        for level, shares in zip(self.vectors, self.log_shares, strict=True):
            sums = (sums[:, None, :] + level[None, :, :]).reshape(-1, channels)
            joint = (joint[:, None] + shares[None, :]).reshape(-1)
        self.sums, self.joint = sums, joint

    def draw(self, key):
        """Codes, and the bits of each clip under the source itself."""
        keys = jax.random.split(key, len(self.log_shares))
        shape = (NUM_CLIPS, NUM_FRAMES)
        codes = [
            jax.random.categorical(k, s, shape=shape)
            for k, s in zip(keys, self.log_shares, strict=True)
        ]
        bits = -sum(s[np.asarray(c)] for c, s in zip(codes, self.log_shares, strict=True)).sum(
            axis=1
        ) / np.log(2)
        return jnp.stack(codes, axis=-1), bits

    def denoiser(self, path):
        def clean(noisy, level):
            alpha, sigma = (
                path.alpha(level)[:, None, None, None],
                path.sigma(level)[:, None, None, None],
            )
            distances = jnp.square(noisy[:, :, None, :] - alpha * self.sums[None, None]).sum(
                axis=-1
            )
            logits = self.joint[None, None, :] - distances / (2 * sigma[..., 0] ** 2)
            return jax.nn.softmax(logits, axis=-1) @ self.sums

        return clean


def excess_of(source, path, clean, num_draws=32):
    """Bits per frame of the bound above the source's own, and their Monte-Carlo error, over all
    clips.
    """
    codes, bits = source.draw(jax.random.key(1))
    is_valid = jnp.ones(codes.shape[:2], bool)

    @jax.jit
    def compute(key):
        return codes_bound(
            path,
            clean,
            codes,
            is_valid,
            source.vectors,
            posterior_std(source.vectors),
            key=key,
            num_draws=num_draws,
        )[:2]

    found, errors = compute(jax.random.key(2))
    excess = np.asarray(found) - bits
    # the stated error covers what clips really spread
    assert excess.std() < 2 * np.asarray(errors).mean()
    return excess.mean() / NUM_FRAMES, excess.std() / np.sqrt(NUM_CLIPS) / NUM_FRAMES


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
def test_the_bound_touches_the_entropy_with_the_optimal_denoiser(path):
    """One level of 16 equally likely entries, 4 bits per frame: here p(c|z) is the true posterior,
    and slack is 0.
    """
    source = Source((1.0,), entries=16, channels=8, is_uniform=True)
    excess, error = excess_of(source, path, source.denoiser(path))
    assert error < 0.08 and abs(excess) < 3 * error, (excess, error)


@pytest.mark.parametrize("path", [StraightPath(last_level=0.75), CosinePath(last_level=0.795)])
def test_what_the_noisiest_level_leaves_is_paid_for(path):
    """Where the path ends at a noise ratio of 3, the codes are not yet lost: without the divergence
    at the noisiest level the bound lies 0.6 bits a frame below the entropy. With it, the entries'
    being no normal data costs a tenth of a bit.
    """
    source = Source((1.0,), entries=16, channels=8, is_uniform=True)
    excess, error = excess_of(source, path, source.denoiser(path))
    assert error < 0.08 and -3 * error < excess < 0.15 + 3 * error, (excess, error)


def test_two_levels_of_unequal_shares_cost_some_slack():
    """5 bits per frame or so; the residual softmax knows neither the shares nor what the later
    level will be.
    """
    source = Source((1.0, 0.4), entries=8, channels=8, is_uniform=False)
    excess, error = excess_of(source, StraightPath(), source.denoiser(StraightPath()))
    assert -3 * error < excess < 0.5, (excess, error)


@pytest.mark.parametrize(
    ("path", "width"), zip(PATHS, (0.5, 1.0, 2.0)), ids=lambda value: getattr(value, "kind", value)
)
def test_the_integral_over_noise_is_the_bound_in_closed_form(path, width):
    """With the optimal denoiser the density of latents is that of the mixture, so the bound is
    E_q[log q(z | codes) - log p(z) - log p(codes | z)] with every term known.
    """
    source = Source((1.0, 0.4), entries=8, channels=8, is_uniform=False)
    codes, _ = source.draw(jax.random.key(1))
    is_valid = jnp.ones(codes.shape[:2], bool)
    std = posterior_std(source.vectors, width)
    variances = level_variances(source.vectors, std)

    def draw_exact(key):
        latents, log_q = draw_latents(key, codes, source.vectors, std)
        distances = jnp.square(latents[:, :, None] - source.sums[None, None]).sum(axis=-1)
        log_p = jax.nn.logsumexp(source.joint[None, None] - distances / (2 * std**2), axis=-1)
        log_p -= source.sums.shape[-1] * jnp.log(std * jnp.sqrt(2 * jnp.pi))
        told = code_log_probability(codes, latents, source.vectors, variances)
        return (log_q - log_p - told).sum(axis=1) / jnp.log(2)

    def draw_bound(key):
        clean = source.denoiser(path)
        return codes_bound(
            path, clean, codes, is_valid, source.vectors, std, key=key, num_draws=32
        )[0]

    keys = jax.random.split(jax.random.key(3), 8)
    exact, bound = (
        np.asarray(jax.jit(lambda keys, draw=draw: jax.lax.map(draw, keys))(keys), np.float64)
        for draw in (draw_exact, draw_bound)
    )
    gap = (bound - exact).mean(axis=0) / NUM_FRAMES
    error = gap.std() / np.sqrt(NUM_CLIPS)
    assert error < 0.04 and abs(gap.mean()) < 3.5 * error, (gap.mean(), error)


@pytest.mark.parametrize(
    "source", [Source((1.0,), 16, 8, is_uniform=True), Source((1.0, 0.4), 8, 8, is_uniform=True)]
)
def test_a_worse_denoiser_has_a_higher_bound(source):
    path = StraightPath()
    clean = source.denoiser(path)
    best, error = excess_of(source, path, clean)
    # One level of entries is told apart at once, so there a small shrinkage would not stand out
    # from the error.
    shrunk, _ = excess_of(source, path, lambda noisy, level: 0.5 * clean(noisy, level))
    nothing, _ = excess_of(source, path, lambda noisy, level: jnp.zeros_like(noisy))
    assert best + 3 * error < shrunk < nothing


@pytest.fixture(scope="module")
def vectors():
    return 0.5 ** jnp.arange(4.0)[:, None, None] * jax.random.normal(
        jax.random.key(5), (4, SPEC.entries, 8)
    )


def build(vectors, **fields):
    config = DiffusionConfig(**fields)
    return config.build(
        Task(SPEC, VOCAB, BACKBONE, SEMANTIC, code_vectors=vectors), key=jax.random.key(0)
    )


def test_a_decoder_scores_codes(vectors, key):
    tokens, cond = toy_batch()
    decoder = build(vectors)
    score = decoder.score(tokens, cond, key=key, num_draws=4)
    assert score.validity == "upper bound"
    assert (
        np.isfinite(score.bits).all()
        and np.isfinite(score.std_error).all()
        and (score.std_error > 0).all()
    )
    assert np.isinf(decoder.score(tokens, cond, key=key).std_error).all()
    # Padding says nothing, and neither do the latents.
    is_valid = tokens.is_valid[:, :, None]
    other, _ = toy_batch(seed=4)
    spoiled = tokens._replace(codes=jnp.where(is_valid, tokens.codes, other.codes), latents=None)
    np.testing.assert_allclose(
        decoder.score(spoiled, cond, key=key, num_draws=4).bits, score.bits, rtol=1e-5
    )
    # The entries are state that no optimiser sees.
    assert vectors.shape not in [
        leaf.shape for leaf in jax.tree.leaves(nnx.state(decoder, nnx.Param))
    ]
    with pytest.raises(GenlabError, match="code_vectors: absent"):
        build(None).score(tokens, cond, key=key)


def test_training_on_the_sums_of_code_vectors_lowers_the_bound(vectors, key):
    tokens, cond = toy_batch()
    levels = jnp.arange(SPEC.codebooks)[None, None, :]
    tokens = tokens._replace(latents=vectors[levels, tokens.codes].sum(axis=2))
    fresh = build(vectors, path=CosinePath(), predicts="v")
    fitted, _ = train(fresh, (tokens, cond), steps=100, learning_rate=1e-2)
    before, after = (
        decoder.score(tokens, cond, key=key, num_draws=16) for decoder in (fresh, fitted)
    )
    assert (after.bits < 0.8 * before.bits).all()


def gaussian_velocity(path, mean, variance):
    def velocity(noisy, level):
        alpha, sigma = path.alpha(level), path.sigma(level)
        shrink = alpha * variance / (alpha**2 * variance + sigma**2)
        clean = mean + shrink * (noisy - alpha * mean)
        levels = jnp.broadcast_to(level, (noisy.shape[0],))
        return path.convert(clean, noisy, levels, predicts="clean", wanted="velocity")

    return velocity


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
def test_the_density_of_a_gaussian_is_its_density(path, key):
    mean, variance = jnp.array([0.5, -1.0, 0.0]), jnp.array([0.25, 1.0, 0.5])
    mean, variance = mean[None, None, :], variance[None, None, :]
    latents = mean + jnp.sqrt(variance) * jax.random.normal(key, (4, 3, 3))
    is_valid = jnp.arange(3)[None, :] < jnp.array([3, 3, 2, 1])[:, None]
    velocity = gaussian_velocity(path, mean, variance)
    terms = -0.5 * (jnp.square(latents - mean) / variance + jnp.log(2 * jnp.pi * variance))
    expected = jnp.where(is_valid[:, :, None], terms, 0).sum(axis=(1, 2))

    def compute(num_probes):
        run = jax.jit(
            lambda z: log_density(
                path, velocity, z, is_valid, key=key, num_steps=100, num_probes=num_probes
            )
        )
        return np.asarray(run(jnp.where(is_valid[:, :, None], latents, 9.0)))

    np.testing.assert_allclose(compute(0), expected, atol=0.1 if path.kind == "edm" else 0.03)
    # The Jacobian is diagonal, where one probe of random signs is already exact.
    np.testing.assert_allclose(compute(1), compute(0), atol=1e-3)


def test_the_density_counts_the_change_of_volume_at_its_lowest_level(key):
    """Latents are taken at level 0.001, where they are 0.999 of themselves: each of 4,096 values
    costs 0.001 nats, 4.1 together. Of the other sign it would be 8.2 nats off, and without it 4.1;
    the steps leave 1.
    """
    latents = jax.random.normal(key, (1, 64, 64))
    zero, one = jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1))
    velocity = gaussian_velocity(StraightPath(), zero, one)
    found = jax.jit(
        lambda z: log_density(
            StraightPath(),
            velocity,
            z,
            jnp.ones((1, 64), bool),
            key=key,
            num_steps=800,
            num_probes=1,
        )
    )(latents)
    expected = -0.5 * float((jnp.square(latents) + jnp.log(2 * jnp.pi)).sum())
    assert float(found[0]) == pytest.approx(expected, abs=1.0)


def test_probes_average_to_the_trace(key):
    """A Jacobian that is not diagonal: many probes are near the exact trace, one is not."""
    matrix = jax.random.normal(key, (6, 6)) / 3

    def velocity(noisy, level):
        return (noisy.reshape(-1, 6) @ matrix).reshape(noisy.shape)

    def compute(num_probes):
        return log_density(
            StraightPath(),
            velocity,
            jnp.ones((1, 2, 3)),
            jnp.ones((1, 2), bool),
            key=key,
            num_steps=4,
            num_probes=num_probes,
        )

    exact = compute(0)
    assert abs(compute(1) - exact)[0] > 0.02
    np.testing.assert_allclose(compute(1000), exact, atol=0.2)


def test_a_fresh_model_says_that_latents_are_normal(key):
    """Its velocity is 0, so latents stay where they are until they count as noise."""
    tokens, cond = toy_batch()
    found = build(None).latent_log_density(tokens, cond, key=key, num_steps=4)
    latents = np.where(tokens.is_valid[:, :, None], tokens.latents, 0)
    size = np.asarray(tokens.num_frames) * SPEC.latent_channels
    expected = -0.5 * (np.square(latents).sum(axis=(1, 2)) + size * np.log(2 * np.pi))
    np.testing.assert_allclose(found, expected, rtol=3e-3)
