"""Oobleck against diffusers' AutoencoderOobleck with random weights, read from the files that it
saves.

A mono wave goes into both channels of the reference, and its channels are averaged. One set of
strides is even, as in the published model; with the other the reference decodes a few samples less
than t * hop, and ours are silent there.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from published_toys import Compiled  # noqa: E402

from genlab.codecs.oobleck import OobleckConfig  # noqa: E402
from genlab.codecs.published import load_published  # noqa: E402

pytestmark = pytest.mark.parity

NUM_FRAMES, BATCH = 12, 2
TOLERANCE = 1e-4


# Strides, audio channels, and samples that the reference leaves out: one before the last upsampling
# by 2.
@pytest.fixture(scope="module", params=[([2, 4], 2, 0), ([2, 5], 1, 2)], ids=["stereo", "odd_mono"])
def models(request, tmp_path_factory):
    """Return an AutoencoderOobleck with random weights, our codec read from its files, and the lost
    samples.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    strides, channels, lost = request.param
    reference = diffusers.AutoencoderOobleck(
        encoder_hidden_size=16,
        downsampling_ratios=strides,
        channel_multiples=[1, 3],
        decoder_channels=12,
        decoder_input_channels=8,
        audio_channels=channels,
    ).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith(("alpha", "beta")):
                parameter.uniform_(-0.7, 0.7)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif name.endswith("weight_g"):
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
    directory = tmp_path_factory.mktemp("oobleck")
    reference.save_pretrained(directory)
    return reference, Compiled(load_published(OobleckConfig, str(directory)).codec), lost


def make_waves(reference):
    rng = np.random.default_rng(3)
    shape = (BATCH, NUM_FRAMES * reference.hop_length, reference.config.audio_channels)
    waves = 0.5 * rng.normal(size=shape).astype(np.float32)
    return waves if shape[-1] == 2 else waves[..., 0]


def relative_error(found, expected):
    """Return the largest difference, in parts of the reference's peak."""
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def encode_reference(reference):
    waves = make_waves(reference).reshape(BATCH, -1, reference.config.audio_channels)
    with torch.no_grad():
        return reference.encode(torch.from_numpy(waves).transpose(1, 2)).latent_dist.mode()


def test_latents_are_the_references_means(models):
    reference, codec, _ = models
    expected = encode_reference(reference).transpose(1, 2).numpy()
    assert expected.std(axis=1).mean() > 0.05
    assert relative_error(codec.encode(make_waves(reference)).latents, expected) < TOLERANCE


def test_latents_decode_as_by_the_reference(models):
    reference, codec, lost = models
    latents = encode_reference(reference)
    with torch.no_grad():
        expected = reference.decode(latents).sample.transpose(1, 2).numpy()
    waves = codec.decode_latents(latents.transpose(1, 2).numpy())
    waves = np.asarray(waves).reshape(BATCH, -1, reference.config.audio_channels)
    samples = NUM_FRAMES * reference.hop_length - lost
    assert expected.shape[:2] == (BATCH, samples) and waves.shape[:2] == (BATCH, samples + lost)
    assert expected.std() > 0.01
    assert relative_error(waves[:, :samples], expected) < TOLERANCE
    assert not np.asarray(waves[:, samples:]).any()
