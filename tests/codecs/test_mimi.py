"""Mimi: both views, batches of clips, streams that are longer than the window, published files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from mimi_toys import MICRO, PUBLISHED, make_mimi, write_mimi
from published_toys import Compiled, call, change_tensors

from genlab.codecs.mimi import MimiConfig
from genlab.codecs.mimi_transformer import Memory, attend_window, turn
from genlab.codecs.published import load_published
from genlab.config import ConfigError, GenlabError

HOP, FRAMES = 12, 12
TOLERANCE = 1e-5
QUANTISER = "quantizer.acoustic_residual_vector_quantizer"


@pytest.fixture(scope="module")
def compiled():
    return Compiled(make_mimi())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimi")
    codec, _ = write_mimi(folder)
    return folder, codec


def make_waves(batch=3, frames=FRAMES):
    return 0.5 * np.random.default_rng(3).normal(size=(batch, frames * HOP)).astype(np.float32)


def assert_close(found, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_both_views_have_the_shapes_of_the_spec(compiled):
    tokens = compiled.encode(make_waves())
    assert tokens.codes.shape == (3, FRAMES, 4) and tokens.codes.dtype == jnp.int32
    assert tokens.latents.shape == (3, FRAMES, 16)
    assert tokens.num_frames.tolist() == [FRAMES] * 3
    assert compiled.codec.code_vectors.shape == (4, 16, 16)
    assert len(np.unique(tokens.codes)) > 8
    for waves in (compiled.decode_codes(tokens.codes), compiled.decode_latents(tokens.latents)):
        assert waves.shape == (3, FRAMES * HOP)
        assert np.asarray(waves).std() > 0.01


def test_the_defaults_are_mimi_as_published():
    spec = MimiConfig().spec
    assert (spec.sample_rate_hz, spec.hop_samples, spec.frame_hz, spec.codebooks) == (
        24_000,
        1920,
        12.5,
        8,
    )
    assert (spec.entries, spec.latent_channels, spec.causal, spec.bitrate_bps) == (
        2048,
        512,
        True,
        1100,
    )


@pytest.mark.parametrize("num_samples", [0, 7])
def test_waves_are_whole_frames(compiled, num_samples):
    waves = jnp.zeros((1, num_samples))
    with pytest.raises(ValueError, match=f"{num_samples} samples are not one or more hops of 12"):
        compiled.codec.encode(waves)
    with pytest.raises(ValueError, match=f"{num_samples} samples are not one or more hops of 12"):
        compiled.codec.encode_chunk(waves, compiled.codec.start_encoding(1))


def test_a_clip_is_coded_in_a_batch_as_alone(compiled):
    # 5 samples less than whole frames are silence.
    waves, lengths = make_waves(), [FRAMES * HOP, 1 * HOP, 7 * HOP - 5]
    tokens = compiled.encode(waves, jnp.array(lengths))
    assert tokens.num_frames.tolist() == [FRAMES, 1, 7]
    decoded = np.asarray(compiled.decode_latents(tokens.latents, tokens.num_frames))
    for row, length in list(enumerate(lengths))[1:]:
        frames = -(-length // HOP)
        alone = compiled.encode(
            np.pad(waves[row : row + 1, :length], ((0, 0), (0, frames * HOP - length)))
        )
        np.testing.assert_array_equal(tokens.codes[row, :frames], alone.codes[0])
        assert_close(tokens.latents[row, :frames], alone.latents[0])
        assert (np.asarray(tokens.latents[row, frames:]) == 0).all()
        assert_close(decoded[row, : frames * HOP], compiled.decode_latents(alone.latents)[0])
        assert (decoded[row, frames * HOP :] == 0).all()
    decoded = np.asarray(compiled.decode_codes(tokens.codes, tokens.num_frames))
    assert_close(decoded[0], compiled.decode_codes(tokens.codes)[0])
    assert (decoded[1, HOP:] == 0).all() and np.abs(decoded[1, :HOP]).max() > 0.01


def test_codes_are_the_sum_of_their_vectors_and_may_be_fewer(compiled):
    codes, vectors = compiled.encode(make_waves()).codes, np.asarray(compiled.codec.code_vectors)
    decoded = []
    for levels in (1, 2, 4):
        latents = sum(vectors[level][np.asarray(codes[..., level])] for level in range(levels))
        decoded.append(np.asarray(compiled.decode_codes(codes[..., :levels])))
        assert_close(decoded[-1], compiled.decode_latents(latents))
    assert (
        np.abs(decoded[0] - decoded[1]).max() > 0.01
        and np.abs(decoded[1] - decoded[2]).max() > 0.01
    )


def test_both_quantisers_read_the_latents_themselves(compiled):
    tokens = compiled.encode(make_waves())
    latents = np.asarray(tokens.latents)
    quantiser = compiled.codec.quantiser
    for part, first in ((quantiser.semantic, 0), (quantiser.acoustic, 1)):
        projected = latents @ np.asarray(part.input_proj.kernel[...])
        distances = np.square(projected[..., None, :] - np.asarray(part.entries[0][...])).sum(-1)
        np.testing.assert_array_equal(tokens.codes[..., first], distances.argmin(-1))


@pytest.fixture(scope="module")
def streaming(compiled):
    graph, state = nnx.split(compiled.codec)
    methods = [functools.partial(call, graph, name) for name in ("encode_chunk", "decode_chunk")]
    return [functools.partial(jax.jit(method, donate_argnums=2), state) for method in methods]


# One window is 3 frames. A chunk may be longer than it, as the first one or after others.
@pytest.mark.parametrize("sizes", [[1] * 12, [2] * 6, [1, 2, 5, 4], [5, 2, 1, 4]], ids=str)
def test_chunks_give_what_the_whole_gives(compiled, streaming, sizes):
    encode_chunk, decode_chunk = streaming
    waves = make_waves(2)
    whole = compiled.encode(waves)
    encoding, decoding = compiled.codec.start_encoding(2), compiled.codec.start_decoding(2)
    codes, latents, decoded = [], [], []
    for chunk in np.split(waves, HOP * np.cumsum(sizes)[:-1], axis=1):
        tokens, encoding = encode_chunk(chunk, encoding)
        part, decoding = decode_chunk(tokens.codes, decoding)
        assert tokens.num_frames.tolist() == [chunk.shape[1] // HOP] * 2
        codes.append(tokens.codes)
        latents.append(tokens.latents)
        decoded.append(part)
    np.testing.assert_array_equal(np.concatenate(codes, axis=1), whole.codes)
    assert_close(np.concatenate(latents, axis=1), whole.latents)
    assert_close(np.concatenate(decoded, axis=1), compiled.decode_codes(whole.codes))


@pytest.mark.parametrize("num_past", [0, 4, 100])
@pytest.mark.parametrize("length", [1, 5, 6, 7, 20])
def test_a_frame_sees_its_window_and_nothing_else(length, num_past):
    window, rng = 6, np.random.default_rng(length)
    queries, keys, values = rng.normal(size=(3, 1, 2, length, 4)).astype(np.float32)
    past_keys, past_values = rng.normal(size=(2, 1, 2, window, 4)).astype(np.float32)
    past = Memory(jnp.asarray(past_keys), jnp.asarray(past_values)) if num_past else None
    found = attend_window(
        jnp.asarray(queries), Memory(keys, values), past, jnp.uint32(num_past), window
    )
    num_real = min(num_past, window)
    keys = np.concatenate([past_keys[:, :, window - num_real :], keys], axis=2)
    values = np.concatenate([past_values[:, :, window - num_real :], values], axis=2)
    for place in range(length):
        seen = slice(max(0, num_real + place + 1 - window), num_real + place + 1)
        scores = np.einsum("bac,basc->bas", queries[:, :, place], keys[:, :, seen]) / 2
        shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        expected = np.einsum("bas,basc->bac", shares, values[:, :, seen])
        np.testing.assert_allclose(found[:, :, place], expected, atol=1e-5)


@pytest.mark.parametrize("start", [10_000, 10**8, 2**32 - 3])
def test_angles_differ_by_the_distance_however_long_the_stream(start):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 8, 1, 64)), jnp.float32)
    places = jnp.arange(8, dtype=jnp.uint32)

    def scores(places):
        queries, keys = turn(x[0], places), turn(x[1], places)
        return np.einsum("bqac,bsac->qs", queries, keys)

    np.testing.assert_allclose(scores(places + jnp.uint32(start)), scores(places), atol=2e-5)


def test_published_files_give_the_same_codec(published):
    folder, written = published
    loaded = load_published(MimiConfig, str(folder), codebooks=6)
    waves = jnp.asarray(make_waves(1))
    expected, found = (jax.jit(codec.encode)(waves) for codec in (written, loaded.codec))
    np.testing.assert_array_equal(found.codes, expected.codes)
    assert_close(found.latents, expected.latents)
    assert_close(loaded.codec.code_vectors, written.code_vectors)


@pytest.mark.parametrize("codebooks", [1, 3])
def test_codebooks_that_are_not_used_are_not_read(published, codebooks):
    folder, written = published
    codec = load_published(MimiConfig, str(folder), codebooks=codebooks).codec
    latents = jnp.asarray(np.random.default_rng(5).normal(size=(1, FRAMES, 16)), jnp.float32)
    assert codec.spec.codebooks == codebooks
    codes = codec.quantiser.encode(latents)
    np.testing.assert_array_equal(codes, written.quantiser.encode(latents)[..., :codebooks])
    np.testing.assert_allclose(
        codec.quantiser.decode(codes), written.quantiser.decode(codes), atol=1e-6
    )


def test_more_codebooks_than_there_are_cannot_be_used(published):
    assert load_published(MimiConfig, str(published[0])).codec.spec.codebooks == 6
    with pytest.raises(ConfigError, match=r"codebooks=7 must be .* at most published_codebooks=6"):
        load_published(MimiConfig, str(published[0]), codebooks=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("downsample.conv.weight"), "'downsample.conv.weight' is missing"),
        (
            lambda t: t.pop(f"{QUANTISER}.output_proj.weight"),
            "acoustic.*output_proj.weight' is missing",
        ),
        (
            lambda t: t.pop(f"{QUANTISER}.layers.2.codebook.embed_sum"),
            "layers.2.codebook.embed' is missing",
        ),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "'extra' is not part of this model"),
        (
            lambda t: t.update(
                {"decoder_transformer.layers.1.mlp.fc1.weight": np.zeros((16, 24), np.float32)}
            ),
            r"layers.1.mlp.fc1.weight' has shape \[16, 24\], expected \[24, 16\]",
        ),
        (
            lambda t: t.update(
                {f"{QUANTISER}.layers.0.codebook.embed_sum": np.ones((16, 9), np.float32)}
            ),
            r"layers.0.codebook.embed' has shape \[16, 9\], expected \[16, 8\]",
        ),
        (
            lambda t: t.update(
                {f"{QUANTISER}.layers.0.codebook.cluster_usage": np.ones(15, np.float32)}
            ),
            r"layers.0.codebook: cluster_usage \(15,\) does not fit embed_sum \(16, 8\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    _, path = write_mimi(tmp_path)
    change_tensors(path, change)
    with pytest.raises(GenlabError, match=message):
        load_published(MimiConfig, str(tmp_path))


def test_a_truncated_file_is_one_line(tmp_path):
    _, path = write_mimi(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GenlabError, match="its header promises") as error:
        load_published(MimiConfig, str(tmp_path))
    assert "\n" not in str(error.value)


def test_an_empty_config_means_the_usual_mimi():
    assert MimiConfig.from_published({}) == MimiConfig()
    assert MimiConfig.from_published(PUBLISHED) == MICRO.model_copy(update={"codebooks": 6})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "encodec"}, "model_type='encodec': this port of Mimi expects 'mimi'"),
        ({"audio_channels": 2}, "audio_channels=2"),
        ({"use_causal_conv": False}, "use_causal_conv=False"),
        ({"pad_mode": "reflect"}, "pad_mode='reflect'"),
        ({"hidden_act": "silu"}, "hidden_act='silu'"),
        ({"num_key_value_heads": 1}, "num_key_value_heads=1: this port of Mimi expects 2"),
        ({"upsample_groups": 1}, "upsample_groups=1: this port of Mimi expects 16"),
        ({"frame_rate": 1000.0}, r"frame_rate=1000.0: this port of Mimi expects 2000.0"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type='yarn'"),
        ({"vector_quantization_hidden_dimension": 4}, "vector_quantization_hidden_dimension=4"),
        ({"codebook_dim": 16}, "entry_channels=16 must differ from the width"),
        ({"sliding_window": 0}, "transformer.window_frames: .* greater than or equal to 1"),
        ({"upsampling_ratios": [3, 0]}, "convolutions.ratios"),
        ({"num_semantic_quantizers": 9}, "semantic_codebooks=9"),
        ({"hidden_size": "many"}, "width: .* valid integer"),
    ],
)
def test_what_the_port_does_not_have_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        MimiConfig.from_published(PUBLISHED | changes)
