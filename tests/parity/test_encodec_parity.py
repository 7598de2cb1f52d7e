"""EnCodec against transformers' EncodecModel with random weights, read from the files that it
saves.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from published_toys import Compiled  # noqa: E402
from seanet_reference import check_codes, relative_error, spread_entries  # noqa: E402

from genlab.codecs.encodec import EncodecConfig  # noqa: E402
from genlab.codecs.published import load_published  # noqa: E402
from genlab.config import ConfigError  # noqa: E402

pytestmark = pytest.mark.parity

# The shapes of the 24 and the 32 kHz model, with fewer channels, strides and entries; both have 4
# levels or more.
SMALL = {"hidden_size": 16, "num_filters": 8, "upsampling_ratios": [4, 3, 2], "codebook_size": 64}
SHAPES = {
    "causal": {"target_bandwidths": [24.0, 48.0]},
    "centred": {
        "sampling_rate": 32_000,
        "target_bandwidths": [33.0],
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "num_residual_layers": 2,
        "dilation_growth_rate": 3,
    },
}
BATCH, FRAMES, HOP, LEVELS = 2, 50, 24, 4
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=SHAPES)
def models(request, tmp_path_factory):
    """Return an EncodecModel with random weights, and our codec read from its files."""
    # A pool of torch threads is far slower than one thread when another process is busy.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reference = transformers.EncodecModel(
        transformers.EncodecConfig(**(SMALL | SHAPES[request.param]))
    ).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "bias" in name:
                parameter.normal_(std=0.1)
        latents = (
            reference.encoder(torch.from_numpy(make_waves())[:, None]).transpose(1, 2).flatten(0, 1)
        )
        spread_entries([layer.codebook.embed for layer in reference.quantizer.layers], latents)
    directory = tmp_path_factory.mktemp(request.param)
    reference.save_pretrained(directory)
    return reference, Compiled(
        load_published(EncodecConfig, str(directory), codebooks=LEVELS).codec
    )


def make_waves(num_frames=FRAMES):
    return np.random.default_rng(3).normal(size=(BATCH, num_frames * HOP)).astype(np.float32)


def encode_reference(reference, waves):
    """Return codes [b t k] and latents [b t d]."""
    waves = torch.from_numpy(waves)[:, None]
    with torch.no_grad():
        codes = reference.encode(
            waves, bandwidth=reference.config.target_bandwidths[0]
        ).audio_codes[0]
        return codes.permute(0, 2, 1).numpy(), reference.encoder(waves).transpose(1, 2).numpy()


# 3 frames are fewer than the outer kernels reflect.
@pytest.mark.parametrize("num_frames", [FRAMES, 3])
def test_latents_are_the_references(models, num_frames):
    reference, codec = models
    waves = make_waves(num_frames)
    latents = encode_reference(reference, waves)[1]
    assert latents.std(axis=1).mean() > 0.01
    assert relative_error(codec.encode(waves).latents, latents) < TOLERANCE


def test_codes_are_the_references(models):
    reference, codec = models
    codes, latents = encode_reference(reference, make_waves())
    check_codes(codec.encode(make_waves()).codes, codes, latents, codec.codec.code_vectors)


@pytest.mark.parametrize("levels", [1, LEVELS])
def test_codes_decode_to_the_references_waves(models, levels):
    reference, codec = models
    codes = encode_reference(reference, make_waves())[0][..., :levels]
    with torch.no_grad():
        expected = (
            reference.decode(torch.from_numpy(codes).permute(0, 2, 1)[None], [None])
            .audio_values[:, 0]
            .numpy()
        )
    assert expected.std() > 0.01
    assert relative_error(codec.decode_codes(codes.astype(np.int32)), expected) < TOLERANCE


def test_latents_decode_to_the_references_waves(models):
    reference, codec = models
    latents = encode_reference(reference, make_waves())[1]
    with torch.no_grad():
        expected = reference.decoder(torch.from_numpy(latents).transpose(1, 2))[:, 0].numpy()
    assert relative_error(codec.decode_latents(latents), expected) < TOLERANCE


def test_a_short_clip_of_a_batch_is_the_references_alone(models):
    reference, codec = models
    waves, frames = make_waves(), 17
    codes, latents = encode_reference(reference, waves[1:, : frames * HOP])
    tokens = codec.encode(waves, np.array([FRAMES * HOP, frames * HOP]))
    assert relative_error(tokens.latents[1:, :frames], latents) < TOLERANCE
    with torch.no_grad():
        expected = (
            reference.decode(torch.from_numpy(codes).permute(0, 2, 1)[None], [None])
            .audio_values[:, 0]
            .numpy()
        )
    padded = np.pad(np.repeat(codes, 2, axis=0), ((0, 0), (0, FRAMES - frames), (0, 0))).astype(
        np.int32
    )
    decoded = codec.decode_codes(padded, np.array([FRAMES, frames]))[1:, : frames * HOP]
    assert relative_error(decoded, expected) < TOLERANCE


def test_the_stereo_model_is_refused():
    stereo = transformers.EncodecConfig(
        audio_channels=2,
        normalize=True,
        chunk_length_s=1.0,
        overlap=0.01,
        norm_type="time_group_norm",
    )
    with pytest.raises(
        ConfigError, match="audio_channels=2, expected 1; only the mono models are ported"
    ):
        EncodecConfig.from_published(stereo.to_dict())
