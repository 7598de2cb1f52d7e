"""What only the family with a depth transformer promises: order inside a frame, an exact
likelihood, cheap training.
"""

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest
from decoder_toys import (
    BACKBONE,
    DEPTH,
    NUM_FRAMES,
    SPEC,
    VOCAB,
    prompt_where,
    randomised,
    toy_batch,
)
from flax import nnx

from genlab.config import GenlabError
from genlab.decoders.ar import ARConfig, ARSampler
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.depth import DepthConfig, DepthSampler
from genlab.decoders.steps.patterns import FlatPattern
from genlab.decoders.steps.stepwise import run_known
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops
from genlab.tokens import Tokens

PLAIN = ConditionConfig(dropout=0.0)
NOTHING = ConditionConfig(content="none", speaker=False)
KEY = jax.random.key(0)
FULL = DEPTH.model_copy(update={"trained_share": 1.0, "infill_share": 0.0})


def build(config, spec=SPEC, condition=PLAIN):
    return randomised(config.build(Task(spec, VOCAB, BACKBONE, condition), key=KEY))


@pytest.fixture(scope="module")
def decoder():
    return build(FULL)


@pytest.mark.parametrize("delay", [0, 1])
def test_probabilities_of_all_clips_sum_to_one(delay):
    """Two frames of two binary codebooks: 16 clips."""
    spec = SPEC.model_copy(update={"codebooks": 2, "entries": 2})
    decoder = build(FULL.model_copy(update={"acoustic_delay_frames": delay}), spec, NOTHING)
    codes = jnp.array(list(itertools.product([0, 1], repeat=4))).reshape(16, 2, 2)
    tokens, (_, cond) = Tokens(codes, None, jnp.full(16, 2)), toy_batch(16, 2)

    def score(model):
        out = model.score(tokens, cond)
        assert out.validity == "exact"
        return out.bits

    bits = jax.jit(score)(decoder)
    assert np.std(bits) > 0.1
    np.testing.assert_allclose((2.0**-bits).sum(), 1, rtol=1e-5)


