"""The causal backbone against transformers' Qwen3 with as many key-value heads as heads, in
float32.

The two are the same function: pre-norm, RMSNorm (1e-6) per head on queries and keys, rotary channel
pairs (i, i + c/2), SwiGLU, no biases, a final norm. Only storage differs: genlab stacks layers,
keeps kernels [in, out], and joins query, key and value, and gate and value. The depth scaling of
projections into the residual stream is in their first weights, which are replaced here.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from genlab.nets.attention import CAUSAL_CHUNK_FRAMES  # noqa: E402
from genlab.nets.backbone import Backbone, BackboneConfig  # noqa: E402
from genlab.nets.rotary import ROPE_BASE  # noqa: E402

pytestmark = pytest.mark.parity

CONFIG = BackboneConfig(width=32, layers=3, heads=4, ffn_multiple=2.0)
BATCH = 2
# More than one chunk of queries, and not a multiple of one.
NUM_FRAMES = CAUSAL_CHUNK_FRAMES + 22
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def models():
    """Return a backbone and a Qwen3Model with the same random weights."""
    # A pool of torch threads is far slower than one thread when another process is busy.
    torch.set_num_threads(1)
    backbone = Backbone(CONFIG, key=jax.random.key(0), is_causal=True)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    state = nnx.state(backbone, nnx.Param)
    # Norm scales away from 1 and kernels large enough that attention is not flat.
    nnx.update(
        backbone,
        jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), state),
    )
    qwen = transformers.Qwen3Model(
        transformers.Qwen3Config(
            vocab_size=2,
            hidden_size=CONFIG.width,
            intermediate_size=CONFIG.ffn_width,
            num_hidden_layers=CONFIG.layers,
            num_attention_heads=CONFIG.heads,
            num_key_value_heads=CONFIG.heads,
            head_dim=CONFIG.width // CONFIG.heads,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
            attention_bias=False,
            attn_implementation="eager",
            dtype="float32",
        )
    ).eval()
    missing = qwen.load_state_dict(qwen_weights(backbone), strict=False)
    assert missing.missing_keys == ["embed_tokens.weight"]
    assert missing.unexpected_keys == []
    return backbone, qwen


def qwen_weights(backbone):
    layers, inner = backbone.layers, CONFIG.ffn_width

    def tensor(array):
        return torch.from_numpy(np.array(array, np.float32))

    weights = {"norm.weight": tensor(backbone.norm.scale[...])}
    for layer in range(CONFIG.layers):
        queries, keys, values = np.split(
            np.asarray(layers.attention.project_in.kernel[...][layer]), 3, axis=1
        )
        joined = np.asarray(layers.ffn.project_in.kernel[...][layer])
        kernels = {
            "self_attn.q_proj": queries,
            "self_attn.k_proj": keys,
            "self_attn.v_proj": values,
            "self_attn.o_proj": layers.attention.project_out.kernel[...][layer],
            "mlp.gate_proj": joined[:, :inner],
            "mlp.up_proj": joined[:, inner:],
            "mlp.down_proj": layers.ffn.project_out.kernel[...][layer],
        }
        norms = {
            "self_attn.q_norm": layers.attention.query_norm,
            "self_attn.k_norm": layers.attention.key_norm,
            "input_layernorm": layers.attention_norm,
            "post_attention_layernorm": layers.ffn_norm,
        }
        weights |= {
            f"layers.{layer}.{name}.weight": tensor(kernel).T for name, kernel in kernels.items()
        }
        weights |= {
            f"layers.{layer}.{name}.weight": tensor(norm.scale[...][layer])
            for name, norm in norms.items()
        }
    return weights


def frames():
    return (
        np.random.default_rng(3).normal(size=(BATCH, NUM_FRAMES, CONFIG.width)).astype(np.float32)
    )


def run_qwen(qwen, x, positions, is_valid):
    # The attention mask is always given: without it, a jump in the positions is read as the start
    # of a new sequence.
    return qwen(
        inputs_embeds=x,
        position_ids=torch.from_numpy(np.array(positions)),
        attention_mask=torch.from_numpy(is_valid.astype(np.int64)),
        use_cache=False,
    ).last_hidden_state


def consecutive():
    return np.broadcast_to(np.arange(NUM_FRAMES), (BATCH, NUM_FRAMES))


@pytest.mark.parametrize("has_gaps", [False, True])
def test_outputs_are_qwens(models, has_gaps):
    backbone, qwen = models
    x, is_valid = frames(), np.ones((BATCH, NUM_FRAMES), bool)
    positions = (
        np.cumsum(np.random.default_rng(4).integers(1, 5, is_valid.shape), 1)
        if has_gaps
        else consecutive()
    )
    with torch.no_grad():
        expected = run_qwen(qwen, torch.from_numpy(x), positions, is_valid).numpy()
    assert expected.std() > 0.1
    outputs = backbone(
        jnp.asarray(x), positions=jnp.asarray(positions), is_valid=jnp.asarray(is_valid)
    )
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=TOLERANCE)


def test_invalid_frames_are_ignored_as_by_qwen(models):
    backbone, qwen = models
    x, is_valid = frames(), np.ones((BATCH, NUM_FRAMES), bool)
    is_valid[0, :5] = is_valid[1, 20:40] = False
    with torch.no_grad():
        expected = run_qwen(qwen, torch.from_numpy(x), consecutive(), is_valid).numpy()
    outputs = backbone(
        jnp.asarray(x), positions=jnp.asarray(consecutive()), is_valid=jnp.asarray(is_valid)
    )
    np.testing.assert_allclose(
        np.asarray(outputs)[is_valid], expected[is_valid], rtol=0, atol=TOLERANCE
    )


def test_decoding_with_the_cache_gives_qwens_outputs(models):
    backbone, qwen = models
    num_steps, num_read_at_once = 12, 4
    x, positions = frames()[:, :num_steps], consecutive()[:, :num_steps]
    with torch.no_grad():
        expected = run_qwen(
            qwen, torch.from_numpy(x), positions, np.ones((BATCH, num_steps), bool)
        ).numpy()
    plan, cache = backbone.start(BATCH, num_steps, None)
    outputs = []
    for start, stop in [
        (0, num_read_at_once),
        *((step, step + 1) for step in range(num_read_at_once, num_steps)),
    ]:
        part = jnp.asarray(positions[:, start:stop])
        output, cache = backbone.extend(jnp.asarray(x[:, start:stop]), plan, cache, positions=part)
        outputs.append(np.asarray(output))
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, rtol=0, atol=TOLERANCE)


def test_gradients_are_qwens(models):
    backbone, qwen = models
    x, is_valid = frames(), np.ones((BATCH, NUM_FRAMES), bool)
    weights = np.random.default_rng(5).normal(size=x.shape).astype(np.float32) / NUM_FRAMES
    tracked = torch.from_numpy(x.copy()).requires_grad_()
    qwen.zero_grad()
    (run_qwen(qwen, tracked, consecutive(), is_valid) * torch.from_numpy(weights)).sum().backward()
    graph, state = nnx.split(backbone)

    def weighted_sum(state, x):
        model = nnx.merge(graph, state)
        outputs = model(x, positions=jnp.asarray(consecutive()), is_valid=jnp.asarray(is_valid))
        return (outputs * weights).sum()

    state_gradient, input_gradient = jax.jit(jax.grad(weighted_sum, argnums=(0, 1)))(
        state, jnp.asarray(x)
    )
    np.testing.assert_allclose(input_gradient, tracked.grad.numpy(), rtol=1e-3, atol=TOLERANCE)
    found = qwen_weights(nnx.merge(graph, state_gradient))
    expected = dict(qwen.named_parameters())
    assert len(found) == 1 + 11 * CONFIG.layers
    for name, gradient in found.items():
        np.testing.assert_allclose(
            gradient.numpy(), expected[name].grad.numpy(), rtol=1e-3, atol=TOLERANCE, err_msg=name
        )
