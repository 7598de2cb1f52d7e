"""What only the autoregressive family over latents promises: causality, an exact density, the
cache, the stream.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import (
    BACKBONE,
    FAMILIES,
    NUM_FRAMES,
    SEMANTIC,
    SPEC,
    VOCAB,
    jitted_loss,
    prompt_where,
    toy_batch,
)
from flax import nnx

from genlab.config import GenlabError
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.latent_ar import LatentARConfig, LatentARSampler
from genlab.decoders.noise.code_given_latent import posterior_std
from genlab.decoders.noise.heads import EnergyScore, GaussianMixture
from genlab.decoders.task import Task
from genlab.evaluate.likelihood import can_score
from genlab.experiment import Arm
from genlab.tokens import Tokens

NAMES = ("latent_gmm", "latent_flow", "latent_energy")
GUIDED = LatentARSampler(steps=4, guidance=2.0)


@pytest.fixture(scope="module")
def batch():
    return toy_batch()


def roughened(decoder):
    """The decoder with noise on every weight, so that heads that start at zero say something."""
    graph, params = nnx.split(decoder)
    noise = np.random.default_rng(0)
    return nnx.merge(
        graph,
        jax.tree.map(lambda leaf: leaf + noise.normal(0, 0.1, leaf.shape).astype("f4"), params),
    )


@pytest.fixture(scope="module", params=NAMES)
def trained(request):
    family = FAMILIES[request.param]
    return family, roughened(family.build())


@pytest.fixture(scope="module")
def mixture():
    """A mixture model without noise on its context, holes or dropped conditions: its loss is its
    likelihood.
    """
    config = LatentARConfig(head=GaussianMixture(components=4), infill_share=0.0)
    plain = config.build(
        Task(SPEC, VOCAB, BACKBONE, ConditionConfig(dropout=0.0)), key=jax.random.key(0)
    )
    return roughened(plain)


def test_the_loss_is_the_density(mixture, batch, key):
    tokens, cond = batch
    out = jitted_loss(mixture)(tokens, cond, key)
    np.testing.assert_array_equal(out.weight, tokens.num_frames)
    np.testing.assert_allclose(
        out.per_example * out.weight, -mixture.latent_log_density(tokens, cond), rtol=1e-5
    )


def test_the_density_of_a_model_that_knows_nothing_is_the_unit_gaussian(batch, key):
    tokens, cond = batch
    fresh = LatentARConfig(head=GaussianMixture(min_std=1e-6)).build(
        Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=key
    )
    fresh.head.project.kernel[...] = jnp.zeros_like(fresh.head.project.kernel[...])
    log_normal = -0.5 * (jnp.square(tokens.latents) + np.log(2 * np.pi)).sum(axis=2)
    expected = jnp.where(tokens.is_valid, log_normal, 0).sum(axis=1)
    np.testing.assert_allclose(fresh.latent_log_density(tokens, cond), expected, rtol=1e-5)


def test_no_frame_sees_its_own_or_later_latents(trained, batch):
    tokens, cond = batch
    decoder, frame = trained[1], 4

    @jax.jit
    def hidden(latents):
        known = tokens.is_valid
        return decoder._hidden(tokens._replace(latents=latents), cond, known, None, None, None)[0][
            0
        ]

    moved = (
        np.abs(hidden(tokens.latents) - hidden(tokens.latents.at[0, frame].add(1.0))).max(axis=1)
        > 1e-6
    )
    assert not moved[: frame + 1].any() and moved[frame + 1 :].any()


@pytest.mark.parametrize("name", [*NAMES, "text"])
def test_the_cached_loop_is_the_full_forward_pass(name, batch):
    """Frame by frame: the full pass over the drawn frames, same key, draws the same again."""
    tokens, cond = batch
    condition = ConditionConfig(content="text", route="cross") if name == "text" else SEMANTIC
    family, key = FAMILIES["latent_gmm" if name == "text" else name], jax.random.key(4)
    decoder = roughened(family.build(condition=condition))
    drawn = decoder.sample(
        cond, num_frames=tokens.num_frames, key=key, sampler=family.sampler
    ).tokens

    @jax.jit
    def again(drawn):
        hidden, _, _ = decoder._hidden(drawn, cond, drawn.is_valid, None, None, None)
        draw = jax.vmap(
            lambda key, hidden: decoder.head.draw(key, hidden, family.sampler), (0, 1), 1
        )
        return draw(jax.random.split(key, NUM_FRAMES), hidden)

    is_valid = tokens.is_valid
    np.testing.assert_allclose(again(drawn)[is_valid], drawn.latents[is_valid], atol=2e-4)


@pytest.mark.parametrize("known_frames", [0, 4])
def test_the_stream_is_the_sample_bit_by_bit(trained, batch, known_frames, key):
    (tokens, cond), (family, decoder) = batch, trained
    asked = {"num_frames": tokens.num_frames, "key": key, "sampler": family.sampler}
    prompt = prompt_where(tokens, np.arange(NUM_FRAMES) < known_frames) if known_frames else None
    whole = decoder.sample(cond, **asked, prompt=prompt).tokens.latents
    chunks = list(decoder.stream(cond, **asked, chunk_frames=5, prompt=prompt))
    assert [chunk.shape[1] for chunk in chunks] == [5, 5, 2]
    np.testing.assert_array_equal(jnp.concatenate(chunks, axis=1), whole)


def test_context_noise_acts_in_training_alone(batch, key):
    tokens, cond = batch
    plain = ConditionConfig(dropout=0.0)
    quiet, noisy = (
        LatentARConfig(context_noise=noise, infill_share=0.0).build(
            Task(SPEC, VOCAB, BACKBONE, plain), key=key
        )
        for noise in (0.0, 0.5)
    )
    losses = [jitted_loss(model)(tokens, cond, key).per_example for model in (quiet, noisy)]
    assert (losses[0] != losses[1]).all()
    noisy.eval()
    np.testing.assert_allclose(
        jitted_loss(noisy)(tokens, cond, key).per_example, losses[0], rtol=1e-6
    )
    latents = jax.random.normal(key, (1, 20_000, 2))
    mixed = noisy._noisy(latents, key)
    # The noise keeps the variance; its share of it is 0.25 on average, and E sqrt(1 - k) is 0.862.
    assert jnp.square(mixed).mean() == pytest.approx(1, abs=0.03)
    assert (mixed * latents).mean() == pytest.approx(2 / 3 * (1 - 0.5**1.5) / 0.5, abs=0.03)


def test_guidance_moves_a_flow_and_is_refused_by_the_others(trained, batch, key):
    (tokens, cond), (family, decoder) = batch, trained
    asked = {"num_frames": tokens.num_frames, "key": key}
    if family.is_guided:
        plain, guided = (
            decoder.sample(cond, **asked, sampler=sampler) for sampler in (family.sampler, GUIDED)
        )
        assert (plain.tokens.latents != guided.tokens.latents).any()
        return
    task = Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES)
    for call in (
        lambda: decoder.sample(cond, **asked, sampler=GUIDED),
        lambda: decoder.stream(cond, **asked, sampler=GUIDED, chunk_frames=4),
        lambda: family.config.sample_cost(GUIDED, task),
    ):
        with pytest.raises(GenlabError, match="guidance=2: a head of kind"):
            call()


def test_the_cost_counts_the_head():
    def calls(name, **sampler):
        config = FAMILIES[name].config
        return config.sample_cost(
            LatentARSampler(**sampler), Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES)
        )[0]

    assert calls("latent_gmm") == NUM_FRAMES
    assert calls("latent_energy") == 2 * NUM_FRAMES
    assert calls("latent_flow", steps=7) == 8 * NUM_FRAMES
    assert calls("latent_flow", steps=7, guidance=2.0) == 16 * NUM_FRAMES


def test_what_cannot_be_done_is_refused(mixture, batch, key):
    tokens, cond = batch
    asked = {"num_frames": tokens.num_frames, "key": key, "sampler": LatentARSampler()}
    frame = np.arange(NUM_FRAMES)
    hole, prefix = prompt_where(tokens, (frame < 2) | (frame > 4)), prompt_where(tokens, frame < 2)
    with pytest.raises(GenlabError, match="infill_share=0 and can only continue"):
        mixture.sample(cond, **asked, prompt=hole)
    with pytest.raises(GenlabError, match="a stream goes from left to right"):
        mixture.stream(cond, **asked, prompt=hole, chunk_frames=4)
    mixture.sample(cond, **asked, prompt=prefix)
    with pytest.raises(GenlabError, match="code_vectors: absent"):
        mixture.score(tokens, cond, key=key)
    # Who asks whether a family has a score must get the truth.
    assert not can_score(FAMILIES["latent_flow"].build())


def test_the_bound_of_one_code_is_the_divergence_of_the_posterior(batch, key):
    """With one entry the codes cost nothing, so the bound is all slack: KL(q, unit Gaussian) per
    channel.
    """
    tokens, cond = batch
    spec = SPEC.model_copy(update={"codebooks": 1, "entries": 1})
    vectors = 0.5 * jax.random.normal(key, (1, 1, SPEC.latent_channels))
    config = LatentARConfig(head=GaussianMixture(min_std=1e-6))
    decoder = config.build(Task(spec, VOCAB, BACKBONE, SEMANTIC, code_vectors=vectors), key=key)
    decoder.head.project.kernel[...] = jnp.zeros_like(decoder.head.project.kernel[...])
    codes = jnp.zeros((*tokens.is_valid.shape, 1), jnp.int32)
    score = decoder.score(tokens._replace(codes=codes), cond, key=key, num_draws=100)
    variance = jnp.square(posterior_std(vectors))
    per_frame = 0.5 * (variance + vectors**2 - 1 - jnp.log(variance)).sum() / np.log(2)
    assert score.validity == "upper bound"
    assert (np.abs(score.bits - per_frame * tokens.num_frames) < 4 * score.std_error).all()
    assert (score.std_error < 0.1 * score.bits).all()


def test_bounds_of_all_clips_leave_probability_over(key):
    """Two frames of two binary codebooks: an upper bound on the bits of each is a lower one on its
    probability.
    """
    spec = SPEC.model_copy(update={"codebooks": 2, "entries": 2})
    vectors = jnp.array([1.0, 0.3])[:, None, None] * jax.random.normal(
        key, (2, 2, SPEC.latent_channels)
    )
    config, vocab = LatentARConfig(head=GaussianMixture(components=4)), CondVocab(num_speakers=1)
    nothing = ConditionConfig(content="none", speaker=False)
    decoder = roughened(
        config.build(Task(spec, vocab, BACKBONE, nothing, code_vectors=vectors), key=key)
    )
    codes = jnp.array(list(itertools.product([0, 1], repeat=4))).reshape(16, 2, 2)
    score = decoder.score(
        Tokens(codes, None, jnp.full(16, 2)), toy_batch(16, 2)[1], key=key, num_draws=64
    )
    assert np.isfinite(score.bits).all() and 0 < (2.0**-score.bits).sum() < 1
    assert jnp.isinf(
        decoder.score(Tokens(codes, None, jnp.full(16, 2)), toy_batch(16, 2)[1], key=key).std_error
    ).all()


def test_an_arm_is_read_from_plain_values():
    values = {
        "decoder": {"kind": "latent_ar", "head": {"kind": "energy"}},
        "sampler": {"kind": "latent_ar"},
    }
    assert Arm.from_dict(values).decoder == LatentARConfig(head=EnergyScore())
