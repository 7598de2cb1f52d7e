"""What only the block-wise family promises: who sees whom, its two ends, an idle cache, a valid
bound.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_worlds
from decoder_toys import (
    BACKBONE,
    NUM_EXAMPLES,
    NUM_FRAMES,
    SEMANTIC,
    SPEC,
    VOCAB,
    jitted_loss,
    toy_batch,
    train,
    with_state_of,
)
from flax import nnx

from genlab.decoders.blockwise import (
    BlockwiseConfig,
    BlockwiseSampler,
    _sample_codes,
    allowed_between_copies,
    fill_up,
)
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.discrete import DiscreteConfig
from genlab.decoders.noise.schedules import CosineHiding
from genlab.decoders.steps.logits import cross_entropy
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops


def test_the_drawing_of_the_docstring():
    drawn = """
        xx........
        xx........
        ..xx.xx...
        ..xx.xx...
        ....xxxxx.
        .....xx...
        .....xx...
        .....xxxx.
        .....xxxx.
        .....xxxxx
    """.split()
    assert [
        "".join(".x"[int(cell)] for cell in row) for row in allowed_between_copies(5, 2)
    ] == drawn


@pytest.mark.parametrize("block_frames", [NUM_FRAMES, 3 * NUM_FRAMES])
def test_one_block_is_discrete_diffusion(block_frames, key):
    batch = toy_batch()
    config = DiscreteConfig(hiding=CosineHiding())
    whole = train(config.build(Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=key), batch, steps=10)[0]
    blocks = BlockwiseConfig(block_frames=block_frames, hiding=CosineHiding()).build(
        Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=key
    )
    blocks = with_state_of(blocks, whole)
    if block_frames == NUM_FRAMES:
        expected, found = (jitted_loss(decoder)(*batch, key) for decoder in (whole, blocks))
        np.testing.assert_allclose(found.per_example, expected.per_example, rtol=1e-5)
        np.testing.assert_array_equal(found.weight, expected.weight)
    else:  # empty frames at the end of the block change the draws, but not the number
        scores = [decoder.score(*batch, key=key, num_draws=150) for decoder in (whole, blocks)]
        error = np.hypot(scores[0].std_error, scores[1].std_error)
        assert (np.abs(scores[0].bits - scores[1].bits) < 3.5 * error).all()


@nnx.jit
def _nats(decoder, tokens, cond, is_hidden):
    """The nats of every code when those of the noisy copy are hidden where `is_hidden`."""
    noisy = jnp.where(is_hidden, decoder.spec.entries, tokens.codes)
    conditions = decoder.conditioner(cond, tokens.is_valid)
    logits = decoder._logits(noisy, tokens.codes, conditions, tokens.is_valid)
    return cross_entropy(logits, tokens.codes)


def test_blocks_of_one_frame_with_everything_hidden_are_autoregressive():
    """Each frame is predicted from those before it alone, so the probabilities of all clips sum to
    one.
    """
    decoder = tiny_worlds.build(BlockwiseConfig(block_frames=1))
    tokens, cond = tiny_worlds.clips_as_batch()
    nats = _nats(decoder, tokens, cond, jnp.ones((1, 2, 2), bool)).sum(axis=(1, 2))
    assert np.std(nats) > 0.1
    np.testing.assert_allclose(np.exp(-nats).sum(), 1, rtol=1e-5)


def test_the_score_is_the_mean_over_all_orders_in_each_block(key):
    decoder = tiny_worlds.build(BlockwiseConfig(block_frames=1))
    tokens, cond = tiny_worlds.clips_as_batch()
    bound = likelihood = 0
    for frame in range(tiny_worlds.FRAMES):
        mean_nats, nats = tiny_worlds.any_order_nats(
            lambda hidden, f=frame: _nats(
                decoder, tokens, cond, jnp.ones((1, 2, 1), bool) & hidden[None, None]
            )[:, f],
            tiny_worlds.CODEBOOKS,
        )
        bound, likelihood = bound + mean_nats, likelihood + nats
    np.testing.assert_allclose(np.exp(-likelihood).sum(), 1, rtol=1e-4)
    assert (bound >= likelihood - 1e-5).all()
    score = decoder.score(tokens, cond, key=key, num_draws=1000)
    assert score.validity == "upper bound"
    assert (np.abs(score.bits - bound / np.log(2)) < 3.5 * score.std_error + 1e-4).all()


def test_no_block_sees_itself_clean_or_later_ones():
    tokens, cond = toy_batch()
    fresh = BlockwiseConfig(block_frames=4).build(
        Task(SPEC, VOCAB, BACKBONE, SEMANTIC), key=jax.random.key(0)
    )
    decoder = train(fresh, toy_batch(), steps=10)[0]

    def beliefs(codes):
        conditions = decoder.conditioner(cond, tokens.is_valid)
        return decoder._logits(
            jnp.full_like(codes, SPEC.entries), codes, conditions, tokens.is_valid
        )[0]

    moved = np.abs(
        beliefs(tokens.codes) - beliefs(tokens.codes.at[0, 5, 2].add(1) % SPEC.entries)
    ).max(axis=(1, 2))
    assert (moved[:8] == 0).all() and (moved[8:] > 1e-6).all()


@pytest.mark.parametrize("route", ["prefix", "cross"])
def test_the_cache_changes_nothing(route):
    """Greedy codes of one step per block are the likeliest ones of the uncached network, given the
    blocks before.
    """
    tokens, cond = toy_batch()
    cond = cond._replace(text=cond.text.at[1, 3:].set(0))
    condition = ConditionConfig(content="text", route=route, dropout=0.0)
    fresh = BlockwiseConfig(block_frames=5).build(
        Task(SPEC, VOCAB, BACKBONE, condition), key=jax.random.key(0)
    )
    decoder = train(fresh, (tokens, cond), steps=10)[0]
    sampler = BlockwiseSampler(steps=1, temperature=0.0)
    drawn = decoder.sample(
        cond, num_frames=tokens.num_frames, key=jax.random.key(1), sampler=sampler
    ).tokens

    @jax.jit
    def logits(codes):
        conditions = decoder.conditioner(cond, tokens.is_valid)
        valid = fill_up(tokens.is_valid, decoder.config.block_frames)
        clean = fill_up(codes, decoder.config.block_frames)
        return decoder._logits(jnp.full_like(clean, SPEC.entries), clean, conditions, valid)[
            :, : codes.shape[1]
        ]

    found = logits(drawn.codes)
    chosen = jnp.take_along_axis(found, drawn.codes[..., None], axis=-1)[..., 0]
    assert (chosen >= found.max(axis=-1) - 1e-4)[tokens.is_valid].all()
    assert len(np.unique(drawn.codes[tokens.is_valid])) > 2


@pytest.mark.parametrize(
    "condition",
    [
        SEMANTIC,
        ConditionConfig(content="text", route="cross"),
        ConditionConfig(content="text", route="prefix"),
    ],
    ids=["units", "cross", "prefix"],
)
def test_the_flop_formulas_agree_with_the_walk(condition, key):
    config, sampler = BlockwiseConfig(block_frames=4), BlockwiseSampler(steps=3)
    decoder = config.build(Task(SPEC, VOCAB, BACKBONE, condition), key=key)
    graph, params = nnx.split(decoder)
    tokens, cond = toy_batch()

    def mean_loss(params):
        return nnx.merge(graph, params).loss(tokens, cond, key=key).per_example.mean()

    def sample(params):
        return _sample_codes(nnx.merge(graph, params), cond, tokens.num_frames, key, None, sampler)

    shape = {"num_frames": NUM_FRAMES, "num_symbols": cond.text.shape[1]}
    walked = count_flops(jax.value_and_grad(mean_loss), params) / NUM_EXAMPLES
    assert walked == pytest.approx(
        config.train_flops(Task(SPEC, VOCAB, BACKBONE, condition, **shape)), rel=0.01
    )
    walked = count_flops(sample, params) / NUM_EXAMPLES
    assert walked == pytest.approx(
        config.sample_cost(sampler, Task(SPEC, VOCAB, BACKBONE, condition, **shape)).flops, rel=0.01
    )
