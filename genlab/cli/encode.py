"""`genlab data encode CONFIG`: the token store of a config, encoded by several workers."""

import argparse
import json
import shlex
from typing import NamedTuple

from genlab.codecs.beam import RUNNERS, check_beam, encode_on
from genlab.codecs.pieces import Material
from genlab.config import ConfigError
from genlab.config.errors import shorten
from genlab.data.manifest import MANIFEST_NAME, Manifest
from genlab.experiment import Comparison, DecoderRun
from genlab.load import KINDS, load_experiment
from genlab.run.cache import cache_root, only_builder
from genlab.run.shared import fetch
from genlab.run.trust import load_classes
from genlab.watch.progress import Progress


class ConfigMaterial(NamedTuple):
    """Opens what a config encodes, in a worker: its corpus is built, here or in the shared cache.

    A worker of this machine finds everything where this process does. Classes of your own are read
    from the files that the config names, which other machines need at the same paths.
    """

    config: str
    """The config as JSON."""
    corpus: str
    """Folder of the corpus in the cache."""

    def __call__(self) -> Material:
        """Return the material.

        Raises:
            GenlabError: if corpus or codec cannot be found.
        """
        values = json.loads(self.config)
        load_classes(values)
        config = KINDS[values["kind"]].from_dict(values)
        data = config.data  # pyright: ignore[reportAttributeAccessIssue]
        directory = cache_root() / self.corpus
        if not (directory / MANIFEST_NAME).exists():
            with only_builder(directory.with_name(f".{directory.name}.lock")):
                fetch(directory, MANIFEST_NAME)
        return Material(Manifest.load(directory), data.load_codec(), data.domain.load_units())


def encode_data(arguments: argparse.Namespace) -> None:
    """Build the corpus and encode it on several workers; the store is that of `genlab data`.

    Raises:
        GenlabError: if there is nothing to encode, Beam or an option of it is missing, or a worker
            fails.
    """
    config = _read(arguments)
    try:
        words = shlex.split(arguments.beam or "")
    except ValueError as error:
        raise ConfigError(f"--beam {shorten(arguments.beam)}: {error}") from None
    engine = RUNNERS[arguments.runner](arguments.workers, tuple(words))
    check_beam(engine)
    with Progress() as progress:
        material = Material(
            codec=config.data.load_codec(),  # missing weights must not cost the wait for a corpus
            units=config.data.domain.load_units(),
            manifest=config.data.build_audio(progress),
        )
        opens = ConfigMaterial(json.dumps(config.to_dict()), material.manifest.root.name)
        store = encode_on(engine, opens, material, cache_root(), progress)
    print(f"token store {store.directory}: {store.num_clips:,} clips")


def _read(arguments: argparse.Namespace) -> Comparison | DecoderRun:
    words = [word for word in arguments.overrides if "=" not in word]
    overrides = tuple(word for word in arguments.overrides if "=" in word)
    if len(words) != 1:
        raise ConfigError(
            "encode: expected one config: genlab data encode quickstart --runner direct --workers 2"
        )
    config = load_experiment(words[0], overrides, trust_code=arguments.trust_code)
    if not isinstance(config, Comparison | DecoderRun) or not config.data.has_recordings:
        raise ConfigError(f"{words[0]}: nothing to encode, expected a comparison on recordings")
    return config
