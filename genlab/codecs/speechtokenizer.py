"""SpeechTokenizer: a speech codec at 50 Hz whose first level was trained to hold what is said.

In: waves "b s" at 16 kHz. Out: `Tokens` with latents "b t d" and 8 levels of codes "b t k", the
first of them semantic (distilled from HuBERT), the rest what it leaves over; and waves from either
view (Zhang et al. 2023, arXiv 2308.16692, section 3). The network is SEANet as in EnCodec
(seanet.py), not causal, with an LSTM in both directions in the encoder. The projection to HuBERT's
features is used in training only and is not here.

The weights are published as a pickle, which genlab never reads. Convert them once, where torch is
installed, and keep the published config.json beside the result:

    import torch, safetensors.torch
    weights = torch.load("SpeechTokenizer.pt", map_location="cpu", weights_only=True)
    copies = {name: part.clone() for name, part in weights.items()}
    safetensors.torch.save_file(copies, "model.safetensors")
"""

from typing import Any, ClassVar, Literal, Self

import pydantic
from jaxtyping import Array, Key

from genlab.codecs.hub import HubConfig
from genlab.codecs.seanet import SEANetCodec, SEANetConfig, torch_name
from genlab.config import ConfigError
from genlab.tokens import TokenSpec

_FIELDS = {"sample_rate": "sample_rate_hz", "n_q": "codebooks", "codebook_size": "entries"}
_NETWORK_FIELDS = {
    "dimension": "latent_channels",
    "n_filters": "channels",
    "strides": "strides",
    "residual_kernel_size": "residual_kernel_frames",
    "n_residual_layers": "residual_layers",
    "dilation_base": "dilation_growth",
    "lstm_layers": "lstm_layers",
    "bidirectional": "is_bidirectional",
}


class SpeechTokenizerConfig(HubConfig):
    """Shape of a SpeechTokenizer; the defaults are those of the published model."""

    hub_id: ClassVar[str] = "fnlp/SpeechTokenizer"
    hub_subfolder: ClassVar[str] = "speechtokenizer_hubert_avg"
    # What only training needs, and levels past those that are used.
    published_extras: ClassVar[str] = (
        r"transform\.(weight|bias)|quantizer\.vq\.layers\.\d+\._codebook\.(inited|cluster_size|embed_avg|embed)"
    )
    conversion: ClassVar[str] = (
        "SpeechTokenizer is published as a pickle, SpeechTokenizer.pt; "
        "genlab/codecs/speechtokenizer.py begins with the lines that convert it, to be run where "
        "torch is installed"
    )

    kind: Literal["speechtokenizer"] = "speechtokenizer"
    sample_rate_hz: int = pydantic.Field(default=16_000, ge=1)
    """Sample rate of waves, in Hz."""
    codebooks: int = pydantic.Field(default=8, ge=1)
    """Levels in use, from the first on, which is the semantic one; the files hold 8."""
    entries: int = pydantic.Field(default=1024, ge=2, le=2**15)
    """Entries of each codebook; at most 2**15, because stores keep codes as int16."""
    network: SEANetConfig = SEANetConfig(
        latent_channels=1024, channels=64, strides=(8, 5, 4, 2), is_bidirectional=True
    )
    """Encoder and decoder."""

    @property
    def spec(self) -> TokenSpec:
        """The token space this codec makes."""
        return TokenSpec(
            sample_rate_hz=self.sample_rate_hz,
            hop_samples=self.network.hop_samples,
            codebooks=self.codebooks,
            entries=self.entries,
            latent_channels=self.network.latent_channels,
        )

    @classmethod
    def from_published(cls, values: dict[str, Any]) -> Self:
        """Return the config that a published config.json describes.

        Raises:
            ConfigError: if the activation is not ELU, or a field of the shape has no meaning.
        """
        if values.get("activation", "ELU") != "ELU":
            raise ConfigError(f"config.json: activation={values['activation']!r}, expected 'ELU'")
        known = {ours: values[theirs] for theirs, ours in _FIELDS.items() if theirs in values}
        network = {
            ours: values[theirs] for theirs, ours in _NETWORK_FIELDS.items() if theirs in values
        }
        return cls.from_dict({**known, "network": cls().network.to_dict() | network})

    def published_name(self, path: str) -> str | list[str]:
        """Return the published name of our parameter at `path`."""
        if path == "entries":
            return [
                f"quantizer.vq.layers.{level}._codebook.embed" for level in range(self.codebooks)
            ]
        coder, layer = path.split(".", 1)
        layer = layer.replace("conv.", "conv.conv.").replace("transposed.", "convtr.convtr.")
        return torch_name(f"{coder}.model.{layer}")

    def build(self, *, key: Key[Array, ""]) -> SEANetCodec:
        """Return a codec with random parameters."""
        return SEANetCodec(self.network, self.spec, key=key)
