import huggingface_hub
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

from genlab.codecs.frozen import FrozenCodec
from genlab.codecs.oobleck import OobleckConfig, fit_codes, fit_levels, with_codebooks
from genlab.codecs.published import find_directory, load_published
from genlab.config import ConfigError, GenlabError

HOP, FRAMES = 6, 20
TINY = OobleckConfig(
    codebooks=3,
    entries=8,
    latent_channels=4,
    encoder_width=8,
    decoder_width=6,
    strides=(2, 3),
    multiples=(1, 2),
)
PUBLISHED = {
    "_class_name": "AutoencoderOobleck",
    "audio_channels": 2,
    "channel_multiples": [1, 2],
    "decoder_channels": 6,
    "decoder_input_channels": 4,
    "downsampling_ratios": [2, 3],
    "encoder_hidden_size": 8,
    "sampling_rate": 44_100,
}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def codec():
    return make_random(TINY)


@pytest.fixture(scope="module")
def compiled(codec):
    return Compiled(codec)


@pytest.fixture(scope="module")
def fitted(codec):
    return fit_codes(codec, make_waves())


def make_waves():
    return 0.5 * np.random.default_rng(3).normal(size=(3, FRAMES * HOP, 2)).astype(np.float32)


def test_latents_and_waves_have_the_shapes_of_the_spec(compiled):
    tokens = compiled.encode(make_waves())
    assert tokens.codes is None
    assert tokens.latents.shape == (3, FRAMES, 4)
    assert tokens.num_frames.tolist() == [FRAMES] * 3
    assert compiled.decode_latents(tokens.latents).shape == (3, FRAMES * HOP, 2)
    assert compiled.codec.spec.hop_samples == HOP


def test_waves_are_whole_frames(codec):
    with pytest.raises(ValueError, match="7 samples are not a multiple of the hop 6"):
        codec.encode(jnp.zeros((1, 7, 2)))


def test_a_clip_is_encoded_in_a_batch_as_alone(compiled):
    waves, lengths = make_waves(), [20 * HOP, 9 * HOP, 13 * HOP - 4]
    tokens = compiled.encode(waves, jnp.array(lengths))
    assert tokens.num_frames.tolist() == [20, 9, 13]
    for row, length in enumerate(lengths):
        frames = -(-length // HOP)
        alone = np.pad(waves[row : row + 1, :length], ((0, 0), (0, frames * HOP - length), (0, 0)))
        np.testing.assert_allclose(
            tokens.latents[row, :frames], compiled.encode(alone).latents[0], atol=TOLERANCE
        )
        assert not np.asarray(tokens.latents[row, frames:]).any()


def test_a_clip_is_decoded_in_a_batch_as_alone(compiled):
    latents, lengths = compiled.encode(make_waves()).latents, [20, 1, 13]
    waves = compiled.decode_latents(latents, jnp.array(lengths))
    for row, frames in enumerate(lengths):
        expected = compiled.decode_latents(latents[row : row + 1, :frames])
        np.testing.assert_allclose(waves[row, : frames * HOP], expected[0], atol=TOLERANCE)
        assert not np.asarray(waves[row, frames * HOP :]).any()


def test_mono_is_copied_to_both_channels_and_averaged(codec):
    mono = make_random(TINY.model_copy(update={"audio_channels": 1}))
    for ours, stereo in ((mono.encoder, codec.encoder), (mono.decoder, codec.decoder)):
        ours.block, ours.snake1 = stereo.block, stereo.snake1
    mono.encoder.conv2, mono.decoder.conv1 = codec.encoder.conv2, codec.decoder.conv1
    mono.encoder.conv1.bias[...] = codec.encoder.conv1.bias[...]
    mono.encoder.conv1.kernel[...] = codec.encoder.conv1.kernel[...].sum(axis=1, keepdims=True)
    mono.decoder.conv2.kernel[...] = codec.decoder.conv2.kernel[...].mean(axis=2, keepdims=True)
    frozen = FrozenCodec(codec, "", {})
    waves, mono = list(make_waves()[..., 0]), FrozenCodec(mono, "", {})
    found, expected = frozen.encode(waves), mono.encode(waves)
    for (_, ours), (_, theirs) in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    latents = [latents for _, latents in found]
    for ours, theirs in zip(frozen.decode_latents(latents), mono.decode_latents(latents)):
        assert ours.shape == (FRAMES * HOP,)
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_codes_before_fitting_are_an_error(codec):
    message = r"no codebooks; fit them to waves with fit_codes\(codec, waves\)"
    with pytest.raises(GenlabError, match=message):
        codec.decode_codes(jnp.zeros((1, 2, 3), jnp.int32))
    with pytest.raises(GenlabError, match=message):
        _ = codec.code_vectors


def test_fitted_codes_stand_for_latents(codec, fitted):
    compiled = Compiled(fitted)
    tokens = compiled.encode(make_waves())
    assert tokens.codes.shape == (3, FRAMES, 3) and tokens.codes.dtype == jnp.int32
    assert codec.quantiser is None
    vectors, residual = np.asarray(fitted.code_vectors), np.asarray(tokens.latents)
    assert vectors.shape == (3, 8, 4)
    lost = []
    for level in range(3):
        residual = residual - vectors[level][np.asarray(tokens.codes[..., level])]
        lost.append((residual**2).mean())
        latents = tokens.latents - residual
        codes = tokens.codes[..., : level + 1]
        expected = compiled.decode_latents(latents)
        np.testing.assert_allclose(compiled.decode_codes(codes), expected, atol=10 * TOLERANCE)
    assert np.var(tokens.latents, axis=(0, 1)).mean() > 2 * lost[0] > 3 * lost[1] > 4.5 * lost[2]


def test_a_batch_gives_the_codes_of_each_clip_alone(fitted):
    waves = make_waves()
    tokens = Compiled(fitted).encode(waves, jnp.array([20 * HOP, 9 * HOP, 13 * HOP]))
    alone = fitted.encode(jnp.asarray(waves[1:2, : 9 * HOP]))
    np.testing.assert_array_equal(tokens.codes[1, :9], alone.codes[0])


def test_fitting_is_a_function_of_waves_and_seed(codec, fitted):
    again = fit_codes(codec, make_waves())
    np.testing.assert_array_equal(again.code_vectors, fitted.code_vectors)
    other = fit_codes(codec, make_waves(), seed=1)
    assert not np.array_equal(other.code_vectors, fitted.code_vectors)


def test_fitting_reads_only_the_samples_of_each_wave(codec):
    waves, lengths = make_waves(), np.array([20, 9, 13]) * HOP
    is_padding = np.arange(waves.shape[1])[None] >= lengths[:, None]
    noisy = waves + 100 * is_padding[..., None].astype(np.float32)
    first, second = fit_codes(codec, waves, lengths), fit_codes(codec, noisy, lengths)
    np.testing.assert_array_equal(first.code_vectors, second.code_vectors)


def test_too_few_frames_are_an_error(codec):
    with pytest.raises(GenlabError, match="the waves have 7 frames, expected at least 8"):
        fit_codes(codec, make_waves()[:1, : 7 * HOP])


def test_codebooks_can_be_put_back(codec, fitted):
    again = with_codebooks(codec, fitted.code_vectors)
    np.testing.assert_array_equal(again.code_vectors, fitted.code_vectors)
    with pytest.raises(GenlabError, match=r"expected \[3, 8, 4\]"):
        with_codebooks(codec, fitted.code_vectors[:2])


def test_repeated_silence_does_not_use_up_the_entries():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 4)).astype(np.float32)
    vectors = rng.permutation(
        np.concatenate([np.zeros((300, 4), np.float32), np.repeat(points, 3, axis=0)])
    )
    entries = np.asarray(fit_levels(vectors, 1, 8, 10))[0]
    distances = np.linalg.norm(vectors[:, None] - entries[None], axis=-1).min(axis=1)
    assert distances.max() < 1e-5


