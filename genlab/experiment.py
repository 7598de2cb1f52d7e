"""What a config file returns: one frozen object that says everything about a run.

`CodecRun` and `RecogniserRun` train on waveforms, `DecoderRun` trains one decoder on tokens, and `Comparison` is the main job:
several arms that share everything but the decoder, and become one `DecoderRun` each once the budget is solved. Every run
offers `build(key)` and `source()`, which is all that `train.py` needs. A config file is Python with a function `config()`; the
same commands accept the `config.json` that a run directory holds.
"""

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from flax import nnx
from jaxtyping import Array, Key

from genlab.codecs.spectral import SpectralCodecConfig
from genlab.config import Config, ConfigError
from genlab.data.batches import BatchSource
from genlab.data.corpus import Corpus, Progress, build_corpus
from genlab.data.waves import AugmentConfig, clips_dataset, wave_dataset
from genlab.optim import OptimConfig
from genlab.recognisers.ctc import RecogniserConfig
from genlab.train import TrainSettings


class CorpusShare(Config):
    """A corpus and the share of training crops drawn from it."""

    corpus: Corpus
    share: float = pydantic.Field(default=1.0, gt=0)


class Run(Config):
    """What every training run has. `settings` do not change the result and stay out of the hash."""

    name: str
    seed: int = 0
    steps: int = pydantic.Field(ge=1)
    batch_size: int = pydantic.Field(ge=1)
    optim: OptimConfig = OptimConfig()
    settings: TrainSettings = TrainSettings()

    @property
    def slug(self) -> str:
        """Name of the run directory: the name and a hash of everything that changes the result."""
        return f"{self.name}-{self.digest(exclude={'settings', 'name'})}"


class CodecRun(Run):
    """Train the in-lab codec."""

    kind: Literal["codec"] = "codec"
    codec: SpectralCodecConfig
    data: tuple[CorpusShare, ...]
    crop_samples: int
    augment: AugmentConfig | None = None

    def build(self, key: Key[Array, ""]) -> nnx.Module:
        """Return the untrained codec."""
        return self.codec.build(key=key)

    def source(self, progress: Progress | None = None) -> BatchSource:
        """Return batches of random crops, building the corpora first."""
        manifests = [(build_corpus(item.corpus, progress=progress), item.share) for item in self.data]
        dataset = wave_dataset(
            manifests, split="train", crop_samples=self.crop_samples, seed=self.seed, augment=self.augment
        )
        return BatchSource(dataset, self.batch_size)


class RecogniserRun(Run):
    """Train the in-lab CTC recogniser."""

    kind: Literal["recogniser"] = "recogniser"
    recogniser: RecogniserConfig
    data: tuple[CorpusShare, ...]
    max_samples: int | None = None
    augment: AugmentConfig | None = None

    def build(self, key: Key[Array, ""]) -> nnx.Module:
        """Return the untrained recogniser."""
        return self.recogniser.build(key=key)

    def source(self, progress: Progress | None = None) -> BatchSource:
        """Return batches of whole clips with their text."""
        manifests = [(build_corpus(item.corpus, progress=progress), item.share) for item in self.data]
        dataset = clips_dataset(
            manifests, split="train", seed=self.seed, max_samples=self.max_samples, augment=self.augment
        )
        return BatchSource(dataset, self.batch_size)


Experiment = Annotated[CodecRun | RecogniserRun, pydantic.Field(discriminator="kind")]
KINDS: dict[str, type[Config]] = {"codec": CodecRun, "recogniser": RecogniserRun}


def load_experiment(path: str | Path, overrides: tuple[str, ...] = ()) -> Any:
    """Return the experiment of a config file, of a `config.json`, or of a run directory, with overrides applied.

    Raises:
        ConfigError: if there is no such file, it has no `config()`, or a field is wrong.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"config {path}: no such file; give a config file such as configs/quickstart.py or a run directory")
    if path.suffix == ".json":
        values = json.loads(path.read_text())
        kind = values.get("kind")
        if kind not in KINDS:
            raise ConfigError(f"config {path}: kind {kind!r}, expected one of {sorted(KINDS)}")
        return KINDS[kind].from_dict(values, overrides)
    module_spec = importlib.util.spec_from_file_location(f"genlab_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"config {path}: expected a Python file or a config.json")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "config"):
        raise ConfigError(f"config {path}: expected a function config() that returns an experiment")
    return module.config().override(overrides)
