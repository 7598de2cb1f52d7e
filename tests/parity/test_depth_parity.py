"""The depth transformer against transformers' Moshi and CSM, in float32 and with random weights.

Our block is Qwen3's (test_backbone_parity.py) and not theirs, so the blocks are exchanged in the
references and their wiring is kept: which code and hidden state enter a position, with which table
and projection, and which head reads it. Moshi then computes our function, with one set of weights
for all positions. CSM does with `has_own_position`: its tables lie before its projection and ours
behind it, so ours are set to their product.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402
from test_backbone_parity import CONFIG, qwen_weights  # noqa: E402
from transformers.models.csm import modeling_csm  # noqa: E402
from transformers.models.moshi import modeling_moshi  # noqa: E402

from genlab.decoders.steps.levels import Levels  # noqa: E402
from genlab.decoders.steps.patterns import AcousticDelayPattern  # noqa: E402
from genlab.decoders.steps.streams import Streams  # noqa: E402
from genlab.nets.rotary import ROPE_BASE  # noqa: E402
from genlab.tokens import TokenSpec  # noqa: E402

pytestmark = pytest.mark.parity

ROWS, LEVELS, ENTRIES, WIDTH = 3, 5, 11, 24
SPEC = TokenSpec(
    sample_rate_hz=16_000, hop_samples=320, codebooks=LEVELS, entries=ENTRIES, latent_channels=4
)


class Transformer(torch.nn.Module):
    """Our block, in place of all layers of a reference."""

    def __init__(self, backbone):
        super().__init__()
        self.qwen = transformers.Qwen3Model(
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
                attn_implementation="eager",
            )
        )
        self.qwen.load_state_dict(qwen_weights(backbone), strict=False)

    def forward(self, hidden_states, **_):
        return self.qwen(inputs_embeds=hidden_states, use_cache=False).last_hidden_state


def tensor(array):
    return torch.from_numpy(np.array(array, np.float32))


def make_levels(has_own_position):
    torch.set_num_threads(1)
    streams = Streams(spec=SPEC, plan=None)
    part = Levels(
        CONFIG,
        streams,
        entering_width=WIDTH,
        has_own_position=has_own_position,
        is_per_level=False,
        key=jax.random.key(0),
        code_vectors=None,
    )
    keys = iter(jax.random.split(jax.random.key(1), 100))
    state = nnx.state(part, nnx.Param)
    nnx.update(
        part,
        jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), state),
    )
    return part


@pytest.fixture(scope="module")
def depth():
    return make_levels(has_own_position=False)


@pytest.fixture(scope="module")
def moshi(depth):
    config = modeling_moshi.MoshiDepthConfig(
        vocab_size=ENTRIES,
        audio_vocab_size=ENTRIES,
        hidden_size=CONFIG.width,
        input_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=CONFIG.heads,
        ffn_dim=2 * CONFIG.width,
        num_codebooks=LEVELS - 1,
    )
    model = modeling_moshi.MoshiDepthDecoder(config).eval()
    tables = tensor(depth.embed.tables.table[...]).reshape(LEVELS - 1, ENTRIES + 1, CONFIG.width)
    projection = tensor(depth.project_in.kernel[...]).T
    with torch.no_grad():
        model.text_embed_tokens.weight.copy_(tables[0])
        for embed, table in zip(model.embed_tokens, tables[1:], strict=True):
            embed.weight.copy_(table)
        model.input_projections.weight.copy_(projection.expand(LEVELS - 1, -1, -1))
        model.lm_heads.weight.copy_(tensor(depth.heads[...]).swapaxes(1, 2))
    model.layers = torch.nn.ModuleList([Transformer(depth.backbone)])
    return model


@pytest.fixture(scope="module")
def csm():
    """With our block and its own random weights."""
    config = modeling_csm.CsmDepthDecoderConfig(
        num_codebooks=LEVELS,
        backbone_hidden_size=WIDTH,
        vocab_size=ENTRIES,
        hidden_size=CONFIG.width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    model = modeling_csm.CsmDepthDecoderForCausalLM(config).eval()
    with torch.no_grad():
        model.codebooks_head.weight.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def depth_of_csm(csm):
    """Ours with CSM's weights, and CSM with our block."""
    part = make_levels(has_own_position=True)
    projection = csm.model.inputs_embeds_projector.weight.detach().T
    tables = (
        csm.model.embed_tokens.weight.detach().reshape(LEVELS, ENTRIES, WIDTH)[:-1] @ projection
    )
    rows = part.embed.tables.table[...].reshape(LEVELS - 1, ENTRIES + 1, CONFIG.width)
    part.embed.tables.table[...] = (
        rows.at[:, :ENTRIES].set(tables.numpy()).reshape(-1, CONFIG.width)
    )
    part.project_in.kernel[...] = jnp.asarray(projection.numpy())
    part.heads[...] = jnp.asarray(csm.codebooks_head.weight.detach().numpy())
    csm.model.layers, csm.model.norm = (
        torch.nn.ModuleList([Transformer(part.backbone)]),
        torch.nn.Identity(),
    )
    return part


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(2)
    return rng.normal(size=(ROWS, WIDTH)).astype(np.float32), rng.integers(
        0, ENTRIES, (ROWS, LEVELS)
    )


