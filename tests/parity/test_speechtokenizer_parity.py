"""SpeechTokenizer against the package of its authors with random weights, converted as our
docstring says.

The package imports its trainer, which needs much that the model does not; an empty module stands in
for it. Installing it with `pip install --no-deps speechtokenizer einops` is enough.
"""

import json
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("einops")
if "speechtokenizer" not in sys.modules:
    trainer = types.ModuleType("speechtokenizer.trainer")
    trainer.SpeechTokenizerTrainer = None
    sys.modules["speechtokenizer.trainer"] = trainer
authors = pytest.importorskip("speechtokenizer.model")

from published_toys import Compiled  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from seanet_reference import check_codes, relative_error, spread_entries  # noqa: E402

from genlab.codecs.published import load_published  # noqa: E402
from genlab.codecs.speechtokenizer import SpeechTokenizerConfig  # noqa: E402

pytestmark = pytest.mark.parity

CONFIG = {
    "sample_rate": 16_000,
    "n_filters": 8,
    "strides": [4, 3, 2],
    "dimension": 16,
    "semantic_dimension": 12,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 2,
    "activation": "ELU",
    "codebook_size": 64,
    "n_q": 4,
    "batch_size": 60,
}
BATCH, FRAMES, HOP = 2, 50, 24
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return the authors' model with random weights, and our codec read from converted files."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reference = authors.SpeechTokenizer(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            # The first weights of PyTorch lose the signal on its way through the layers.
            if name.endswith("weight_g"):
                parameter.mul_(2)
            elif "bias" in name:
                parameter.normal_(std=0.1)
        latents = (
            reference.encoder(torch.from_numpy(make_waves())[:, None]).transpose(1, 2).flatten(0, 1)
        )
        spread_entries([layer.codebook for layer in reference.quantizer.vq.layers], latents)
    directory = tmp_path_factory.mktemp("speechtokenizer")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    torch.save(reference.state_dict(), directory / "SpeechTokenizer.pt")
    weights = torch.load(directory / "SpeechTokenizer.pt", map_location="cpu", weights_only=True)
    save_file(
        {name: part.clone() for name, part in weights.items()}, directory / "model.safetensors"
    )
    return reference, Compiled(load_published(SpeechTokenizerConfig, str(directory)).codec)


def make_waves():
    return np.random.default_rng(3).normal(size=(BATCH, FRAMES * HOP)).astype(np.float32)


def encode_reference(reference, waves):
    """Return codes [b t k] and latents [b t d]."""
    waves = torch.from_numpy(waves)[:, None]
    with torch.no_grad():
        return reference.encode(waves).permute(1, 2, 0).numpy(), reference.encoder(waves).transpose(
            1, 2
        ).numpy()


def decode_reference(reference, codes):
    with torch.no_grad():
        return reference.decode(torch.from_numpy(codes).permute(2, 0, 1))[:, 0].numpy()


def test_codes_and_latents_are_the_references(models):
    reference, codec = models
    codes, latents = encode_reference(reference, make_waves())
    tokens = codec.encode(make_waves())
    assert latents.std(axis=1).mean() > 0.1
    assert relative_error(tokens.latents, latents) < TOLERANCE
    check_codes(tokens.codes, codes, latents, codec.codec.code_vectors)


@pytest.mark.parametrize("levels", [1, 4])
def test_codes_decode_to_the_references_waves(models, levels):
    reference, codec = models
    codes = encode_reference(reference, make_waves())[0][..., :levels]
    expected = decode_reference(reference, codes)
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
    padded = np.pad(np.repeat(codes, 2, axis=0), ((0, 0), (0, FRAMES - frames), (0, 0))).astype(
        np.int32
    )
    decoded = codec.decode_codes(padded, np.array([FRAMES, frames]))[1:, : frames * HOP]
    assert relative_error(decoded, decode_reference(reference, codes)) < TOLERANCE
