import jax.numpy as jnp
import numpy as np
import pytest
from published_toys import (
    Compiled,
    change_tensors,
    make_random,
    same_tensors,
    split_weight_norm,
    write_published,
)
from safetensors.numpy import load_file

from genlab.codecs.dac import DacConfig
from genlab.codecs.published import load_published
from genlab.config import ConfigError, GenlabError

HOP, FRAMES = 6, 20
TINY = DacConfig(
    codebooks=3,
    entries=16,
    code_channels=4,
    latent_channels=12,
    encoder_width=3,
    decoder_width=8,
    strides=(2, 3),
)
PUBLISHED = {
    "model_type": "dac",
    "sampling_rate": 16_000,
    "n_codebooks": 3,
    "codebook_size": 16,
    "codebook_dim": 4,
    "encoder_hidden_size": 3,
    "decoder_hidden_size": 8,
    "downsampling_ratios": [2, 3],
    "upsampling_ratios": [3, 2],
}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def codec():
    return make_random(TINY)


@pytest.fixture(scope="module")
def compiled(codec):
    return Compiled(codec)


def make_waves():
    return 0.5 * np.random.default_rng(3).normal(size=(3, FRAMES * HOP)).astype(np.float32)


def test_both_views_have_the_shapes_of_the_spec(codec, compiled):
    tokens = compiled.encode(make_waves())
    assert tokens.codes.shape == (3, FRAMES, 3) and tokens.codes.dtype == jnp.int32
    assert tokens.latents.shape == (3, FRAMES, 12)
    assert tokens.num_frames.tolist() == [FRAMES] * 3
    assert codec.code_vectors.shape == (3, 16, 12)
    assert codec.spec.hop_samples == HOP
    for waves in (compiled.decode_codes(tokens.codes), compiled.decode_latents(tokens.latents)):
        assert waves.shape == (3, FRAMES * HOP)
        assert np.abs(waves).max() <= 1


def test_waves_are_whole_frames(codec):
    with pytest.raises(ValueError, match="7 samples are not a multiple of the hop 6"):
        codec.encode(jnp.zeros((1, 7)))


def test_a_clip_is_encoded_in_a_batch_as_alone(compiled):
    waves, lengths = make_waves(), [20 * HOP, 9 * HOP, 13 * HOP - 4]
    tokens = compiled.encode(waves, jnp.array(lengths))
    assert tokens.num_frames.tolist() == [20, 9, 13]
    for row, length in enumerate(lengths):
        frames = -(-length // HOP)
        alone = np.pad(waves[row : row + 1, :length], ((0, 0), (0, frames * HOP - length)))
        expected = compiled.encode(alone)
        np.testing.assert_array_equal(tokens.codes[row, :frames], expected.codes[0])
        np.testing.assert_allclose(
            tokens.latents[row, :frames], expected.latents[0], atol=TOLERANCE
        )
        assert not np.asarray(tokens.latents[row, frames:]).any()


@pytest.mark.parametrize("view", ["codes", "latents"])
def test_a_clip_is_decoded_in_a_batch_as_alone(compiled, view):
    tokens = compiled.encode(make_waves())
    values, lengths = getattr(tokens, view), [20, 1, 13]
    decode = getattr(compiled, f"decode_{view}")
    waves = decode(values, jnp.array(lengths))
    for row, frames in enumerate(lengths):
        expected = decode(values[row : row + 1, :frames])
        np.testing.assert_allclose(waves[row, : frames * HOP], expected[0], atol=TOLERANCE)
        assert not np.asarray(waves[row, frames * HOP :]).any()


def test_only_the_last_samples_of_odd_strides_are_silent(compiled):
    waves = np.asarray(compiled.decode_latents(compiled.encode(make_waves()).latents))
    # The stride of 3 leaves one frame out, and the stride of 2 after it makes two samples of that.
    assert not waves[:, -2:].any()
    assert waves[:, :-2].all()


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_what_entries_add_decodes_like_the_codes(codec, compiled, levels):
    codes = compiled.encode(make_waves()).codes[..., :levels]
    vectors = np.asarray(codec.code_vectors)
    latents = sum(vectors[level][np.asarray(codes[..., level])] for level in range(levels))
    expected = compiled.decode_latents(latents)
    np.testing.assert_allclose(compiled.decode_codes(codes), expected, atol=TOLERANCE)


def test_every_level_takes_the_nearest_direction_of_what_is_left(codec):
    quantiser, vectors = codec.quantiser, np.asarray(codec.code_vectors)
    residual = np.random.default_rng(5).normal(size=(3, FRAMES, 12)).astype(np.float32)
    codes = np.asarray(quantiser.encode(jnp.asarray(residual)))
    for level in range(3):
        entries = np.asarray(quantiser.entries[level])
        wanted = residual @ np.asarray(quantiser.in_proj.kernel[level]) + np.asarray(
            quantiser.in_proj.bias[level]
        )
        cosine = (wanted @ entries.T) / np.linalg.norm(entries, axis=-1)
        np.testing.assert_array_equal(codes[..., level], cosine.argmax(-1))
        residual = residual - vectors[level][codes[..., level]]
        assert len(np.unique(codes[..., level])) > 8


def test_published_files_give_the_codec_back(codec, compiled, tmp_path):
    write_published(tmp_path, codec, TINY, PUBLISHED)
    published = load_published(DacConfig, str(tmp_path))
    assert published.config == TINY
    found, expected = Compiled(published.codec).encode(make_waves()), compiled.encode(make_waves())
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.latents, expected.latents)
    np.testing.assert_array_equal(published.codec.code_vectors, codec.code_vectors)
    same_tensors(published.codec, codec, TINY)


