"""What the benchmarks measure, the same for genlab and its peers."""

from genlab.codecs.convnext import StackConfig
from genlab.codecs.dac import DacConfig
from genlab.codecs.encodec import EncodecConfig
from genlab.codecs.mimi import MimiConfig
from genlab.codecs.mimi_convolutions import ConvolutionsConfig
from genlab.codecs.mimi_transformer import WindowTransformerConfig
from genlab.codecs.seanet import SEANetConfig
from genlab.codecs.spectral import SpectralCodecConfig
from genlab.config import Config
from genlab.nets.backbone import BackboneConfig
from genlab.tokens import TokenSpec


class BenchSize(Config):
    """What is measured. The defaults are the sizes at which the peers' numbers were taken."""

    backbone: BackboneConfig = BackboneConfig(width=256, layers=6, heads=4)
    """The transformer of every family."""
    codec: SpectralCodecConfig = SpectralCodecConfig()
    """The in-lab codec."""
    codebooks: int = 8
    """Levels of codes."""
    entries: int = 1024
    """Entries of each codebook."""
    latent_channels: int = 64
    """Channels of the latents."""
    frames: int = 256
    """Frames of a training example."""
    batch: int = 8
    """Clips per batch."""
    masked_steps: tuple[int, ...] = (16, 1)
    """Steps of the masked sampler; each is a workload."""
    diffusion_steps: int = 50
    """Steps of the diffusion sampler."""
    audio_s: float = 10.0
    """Seconds of audio that the codecs encode and decode."""
    encodec: EncodecConfig = EncodecConfig()
    """The EnCodec that its peer runs too."""
    mimi: MimiConfig = MimiConfig()
    """The Mimi that its peer runs too."""
    dac: DacConfig = DacConfig()
    """The DAC that its peer runs too."""

    @property
    def spec(self) -> TokenSpec:
        """The token space of the decoders."""
        return TokenSpec(
            sample_rate_hz=16_000,
            hop_samples=320,
            codebooks=self.codebooks,
            entries=self.entries,
            latent_channels=self.latent_channels,
        )


MEDIUM = BenchSize(backbone=BackboneConfig(width=512, layers=8, heads=8))
QUICK = BenchSize(
    backbone=BackboneConfig(width=32, layers=2, heads=2),
    codec=SpectralCodecConfig(
        encoder=StackConfig(width=16, blocks=1), decoder=StackConfig(width=16, blocks=1)
    ),
    codebooks=2,
    entries=16,
    latent_channels=8,
    frames=16,
    batch=2,
    masked_steps=(2, 1),
    diffusion_steps=2,
    audio_s=0.2,
    encodec=EncodecConfig(
        network=SEANetConfig(latent_channels=8, channels=4, strides=(8, 5, 4, 2), is_causal=True),
        entries=16,
    ),
    mimi=MimiConfig(
        width=16,
        entry_channels=8,
        entries=16,
        convolutions=ConvolutionsConfig(filters=4),
        transformer=WindowTransformerConfig(layers=2, heads=2, inner_width=16),
    ),
    dac=DacConfig(encoder_width=4, decoder_width=32, latent_channels=64, entries=16),
)
