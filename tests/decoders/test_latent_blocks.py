"""What only the block-wise family over latents promises: one block, who sees whom, an idle cache,
the stream.
"""

import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_toys import (
    BACKBONE,
    FAMILIES,
    NUM_EXAMPLES,
    NUM_FRAMES,
    SEMANTIC,
    SPEC,
    VOCAB,
    jitted_loss,
    prompt_where,
    randomised,
    toy_batch,
)
from flax import nnx

from genlab.config import GenlabError
from genlab.decoders.conditioning import ConditionConfig, CondVocab
from genlab.decoders.diffusion import DiffusionConfig, DiffusionSampler
from genlab.decoders.latent_blocks import LatentBlocksConfig, LatentBlocksSampler
from genlab.decoders.noise.paths import EDMPath
from genlab.decoders.noise.solvers import RK4, Ancestral, Heun, fill_in
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops
from genlab.tokens import Tokens

BLOCK_FRAMES = 5
SCATTERED = np.arange(NUM_FRAMES) % 4 == 1


def build(condition=SEMANTIC, **fields):
    """A decoder whose head says something."""
    config = LatentBlocksConfig(**{"block_frames": BLOCK_FRAMES, **fields})
    vectors = 0.5 ** jnp.arange(4.0)[:, None, None] * jax.random.normal(
        jax.random.key(5), (4, SPEC.entries, 8)
    )
    return randomised(
        config.build(
            Task(SPEC, VOCAB, BACKBONE, condition, code_vectors=vectors), key=jax.random.key(0)
        )
    )


@pytest.fixture(scope="module")
def decoder():
    return build()


@pytest.fixture(scope="module")
def batch():
    return toy_batch()


class FrameLevels(nnx.Module):
    """The parts of a block-wise decoder as a network of the diffusion decoder: one copy, all frames
    see each other.
    """

    def __init__(self, decoder):
        self.decoder = decoder

    def __call__(self, noisy, level, conditions, is_valid, key):
        parts = self.decoder
        hidden = parts.backbone(
            parts.embed(noisy) + parts.level_embedding(level)[:, None] + conditions.frames,
            positions=jnp.broadcast_to(jnp.arange(is_valid.shape[1])[None], is_valid.shape),
            is_valid=is_valid,
            key=key,
        )
        return parts.head(hidden)


@pytest.mark.parametrize("block_frames", [NUM_FRAMES, 3 * NUM_FRAMES])
def test_one_block_is_diffusion_that_is_told_the_level_by_frame(block_frames, batch, key):
    tokens, cond = batch
    blocks = build(block_frames=block_frames)
    vectors = blocks.code_vectors[...]
    whole = DiffusionConfig().build(
        Task(SPEC, VOCAB, BACKBONE, SEMANTIC, code_vectors=vectors), key=key
    )
    whole.conditioner, whole.network = blocks.conditioner, FrameLevels(blocks)
    expected, found = (jitted_loss(model)(tokens, cond, key) for model in (whole, blocks))
    np.testing.assert_allclose(found.per_example, expected.per_example, rtol=1e-5)
    np.testing.assert_array_equal(found.weight, expected.weight)

    fields = {"steps": 3, "shift": 2.0, "guidance": 1.5}
    asked = {"num_frames": tokens.num_frames, "key": key, "prompt": prompt_where(tokens, SCATTERED)}
    expected = whole.sample(cond, **asked, sampler=DiffusionSampler(**fields))
    found = blocks.sample(cond, **asked, sampler=LatentBlocksSampler(**fields))
    np.testing.assert_allclose(found.tokens.latents, expected.tokens.latents, atol=2e-4)
    # the block is read, in both halves
    assert found.num_network_calls == expected.num_network_calls + 2
    if block_frames == NUM_FRAMES:  # the draws of a score are those of a block
        expected, found = (
            model.score(tokens, cond, key=key, num_draws=3) for model in (whole, blocks)
        )
        np.testing.assert_allclose(found.bits, expected.bits, rtol=1e-4)
        np.testing.assert_allclose(found.std_error, expected.std_error, rtol=1e-3)


def test_a_block_sees_itself_and_clean_blocks_before(decoder, batch):
    tokens, cond = batch
    clean, noisy = tokens.latents, decoder._by_block(tokens.latents[::-1])
    level = jnp.linspace(0.2, 0.9, len(noisy))

    @jax.jit
    def predict(noisy, level, clean):
        conditions = decoder.conditioner(cond, tokens.is_valid)
        return decoder._predict(noisy, level, clean, conditions, tokens.is_valid)[:3]

    before = predict(noisy, level, clean)
    # Block 1 of the first example: frames 5 to 9.
    for changed, moved in (
        ((noisy.at[1, 2].add(1.0), level, clean), [False, True, False]),
        ((noisy, level.at[1].add(0.05), clean), [False, True, False]),
        ((noisy, level, clean.at[0, 7].add(1.0)), [False, False, True]),
        ((noisy, level, clean.at[0, 11].add(1.0)), [False, False, False]),
    ):
        differences = np.abs(predict(*changed) - before).max(axis=2)
        assert ((differences > 1e-5).any(axis=1) == moved).all()
        assert (differences[~np.array(moved)] == 0).all()


