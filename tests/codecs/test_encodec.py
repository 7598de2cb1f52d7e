"""EnCodec, causal and not, and through it SEANet: shapes, batches of clips, published files."""

import jax.numpy as jnp
import numpy as np
import pytest
from published_toys import Compiled, change_tensors, make_random, published_tensors, write_published

from genlab.codecs.encodec import EncodecConfig
from genlab.codecs.published import load_published
from genlab.codecs.seanet import SEANetConfig
from genlab.config import ConfigError, GenlabError

HOP, FRAMES = 6, 20
CAUSAL = EncodecConfig(
    codebooks=3,
    entries=16,
    network=SEANetConfig(latent_channels=8, channels=4, strides=(3, 2), is_causal=True),
)
CENTRED = EncodecConfig(
    sample_rate_hz=32_000,
    codebooks=3,
    entries=16,
    network=SEANetConfig(
        latent_channels=8,
        channels=4,
        strides=(3, 2),
        residual_layers=2,
        lstm_layers=1,
        has_conv_shortcut=False,
    ),
)
PUBLISHED = {
    "model_type": "encodec",
    "sampling_rate": 24_000,
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "norm_type": "weight_norm",
    "pad_mode": "reflect",
    "trim_right_ratio": 1.0,
    "codebook_size": 16,
    "codebook_dim": 8,
    "hidden_size": 8,
    "num_filters": 4,
    "upsampling_ratios": [3, 2],
    # 4 bits at 4000 frames per second.
    "target_bandwidths": [16.0, 48.0],
}
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[CAUSAL, CENTRED], ids=["causal", "centred"])
def compiled(request):
    return Compiled(make_random(request.param))


def make_waves():
    return 0.5 * np.random.default_rng(3).normal(size=(3, FRAMES * HOP)).astype(np.float32)


def test_both_views_have_the_shapes_of_the_spec(compiled):
    tokens = compiled.encode(make_waves())
    assert tokens.codes.shape == (3, FRAMES, 3) and tokens.codes.dtype == jnp.int32
    assert tokens.latents.shape == (3, FRAMES, 8)
    assert tokens.num_frames.tolist() == [FRAMES] * 3
    assert compiled.codec.code_vectors.shape == (3, 16, 8)
    assert compiled.codec.spec.hop_samples == HOP
    for waves in (compiled.decode_codes(tokens.codes), compiled.decode_latents(tokens.latents)):
        assert waves.shape == (3, FRAMES * HOP)
        assert np.asarray(waves).std() > 0.01


@pytest.mark.parametrize("num_samples", [0, 7])
def test_waves_are_whole_frames(compiled, num_samples):
    with pytest.raises(ValueError, match=f"{num_samples} samples: .* multiple of the hop, 6"):
        compiled.codec.encode(jnp.zeros((1, num_samples)))


