"""What every training run has: the codec and the recogniser, and the tokens that decoders train on;
decoders follow in experiment.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pydantic
from jaxtyping import Array, Key

from genlab.codecs.cache import encode_corpus, store_directory
from genlab.codecs.frozen import SHIPPED as SHIPPED_CODEC
from genlab.codecs.frozen import FrozenCodec, load_codec, load_exported, token_spec
from genlab.codecs.own import DecodedManifest, NoCodec, open_own, own_spec, tell_own
from genlab.codecs.spectral import SpectralCodec, SpectralCodecConfig
from genlab.config import (
    Config,
    Count,
    GenlabError,
    Name,
    Seed,
    Steps,
    added,
)
from genlab.config.open import Open
from genlab.data.audio import AudioFormat
from genlab.data.batches import BatchSource
from genlab.data.corpus import CORPORA, AnyCorpus, Progress, build_corpus, find_corpora
from genlab.data.known_entropy import KnownEntropy, draw_store, find_drawn, without_audio
from genlab.data.manifest import Manifest
from genlab.data.own.source import OwnTokens, TokenFiles, name_own
from genlab.data.recipe import Corpus, format_of
from genlab.data.store import TokenStore
from genlab.data.told import gather_values, try_values
from genlab.data.valued import Valued
from genlab.data.waves import AugmentConfig, check_formats, clips_dataset, wave_dataset
from genlab.evaluate.domains import CODES, SPEECH, Domain, domain_of
from genlab.recognisers.ctc import Recogniser, RecogniserConfig
from genlab.run.cache import cache_root
from genlab.tokens import TokenSpec
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


# Tokens that never were audio have no recipe.
AnyTokenSource = Annotated[Corpus, Open(*CORPORA, KnownEntropy, OwnTokens)]


class TokenData(Config):
    """Which tokens the arms train on."""

    corpus: AnyTokenSource
    """The corpus. A `KnownEntropy` is tokens from the start: it has neither audio nor codec, and
    its clips are drawn. `OwnTokens` were encoded elsewhere; tokens=PATH is short for them.
    """
    codec: str | None = SHIPPED_CODEC
    """The frozen codec: a shipped name, a path of exported weights, KIND or KIND:SOURCE; null only
    for own tokens, which then are scored in bits and not heard.
    """
    num_frames: int = pydantic.Field(ge=1)
    """Frames of one training example; longer clips are cut at random places."""
    train_clips: Count | None = None
    """Train on a fixed random part of the training split, to see what repeated data do; prompts
    stay as they are.
    """
    train_frames: Annotated[int, pydantic.Field(ge=1)] | None = added(None)
    """Frames of one training example, if fewer than `num_frames`, which then is the length that is
    looked at, sampled and scored: trained short, scored long.
    """

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read_tokens(cls, values: object) -> object:
        return name_own(values, SHIPPED_CODEC)

    @pydantic.model_validator(mode="after")
    def _check_frames(self) -> "TokenData":
        if self.train_frames is not None and self.train_frames > self.num_frames:
            raise ValueError(
                f"train_frames={self.train_frames}: more than num_frames={self.num_frames}, the "
                "length that is scored; raise num_frames, or set train_frames=null"
            )
        source = self.source
        if self.codec is None and self.own is None:
            raise ValueError("codec=null: a corpus of audio is encoded by a codec; name one")
        if source is not None and self.num_frames > source.clip_frames:
            raise ValueError(
                f"num_frames={self.num_frames}: longer than the clips of the source, whose scores "
                "would then be for frames no arm was trained on; raise "
                f"corpus.clip_frames={source.clip_frames}"
            )
        return self

    @property
    def example_frames(self) -> int:
        """Frames of one training example."""
        return self.train_frames or self.num_frames

    @property
    def source(self) -> KnownEntropy | None:
        """What draws the tokens, if they never were audio; None for a corpus."""
        return self.corpus if isinstance(self.corpus, KnownEntropy) else None

    @property
    def own(self) -> TokenFiles | None:
        """Tokens that were encoded elsewhere; None for a corpus that genlab encodes."""
        return self.corpus.files if isinstance(self.corpus, OwnTokens) else None

    @property
    def has_recordings(self) -> bool:
        """Whether there is audio that genlab encodes itself."""
        return self.source is None and self.own is None

    @property
    def is_heard(self) -> bool:
        """Whether there is a codec, so that tokens can be decoded and audio scored."""
        return self.codec is not None

    @property
    def spec(self) -> TokenSpec:
        """The token space, known before any corpus is built.

        Raises:
            GenlabError: if there is no such codec, or own tokens are not of it.
        """
        if self.source is not None:
            return self.source.spec
        return (
            token_spec(self.require_codec()) if self.own is None else own_spec(self.own, self.codec)
        )

    def require_codec(self) -> str:
        """Return the codec that is named.

        Raises:
            GenlabError: if none is.
        """
        if self.codec is None:
            raise GenlabError(
                "data.codec=null: own tokens are not heard without the codec that made them, and "
                "this needs audio; name it, for example data.codec=mimi:DIRECTORY"
            )
        return self.codec

    @property
    def domain(self) -> Domain:
        """What the corpus is measured by.

        Raises:
            GenlabError: if the tokens never were audio.
        """
        if self.source is not None:
            raise without_audio()
        if self.own is not None:
            return SPEECH if self.is_heard else CODES
        return domain_of(self.corpus)

    def load_codec(self) -> FrozenCodec:
        """Return the codec; it takes and gives waves at the rate of corpora and metrics, not at its
        own.

        Raises:
            GenlabError: if the tokens never were audio, or no codec is named.
        """
        if self.source is not None:
            raise without_audio()
        return load_codec(self.require_codec(), *format_of(self.corpus))

    def load_clips(self, progress: Progress | None = None) -> tuple[FrozenCodec, Manifest]:
        """Return the codec and the clips. Where no codec is named one stands in that is silent.

        Raises:
            GenlabError: if the tokens never were audio.
        """
        if self.own is None or self.is_heard:
            return self.load_codec(), self.build_audio(progress)
        store = self.open(progress)
        codec = NoCodec(store.info.spec, store.info.codec_fingerprint)
        return codec, DecodedManifest(store, codec)

    def build_audio(self, progress: Progress | None = None) -> Manifest:
        """Return the corpus, building it first.

        Raises:
            GenlabError: if the tokens never were audio.
        """
        if self.source is not None:
            raise without_audio()
        if self.own is not None:
            codec = self.load_codec()
            return DecodedManifest(open_own(self.own, codec, cache_root(), progress), codec)
        return build_corpus(self.corpus, progress=progress)

    def open(
        self,
        progress: Progress | None = None,
        manifest: Manifest | None = None,
        *,
        parts: Sequence[Valued] = (),
    ) -> TokenStore:
        """Return the token store, encoding `manifest` first, or else building the corpus, or
        drawing the tokens.

        `parts` are the named conditions whose values its clips are to have; they are computed once
        and kept.

        Raises:
            GenlabError: if a clip has no such value, or what computes it fails.
        """
        if parts and self.source is not None:
            raise GenlabError(
                f"condition.parts: tokens that are drawn have no {parts[0].name!r}; leave it out"
            )
        if self.source is not None:
            return draw_store(self.source, cache_root())
        if self.own is not None:
            codec = self.load_codec() if self.is_heard else None
            store = open_own(self.own, codec, cache_root(), progress)
            if parts:
                tell_own(store, codec, parts, cache_root(), progress)
            return store
        # missing weights must not cost the wait for a corpus
        codec, units = self.load_codec(), self.domain.load_units()
        manifest = manifest or self.build_audio(progress)
        # Of an encoded corpus all values are computed at once.
        if not store_directory(manifest, codec, units, cache_root()).exists():
            try_values(parts, manifest, codec)
        store = encode_corpus(manifest, codec, units, cache_root(), progress)
        store.part_values = [
            gather_values(part, store, manifest, cache_root(), progress) for part in parts
        ]
        return store

    def find_store(self) -> Path:
        """Return where the token store is or will be; the corpus must be built.

        Raises:
            GenlabError: if it is not, or is damaged, or the codec's weights are missing.
        """
        if self.source is not None:
            return find_drawn(self.source, cache_root())
        if self.own is not None:
            return self.own.find(cache_root())
        manifest = Manifest.load(find_corpora(self.corpus)[-1])
        return store_directory(manifest, self.load_codec(), self.domain.load_units(), cache_root())
