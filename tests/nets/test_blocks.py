"""The parts of the transformer against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genlab.nets import attention
from genlab.nets.attention import KeysValues, attend, attend_causally
from genlab.nets.blocks import ConvBlock, dropped_out
from genlab.nets.linear import HEAD_DEVIATION, CodeEmbedding, Linear, code_heads, matmul
from genlab.nets.norm import RMSNorm
from genlab.nets.rotary import rotate, rotation


def test_matmul_has_the_gradients_of_matmul(key):
    x, kernel = jax.random.normal(key, (2, 3, 5)), jax.random.normal(key, (5, 7))
    ours = jax.grad(lambda x, w: jnp.sin(matmul(x, w)).sum(), argnums=(0, 1))(x, kernel)
    plain = jax.grad(lambda x, w: jnp.sin(x @ w).sum(), argnums=(0, 1))(x, kernel)
    for first, second in zip(ours, plain, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_only_the_cpu_program_materialises_the_transpose(key):
    layer = Linear(8, 8, key=key)
    traced = jax.jit(jax.grad(lambda layer: layer(jnp.ones((4, 8))).sum())).trace(layer)
    programs = {
        name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu", "cuda")
    }
    assert {name: "optimization_barrier" in text for name, text in programs.items()} == {
        "cpu": True,
        "tpu": False,
        "cuda": False,
    }


def test_code_vectors_are_summed_from_one_table_per_codebook(key):
    embed = CodeEmbedding(3, 5, 8, key=key)
    tables = embed.tables.table[...].reshape(3, 6, 8)
    codes = jnp.array([[[1, 5, 0]]])
    np.testing.assert_allclose(
        embed(codes)[0, 0], tables[0, 1] + tables[1, 5] + tables[2, 0], rtol=1e-6
    )


def test_codes_that_sound_alike_start_alike(key):
    vectors = jax.random.normal(key, (2, 16, 6))
    vectors = vectors.at[:, 1].set(vectors[:, 0])
    tables = (
        CodeEmbedding(2, 16, 64, key=key, code_vectors=vectors).tables.table[...].reshape(2, 17, 64)
    )
    cosine = [
        (tables[0, 0] * tables[0, other]).sum()
        / jnp.linalg.norm(tables[0, 0])
        / jnp.linalg.norm(tables[0, other])
        for other in (1, 2)
    ]
    assert cosine[0] > 0.6 and cosine[0] > cosine[1] + 0.3
    heads = code_heads(2, 16, 64, key=key, code_vectors=vectors)
    np.testing.assert_array_equal(heads[:, :, 0], heads[:, :, 1])
    logits = jnp.einsum("nh,khv->nkv", jax.random.normal(key, (200, 64)), heads)
    np.testing.assert_allclose(logits.std(), HEAD_DEVIATION, rtol=0.25)
    assert not code_heads(2, 16, 64, key=key).any()


def test_rms_norm_ignores_scale_and_keeps_dtype(key):
    x = jax.random.normal(key, (2, 3, 16))
    norm = RMSNorm(16)
    np.testing.assert_allclose(jnp.square(norm(x)).mean(-1), 1, rtol=1e-3)
    np.testing.assert_allclose(norm(100 * x), norm(x), atol=1e-3)
    assert norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_rotary_scores_depend_on_the_distance_alone(key):
    query, other = jax.random.normal(key, (2, 1, 1, 2, 8))

    def score(query_position, key_position):
        turned = [
            rotate(x, rotation(jnp.array([[position]]), 8))
            for x, position in ((query, query_position), (other, key_position))
        ]
        return (turned[0] * turned[1]).sum(-1)

    np.testing.assert_allclose(score(3, 1), score(103, 101), atol=1e-4)
    assert jnp.abs(score(3, 1) - score(3, 2)).max() > 1e-3
    np.testing.assert_allclose(rotate(query, rotation(jnp.array([[0]]), 8)), query)
    turned = rotate(query, rotation(jnp.array([[50]]), 8))
    np.testing.assert_allclose(jnp.square(turned).sum(), jnp.square(query).sum(), rtol=1e-5)


def test_rotary_channels_turn_at_the_rates_of_the_paper(key):
    """Pair i of c channels turns by 10000^(-2 i / c) a position (2104.09864, section 3.2.2)."""
    x = jax.random.normal(key, (1, 3, 2, 8))
    positions = np.array([0, 1, 500])
    found = rotate(x, rotation(jnp.asarray(positions)[None], 8))
    rates = np.array([1.0, 0.1, 0.01, 0.001])
    turns = np.exp(1j * positions[:, None] * rates[None, :])[None, :, None, :]
    expected = (np.asarray(x[..., :4]) + 1j * np.asarray(x[..., 4:])) * turns
    np.testing.assert_allclose(found[..., :4], expected.real, atol=1e-4)
    np.testing.assert_allclose(found[..., 4:], expected.imag, atol=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_up_the_rest(share, key):
    """Of 20,000 elements the mean is 1 to within four standard errors, sqrt(share / (1 - share) /
    20,000) each.
    """
    found = np.asarray(dropped_out(jnp.ones((20, 100, 10)), share, key))
    assert set(np.unique(found)) == {0.0, np.float32(1 / (1 - share))}
    error = (share / (1 - share) / 20_000) ** 0.5
    assert found.mean() == pytest.approx(1, abs=4 * error)
    x = jnp.ones((1, 2, 3))
    assert dropped_out(x, share, None) is x and dropped_out(x, 0.0, key) is x
    assert dropped_out(x.astype(jnp.bfloat16), share, key).dtype == jnp.bfloat16


def plain_attention(queries, memory, is_allowed):
    scores = jnp.einsum("bqac,bsac->baqs", queries, memory.keys) * queries.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(is_allowed[:, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("baqs,bsac->bqac", weights, memory.values)


def test_attention_is_softmax_attention(key):
    queries, keys, values = jax.random.normal(key, (3, 2, 6, 2, 4))
    is_allowed = jnp.broadcast_to(
        jnp.arange(6)[None, None, :] < jnp.array([6, 4])[:, None, None], (2, 6, 6)
    )
    memory = KeysValues(keys, values)
    np.testing.assert_allclose(
        attend(queries, memory, is_allowed), plain_attention(queries, memory, is_allowed), atol=1e-5
    )


@pytest.mark.parametrize("prefix", [0, 3, 7])
def test_chunks_of_causal_attention_are_causal_attention(key, prefix, monkeypatch):
    queries, keys, values = jax.random.normal(key, (3, 2, 11, 2, 4))
    memory, is_valid = KeysValues(keys, values), jnp.ones((2, 11), bool).at[1, 1].set(False)
    position = jnp.arange(11)
    is_before = (position[None, :] <= position[:, None]) | (position[None, :] < prefix)
    # A query keeps itself in sight, or it would attend to nothing.
    is_allowed = is_before[None] & is_valid[:, None, :]
    expected = plain_attention(queries, memory, is_allowed)
    for chunk in (4, 11, 128):
        monkeypatch.setattr(attention, "CAUSAL_CHUNK_FRAMES", chunk)
        np.testing.assert_allclose(
            attend_causally(queries, memory, is_valid, prefix), expected, atol=1e-5
        )


def test_the_convolution_is_a_convolution(key):
    block = ConvBlock(6, 8, key=key, output_scale=0.0)
    block.ffn = lambda x: x
    block.norm = lambda x: x
    x = jax.random.normal(key, (2, 9, 6))
    is_valid = jnp.arange(9)[None, :] < jnp.array([9, 5])[:, None]
    kept = jnp.where(is_valid[:, :, None], x, 0)
    expected = jax.lax.conv_general_dilated(
        kept,
        block.kernel[...][:, None, :],
        (1,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=6,
    )
    np.testing.assert_allclose(
        block(x, is_valid), jnp.where(is_valid[:, :, None], kept + expected, 0), atol=1e-5
    )