def test_a_clip_is_encoded_in_a_batch_as_alone(compiled):
    # One frame is shorter than what the kernels reflect; 2 samples less than whole frames are
    # silence.
    waves, lengths = make_waves(), [20 * HOP, 1 * HOP, 13 * HOP - 2]
    tokens = compiled.encode(waves, jnp.array(lengths))
    assert tokens.num_frames.tolist() == [20, 1, 13]
    for row, length in enumerate(lengths):
        frames = -(-length // HOP)
        alone = np.pad(waves[row : row + 1, :length], ((0, 0), (0, frames * HOP - length)))
        expected = compiled.encode(alone)
        np.testing.assert_array_equal(tokens.codes[row, :frames], expected.codes[0])
        np.testing.assert_allclose(
            tokens.latents[row, :frames], expected.latents[0], atol=TOLERANCE
        )
        assert not np.asarray(tokens.latents[row, frames:]).any()


def test_a_clip_is_decoded_in_a_batch_as_alone(compiled):
    latents, lengths = compiled.encode(make_waves()).latents, [20, 1, 13]
    waves = compiled.decode_latents(latents, jnp.array(lengths))
    for row, frames in enumerate(lengths):
        expected = compiled.decode_latents(latents[row : row + 1, :frames])
        np.testing.assert_allclose(waves[row, : frames * HOP], expected[0], atol=TOLERANCE)
        assert not np.asarray(waves[row, frames * HOP :]).any()


@pytest.mark.parametrize("levels", [1, 3])
def test_what_entries_add_decodes_like_the_codes(compiled, levels):
    codes, num_frames = compiled.encode(make_waves()).codes[..., :levels], jnp.array([20, 1, 13])
    vectors = np.asarray(compiled.codec.code_vectors)
    latents = sum(vectors[level][np.asarray(codes[..., level])] for level in range(levels))
    expected = compiled.decode_latents(latents, num_frames)
    np.testing.assert_allclose(compiled.decode_codes(codes, num_frames), expected, atol=TOLERANCE)


def test_every_level_takes_the_entry_nearest_to_what_is_left(compiled):
    tokens, vectors = compiled.encode(make_waves()), np.asarray(compiled.codec.code_vectors)
    residual = np.asarray(tokens.latents)
    for level in range(3):
        distances = np.square(residual[:, :, None] - vectors[level]).sum(-1)
        np.testing.assert_array_equal(tokens.codes[..., level], distances.argmin(-1))
        residual = residual - vectors[level][np.asarray(tokens.codes[..., level])]


def test_only_the_causal_codec_ignores_what_comes_later():
    waves = make_waves()
    changed = waves.copy()
    changed[:, 15 * HOP :] += 1
    for config, is_causal in ((CAUSAL, True), (CENTRED, False)):
        compiled = Compiled(make_random(config))
        latents, after_change = (
            np.asarray(compiled.encode(part).latents)[:, :15] for part in (waves, changed)
        )
        assert np.allclose(latents, after_change, atol=TOLERANCE) == is_causal
        assert config.spec.causal == is_causal


def test_published_files_give_the_codec_back(tmp_path):
    codec = make_random(CAUSAL)
    path = write_published(tmp_path, codec, CAUSAL, PUBLISHED)
    # What training keeps beside the entries, and a level that the default bandwidth does not pay
    # for.
    beside = {
        "inited": np.ones(1),
        "cluster_size": np.ones(16),
        "embed_avg": np.ones((16, 8)),
        "embed": np.ones((16, 8)),
    }
    more = {
        f"quantizer.layers.3.codebook.{name}": part.astype(np.float32)
        for name, part in beside.items()
    }
    change_tensors(path, lambda tensors: tensors.update(more))
    published = load_published(EncodecConfig, str(tmp_path), codebooks=3)
    assert published.config == CAUSAL
    found, expected = published_tensors(published.codec, CAUSAL), published_tensors(codec, CAUSAL)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    assert load_published(EncodecConfig, str(tmp_path), codebooks=4).codec.spec.codebooks == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("encoder.layers.7.lstm.bias_hh_l1"),
            "'encoder.layers.7.lstm.bias_hh_l1' is missing",
        ),
        (
            lambda t: t.pop("quantizer.layers.2.codebook.embed"),
            "'quantizer.layers.2.codebook.embed' is missing",
        ),
        (
            lambda t: t.update({"decoder.extra": np.ones(3, np.float32)}),
            "'decoder.extra' is not part of this model",
        ),
        (
            lambda t: t.update({"decoder.layers.3.conv.weight": np.ones((16, 8, 4), np.float32)}),
            r"'decoder.layers.3.conv.weight' has shape \[16, 8, 4\], expected \[16, 8, 6\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    change_tensors(write_published(tmp_path, make_random(CAUSAL), CAUSAL, PUBLISHED), change)
    with pytest.raises(GenlabError, match=message):
        load_published(EncodecConfig, str(tmp_path), codebooks=3)


def test_a_truncated_file_is_one_line(tmp_path):
    path = write_published(tmp_path, make_random(CAUSAL), CAUSAL, PUBLISHED)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GenlabError) as caught:
        load_published(EncodecConfig, str(tmp_path), codebooks=3)
    assert "\n" not in str(caught.value) and "model.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_channels": 2}, "audio_channels=2, expected 1; only the mono models are ported"),
        ({"normalize": True}, "normalize=True, expected False; only the mono models"),
        ({"chunk_length_s": 1.0}, "chunk_length_s=1.0, expected None; only the mono models"),
        ({"norm_type": "time_group_norm"}, "norm_type='time_group_norm', expected 'weight_norm'"),
        ({"pad_mode": "constant"}, "pad_mode='constant', expected 'reflect'"),
        ({"codebook_dim": 4}, "codebook_dim=4, expected hidden_size=8"),
        ({"target_bandwidths": []}, r"target_bandwidths=\[\], expected numbers"),
        ({"compress": 5}, "network: compression=5 leaves none of channels=4"),
        ({"upsampling_ratios": [3, 0]}, "network.strides.1: .*greater than 0"),
        ({"model_type": "mimi"}, "model_type='mimi', expected 'encodec'"),
    ],
)
def test_what_the_port_does_not_have_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        EncodecConfig.from_published(PUBLISHED | change)


def test_the_default_codebooks_cost_6_kbit_per_second():
    published_24khz = {"target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0]}
    published_32khz = {
        "sampling_rate": 32_000,
        "codebook_size": 2048,
        "num_filters": 64,
        "upsampling_ratios": [8, 5, 4, 4],
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "target_bandwidths": [2.2],
    }
    specs = [
        EncodecConfig.from_published(values).spec for values in (published_24khz, published_32khz)
    ]
    assert [(spec.codebooks, spec.hop_samples, spec.bitrate_bps) for spec in specs] == [
        (8, 320, 6000),
        (4, 640, 2200),
    ]
    assert EncodecConfig.from_published(published_24khz) == EncodecConfig()
    assert EncodecConfig.from_published({"target_bandwidths": [1.5]}).codebooks == 2