@pytest.mark.parametrize("folder", ["", "vae"])
def test_published_files_give_the_codec_back(codec, tmp_path, folder):
    write_published(
        tmp_path / folder, codec, TINY, PUBLISHED, "diffusion_pytorch_model.safetensors"
    )
    published = load_published(OobleckConfig, str(tmp_path), codebooks=3, entries=8)
    assert published.config == TINY
    assert published.directory == tmp_path / folder
    same_tensors(published.codec, codec, TINY)


def test_weight_normalised_files_give_the_same_codec(codec, tmp_path):
    change_tensors(write_published(tmp_path, codec, TINY, PUBLISHED), split_weight_norm)
    same_tensors(load_published(OobleckConfig, str(tmp_path)).codec, codec, TINY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("decoder.block.0.snake1.beta"),
            "'decoder.block.0.snake1.beta' is missing",
        ),
        (
            lambda t: t.update({"decoder.conv2.bias": np.ones(2, np.float32)}),
            "'decoder.conv2.bias' is not part",
        ),
        (
            lambda t: t.update({"encoder.conv2.weight": np.ones((8, 16, 5), np.float32)}),
            r"'encoder.conv2.weight' has shape \[8, 16, 5\], expected \[8, 16, 3\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(codec, tmp_path, change, message):
    change_tensors(write_published(tmp_path, codec, TINY, PUBLISHED), change)
    with pytest.raises(GenlabError, match=message):
        load_published(OobleckConfig, str(tmp_path))


def test_a_truncated_file_is_one_line(codec, tmp_path):
    path = write_published(tmp_path, codec, TINY, PUBLISHED)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GenlabError) as caught:
        load_published(OobleckConfig, str(tmp_path))
    assert "\n" not in str(caught.value) and "model.safetensors" in str(caught.value)


def test_only_the_subfolder_of_the_repository_is_downloaded(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(source, allow_patterns, local_files_only=False):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError(source)
        asked[source] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert find_directory(OobleckConfig.hub_id, OobleckConfig.hub_subfolder) == tmp_path / "vae"
    assert find_directory("owner/name") == tmp_path
    assert all(pattern.startswith("vae/") for pattern in asked[OobleckConfig.hub_id])
    assert asked["owner/name"][:2] == ["config.json", "*.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"_class_name": "AutoencoderKL"},
            "_class_name: expected 'AutoencoderOobleck', got 'AutoencoderKL'",
        ),
        ({"audio_channels": 6}, "audio_channels: .*got 6"),
        ({"decoder_input_channels": 5}, "latent_channels=5: expected half of"),
        ({"channel_multiples": [1]}, "multiples=.*expected one for each of strides"),
        ({"downsampling_ratios": [1, 3]}, "strides="),
    ],
)
def test_what_the_port_does_not_have_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        OobleckConfig.from_published(PUBLISHED | change)


def test_stable_audio_open_has_21_frames_per_second():
    spec = OobleckConfig.from_published({"sampling_rate": 44_100}).spec
    assert spec.hop_samples == 2048
    assert spec.latent_channels == 64
