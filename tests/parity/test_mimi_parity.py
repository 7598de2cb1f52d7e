"""Mimi against transformers' MimiModel with random weights, in float32, whole and in chunks.

The reference starts with codebooks of zeros, norms of ones and transformers that hardly count; all
of them are drawn here, so that every tensor matters. Clips are longer than the window of attention.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from published_toys import Compiled, call

from genlab.codecs.mimi import MimiConfig
from genlab.codecs.published import load_published

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4
HOP, FRAMES, CODEBOOKS = 24, 20, 6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The reference, and ours read from the files that it saves."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.MimiConfig(
        hidden_size=32,
        num_filters=8,
        upsampling_ratios=[4, 3],
        num_residual_layers=2,
        upsample_groups=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        intermediate_size=48,
        sliding_window=8,
        codebook_size=64,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=CODEBOOKS,
        num_semantic_quantizers=2,
    )
    reference = transformers.MimiModel(config).eval()
    draw_what_starts_trivial(reference)
    folder = tmp_path_factory.mktemp("mimi")
    reference.save_pretrained(folder)
    return reference, Compiled(load_published(MimiConfig, str(folder)).codec)


@torch.no_grad()
def draw_what_starts_trivial(reference):
    generator = torch.Generator().manual_seed(1)

    def noise(tensor):
        return torch.randn(tensor.shape, generator=generator)

    for name, tensor in reference.named_parameters():
        if "layer_scale" in name:
            tensor.copy_(0.3 + 0.1 * noise(tensor))
        elif "layernorm" in name:
            tensor.copy_((1 if name.endswith("weight") else 0) + 0.2 * noise(tensor))
        elif tensor.ndim == 2:
            tensor.copy_(tensor.shape[1] ** -0.5 * noise(tensor))
        elif "_proj" in name:
            tensor.copy_(0.2 * noise(tensor))
    for name, module in reference.quantizer.named_modules():
        if name.endswith("codebook"):
            level = int(name.split(".")[2])
            module.cluster_usage.copy_(noise(module.cluster_usage).exp())
            # An entry that was never used has a sum of zero.
            module.cluster_usage[3] = 0
            module.embed_sum.copy_(
                module.cluster_usage[:, None] * noise(module.embed_sum) * 0.7**level
            )


def make_waves():
    return 0.5 * np.random.default_rng(3).normal(size=(2, FRAMES * HOP)).astype(np.float32)


@torch.no_grad()
def encode_as_published(reference, waves, codebooks=CODEBOOKS):
    """Return codes [b t k] and latents [b t d]."""
    latents = reference.encoder(torch.from_numpy(waves)[:, None]).latents
    codes = reference.encode(torch.from_numpy(waves)[:, None], num_quantizers=codebooks).audio_codes
    return codes.transpose(1, 2).numpy(), latents.transpose(1, 2).numpy()


@torch.no_grad()
def decode_as_published(reference, codes):
    return (
        reference.decode(torch.from_numpy(np.array(codes)).long().transpose(1, 2))
        .audio_values[:, 0]
        .numpy()
    )


def assert_close(found, expected):
    assert np.isfinite(expected).all() and expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_encoding(models):
    reference, ours = models
    codes, latents = encode_as_published(reference, make_waves())
    tokens = ours.encode(make_waves())
    assert len(np.unique(codes)) > 30
    assert_close(tokens.latents, latents)
    # All of them: none of these 240 codes is a near tie.
    np.testing.assert_array_equal(tokens.codes, codes)


@pytest.mark.parametrize("levels", [2, 3, 6])
def test_decoding_codes(models, levels):
    reference, ours = models
    codes, _ = encode_as_published(reference, make_waves(), levels)
    assert_close(
        ours.decode_codes(jnp.asarray(codes, jnp.int32)), decode_as_published(reference, codes)
    )


def test_decoding_latents(models):
    reference, ours = models
    _, latents = encode_as_published(reference, make_waves())
    with torch.no_grad():
        expected = (
            reference.decoder(torch.from_numpy(latents).transpose(1, 2)).audio_values[:, 0].numpy()
        )
    assert_close(ours.decode_latents(latents), expected)


def test_code_vectors_add_up_to_what_the_decoder_reads(models):
    reference, ours = models
    codes, _ = encode_as_published(reference, make_waves())
    with torch.no_grad():
        expected = (
            reference.quantizer.decode(torch.from_numpy(codes).transpose(1, 2))
            .transpose(1, 2)
            .numpy()
        )
    vectors = np.asarray(ours.codec.code_vectors)
    assert_close(sum(vectors[level][codes[..., level]] for level in range(CODEBOOKS)), expected)


def test_streaming_gives_what_the_reference_gives_for_the_whole(models):
    reference, ours = models
    codes, latents = encode_as_published(reference, make_waves())
    graph, state = nnx.split(ours.codec)
    encode_chunk, decode_chunk = (
        jax.jit(functools.partial(call, graph, name)) for name in ("encode_chunk", "decode_chunk")
    )
    encoding, decoding = ours.codec.start_encoding(2), ours.codec.start_decoding(2)
    chunks, waves = [], []
    for chunk in np.split(make_waves(), FRAMES // 2, axis=1):
        tokens, encoding = encode_chunk(state, chunk, encoding)
        wave, decoding = decode_chunk(state, tokens.codes, decoding)
        chunks.append(tokens)
        waves.append(wave)
    assert_close(np.concatenate([chunk.latents for chunk in chunks], axis=1), latents)
    np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in chunks], axis=1), codes)
    assert_close(np.concatenate(waves, axis=1), decode_as_published(reference, codes))
