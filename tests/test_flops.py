"""The FLOP walk against hand counts, and the formula of every family against the walk."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from genlab.config import GenlabError
from genlab.decoders.conditioning import ConditionConfig
from genlab.decoders.task import Task
from genlab.nets.flops import count_flops

sys.path.insert(0, str(Path(__file__).parent / "decoders"))
from decoder_toys import BACKBONE, FAMILIES, NUM_SYMBOLS, SPEC, VOCAB, toy_batch

X, W = jax.ShapeDtypeStruct((3, 4), jnp.float32), jax.ShapeDtypeStruct((4, 4), jnp.float32)
PRODUCT = 2 * 3 * 4 * 4


def test_products_scans_branches_and_dead_code():
    assert count_flops(lambda x, w: x @ w, X, W) == PRODUCT
    assert count_flops(lambda x, w: jnp.einsum("ij,kj->ik", x, w), X, W) == PRODUCT
    assert (
        count_flops(lambda x, w: jax.lax.fori_loop(0, 5, lambda i, x: x @ w, x), X, W)
        == 5 * PRODUCT
    )
    assert count_flops(
        jax.jit(lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)), X, W
    ) == (2 * PRODUCT)
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
                x,
                kernel,
                (1,),
                "VALID",
                dimension_numbers=("NWC", "WIO", "NWC"),
                feature_group_count=groups,
            ),
            signal,
        )

    assert convolve(1, kernel) == 2 * (2 * 8 * 5) * (3 * 6)
    assert convolve(6, jnp.ones((3, 1, 6))) == 2 * (2 * 8 * 6) * 3


def test_ragged_products_count_the_rows_that_are_routed():
    """Six rows through three experts cost what six rows through one do; so do both gradients."""
    rows, kernels, sizes = jnp.ones((6, 4)), jnp.ones((3, 4, 5)), jnp.array([2, 3, 1])
    product = lambda x, w: jax.lax.ragged_dot(x, w, sizes)  # noqa: E731
    assert count_flops(product, rows, kernels) == 2 * 6 * 4 * 5
    both = jax.grad(lambda x, w: jnp.sin(product(x, w)).sum(), argnums=(0, 1))
    assert count_flops(both, rows, kernels) == 3 * 2 * 6 * 4 * 5


def test_fourier_transforms():
    signal = jnp.ones((3, 16))
    assert count_flops(jnp.fft.rfft, signal) == 3 * 2.5 * 16 * 4
    assert count_flops(lambda x: jnp.fft.irfft(x, 16), jnp.fft.rfft(signal)) == 3 * 2.5 * 16 * 4
    assert count_flops(jnp.fft.fft, signal.astype(jnp.complex64)) == 3 * 5 * 16 * 4
    assert (
        count_flops(lambda x, w: x @ w, signal + 0j, jnp.ones((16, 2)) + 0j) == 4 * 2 * 3 * 16 * 2
    )


def test_a_recurrence_does_not_train_for_free():
    decay, inputs = jnp.full((4,), 0.9), jnp.ones((10, 4))

    def by_scan(inputs):
        return jax.lax.scan(lambda state, x: (decay * state + x,) * 2, jnp.zeros(4), inputs)[1]

    assert count_flops(by_scan, inputs) == 10 * 2 * 4
    # A scan with products counts those alone, as the formulas of the families do.
    mixed = lambda w: jax.lax.scan(lambda s, x: (s @ w + x, x), jnp.zeros(4), inputs)[0]  # noqa: E731
    assert count_flops(mixed, jnp.ones((4, 4))) == 10 * 2 * 16

    def join(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    def by_tree(inputs):
        decays = jnp.broadcast_to(decay[None], inputs.shape)
        return jax.lax.associative_scan(join, (decays, inputs))[1]

    assert count_flops(by_tree, inputs) == 0  # nobody can tell it from other elementwise work


def test_products_that_nobody_counted_are_refused():
    with pytest.raises(GenlabError, match=r"'triangular_solve'.*add it to genlab/nets/flops\.py"):
        count_flops(
            lambda a, b: jax.scipy.linalg.solve_triangular(a, b), jnp.eye(3), jnp.ones((3, 1))
        )


def test_unknown_trip_counts_are_refused():
    with pytest.raises(GenlabError, match="depends on data"):
        count_flops(
            lambda x, w: jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x @ w, x), X, W
        )


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
    assert family.config.train_flops(
        Task(SPEC, VOCAB, BACKBONE, condition, **sizes)
    ) == pytest.approx(walked, rel=1e-6)

    copies = 2 if family.is_guided else 1
    sampler = family.sampler.model_copy(update={"guidance": float(copies)})

    def sample(params):
        decoder = nnx.merge(graph, params)
        return decoder.sample(
            cond, num_frames=tokens.num_frames, key=jax.random.key(0), sampler=sampler
        ).tokens

    walked = count_flops(sample, params) / tokens.num_frames.shape[0]
    cost = family.config.sample_cost(sampler, Task(SPEC, VOCAB, BACKBONE, condition, **sizes))
    assert cost.flops == pytest.approx(walked, rel=1e-6)
    unguided = family.config.sample_cost(
        family.sampler, Task(SPEC, VOCAB, BACKBONE, condition, **sizes)
    )
    assert cost == (copies * unguided.network_calls, copies * unguided.flops)
