"""EnCodec: the 24 kHz causal codec of Meta, and the 32 kHz one that MusicGen reads.

In: waves "b s" at 24 or 32 kHz, mono. Out: `Tokens` with latents "b t d" at 75 or 50 frames per
second and codes "b t k"; and waves from either view. The network is SEANet (seanet.py) with weight
normalisation, folded when loaded; the quantiser is residual, so the first levels alone decode
(Defossez et al. 2022, arXiv 2210.13438, sections 3.1, 3.2). The 24 kHz files hold 32 levels, and we
use the 8 of 6 kbit/s unless told otherwise; levels that are not used are not loaded. The 48 kHz
stereo model is refused: it normalises every second of audio by its own loudness and cross-fades
between seconds, and those scales are no tokens. Where we differ: every example of a batch keeps its
own length, and there is no entropy coder.
"""

import math
from typing import Any, ClassVar, Literal, Self

import pydantic
from jaxtyping import Array, Key

from genlab.codecs.hub import HubConfig
from genlab.codecs.seanet import SEANetCodec, SEANetConfig, torch_name
from genlab.config import ConfigError
from genlab.tokens import TokenSpec

DEFAULT_KBPS = 6.0
# Fields of config.json that we have one value of, and which one the published files leave out.
_REQUIRED = {
    "model_type": "encodec",
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "norm_type": "weight_norm",
    "pad_mode": "reflect",
    "trim_right_ratio": 1.0,
}
_FIELDS = {"sampling_rate": "sample_rate_hz", "codebook_size": "entries"}
_NETWORK_FIELDS = {
    "hidden_size": "latent_channels",
    "num_filters": "channels",
    "upsampling_ratios": "strides",
    "kernel_size": "kernel_frames",
    "last_kernel_size": "last_kernel_frames",
    "residual_kernel_size": "residual_kernel_frames",
    "num_residual_layers": "residual_layers",
    "dilation_growth_rate": "dilation_growth",
    "compress": "compression",
    "num_lstm_layers": "lstm_layers",
    "use_causal_conv": "is_causal",
    "use_conv_shortcut": "has_conv_shortcut",
}
_STEREO = (
    "only the mono models are ported; the 48 kHz one scales each second by its loudness, which "
    "tokens do not hold"
)


class EncodecConfig(HubConfig):
    """Shape of an EnCodec; the defaults are those of the 24 kHz model."""

    hub_id: ClassVar[str] = "facebook/encodec_24khz"
    # Sums and counts that only training needs, and levels past those that are used.
    published_extras: ClassVar[str] = (
        r"quantizer\.layers\.\d+\.codebook\.(inited|cluster_size|embed_avg|embed)"
    )

    kind: Literal["encodec"] = "encodec"
    sample_rate_hz: int = pydantic.Field(default=24_000, ge=1)
    """Sample rate of waves, in Hz."""
    codebooks: int = pydantic.Field(default=8, ge=1)
    """Levels in use, from the first on; the published files may hold more."""
    entries: int = pydantic.Field(default=1024, ge=2, le=2**15)
    """Entries of each codebook; at most 2**15, because stores keep codes as int16."""
    network: SEANetConfig = SEANetConfig(
        latent_channels=128, channels=32, strides=(8, 5, 4, 2), is_causal=True
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
            causal=self.network.is_causal,
        )

    @classmethod
    def from_published(cls, values: dict[str, Any]) -> Self:
        """Return the config that a published config.json describes.

        Raises:
            ConfigError: if a field asks for stereo, loudness normalisation, or another part that is
                not ported.
        """
        for field, expected in _REQUIRED.items():
            found = values.get(field, expected)
            if found != expected:
                why = (
                    f"; {_STEREO}"
                    if field in {"audio_channels", "normalize", "chunk_length_s"}
                    else ""
                )
                raise ConfigError(f"config.json: {field}={found!r}, expected {expected!r}{why}")
        # What transformers leaves out of a config.json has the value of the 24 kHz model.
        known = {ours: values[theirs] for theirs, ours in _FIELDS.items() if theirs in values}
        network = {
            ours: values[theirs] for theirs, ours in _NETWORK_FIELDS.items() if theirs in values
        }
        config = cls.from_dict({**known, "network": cls().network.to_dict() | network})
        width = config.network.latent_channels
        if values.get("codebook_dim") not in (None, width):
            raise ConfigError(
                f"config.json: codebook_dim={values['codebook_dim']!r}, expected "
                f"hidden_size={width}"
            )
        return config.from_dict(
            {
                **config.to_dict(),
                "codebooks": config._levels(values.get("target_bandwidths", [24.0])),
            }
        )

    def _levels(self, bandwidths_kbps: Any) -> int:
        """Return how many levels `DEFAULT_KBPS` pays for, at most those of the top bandwidth."""
        bits_per_level = math.ceil(self.spec.frame_hz) * math.log2(self.entries)
        try:
            kbps = min(DEFAULT_KBPS, float(bandwidths_kbps[-1]))
            return max(1, int(1000 * kbps // bits_per_level))
        except (TypeError, ValueError, LookupError):
            raise ConfigError(
                f"config.json: target_bandwidths={bandwidths_kbps!r}, expected numbers of kbit/s"
            ) from None

    def published_name(self, path: str) -> str | list[str]:
        """Return the published name of our parameter at `path`."""
        if path == "entries":
            return [f"quantizer.layers.{level}.codebook.embed" for level in range(self.codebooks)]
        coder, layer = path.split(".", 1)
        return torch_name(f"{coder}.layers.{layer}".replace(".transposed.", ".conv."))

    def build(self, *, key: Key[Array, ""]) -> SEANetCodec:
        """Return a codec with random parameters."""
        return SEANetCodec(self.network, self.spec, key=key)