def test_one_codebook_is_the_flat_autoregressive_decoder():
    """With one level nothing is left for the depth transformer: same weights, same loss, same
    samples.
    """
    tokens, cond = toy_batch()
    spec, tokens = (
        SPEC.model_copy(update={"codebooks": 1}),
        tokens._replace(codes=tokens.codes[:, :, :1]),
    )
    depth = build(FULL, spec)
    flat = ARConfig(pattern=FlatPattern(), infill_share=0.0).build(
        Task(spec, VOCAB, BACKBONE, PLAIN), key=KEY
    )
    flat.embed, flat.conditioner, flat.backbone, flat.heads = (
        depth.embed,
        depth.conditioner,
        depth.backbone,
        depth.head,
    )
    losses = [
        jax.jit(lambda m: m.loss(tokens, cond, key=KEY).per_example)(model)
        for model in (depth, flat)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    drawn = [
        model.sample(cond, num_frames=tokens.num_frames, key=KEY, sampler=sampler).tokens.codes
        for model, sampler in ((depth, DepthSampler()), (flat, ARSampler()))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_each_code_sees_the_codes_before_it_and_no_others(decoder):
    """Time first, then depth: with acoustic delay 1 the levels after the first of frame t stand at
    step t + 1.
    """
    tokens, cond = toy_batch(num_frames=6)

    @jax.jit
    def nats(codes):
        known = run_known(decoder, tokens._replace(codes=codes), cond, tokens.is_valid, None, None)
        logits = decoder.depth(
            known.hidden[:, 1:].reshape(-1, BACKBONE.width),
            known.codes[:, 1:].reshape(-1, 4),
            key=None,
        )
        return decoder.head(known.hidden)[0, :6], logits.reshape(3, 6, 3, -1)[0]

    def moved(frame, level):
        changed = tokens.codes.at[0, frame, level].add(1) % SPEC.entries
        first, others = (
            np.abs(a - b).max(axis=-1) > 1e-6 for a, b in zip(nats(tokens.codes), nats(changed))
        )
        # [frame, level], what predicts it has moved
        return np.concatenate([first[:, None], others], axis=1)

    step_of = np.arange(6)[:, None] + np.array([0, 1, 1, 1])[None, :]
    for frame, level in ((2, 0), (2, 1), (2, 3)):
        own = step_of[frame, level]
        expected = (step_of > own) | ((step_of == own) & (np.arange(4)[None, :] > level))
        np.testing.assert_array_equal(moved(frame, level), expected)


@pytest.mark.parametrize(
    ("is_per_level", "has_own_position"), [(False, False), (True, False), (True, True)]
)
def test_the_cached_step_is_the_full_pass(is_per_level, has_own_position):
    """The greedy codes of both loops are the largest logits of one pass over them."""
    decoder = build(
        FULL.model_copy(update={"is_per_level": is_per_level, "has_own_position": has_own_position})
    )
    tokens, cond = toy_batch(num_frames=7)
    drawn = decoder.sample(
        cond, num_frames=tokens.num_frames, key=KEY, sampler=DepthSampler(temperature=0.0)
    )
    codes = drawn.tokens.codes
    assert len(np.unique(codes)) > 4
    known = jax.jit(
        lambda codes: run_known(
            decoder, tokens._replace(codes=codes), cond, tokens.is_valid, None, None
        )
    )(codes)
    first = jnp.argmax(decoder.head(known.hidden), axis=-1)
    rows = known.hidden.reshape(-1, BACKBONE.width), known.codes.reshape(-1, 4)
    others = jnp.argmax(decoder.depth(*rows, key=None), axis=-1).reshape(3, 8, 3)
    found = np.concatenate([first[:, :, None], others], axis=2)
    np.testing.assert_array_equal(found[known.is_target], known.codes[known.is_target])


def test_equal_weights_of_all_levels_are_shared_weights(decoder):
    tokens, cond = toy_batch()
    parted = FULL.model_copy(update={"is_per_level": True}).build(
        Task(SPEC, VOCAB, BACKBONE, PLAIN), key=KEY
    )

    def broadcast(one, each):  # [layers, inputs, outputs] -> [layers, levels, inputs, outputs]
        return one if one.shape == each.shape else jnp.broadcast_to(one[:, None], each.shape)

    nnx.update(
        parted, jax.tree.map(broadcast, nnx.state(decoder, nnx.Param), nnx.state(parted, nnx.Param))
    )

    def loss_and_gradient(model):
        graph, params = nnx.split(model)

        def loss(params):
            return nnx.merge(graph, params).loss(tokens, cond, key=KEY).per_example.sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    losses, gradients = zip(*(loss_and_gradient(model) for model in (decoder, parted)))
    np.testing.assert_allclose(*losses, rtol=1e-6)
    name = "depth", "backbone", "layers", "ffn", "project_in", "kernel"
    one, each = (functools.reduce(operator.getitem, name, gradient)[...] for gradient in gradients)
    np.testing.assert_allclose(each.sum(axis=1), one, atol=1e-5)
    assert (np.abs(each).max(axis=(0, 2, 3)) > 1e-4).all()


def test_a_share_of_the_frames_gives_the_loss_of_all_on_average(decoder):
    """And the first level exactly; an example shorter than the share is trained whole."""
    tokens, cond = toy_batch()
    tokens = tokens._replace(num_frames=jnp.array([NUM_FRAMES, 7, 2]))
    sharing = nnx.merge(
        nnx.graphdef(
            FULL.model_copy(update={"trained_share": 0.25}).build(
                Task(SPEC, VOCAB, BACKBONE, PLAIN), key=KEY
            )
        ),
        nnx.state(decoder),
    )
    every = jax.jit(lambda key: decoder.loss(tokens, cond, key=key))(KEY)
    compute = jax.jit(jax.vmap(lambda key: sharing.loss(tokens, cond, key=key)))
    some = compute(jax.random.split(KEY, 600))
    for level in range(4):
        name = f"nats_level_{level}"
        error = some.metrics[name].std(axis=0) / 600**0.5 + 1e-5
        assert (np.abs(some.metrics[name].mean(axis=0) - every.metrics[name]) < 4 * error).all(), (
            name
        )
    np.testing.assert_array_equal(some.weight[0], every.weight)
    assert (some.per_example.std(axis=0)[:2] > 1e-3).all()
    np.testing.assert_allclose(some.per_example[:, 2], every.per_example[2], rtol=1e-5)
    sharing.eval()
    evaluated = jax.jit(lambda key: sharing.loss(tokens, cond, key=key))(KEY)
    np.testing.assert_allclose(evaluated.per_example, every.per_example, rtol=1e-6)


@pytest.mark.parametrize(
    ("share", "delay", "codebooks", "is_per_level", "has_own_position"),
    [(1.0, 0, 4, True, False), (0.25, 2, 4, False, True), (1.0, 1, 1, False, True)],
)
def test_the_formulas_agree_with_the_walk(share, delay, codebooks, is_per_level, has_own_position):
    tokens, cond = toy_batch(num_frames=7)
    spec = SPEC.model_copy(update={"codebooks": codebooks})
    tokens = tokens._replace(codes=tokens.codes[:, :, :codebooks])
    changes = {"trained_share": share, "acoustic_delay_frames": delay, "is_per_level": is_per_level}
    changes["has_own_position"] = has_own_position
    config = DEPTH.model_copy(update=changes)
    graph, params = nnx.split(
        nnx.eval_shape(lambda: config.build(Task(spec, VOCAB, BACKBONE, PLAIN), key=KEY))
    )

    def loss(params):
        return nnx.merge(graph, params).loss(tokens, cond, key=KEY).per_example.sum()

    def sample(params):
        drawn = nnx.merge(graph, params).sample(
            cond, num_frames=tokens.num_frames, key=KEY, sampler=DepthSampler()
        )
        return drawn.tokens.codes

    formula = config.train_flops(Task(spec, VOCAB, BACKBONE, PLAIN, num_frames=7))
    assert count_flops(jax.value_and_grad(loss), params) / 3 == pytest.approx(formula, rel=0.01)
    cost = config.sample_cost(DepthSampler(), Task(spec, VOCAB, BACKBONE, PLAIN, num_frames=7))
    assert count_flops(sample, params) / 3 == pytest.approx(cost.flops, rel=0.01)


def test_what_cannot_work_is_refused(decoder):
    tokens, cond = toy_batch()
    hole = prompt_where(tokens, (np.arange(NUM_FRAMES) < 2) | (np.arange(NUM_FRAMES) > 4))
    with pytest.raises(GenlabError, match="infill_share=0 and can only continue"):
        decoder.sample(
            cond, num_frames=tokens.num_frames, key=KEY, sampler=DepthSampler(), prompt=hole
        )
    with pytest.raises(
        pydantic.ValidationError, match=r"width=20 must be a multiple of 2 \* heads=8"
    ):
        DepthConfig(width=20)