def run_ours(depth, hidden, codes):
    return np.asarray(depth(jnp.asarray(hidden), jnp.asarray(codes, jnp.int32), key=None))


def run_moshi(moshi, hidden, codes):
    """Our first level is Moshi's text."""
    inputs = torch.from_numpy(codes[:, :-1].copy()), torch.from_numpy(hidden.copy())[:, None]
    with torch.no_grad():
        return moshi(*inputs, use_cache=False).logits.numpy()


def run_csm(csm, hidden, codes, labels=None):
    inputs = (
        torch.from_numpy(np.pad(codes[:, :-1], ((0, 0), (1, 0)))),
        torch.from_numpy(hidden.copy()),
    )
    with torch.no_grad():
        return csm(*inputs, use_cache=False, labels=labels)


def dependencies(run, hidden, codes):
    """Return [level - 1, 1 + level]: whether the logits of each level see the hidden state and each
    code.
    """
    before, seen = run(hidden, codes), []
    for level in range(-1, LEVELS):
        changed = codes.copy()
        if level >= 0:
            changed[:, level] = (changed[:, level] + 1) % ENTRIES
        moved = run(hidden + (level < 0), changed) - before
        seen.append(np.abs(moved).max(axis=(0, 2)) > 1e-6)
    return np.stack(seen, axis=1)


def test_moshi_computes_the_same_logits(depth, moshi, frame):
    expected = run_moshi(moshi, *frame)
    assert expected.std() > 0.5
    np.testing.assert_allclose(run_ours(depth, *frame), expected, atol=1e-4)


def test_csm_computes_the_same_logits(depth_of_csm, csm, frame):
    expected = run_csm(csm, *frame).logits.numpy()
    assert expected.std() > 0.5
    np.testing.assert_allclose(run_ours(depth_of_csm, *frame), expected, atol=1e-4)


def test_every_logit_sees_what_it_sees_in_the_references(depth, moshi, depth_of_csm, csm, frame):
    def logits_of_csm(_, hidden, codes):
        return run_csm(csm, hidden, codes).logits.numpy()

    expected = np.tril(np.ones((LEVELS - 1, LEVELS + 1), bool), 1)
    for run, model in (
        (run_ours, depth),
        (run_moshi, moshi),
        (run_ours, depth_of_csm),
        (logits_of_csm, None),
    ):
        np.testing.assert_array_equal(
            dependencies(lambda *args, r=run, m=model: r(m, *args), *frame), expected
        )


def test_labels_stand_where_csm_has_them(csm, depth_of_csm, frame):
    """Logit i is scored against the code of level i + 1, as in `Depth._nats`."""
    hidden, codes = frame
    out = run_csm(csm, hidden, codes, labels=torch.from_numpy(codes))
    shares = torch.log_softmax(out.logits, dim=-1).numpy()
    nats = -np.take_along_axis(shares, codes[:, 1:, None], axis=2)
    np.testing.assert_allclose(nats.mean(), out.loss.item(), rtol=1e-5)


def test_the_acoustic_delay_is_moshis():
    frames, start, end = 6, 90, 91
    codes = np.random.default_rng(4).integers(0, ENTRIES, (2, frames, LEVELS))
    rows = torch.from_numpy(codes.transpose(0, 2, 1).copy())
    build = modeling_moshi.MoshiForConditionalGeneration.build_delay_pattern_mask
    _, columns = build(None, rows, bos_token_id=start, pad_token_id=end, max_length=frames + 1)
    expected = np.where(np.isin(columns.numpy(), (start, end)), -1, columns.numpy()).transpose(
        0, 2, 1
    )
    np.testing.assert_array_equal(
        AcousticDelayPattern().build(jnp.asarray(codes), fill=-1), expected
    )