@pytest.mark.parametrize(
    "condition",
    [
        ConditionConfig(content="text", route="prefix"),
        ConditionConfig(content="text", route="cross", clip_route="adaln"),
    ],
    ids=["prefix", "cross"],
)
def test_the_cache_changes_nothing(condition, batch, key):
    """All blocks at once by the uncached network, each told the drawn blocks before it, are what
    was drawn.
    """
    tokens, cond = batch
    cond = cond._replace(text=cond.text.at[1, 3:].set(0))
    decoder, sampler = build(condition), LatentBlocksSampler(steps=3)
    prompt = prompt_where(tokens, SCATTERED)
    drawn = decoder.sample(
        cond, num_frames=tokens.num_frames, key=key, sampler=sampler, prompt=prompt
    ).tokens.latents

    @jax.jit
    def again(drawn):
        conditions = decoder.conditioner(cond, tokens.is_valid)
        noise = decoder._by_block(jax.random.normal(key, drawn.shape))

        def predict(noisy, level):
            return decoder._predict(
                noisy, jnp.full(len(noisy), level), drawn, conditions, tokens.is_valid
            )

        known, is_known = (
            decoder._by_block(tokens.latents),
            decoder._by_block(prompt.is_known & tokens.is_valid),
        )
        path = decoder.config.path
        return fill_in(
            sampler.solver,
            path,
            "velocity",
            predict,
            noise,
            path.grid(sampler.steps),
            known=known,
            is_known=is_known,
            key=key,
        ).reshape(NUM_EXAMPLES, -1, drawn.shape[2])[:, :NUM_FRAMES]

    is_valid = tokens.is_valid
    np.testing.assert_allclose(again(drawn)[is_valid], drawn[is_valid], atol=5e-4)


def test_the_stream_is_the_sample_bit_by_bit_from_one_program(decoder, batch, key, caplog):
    tokens, cond = batch
    prompt = prompt_where(tokens, SCATTERED)
    asked = {
        "num_frames": tokens.num_frames,
        "sampler": LatentBlocksSampler(steps=2, solver=Ancestral(), guidance=1.5),
        "prompt": prompt,
    }
    whole = decoder.sample(cond, **asked, key=key).tokens.latents
    blocks = list(decoder.stream(cond, **asked, key=key))
    assert [block.shape[1] for block in blocks] == [5, 5, 2]
    np.testing.assert_array_equal(jnp.concatenate(blocks, axis=1), whole)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        list(decoder.stream(cond, **asked, key=jax.random.key(9)))
    assert [
        record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()
    ] == []


def test_known_frames_speak_to_their_own_block_and_to_later_ones(decoder, batch, key):
    tokens, cond = batch

    def draw(known):
        asked = {
            "num_frames": tokens.num_frames,
            "key": key,
            "sampler": LatentBlocksSampler(steps=2),
        }
        return decoder.sample(
            cond, **asked, prompt=prompt_where(known, np.arange(NUM_FRAMES) == 7)
        ).tokens.latents[0]

    moved = np.abs(draw(tokens) - draw(tokens._replace(latents=-tokens.latents))).max(axis=1) > 1e-5
    np.testing.assert_array_equal(moved, np.arange(NUM_FRAMES) >= 5)


def test_scores_of_all_clips_leave_probability_over(key):
    """Two blocks of one frame of two binary codebooks: a bound on the bits of each is one on its
    probability.
    """
    spec = SPEC.model_copy(update={"codebooks": 2, "entries": 2})
    vectors = jnp.array([1.0, 0.3])[:, None, None] * jax.random.normal(
        key, (2, 2, SPEC.latent_channels)
    )
    nothing = ConditionConfig(content="none", speaker=False)
    fresh = LatentBlocksConfig(block_frames=1).build(
        Task(spec, CondVocab(num_speakers=1), BACKBONE, nothing, code_vectors=vectors), key=key
    )
    codes = jnp.array(list(itertools.product([0, 1], repeat=4))).reshape(16, 2, 2)
    tokens, (_, cond) = Tokens(codes, None, jnp.full(16, 2)), toy_batch(16, 2)
    score = fresh.score(tokens, cond, key=key, num_draws=64)
    assert score.validity == "upper bound"
    assert np.isfinite(score.bits).all() and 0 < (2.0**-score.bits).sum() < 1
    assert jnp.isinf(fresh.score(tokens, cond, key=key).std_error).all()


def test_a_score_needs_the_entries(batch, key):
    with pytest.raises(GenlabError, match="code_vectors: absent"):
        FAMILIES["latent_blocks"].build().score(*batch, key=key)


@pytest.mark.parametrize(
    ("fields", "solver", "calls"),
    [({}, RK4(), 3 * 4), ({"path": EDMPath(), "predicts": "v"}, Heun(), 3 * 2 - 1)],
    ids=["rk4", "edm"],
)
def test_calls_and_flops_are_those_of_the_loop(fields, solver, calls, batch, key):
    tokens, cond = batch
    decoder, sampler = build(**fields), LatentBlocksSampler(steps=3, solver=solver, guidance=2.0)

    def sample(key):
        return decoder.sample(cond, num_frames=tokens.num_frames, key=key, sampler=sampler).tokens

    cost = decoder.config.sample_cost(
        sampler, Task(SPEC, VOCAB, BACKBONE, SEMANTIC, num_frames=NUM_FRAMES)
    )
    assert cost.network_calls == 2 * 3 * (calls + 1)
    assert count_flops(sample, key) / NUM_EXAMPLES == pytest.approx(cost.flops, rel=1e-6)
