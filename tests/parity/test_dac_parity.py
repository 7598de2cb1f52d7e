"""The Descript codec against transformers' DacModel with random weights, read from the files that
it saves.

Strides 2, 4 and 5: with the odd one the reference decodes a few samples less than t * hop. What it
decodes is compared in full; ours are silent after it.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from published_toys import Compiled  # noqa: E402

from genlab.codecs.dac import DacConfig  # noqa: E402
from genlab.codecs.published import load_published  # noqa: E402

pytestmark = pytest.mark.parity

STRIDES = [2, 4, 5]
HOP, NUM_FRAMES, BATCH = 40, 45, 2
# The reference loses one of five frames at the first upsampling, and 4 * 2 samples come from each.
LOST_SAMPLES = 8
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a DacModel with random weights, and our codec read from its files."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reference = transformers.DacModel(
        transformers.DacConfig(
            encoder_hidden_size=8,
            decoder_hidden_size=32,
            downsampling_ratios=STRIDES,
            n_codebooks=4,
            codebook_size=64,
            codebook_dim=8,
            sampling_rate=16_000,
        )
    ).eval()
    with torch.no_grad():
        # The first weights of the reference are so small that all frames would get the same code.
        for module in reference.modules():
            if isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
                taps = module.kernel_size[0] / (
                    module.stride[0] if "Transpose" in type(module).__name__ else 1
                )
                module.weight.normal_(std=(0.5 / (module.in_channels * taps)) ** 0.5)
                module.bias.normal_(std=0.1)
            elif isinstance(module, torch.nn.Embedding):
                module.weight.normal_()
        for name, parameter in reference.named_parameters():
            if name.endswith("alpha"):
                parameter.uniform_(0.3, 2)
    directory = tmp_path_factory.mktemp("dac")
    reference.save_pretrained(directory)
    return reference, Compiled(load_published(DacConfig, str(directory)).codec)


def make_waves():
    return 0.3 * np.random.default_rng(3).normal(size=(BATCH, NUM_FRAMES * HOP)).astype(np.float32)


def relative_error(found, expected):
    """Return the largest difference, in parts of the reference's peak."""
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def encode_reference(reference):
    waves = torch.from_numpy(make_waves())[:, None]
    with torch.no_grad():
        return reference.encode(waves), reference.encoder(waves).transpose(1, 2).numpy()


def test_codes_and_latents_are_the_references(models):
    reference, codec = models
    encoded, latents = encode_reference(reference)
    tokens = codec.encode(make_waves())
    assert latents.std() > 0.1
    assert relative_error(tokens.latents, latents) < TOLERANCE
    codes = encoded.audio_codes.numpy().transpose(0, 2, 1)
    assert min(len(np.unique(codes[..., level])) for level in range(4)) > 10
    assert (np.asarray(tokens.codes) == codes).mean() == 1


def test_what_entries_add_is_what_the_references_decoder_reads(models):
    reference, codec = models
    encoded, _ = encode_reference(reference)
    codes, vectors = encoded.audio_codes.numpy(), np.asarray(codec.codec.code_vectors)
    found = sum(vectors[level][codes[:, level]] for level in range(4))
    assert (
        relative_error(found, encoded.quantized_representation.transpose(1, 2).numpy()) < TOLERANCE
    )


@pytest.mark.parametrize("levels", [1, 4])
def test_codes_decode_as_by_the_reference(models, levels):
    reference, codec = models
    codes = encode_reference(reference)[0].audio_codes[:, :levels]
    with torch.no_grad():
        expected = reference.decode(audio_codes=codes).audio_values.numpy()
    waves = codec.decode_codes(codes.numpy().transpose(0, 2, 1).astype(np.int32))
    compare_waves(waves, expected)


def test_latents_decode_as_by_the_reference(models):
    reference, codec = models
    _, latents = encode_reference(reference)
    with torch.no_grad():
        expected = reference.decode(torch.from_numpy(latents).transpose(1, 2)).audio_values.numpy()
    compare_waves(codec.decode_latents(latents), expected)


def compare_waves(waves, expected):
    samples = NUM_FRAMES * HOP - LOST_SAMPLES
    assert expected.shape == (BATCH, samples) and waves.shape == (BATCH, NUM_FRAMES * HOP)
    assert expected.std() > 0.01
    assert relative_error(waves[:, :samples], expected) < TOLERANCE
    assert not np.asarray(waves[:, samples:]).any()
