"""The FLOP walk against hand counts, and the formula of every family against the walk."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from genlab.config import GenlabError
from genlab.decoders.conditioning import ConditionConfig
from genlab.nets.flops import count_flops

sys.path.insert(0, str(Path(__file__).parent / "decoders"))
from decoder_toys import BACKBONE, FAMILIES, NUM_SYMBOLS, SPEC, toy_batch

X, W = jax.ShapeDtypeStruct((3, 4), jnp.float32), jax.ShapeDtypeStruct((4, 4), jnp.float32)
PRODUCT = 2 * 3 * 4 * 4


def test_products_scans_branches_and_dead_code():
    assert count_flops(lambda x, w: x @ w, X, W) == PRODUCT
    assert count_flops(lambda x, w: jnp.einsum("ij,kj->ik", x, w), X, W) == PRODUCT
    assert count_flops(lambda x, w: jax.lax.fori_loop(0, 5, lambda i, x: x @ w, x), X, W) == 5 * PRODUCT
    assert count_flops(jax.jit(lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)), X, W) == (
        2 * PRODUCT
    )
    assert count_flops(lambda x, w: (x @ w, x)[1], X, W) == 0
    # The gradient with respect to w alone: forward and one product.
    assert count_flops(jax.value_and_grad(lambda w, x: (x @ w).sum()), W, X) == 2 * PRODUCT
    recomputed = jax.checkpoint(lambda x, w: jnp.sin(x @ w) @ w)
    assert count_flops(jax.grad(lambda x, w: recomputed(x, w).sum()), X, W) == 3 * PRODUCT


def test_convolutions():
    signal, kernel = jnp.ones((2, 10, 6)), jnp.ones((3, 6, 5))

    def convolve(groups, kernel):
        return count_flops(
            lambda x: jax.lax.conv_general_dilated(
                x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
            ),
            signal,
        )

    assert convolve(1, kernel) == 2 * (2 * 8 * 5) * (3 * 6)
    assert convolve(6, jnp.ones((3, 1, 6))) == 2 * (2 * 8 * 6) * 3


def test_unknown_trip_counts_are_refused():
    with pytest.raises(GenlabError, match="depends on data"):
        count_flops(lambda x, w: jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x @ w, x), X, W)


# 150 frames make two chunks of causal attention. Conditions and mixers: decoders/test_grid.py.
@pytest.mark.parametrize("num_frames", [12, 150])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_formula_of_each_family_is_the_walk(name, num_frames):
    family, condition = FAMILIES[name], ConditionConfig(content="text")
    graph, params = nnx.split(family.build(condition=condition))
    tokens, cond = toy_batch(num_frames=num_frames)
    sizes = {"num_frames": num_frames, "num_symbols": NUM_SYMBOLS}

    def loss(params):
        return nnx.merge(graph, params).loss(tokens, cond, key=jax.random.key(0)).per_example.sum()

    walked = count_flops(jax.value_and_grad(loss), params) / tokens.num_frames.shape[0]
    assert family.config.train_flops_per_clip(SPEC, BACKBONE, condition, **sizes) == pytest.approx(walked, rel=1e-6)

    copies = 2 if family.is_guided else 1
    sampler = family.sampler.model_copy(update={"guidance": float(copies)})

    def sample(params):
        decoder = nnx.merge(graph, params)
        return decoder.sample(cond, num_frames=tokens.num_frames, key=jax.random.key(0), sampler=sampler).tokens

    walked = count_flops(sample, params) / tokens.num_frames.shape[0]
    cost = family.config.sample_cost(sampler, SPEC, BACKBONE, condition, **sizes)
    assert cost.flops == pytest.approx(walked, rel=1e-6)
    unguided = family.config.sample_cost(family.sampler, SPEC, BACKBONE, condition, **sizes)
    assert cost == (copies * unguided.network_calls, copies * unguided.flops)
