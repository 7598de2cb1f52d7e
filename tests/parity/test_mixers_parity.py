"""Mixers against those of transformers under random weights, in float32.

Shared heads and windows are those of Qwen3, sinks those of gpt-oss, experts those of
Qwen3 MoE, Mamba-2 its own. DeepSeek-V2
turns neighbouring channels where genlab turns channels half a head apart, so columns are permuted.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as deepseek  # noqa: E402
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss  # noqa: E402
from transformers.models.mamba2 import modeling_mamba2 as mamba2  # noqa: E402
from transformers.models.qwen3 import modeling_qwen3 as qwen3  # noqa: E402
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3_moe  # noqa: E402

from genlab.nets.backbone import BackboneConfig  # noqa: E402
from genlab.nets.context import Context  # noqa: E402
from genlab.nets.experts import Experts  # noqa: E402
from genlab.nets.mixers.grouped import GroupedAttention  # noqa: E402
from genlab.nets.mixers.latent import LatentAttention  # noqa: E402
from genlab.nets.mixers.mamba2 import Mamba2  # noqa: E402
from genlab.nets.mixers.window import Window  # noqa: E402
from genlab.nets.rotary import ROPE_BASE, rotation  # noqa: E402

pytestmark = pytest.mark.parity

SHAPE = BackboneConfig(width=32, heads=4).layer_shape(is_causal=True)
NUM_FRAMES, CHANNELS = 150, 8
TOLERANCE = 1e-4


def build(config):
    """Return a mixer whose parameters are all away from their first values."""
    mixer = config.build(SHAPE, key=jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 20))
    state = nnx.state(mixer, nnx.Param)
    nnx.update(
        mixer,
        jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), state),
    )
    return mixer


def frames():
    return np.random.default_rng(3).normal(size=(2, NUM_FRAMES, 32)).astype(np.float32)


def run(mixer, x):
    places = jnp.broadcast_to(jnp.arange(NUM_FRAMES), x.shape[:2])
    context = Context(rotation(places, CHANNELS), places >= 0, is_causal=True)
    return np.asarray(mixer(jnp.asarray(x), context)[0])


def tensor(array):
    return torch.from_numpy(np.array(array, np.float32))


def pairs(window=NUM_FRAMES):
    """Return what is added to the logits: 0 for what may be read."""
    ahead = np.arange(NUM_FRAMES)[:, None] - np.arange(NUM_FRAMES)[None, :]
    hidden = torch.finfo(torch.float32).min
    return tensor(np.where((ahead >= 0) & (ahead < window), 0, hidden))[None, None]


def load(module, weights):
    module.load_state_dict({name: tensor(array) for name, array in weights.items()})
    return module.eval()


def attention_weights(mixer):
    keys, values = np.split(np.asarray(mixer.project_memory.kernel[...]), 2, axis=1)
    return {
        "q_proj.weight": mixer.project_query.kernel[...].T,
        "k_proj.weight": keys.T,
        "v_proj.weight": values.T,
        "o_proj.weight": mixer.project_out.kernel[...].T,
        "q_norm.weight": mixer.query_norm.scale[...],
        "k_norm.weight": mixer.key_norm.scale[...],
    }


def qwen(mixer):
    config = transformers.Qwen3Config(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=CHANNELS,
        num_hidden_layers=1,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        attention_bias=False,
        attn_implementation="eager",
    )
    rotary = qwen3.Qwen3RotaryEmbedding(config)
    places = torch.arange(NUM_FRAMES)[None].expand(2, -1)
    angles = rotary(torch.zeros(2, NUM_FRAMES, 32), places)
    return load(qwen3.Qwen3Attention(config, layer_idx=0), attention_weights(mixer)), angles


@pytest.mark.parametrize(
    ("config", "window"),
    [(GroupedAttention(kv_heads=2), NUM_FRAMES), (Window(frames=20, kv_heads=2), 20)],
    ids=["shared heads", "window"],
)
def test_shared_heads_and_windows_are_qwens(config, window):
    mixer, x = build(config), frames()
    theirs, angles = qwen(mixer)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x), angles, pairs(window))[0].numpy()
    np.testing.assert_allclose(run(mixer, x), expected, rtol=0, atol=TOLERANCE)


def test_sinks_are_those_of_gpt_oss(monkeypatch):
    """The projections are Qwen's, the attention of gpt-oss: it has no norms of queries."""
    mixer, x = build(Window(frames=20, kv_heads=2, sinks=True)), frames()
    theirs, angles = qwen(mixer)
    theirs.sinks = tensor(mixer.sinks[...])
    monkeypatch.setattr(qwen3, "eager_attention_forward", gpt_oss.eager_attention_forward)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x), angles, pairs(20))[0].numpy()
    np.testing.assert_allclose(run(mixer, x), expected, rtol=0, atol=TOLERANCE)
    without = run(build(Window(frames=20, kv_heads=2)), x)
    assert np.abs(without - expected).max() > 0.01


