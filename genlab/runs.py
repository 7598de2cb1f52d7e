"""What every training run has: the codec and the recogniser; decoders follow in experiment.py."""

from typing import ClassVar, Literal

import pydantic
from jaxtyping import Array, Key

from genlab.codecs.frozen import load_exported
from genlab.codecs.spectral import SpectralCodec, SpectralCodecConfig
from genlab.config import (
    Config,
    Count,
    Name,
    Seed,
    Steps,
)
from genlab.data.audio import AudioFormat
from genlab.data.batches import BatchSource
from genlab.data.corpus import AnyCorpus, Progress, build_corpus
from genlab.data.waves import AugmentConfig, check_formats, clips_dataset, wave_dataset
from genlab.recognisers.ctc import Recogniser, RecogniserConfig
from genlab.train import TrainSettings
from genlab.training.optim import OptimConfig

MAX_BATCH_SAMPLES = 2**32


class CorpusShare(Config):
    """A corpus and the share of training crops drawn from it."""

    corpus: AnyCorpus
    """Where clips come from."""
    share: float = pydantic.Field(default=1.0, gt=0)
    """Weight of this corpus when crops are drawn; weights need not sum to 1."""


class Run(Config):
    """What every training run has."""

    has_looks: ClassVar[bool] = False
    name: Name
    """Name of the run directory."""
    seed: Seed = 0
    """Seed of initialisation, data order and noise."""
    steps: Steps
    """Training steps; each updates the parameters once.."""
    batch_size: int = pydantic.Field(ge=1)
    """Examples per update."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and schedule."""
    settings: TrainSettings = TrainSettings()
    """How the run is watched and saved; it changes no result and stays out of the hash."""

    @pydantic.model_validator(mode="after")
    def _check_averages(self) -> "Run":
        if self.optim.ema_powers is not None and not self.has_looks:
            raise ValueError(
                f"optim.ema_powers={list(self.optim.ema_powers)}: only decoders look at "
                "validation, which chooses one of the averages; use optim.ema_decay"
            )
        return self

    @property
    def slug(self) -> str:
        """Name of the run directory: the name and a hash of everything that changes the result."""
        return f"{self.name}-{self.digest(exclude={'settings', 'name'})}"


class CodecRun(Run):
    """Train the in-lab codec."""

    kind: Literal["codec"] = "codec"
    loss_unit: ClassVar[str] = "weighted"
    codec: SpectralCodecConfig
    """Shape and losses of the codec."""
    start_from: str | None = None
    """Exported weights of another run to start from; None trains from scratch."""
    data: tuple[CorpusShare, ...] = pydantic.Field(min_length=1)
    """The corpora and how often each is drawn from."""
    crop_samples: Count
    """Length of a training crop, in samples; a multiple of the hop."""
    augment: AugmentConfig | None = None
    """Random changes per crop; None leaves crops as they are."""

    @pydantic.model_validator(mode="after")
    def _check_crop(self) -> "CodecRun":
        if self.crop_samples % self.codec.hop_samples:
            raise ValueError(
                f"crop_samples={self.crop_samples} must be a multiple of "
                f"codec.hop_samples={self.codec.hop_samples}"
            )
        if self.batch_size * self.crop_samples > MAX_BATCH_SAMPLES:
            raise ValueError(
                f"batch_size={self.batch_size} times crop_samples={self.crop_samples}: more than "
                f"{MAX_BATCH_SAMPLES} samples in a batch; lower one of them"
            )
        return self

    def build(self, key: Key[Array, ""]) -> SpectralCodec:
        """Return the codec that training starts with."""
        codec = self.codec.build(key=key)
        if self.start_from is not None:
            codec.start_from(load_exported(self.start_from)[0])
        return codec

    def source(self, progress: Progress | None = None) -> BatchSource:
        """Return batches of random crops, building the corpora first."""
        manifests = [
            (build_corpus(item.corpus, progress=progress), item.share) for item in self.data
        ]
        codec = self.codec
        check_formats(
            manifests,
            AudioFormat(codec.sample_rate_hz, codec.channels),
            "set codec.sample_rate_hz and codec.channels, or the corpus's sample_rate_hz and "
            "channels",
        )
        dataset = wave_dataset(
            manifests,
            split="train",
            crop_samples=self.crop_samples,
            seed=self.seed,
            augment=self.augment,
        )
        return BatchSource(dataset, self.batch_size)


class RecogniserRun(Run):
    """Train the in-lab CTC recogniser."""

    kind: Literal["recogniser"] = "recogniser"
    loss_unit: ClassVar[str] = "ctc_nats_per_symbol"
    recogniser: RecogniserConfig
    """Shape of the recogniser."""
    data: tuple[CorpusShare, ...] = pydantic.Field(min_length=1)
    """The corpora and how often each is drawn from."""
    max_samples: Count | None = None
    """Longest training clip, in samples; None takes the longest there is."""
    augment: AugmentConfig | None = None
    """Random changes per clip; None leaves clips as they are."""

    def build(self, key: Key[Array, ""]) -> Recogniser:
        """Return the untrained recogniser."""
        return self.recogniser.build(key=key)

    def source(self, progress: Progress | None = None) -> BatchSource:
        """Return batches of whole clips with their text."""
        manifests = [
            (build_corpus(item.corpus, progress=progress), item.share) for item in self.data
        ]
        expected = AudioFormat(self.recogniser.sample_rate_hz)
        check_formats(manifests, expected, "set the corpus's sample_rate_hz and channels")
        dataset = clips_dataset(
            manifests,
            split="train",
            seed=self.seed,
            max_samples=self.max_samples,
            augment=self.augment,
        )
        return BatchSource(dataset, self.batch_size)
