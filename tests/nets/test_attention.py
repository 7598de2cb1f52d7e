"""The kernel for TPUs against the plain products, and who runs which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from genlab.config import GenlabError
from genlab.machine.sharding import ShardingConfig, make_mesh
from genlab.nets.attention import (
    KeysValues,
    _attend_by_splash,
    attend_within,
    compiled_platform,
    why_plain,
)
from genlab.nets.flops import count_flops

TPU = AbstractMesh((), (), abstract_device=AbstractDevice("TPU v5 lite", 1, "tpu"))


def make_inputs(key, length, batch=2, heads=2, channels=16):
    queries, keys, values = jax.random.normal(key, (3, batch, length, heads, channels))
    lengths = jnp.array([length, length - 37])[jnp.arange(batch) % 2]
    return queries, KeysValues(keys, values), jnp.arange(length)[None, :] < lengths[:, None]


def both(length, key, **rule):
    """Return output and gradients over valid queries, of the kernel and of plain products."""
    queries, memory, is_valid = make_inputs(key, length)
    direction = jnp.where(is_valid[:, :, None, None], jax.random.normal(key, queries.shape), 0)

    def outcome(attend, **more):
        def total(queries, memory):
            out = attend(queries, memory, is_valid, **rule, **more)
            return (out * direction).sum(), jnp.where(is_valid[:, :, None, None], out, 0)

        return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(queries, memory)

    return outcome(_attend_by_splash, is_interpreted=True), outcome(attend_within)


@pytest.mark.parametrize(
    ("length", "rule"),
    [
        (256, {"is_causal": True, "prefix": 0}),
        (256, {"is_causal": False, "prefix": 0}),
        (300, {"is_causal": True, "prefix": 9}),
        (750, {"is_causal": True, "prefix": 0}),
        (1100, {"is_causal": True, "prefix": 0}),
    ],
    ids=["causal", "full", "prefix", "750", "several blocks"],
)
def test_splash_attention_is_attention(key, length, rule):
    (gradient, out), (expected_gradient, expected) = both(length, key, **rule)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    for ours, theirs in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_splash_attention_runs_on_each_chip_of_a_mesh(key):
    queries, memory, is_valid = make_inputs(key, 256, batch=4)
    expected = attend_within(queries, memory, is_valid, is_causal=True)
    with jax.set_mesh(make_mesh(ShardingConfig(data=2, fsdp=2, tensor=2), jax.devices())):
        split = jax.jit(
            lambda *args: _attend_by_splash(*args, is_causal=True, prefix=0, is_interpreted=True)
        )
        out = jax.device_get(split(queries, memory, is_valid))
    np.testing.assert_allclose(
        jnp.where(is_valid[:, :, None, None], out - expected, 0), 0, atol=2e-6
    )


def test_the_platform_compiled_for_decides(key):
    queries, memory, is_valid = make_inputs(key, 256)

    def program():
        return str(
            jax.make_jaxpr(lambda *args: attend_within(*args, is_causal=True))(
                queries, memory, is_valid
            )
        )

    assert compiled_platform() == jax.default_backend() and "pallas_call" not in program()
    with jax.sharding.use_abstract_mesh(TPU):
        assert compiled_platform() == "tpu" and "pallas_call" in program()


def test_flops_are_those_of_the_plain_products_on_every_platform(key):
    queries, memory, is_valid = make_inputs(key, 256)

    def total(queries, memory):
        return attend_within(queries, memory, is_valid, is_causal=True).var()

    here = count_flops(jax.value_and_grad(total, argnums=(0, 1)), queries, memory)
    # Six products over the pairs that chunks of 128 leave: 128 x 128 and 128 x 256; 2 heads of 16
    # channels, 2 clips.
    assert here == 6 * 2 * (128 * 128 + 128 * 256) * 2 * 16 * 2
    with jax.sharding.use_abstract_mesh(TPU):
        assert count_flops(jax.value_and_grad(total, argnums=(0, 1)), queries, memory) == here
    with pytest.raises(GenlabError, match="kernel"):
        count_flops(
            lambda *args: _attend_by_splash(*args, is_causal=True, prefix=0),
            queries,
            memory,
            is_valid,
        )


def test_what_has_no_kernel_has_a_reason():
    shape, half = (2, 384, 4, 64), jnp.dtype(jnp.bfloat16)
    assert why_plain("tpu", shape, jnp.dtype(jnp.float32), False) == ""
    assert why_plain("gpu", shape, half, False) == ""
    assert "bfloat16" in why_plain("gpu", shape, jnp.dtype(jnp.float32), False)
    assert "no kernel for cpu" in why_plain("cpu", shape, half, False)
    assert "pair" in why_plain("tpu", shape, half, True)
    assert "8 positions" in why_plain("tpu", (2, 8, 4, 64), half, False)