def test_latent_attention_is_deepseeks():
    latent, rotated = 12, 4
    mixer, x = build(LatentAttention(latent=latent, rope_channels=rotated)), frames()
    config = transformers.DeepseekV2Config(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_hidden_layers=1,
        q_lora_rank=None,
        kv_lora_rank=latent,
        qk_nope_head_dim=CHANNELS,
        qk_rope_head_dim=rotated,
        v_head_dim=CHANNELS,
        attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        attn_implementation="eager",
    )
    # Channels (i, i + e/2) become neighbours (2 i, 2 i + 1).
    apart = np.arange(rotated).reshape(2, -1).T.reshape(-1)
    queries = np.asarray(mixer.project_query.kernel[...]).reshape(32, 4, CHANNELS + rotated)
    queries = np.concatenate([queries[..., :CHANNELS], queries[..., CHANNELS:][..., apart]], -1)
    memory = np.asarray(mixer.project_latent.kernel[...])
    memory = np.concatenate([memory[:, :latent], memory[:, latent:][:, apart]], axis=1)
    keys, values = (
        np.asarray(project.kernel[...]).reshape(latent, 4, CHANNELS)
        for project in (mixer.project_keys, mixer.project_values)
    )
    weights = {
        "q_proj.weight": queries.reshape(32, -1).T,
        "kv_a_proj_with_mqa.weight": memory.T,
        "kv_a_layernorm.weight": mixer.latent_norm.scale[...],
        "kv_b_proj.weight": np.concatenate([keys, values], axis=2).reshape(latent, -1).T,
        "o_proj.weight": mixer.project_out.kernel[...].T,
    }
    theirs = load(deepseek.DeepseekV2Attention(config, layer_idx=0), weights)
    places = torch.arange(NUM_FRAMES)[None].expand(2, -1)
    angles = deepseek.DeepseekV2RotaryEmbedding(config)(torch.zeros(2, NUM_FRAMES, 32), places)
    with torch.no_grad():
        found = theirs(torch.from_numpy(x), pairs(), position_embeddings=angles)
    np.testing.assert_allclose(run(mixer, x), found[0].numpy(), rtol=0, atol=TOLERANCE)


def test_mamba2_is_transformers_mamba2():
    mixer, x = build(Mamba2(states=6, head_channels=16)), frames()
    config = transformers.Mamba2Config(
        hidden_size=32,
        num_heads=4,
        head_dim=16,
        state_size=6,
        expand=2,
        n_groups=1,
        conv_kernel=4,
        num_hidden_layers=1,
        layer_norm_epsilon=1e-6,
        chunk_size=64,
        use_bias=False,
        use_conv_bias=True,
    )
    weights = {
        "conv1d.weight": np.asarray(mixer.kernel[...]).T[:, None],
        "conv1d.bias": mixer.bias[...],
        "dt_bias": mixer.step_bias[...],
        "A_log": mixer.log_rate[...],
        "D": mixer.skip[...],
        "norm.weight": mixer.norm.scale[...],
        "in_proj.weight": mixer.project_in.kernel[...].T,
        "out_proj.weight": mixer.project_out.kernel[...].T,
    }
    theirs = load(mamba2.Mamba2Mixer(config, layer_idx=0), weights)
    with torch.no_grad():
        found = theirs(torch.from_numpy(x))
    expected = (found[0] if isinstance(found, tuple) else found).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(run(mixer, x), expected, rtol=0, atol=TOLERANCE)


def test_experts_are_those_of_qwen3_moe():
    experts, x = build(Experts(count=5, active=2, width=24)), frames()
    config = transformers.Qwen3MoeConfig(
        hidden_size=32,
        moe_intermediate_size=24,
        num_experts=5,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        hidden_act="silu",
    )
    config._experts_implementation = "eager"
    weights = {
        "experts.gate_up_proj": np.swapaxes(experts.kernel_in[...], 1, 2),
        "experts.down_proj": np.swapaxes(experts.kernel_out[...], 1, 2),
        "gate.weight": experts.router.kernel[...].T,
    }
    theirs = load(qwen3_moe.Qwen3MoeSparseMoeBlock(config), weights)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    assert expected.std() > 0.1
    found = np.asarray(experts(jnp.asarray(x)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