def test_the_first_levels_of_a_published_codec_can_be_used_alone(codec, compiled, tmp_path):
    write_published(tmp_path, codec, TINY, PUBLISHED)
    published = load_published(DacConfig, str(tmp_path), codebooks=2)
    assert published.codec.spec.codebooks == 2
    latents = compiled.encode(make_waves()).latents
    codes = published.codec.quantiser.encode(latents)
    np.testing.assert_array_equal(codes, compiled.encode(make_waves()).codes[..., :2])


def test_weight_normalised_files_give_the_same_codec(codec, tmp_path):
    change_tensors(write_published(tmp_path, codec, TINY, PUBLISHED), split_weight_norm)
    same_tensors(load_published(DacConfig, str(tmp_path)).codec, codec, TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("encoder.block.1.snake1.alpha"),
            "'encoder.block.1.snake1.alpha' is missing",
        ),
        (
            lambda t: t.pop("quantizer.quantizers.2.codebook.weight"),
            "'quantizer.quantizers.2.codebook.weight' is mis",
        ),
        (
            lambda t: t.update({"decoder.extra": np.ones(3, np.float32)}),
            "'decoder.extra' is not part of this model",
        ),
        (
            lambda t: t.update({"decoder.conv2.weight": np.ones((1, 2, 5), np.float32)}),
            r"'decoder.conv2.weight' has shape \[1, 2, 5\], expected \[1, 2, 7\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(codec, tmp_path, change, message):
    change_tensors(write_published(tmp_path, codec, TINY, PUBLISHED), change)
    with pytest.raises(GenlabError, match=message):
        load_published(DacConfig, str(tmp_path))


def test_a_truncated_file_is_one_line(codec, tmp_path):
    path = write_published(tmp_path, codec, TINY, PUBLISHED)
    assert load_file(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GenlabError) as caught:
        load_published(DacConfig, str(tmp_path))
    assert "\n" not in str(caught.value) and "model.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "encodec"}, "model_type: expected 'dac', got 'encodec'"),
        ({"upsampling_ratios": [2, 3]}, r"upsampling_ratios: expected \[3, 2\], got \[2, 3\]"),
        ({"downsampling_ratios": [1, 3]}, "strides=.* each must be 2 or more"),
        ({"decoder_hidden_size": 6}, "decoder_width=6 is halved 2 times"),
        ({"n_codebooks": 0}, "codebooks: .*greater than or equal to 1"),
    ],
)
def test_what_the_port_does_not_have_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        DacConfig.from_published(PUBLISHED | change)


@pytest.mark.parametrize(
    ("rate_hz", "strides", "hop"), [(16_000, (2, 4, 5, 8), 320), (44_100, (2, 4, 8, 8), 512)]
)
def test_the_published_sizes_have_their_hops(rate_hz, strides, hop):
    config = DacConfig.from_published(
        {"sampling_rate": rate_hz, "downsampling_ratios": list(strides)}
    )
    assert config.spec.hop_samples == hop
    assert config.latent_channels == 1024
