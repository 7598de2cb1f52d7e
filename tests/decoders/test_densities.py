"""Densities over ordered codes against closed forms, in float64 and far in the tails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from decoder_toys import BACKBONE, randomised, toy_batch
from flax import nnx

from genlab.config import ConfigError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.steps.densities import FIRST_SCALE, DiscretisedMixture, Softmax
from genlab.decoders.steps.logits import cross_entropy, draw
from genlab.decoders.steps.streams import PlanStream
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops
from genlab.tokens import Tokens, TokenSpec

BINS = 256
CLOSED_FORMS = {"logistic": scipy.stats.logistic, "gaussian": scipy.stats.norm}
MULAW = TokenSpec(
    sample_rate_hz=4000, hop_samples=1, codebooks=1, entries=16, latent_channels=1, causal=True
)
VOCAB = CondVocab(num_speakers=3, num_units=10)
CONDITION = ConditionConfig(dropout=0.0)
KEY = jax.random.key(0)
# Mean and scale: inside, on a border, in the first bin, left of all, far right of all, of all
# sizes.
PLACES = [
    (0.1, 0.2),
    (-1 / 255, 0.05),
    (-0.999, 0.004),
    (-1.5, 0.3),
    (3.0, 0.1),
    (0.3, 5.0),
    (50.0, 0.5),
    (-50.0, 0.01),
]


def numbers_of(config, weights, means, scales):
    """The numbers that make these components: what `_components` does, undone in float64."""
    m = config.components
    first_means = (2 * np.arange(m) + 1) / m - 1
    raw = np.log(np.expm1(np.asarray(scales) - config.min_scale)) - np.log(np.expm1(FIRST_SCALE))
    return jnp.asarray(
        np.concatenate([np.log(weights), np.asarray(means) - first_means, raw]), jnp.float32
    )


def true_masses(shape, mean, scale):
    """The masses in float64; right of the mean they are those of the mirror image, which do not
    cancel.
    """
    borders = np.concatenate([[-np.inf], (2 * np.arange(1, BINS) - 1) / (BINS - 1) - 1, [np.inf]])
    at = (borders - mean) / scale
    law = CLOSED_FORMS[shape]
    return np.where(at[1:] + at[:-1] < 0, np.diff(law.cdf(at)), -np.diff(law.sf(at)))


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, numbers):
    return config.logits(numbers, BINS)


@pytest.mark.parametrize("shape", CLOSED_FORMS)
@pytest.mark.parametrize(("mean", "scale"), PLACES)
def test_masses_are_differences_of_the_distribution_function(shape, mean, scale):
    config = DiscretisedMixture(components=1, shape=shape)
    logits = np.asarray(logits_of(config, numbers_of(config, [1.0], [mean], [scale])), np.float64)
    expected = true_masses(shape, mean, scale)
    np.testing.assert_allclose(np.exp(logits), expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(logits).sum(), 1, atol=1e-5)
    # Small masses are right too, as far as float64 can tell them from nothing: the mean moves by a
    # float32's worth.
    seen = expected > 1e-300
    assert seen.sum() > 1 or abs(mean) == 50
    error = 2e-4 + 1e-6 * np.abs(np.log(expected[seen])) * (1 + abs(mean) / scale)
    assert (np.abs(logits[seen] - np.log(expected[seen])) < error).all()


@pytest.mark.parametrize("shape", CLOSED_FORMS)
def test_a_mixture_is_the_weighted_sum_of_its_components(shape):
    config = DiscretisedMixture(components=3, shape=shape)
    parts = [0.5, 0.3, 0.2], [-1.2, 0.0, 0.4], [0.1, 0.003, 0.5]
    logits = logits_of(config, numbers_of(config, *parts))
    expected = sum(
        weight * true_masses(shape, mean, scale) for weight, mean, scale in zip(*parts, strict=True)
    )
    np.testing.assert_allclose(np.exp(logits), expected, atol=1e-5)


@pytest.mark.parametrize("shape", CLOSED_FORMS)
def test_gradients_are_finite_and_point_at_the_code(shape):
    """Means at 50 with scales at their floor, where the mass of most bins is exp(-1e9)."""
    config = DiscretisedMixture(components=3, shape=shape)

    @jax.jit
    @jax.vmap
    def gradient(raw_scales, code):
        numbers = jnp.concatenate([jnp.array([-3.0, 0.0, 2.0, 50.0, 0.0, -50.0]), raw_scales])
        return jax.value_and_grad(lambda x: config.nats(x, code, BINS))(numbers)

    codes = jnp.array([0, 1, 17, 127, 128, 254, 255])
    for raw in (-200.0, -8.0, 0.0, 30.0, 1e4):
        nats, found = gradient(jnp.full((7, 3), raw), codes)
        assert np.isfinite(nats).all() and np.isfinite(found).all() and (nats >= -1e-5).all()
    single = DiscretisedMixture(components=1, shape=shape)
    slope = jax.jit(
        jax.vmap(
            jax.grad(lambda mean, code: single.nats(jnp.array([0.0, mean, -200.0]), code, BINS))
        )
    )
    assert (slope(jnp.array([50.0, 50.0, 5.0]), jnp.array([0, 127, 254])) > 100).all()
    assert (slope(jnp.array([-50.0, -50.0, -5.0]), jnp.array([255, 127, 1])) < -100).all()


@pytest.mark.parametrize("shape", CLOSED_FORMS)
def test_the_gradient_is_that_of_the_closed_form(shape):
    config, law = DiscretisedMixture(components=1, shape=shape), CLOSED_FORMS[shape]
    mean, scale = 0.25, 0.05
    numbers = numbers_of(config, [1.0], [mean], [scale])
    slope = jax.jit(
        jax.vmap(lambda code: jax.grad(lambda x: config.nats(x, code, BINS))(numbers)[1])
    )(jnp.arange(BINS))
    borders = np.concatenate([[-np.inf], (2 * np.arange(1, BINS) - 1) / (BINS - 1) - 1, [np.inf]])
    densities = law.pdf((borders - mean) / scale) / scale
    expected = np.diff(densities) / true_masses(shape, mean, scale)
    np.testing.assert_allclose(slope, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("shape", CLOSED_FORMS)
def test_the_nats_of_a_code_are_its_cross_entropy(shape, key):
    config = DiscretisedMixture(components=4, shape=shape)
    numbers = 3 * jax.random.normal(key, (5, 7, 12))
    codes = jax.random.randint(key, (5, 7), 0, BINS)
    by_logits = jax.jit(lambda x: cross_entropy(config.logits(x, BINS), codes))(numbers)
    by_bins = jax.jit(lambda x: config.nats(x, codes, BINS))(numbers)
    np.testing.assert_allclose(by_bins, by_logits, rtol=1e-4, atol=1e-4)


def test_a_known_mixture_is_fitted_to_its_entropy():
    """Exact cross-entropies against the bins of two logistics, one of which has a tail in the last
    bin.
    """
    truth = 0.6 * true_masses("logistic", -0.4, 0.05) + 0.4 * true_masses("logistic", 0.9, 0.1)
    entropy = -(truth * np.log2(truth)).sum()
    config = DiscretisedMixture(components=4)
    shares = jnp.asarray(truth, jnp.float32)

    def cross_entropy_bits(numbers):
        return -(shares * config.logits(numbers, BINS)).sum() / jnp.log(2.0)

    adam = optax.adam(0.05)

    def step(carry, _):
        numbers, state = carry
        bits, gradient = jax.value_and_grad(cross_entropy_bits)(numbers)
        updates, state = adam.update(gradient, state)
        return (optax.apply_updates(numbers, updates), state), bits

    first = jnp.zeros(config.numbers(BINS))
    (numbers, _), bits = jax.jit(lambda carry: jax.lax.scan(step, carry, length=400))(
        (first, adam.init(first))
    )
    assert bits[0] > entropy + 0.3
    assert entropy - 1e-4 < bits[-1] < entropy + 0.02
    # Drawing gives the same distribution: the total variation of so many draws is 0.009 on average.
    drawn = draw(KEY, jnp.broadcast_to(config.logits(numbers, BINS), (200_000, BINS)))
    counts = np.bincount(np.asarray(drawn), minlength=BINS) / 200_000
    assert 0.5 * np.abs(counts - np.exp(config.logits(numbers, BINS))).sum() < 0.02
    assert 0.5 * np.abs(counts - truth).sum() < 0.1


def mulaw_batch(num_frames=12):
    """The toy batch with one codebook of ordered codes."""
    return toy_batch(num_frames=num_frames, spec=MULAW)


@functools.cache
def toy_decoder(shape="logistic", condition=CONDITION):
    config = ARConfig(output=DiscretisedMixture(components=3, shape=shape), infill_share=0.0)
    vectors = jnp.linspace(-1.7, 1.5, MULAW.entries)[None, :, None]
    return randomised(
        config.build(Task(MULAW, VOCAB, BACKBONE, condition, code_vectors=vectors), key=KEY)
    )


def test_the_loss_of_a_decoder_is_its_score():
    tokens, cond = mulaw_batch()
    out = jax.jit(lambda model: model.loss(tokens, cond, key=KEY))(toy_decoder())
    np.testing.assert_array_equal(out.weight, tokens.num_frames)
    score = jax.jit(lambda model: model.score(tokens, cond).bits)(toy_decoder())
    np.testing.assert_allclose(out.per_example * out.weight / jnp.log(2), score, rtol=1e-5)


def test_probabilities_of_all_clips_of_a_decoder_sum_to_one():
    """Two samples of sixteen values: 256 clips."""
    codes = jnp.stack(jnp.meshgrid(jnp.arange(16), jnp.arange(16), indexing="ij"), axis=-1).reshape(
        256, 2, 1
    )
    _, cond = toy_batch(256, 2, spec=MULAW)
    tokens, one = (
        Tokens(codes, None, jnp.full(256, 2)),
        jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 256, 0), cond),
    )
    bits = jax.jit(lambda model: model.score(tokens, one).bits)(toy_decoder())
    assert np.std(bits) > 0.1
    np.testing.assert_allclose((2.0**-bits).sum(), 1, rtol=1e-4)


def test_streamed_samples_are_the_samples_and_the_cached_step_is_the_full_pass():
    tokens, cond = mulaw_batch()
    decoder = toy_decoder(condition=ConditionConfig(dropout=0.1))  # guidance needs dropped ones
    sampler = ARSampler(top_k=5, guidance=1.5)
    drawn = decoder.sample(cond, num_frames=tokens.num_frames, key=KEY, sampler=sampler).tokens
    chunks = decoder.stream(
        cond, num_frames=tokens.num_frames, key=KEY, sampler=sampler, chunk_frames=5
    )
    np.testing.assert_array_equal(np.concatenate(list(chunks), axis=1), drawn.codes)
    greedy = ARSampler(temperature=0.0)
    best = decoder.sample(cond, num_frames=tokens.num_frames, key=KEY, sampler=greedy).tokens
    assert len(np.unique(best.codes)) > 3

    @jax.jit
    def nats(codes):
        return decoder._nats(tokens._replace(codes=codes), cond, tokens.is_valid, None, None)[0][
            :, :, 0
        ]

    for frame, offset in ((0, 1), (3, 5), (6, 15)):
        other = best.codes.at[:, frame].add(offset) % MULAW.entries
        assert (nats(other)[:, frame] >= nats(best.codes)[:, frame] - 1e-4).all()


@pytest.mark.parametrize("shape", CLOSED_FORMS)
def test_the_formula_agrees_with_the_walk(shape):
    tokens, cond = mulaw_batch()
    config = ARConfig(output=DiscretisedMixture(components=5, shape=shape))
    graph, params = nnx.split(
        nnx.eval_shape(lambda: config.build(Task(MULAW, VOCAB, BACKBONE, CONDITION), key=KEY))
    )

    def loss(params):
        return nnx.merge(graph, params).loss(tokens, cond, key=KEY).per_example.sum()

    def sample(params):
        model = nnx.merge(graph, params)
        return model.sample(
            cond, num_frames=tokens.num_frames, key=KEY, sampler=ARSampler()
        ).tokens.codes

    formula = config.train_flops(Task(MULAW, VOCAB, BACKBONE, CONDITION, num_frames=12))
    assert count_flops(jax.value_and_grad(loss), params) / 3 == pytest.approx(formula, rel=0.01)
    softmax = ARConfig().train_flops(Task(MULAW, VOCAB, BACKBONE, CONDITION, num_frames=12))
    assert softmax - formula == 3 * 12 * 2 * BACKBONE.width * (16 - 15)
    cost = config.sample_cost(ARSampler(), Task(MULAW, VOCAB, BACKBONE, CONDITION, num_frames=12))
    assert count_flops(sample, params) / 3 == pytest.approx(cost.flops, rel=0.01)


def test_a_fresh_mixture_is_spread_over_the_codes():
    for components in (1, 10):
        masses = np.exp(
            logits_of(
                config := DiscretisedMixture(components=components), jnp.zeros(3 * components)
            )
        )
        np.testing.assert_allclose(masses, masses[::-1], rtol=1e-4)
        np.testing.assert_allclose(
            config._components(jnp.zeros(3 * components))[2], FIRST_SCALE, atol=0.002
        )
        assert 0 < -np.log2(masses).mean() < 9


def test_codes_without_an_order_are_refused():
    config = ARConfig(output=DiscretisedMixture())

    def build(config=config, spec=MULAW, **options):
        config.build(Task(spec, VOCAB, BACKBONE, CONDITION, **options), key=KEY)

    expected = (
        "decoder.output.kind='mixture': expected one code per frame that is a value on a scale, "
        "but the codec"
    )
    with pytest.raises(
        ConfigError, match=f"{expected} has codebooks=8 of latent_channels=1; use data.codec='mulaw"
    ):
        build(spec=MULAW.model_copy(update={"codebooks": 8}))
    with pytest.raises(
        ConfigError,
        match=f"{expected} has codebooks=1 of latent_channels=4; .*output.kind='softmax'",
    ):
        build(spec=MULAW.model_copy(update={"latent_channels": 4}))
    with pytest.raises(ConfigError, match=f"{expected}'s neighbouring entries are -.* apart"):
        build(code_vectors=jax.random.normal(KEY, (1, 16, 1)))
    with pytest.raises(
        ConfigError, match=r"decoder.plan or decoder.other add streams; set both to null"
    ):
        build(config.model_copy(update={"plan": PlanStream(num_units=10)}))
    assert ARConfig().output == Softmax()
