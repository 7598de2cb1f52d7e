"""What `genlab data CONFIG` says of a corpus, and `genlab data check CONFIG`: all of it is read."""

import argparse
from collections.abc import Sequence

from genlab.config import ConfigError
from genlab.data.known_entropy import KnownEntropy
from genlab.data.manifest import Clip, Manifest
from genlab.data.own.source import OwnTokens
from genlab.experiment import Comparison, DecoderRun
from genlab.load import load_experiment
from genlab.watch.progress import Progress


def describe_corpus(manifest: Manifest) -> list[str]:
    """Return its size, that of each split, every skipped file with its reason, and notes."""
    from genlab.data.folder import ImportReport
    from genlab.data.listing import count_of

    def describe(clips: Sequence[Clip]) -> str:
        minutes = sum(clip.duration_s for clip in clips) / 60
        return f"{count_of(len(clips), 'clip')}, {minutes:.1f} min"

    speakers = count_of(len(manifest.speakers), "speaker")
    size = f"{describe(manifest.clips)}, {speakers}"
    lines = [f"{manifest.root}: {size}, manifest {manifest.hash()}"]
    for name in manifest.splits:
        clips = manifest.split(name)
        texts = count_of(len({clip.text for clip in clips if clip.text}), "text")
        lines.append(f"  {name}: {describe(clips)}, {texts}")
    report = ImportReport.load(manifest.root)
    if report is not None:
        lines += [f"  skipped {item.path}: {item.reason}" for item in report.skipped]
        lines += [f"  note: {note}" for note in report.all_notes]
    return lines


def check_data(arguments: argparse.Namespace) -> int:
    """Read every byte of the corpora and the token store of a config."""
    from genlab.data.corpus import find_corpora
    from genlab.data.digests import check_directories
    from genlab.data.manifest import MANIFEST_NAME
    from genlab.data.store import INFO_NAME

    if not arguments.overrides:
        raise ConfigError("check: which config? For example: genlab data check quickstart")
    path, *overrides = arguments.overrides
    config = load_experiment(path, tuple(overrides), trust_code=arguments.trust_code)
    has_store = isinstance(config, Comparison | DecoderRun)
    corpora = [config.data.corpus] if has_store else [share.corpus for share in config.data]
    with Progress() as progress:
        directories = [
            directory
            for corpus in corpora
            if not isinstance(corpus, KnownEntropy | OwnTokens)
            for directory in find_corpora(corpus)
        ]
        lines = check_directories(directories, MANIFEST_NAME, progress)
        # The name of a store holds the digest of its corpus.
        is_findable = all((directory / MANIFEST_NAME).exists() for directory in directories)
        stores = [config.data.find_store()] if has_store and is_findable else []
        lines += check_directories(stores, INFO_NAME, progress)
    print("\n".join(lines))
    return 0
