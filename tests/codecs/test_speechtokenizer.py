"""SpeechTokenizer: what differs from EnCodec, with which it shares the network."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from published_toys import Compiled, change_tensors, make_random, published_tensors, write_published

from genlab.codecs.published import load_published
from genlab.codecs.seanet import SEANetConfig
from genlab.codecs.speechtokenizer import SpeechTokenizerConfig
from genlab.config import ConfigError, GenlabError

HOP, FRAMES = 6, 20
TINY = SpeechTokenizerConfig(
    codebooks=3,
    entries=16,
    network=SEANetConfig(
        latent_channels=8, channels=4, strides=(3, 2), lstm_layers=1, is_bidirectional=True
    ),
)
PUBLISHED = {
    "sample_rate": 16_000,
    "n_filters": 4,
    "strides": [3, 2],
    "dimension": 8,
    "semantic_dimension": 5,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 1,
    "activation": "ELU",
    "codebook_size": 16,
    "n_q": 3,
    # The published file also says how the model was trained.
    "batch_size": 60,
}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def compiled():
    return Compiled(make_random(TINY))


def make_waves():
    return 0.5 * np.random.default_rng(3).normal(size=(3, FRAMES * HOP)).astype(np.float32)


def test_a_clip_is_encoded_and_decoded_in_a_batch_as_alone(compiled):
    waves, frames = make_waves(), [20, 7, 7]
    num_samples = jnp.array(frames) * HOP
    tokens = compiled.encode(waves, num_samples)
    decoded = compiled.decode_codes(tokens.codes, tokens.num_frames)
    assert tokens.num_frames.tolist() == frames
    assert decoded.shape == waves.shape
    alone = compiled.encode(waves[1:, : 7 * HOP])
    np.testing.assert_array_equal(tokens.codes[1:, :7], alone.codes)
    np.testing.assert_allclose(tokens.latents[1:, :7], alone.latents, atol=TOLERANCE)
    np.testing.assert_allclose(
        decoded[1:, : 7 * HOP], compiled.decode_codes(alone.codes), atol=TOLERANCE
    )
    assert not np.asarray(decoded[1:, 7 * HOP :]).any()


def test_published_files_give_the_codec_back(compiled, tmp_path):
    path = write_published(tmp_path / TINY.hub_subfolder, compiled.codec, TINY, PUBLISHED)
    training = {"transform.weight": np.ones((5, 8)), "transform.bias": np.ones(5)}
    training |= {"quantizer.vq.layers.0._codebook.embed_avg": np.ones((16, 8))}
    change_tensors(
        path, lambda tensors: tensors.update({k: v.astype(np.float32) for k, v in training.items()})
    )
    published = load_published(SpeechTokenizerConfig, str(tmp_path))
    assert published.config == TINY
    found, expected = (
        published_tensors(published.codec, TINY),
        published_tensors(compiled.codec, TINY),
    )
    assert "encoder.model.7.lstm.weight_hh_l0_reverse" in expected
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    assert load_published(
        SpeechTokenizerConfig, str(tmp_path), codebooks=1
    ).codec.code_vectors.shape == (1, 16, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("encoder.model.7.lstm.bias_ih_l0_reverse"),
            "'encoder.model.7.lstm.bias_ih_l0_reverse' is missing",
        ),
        (
            lambda t: t.update({"decoder.extra": np.ones(3, np.float32)}),
            "'decoder.extra' is not part of this model",
        ),
        (
            lambda t: t.update({"decoder.model.3.convtr.convtr.bias": np.ones(3, np.float32)}),
            r"'decoder.model.3.convtr.convtr.bias' has shape \[3\], expected \[8\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(compiled, tmp_path, change, message):
    change_tensors(write_published(tmp_path, compiled.codec, TINY, PUBLISHED), change)
    with pytest.raises(GenlabError, match=message):
        load_published(SpeechTokenizerConfig, str(tmp_path))


def test_without_safetensors_the_error_says_how_to_convert(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    (tmp_path / "SpeechTokenizer.pt").write_bytes(b"")
    with pytest.raises(
        GenlabError, match=r"SpeechTokenizer.pt is a pickle.*begins with the lines that convert it"
    ):
        load_published(SpeechTokenizerConfig, str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "Snake"}, "activation='Snake', expected 'ELU'"),
        ({"n_q": 0}, "codebooks: .*greater than or equal to 1"),
        ({"strides": []}, "network.strides: .*at least 1 item"),
    ],
)
def test_what_the_port_does_not_have_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        SpeechTokenizerConfig.from_published(PUBLISHED | change)


def test_the_defaults_are_the_published_model():
    spec = SpeechTokenizerConfig.from_published({}).spec
    assert (spec.frame_hz, spec.codebooks, spec.bitrate_bps, spec.latent_channels) == (
        50,
        8,
        4000,
        1024,
    )
    assert not spec.causal
