"""Corpora behind one function: a config in, a `Manifest` with audio of one format on disk out.

`build_corpus` is idempotent (a finished corpus is read, not built), resumable (work continues in
`NAME.partial`) and atomic (only a whole corpus carries its final name). The name holds a digest of
the config and of what it reads, so a changed setting or a changed source file makes another corpus
and never mixes with the old one.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated
from weakref import WeakKeyDictionary

from genlab.config import GenlabError, digest
from genlab.config.open import Open, fingerprint
from genlab.data import folder
from genlab.data.chorales import Chorales as Chorales
from genlab.data.classes import ESC50 as ESC50
from genlab.data.classes import SpeechCommands as SpeechCommands
from genlab.data.dialogue import Dialogue as Dialogue
from genlab.data.digests import DIGESTS_NAME, digest_files, write_digests
from genlab.data.embedded import Embedded as Embedded
from genlab.data.folder import Folder as Folder
from genlab.data.folder import ImportConfig, ImportReport
from genlab.data.hf_dataset import HFDataset as HFDataset
from genlab.data.layouts import FSDD as FSDD
from genlab.data.layouts import VCTK as VCTK
from genlab.data.layouts import LibriSpeech as LibriSpeech
from genlab.data.layouts import LJSpeech as LJSpeech
from genlab.data.manifest import MANIFEST_NAME, Manifest
from genlab.data.mixtures import Mixtures as Mixtures
from genlab.data.recipe import Corpus, Recipe, parts_of, recipe_of
from genlab.data.shards import Progress
from genlab.data.sounds import Sounds as Sounds
from genlab.data.utterances import UTTERANCES
from genlab.data.webdataset import Shards as Shards
from genlab.run.cache import cache_root, only_builder
from genlab.run.shared import fetch, share
from genlab.run.stored import remove_leftovers

CORPORA = (*UTTERANCES, Dialogue, Mixtures)
AnyCorpus = Annotated[Corpus, Open(*CORPORA)]

# A command has one `Progress`, and opens its corpus many times.
_summed_up: WeakKeyDictionary[Progress, set[Path]] = WeakKeyDictionary()


def build_corpus(
    config: Corpus,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    *,
    is_quiet: bool = False,
) -> Manifest:
    """Return the manifest of the corpus, building what is missing; unusable files are summed up on
    standard error.

    Args:
        config: a built-in kind, or a class of the user that meets `Corpus` (recipe.py).
        cache_dir: where corpora live; `cache_root()` if absent.
        progress: called with a stage name, the number of things done, and their total.
        is_quiet: if true nothing is summed up: the caller shows the report itself. With a
            `progress` that has seen the summary it is not repeated either.

    Raises:
        GenlabError: if the corpus cannot be built, or a file is unusable and the config says
            `strict`.
    """
    cache_dir = cache_root() if cache_dir is None else Path(cache_dir)
    sources = [build_corpus(part, cache_dir, progress) for part in parts_of(config)]
    recipe = recipe_of(config, sources)
    final = _directory(config, recipe, cache_dir)
    if not (final / MANIFEST_NAME).exists():
        with only_builder(cache_dir / f".{final.name}.lock"):
            # Another process may have built it while this one waited.
            if not (final / MANIFEST_NAME).exists() and not fetch(final, MANIFEST_NAME):
                _build(recipe, cache_dir / f"{final.name}.partial", final, progress)
    share(final, MANIFEST_NAME)
    manifest = Manifest.load(final)
    report = ImportReport.load(final) if manifest.has(folder.REPORT_NAME) else None
    if report is not None and (report.skipped or report.notes or report.copies):
        if report.skipped and isinstance(config, ImportConfig) and config.strict:
            raise GenlabError(
                f"corpus {config.path!r}: refused because strict=true; {report.in_one_line()}; "
                f"full report: {final / folder.REPORT_NAME}"
            )
        told = set() if progress is None else _summed_up.setdefault(progress, set())
        if not is_quiet and final not in told:
            told.add(final)
            where = f"  full report: {final / folder.REPORT_NAME}"
            print(f"corpus {final.name}: {report.summary()}\n{where}", file=sys.stderr)
    return manifest


def _build(recipe: Recipe, partial: Path, final: Path, progress: Progress | None) -> None:
    partial.mkdir(exist_ok=True)
    remove_leftovers(partial)
    clips = recipe.build(partial, progress)
    Manifest(clips, partial).save(partial)
    made = sorted(
        path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file()
    )
    kept = [name for name in made if not name.startswith(("shards/", ".")) and name != DIGESTS_NAME]
    write_digests(partial, digest_files(partial, kept))
    # A class of the user may not have worked in shards.
    shutil.rmtree(partial / "shards", ignore_errors=True)
    if final.exists():  # a directory without a manifest is nothing that was ever finished
        shutil.rmtree(final)
    os.replace(partial, final)


def find_corpora(config: Corpus, cache_dir: Path | None = None) -> list[Path]:
    """Return where the corpus is or will be built, after those that it is made of; nothing is
    built.

    Raises:
        GenlabError: if its files cannot be listed, or what it is made of is not built or damaged.
    """
    cache_dir = cache_root() if cache_dir is None else Path(cache_dir)
    parts = [find_corpora(part, cache_dir) for part in parts_of(config)]
    inner = [directory for part in parts for directory in part]
    if not all((part[-1] / MANIFEST_NAME).exists() for part in parts):
        return inner
    recipe = recipe_of(config, [Manifest.load(part[-1]) for part in parts])
    return [*inner, _directory(config, recipe, cache_dir)]


def _directory(config: Corpus, recipe: Recipe, cache_dir: Path) -> Path:
    # What a class of the user makes follows from its source too.
    source = fingerprint(type(config))
    inputs = recipe.inputs if source is None else recipe.inputs | {"code": source}
    return cache_dir / f"{re.sub(r'[^A-Za-z0-9_]', '_', config.kind)[:40]}-{digest(inputs)}"
