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
from genlab.data.batches import BatchSource
from genlab.data.corpus import Corpus, Progress, build_corpus
from genlab.data.waves import AugmentConfig, clips_dataset, wave_dataset
from genlab.recognisers.ctc import Recogniser, RecogniserConfig
from genlab.train import TrainSettings
from genlab.training.optim import OptimConfig

MAX_BATCH_SAMPLES = 2**32


class CorpusShare(Config):
    """A corpus and the share of training crops drawn from it."""

    corpus: Corpus
    share: float = pydantic.Field(default=1.0, gt=0)


class Run(Config):
    """What every training run has. `settings` do not change the result and stay out of the hash."""

    name: Name
    seed: Seed = 0
    steps: Steps
    batch_size: int = pydantic.Field(ge=1)
    optim: OptimConfig = OptimConfig()
    settings: TrainSettings = TrainSettings()

    @property
    def slug(self) -> str:
        """Name of the run directory: the name and a hash of everything that changes the result."""
        return f"{self.name}-{self.digest(exclude={'settings', 'name'})}"


class CodecRun(Run):
    """Train the in-lab codec, from scratch or from the weights that another run exported
    (`start_from`).
    """

    kind: Literal["codec"] = "codec"
    loss_unit: ClassVar[str] = "weighted"
    codec: SpectralCodecConfig
    start_from: str | None = None
    data: tuple[CorpusShare, ...] = pydantic.Field(min_length=1)
    crop_samples: Count
    augment: AugmentConfig | None = None

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
                f"{MAX_BATCH_SAMPLES} "
                "samples in a batch; lower one of them"
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
    data: tuple[CorpusShare, ...] = pydantic.Field(min_length=1)
    max_samples: Count | None = None
    augment: AugmentConfig | None = None

    def build(self, key: Key[Array, ""]) -> Recogniser:
        """Return the untrained recogniser."""
        return self.recogniser.build(key=key)

    def source(self, progress: Progress | None = None) -> BatchSource:
        """Return batches of whole clips with their text."""
        manifests = [
            (build_corpus(item.corpus, progress=progress), item.share) for item in self.data
        ]
        dataset = clips_dataset(
            manifests,
            split="train",
            seed=self.seed,
            max_samples=self.max_samples,
            augment=self.augment,
        )
        return BatchSource(dataset, self.batch_size)
