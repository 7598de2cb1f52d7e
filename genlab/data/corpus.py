"""Corpora behind one function: a config in, a `Manifest` with 16 kHz audio on disk out.

`build_corpus` is idempotent (a finished corpus is read, not built), resumable (work continues in
`NAME.partial`) and atomic (only a whole corpus carries its final name). The name holds a digest of
the config and of what it reads, so a changed setting or a changed source file makes another corpus
and never mixes with the old one.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Annotated
from weakref import WeakKeyDictionary

from pydantic import Field

from genlab.config import GenlabError, digest
from genlab.data import embedded, folder
from genlab.data.dialogue import Dialogue, build_dialogues
from genlab.data.digests import DIGESTS_NAME, digest_files, write_digests
from genlab.data.embedded import Embedded, build_embedded
from genlab.data.folder import Folder, ImportConfig, ImportReport, import_files, list_folder
from genlab.data.layouts import (
    FSDD,
    VCTK,
    LibriSpeech,
    LJSpeech,
    list_fsdd,
    list_librispeech,
    list_ljspeech,
    list_vctk,
)
from genlab.data.listing import Listing
from genlab.data.manifest import MANIFEST_NAME, Clip, Manifest
from genlab.data.shards import Progress
from genlab.run.cache import cache_root, only_builder
from genlab.run.shared import fetch, share
from genlab.run.stored import remove_leftovers

Corpus = Annotated[
    Embedded | Folder | LibriSpeech | LJSpeech | VCTK | FSDD | Dialogue, Field(discriminator="kind")
]
MOST_SAMPLED = 20_000  # files of a corpus that are looked into before it is taken for a built one
SAMPLE_BYTES = 512


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
        config: any member of `Corpus`.
        cache_dir: where corpora live; `cache_root()` if absent.
        progress: called with a stage name, the number of things done, and their total.
        is_quiet: if true nothing is summed up: the caller shows the report itself. With a
            `progress` that has seen the summary it is not repeated either.

    Raises:
        GenlabError: if the corpus cannot be built, or a file is unusable and the config says
            `strict`.
    """
    cache_dir = cache_root() if cache_dir is None else Path(cache_dir)
    source: Listing | Manifest | None = None
    if isinstance(config, Dialogue):
        source = build_corpus(config.corpus, cache_dir, progress)
    elif not isinstance(config, Embedded):
        source = _list_files(config)
    final = _directory(config, source, cache_dir)
    if not (final / MANIFEST_NAME).exists():
        with only_builder(cache_dir / f".{final.name}.lock"):
            # Another process may have built it while this one waited.
            if not (final / MANIFEST_NAME).exists() and not fetch(final, MANIFEST_NAME):
                _build(config, source, cache_dir / f"{final.name}.partial", final, progress)
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


def _build(
    config: Corpus,
    source: Listing | Manifest | None,
    partial: Path,
    final: Path,
    progress: Progress | None,
) -> None:
    partial.mkdir(exist_ok=True)
    remove_leftovers(partial)
    clips: list[Clip]
    if isinstance(config, Embedded):
        clips = build_embedded(config, partial, progress)
    elif isinstance(config, Dialogue):
        assert isinstance(source, Manifest)
        clips = build_dialogues(config, source, partial, progress)
    else:
        assert isinstance(source, Listing)
        clips, report = import_files(config, source, partial, progress)
        report.save(partial)
    Manifest(clips, partial).save(partial)
    made = sorted(
        path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file()
    )
    kept = [name for name in made if not name.startswith(("shards/", ".")) and name != DIGESTS_NAME]
    write_digests(partial, digest_files(partial, kept))
    shutil.rmtree(partial / "shards")
    if final.exists():  # a directory without a manifest is nothing that was ever finished
        shutil.rmtree(final)
    os.replace(partial, final)


def find_corpora(config: Corpus, cache_dir: Path | None = None) -> list[Path]:
    """Return where the corpus is or will be built, after the one that it is made of; nothing is
    built.

    Raises:
        GenlabError: if its files cannot be listed, or what it is made of is not built or damaged.
    """
    cache_dir = cache_root() if cache_dir is None else Path(cache_dir)
    if isinstance(config, Dialogue):
        inner = find_corpora(config.corpus, cache_dir)
        is_built = (inner[-1] / MANIFEST_NAME).exists()
        outer = [_directory(config, Manifest.load(inner[-1]), cache_dir)] if is_built else []
        return [*inner, *outer]
    source = None if isinstance(config, Embedded) else _list_files(config)
    return [_directory(config, source, cache_dir)]


def _directory(config: Corpus, source: Listing | Manifest | None, cache_dir: Path) -> Path:
    return cache_dir / f"{config.kind}-{_corpus_key(config, source)}"


def _list_files(config: ImportConfig) -> Listing:
    if isinstance(config, Folder):
        return list_folder(config)
    if isinstance(config, LibriSpeech):
        return list_librispeech(config)
    if isinstance(config, LJSpeech):
        return list_ljspeech(config)
    if isinstance(config, VCTK):
        return list_vctk(config)
    assert isinstance(config, FSDD)
    return list_fsdd(config)


def _corpus_key(config: Corpus, source: Listing | Manifest | None) -> str:
    if source is None:
        return digest({"config": config.to_dict(), "version": embedded.RECIPE_VERSION})
    if isinstance(source, Manifest):
        settings = {key: value for key, value in config.to_dict().items() if key != "corpus"}
        return digest({"config": settings, "utterances": source.hash()})
    # Neither where the corpus lies nor `strict` changes what is built; the files do.
    assert isinstance(config, ImportConfig)
    settings = {
        key: value for key, value in config.to_dict().items() if key not in {"path", "strict"}
    }
    # Size and time alone do not tell apart what was packed with one time for all files and one
    # length for all clips, so some bytes are read too; of more files than these, of every n-th.
    every = -(-len(source.rows) // MOST_SAMPLED) or 1
    root = Path(config.path).expanduser()
    rows = [
        [*row, _file_state(root / row.path, is_sampled=number % every == 0)]
        for number, row in enumerate(source.rows)
    ]
    return digest(
        {
            "config": settings,
            "version": folder.IMPORT_VERSION,
            "rows": rows,
            "skipped": source.skipped,
        }
    )


def _file_state(path: Path, *, is_sampled: bool) -> list[int | str]:
    """Return size, time and a digest of some bytes of a file, as far as they can be had."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # a NUL in the name is a ValueError
        return []
    found: list[int | str] = [state.st_size, state.st_mtime_ns]
    if is_sampled and stat.S_ISREG(state.st_mode):
        with contextlib.suppress(OSError):
            found.append(_digest_middle(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return found


@functools.lru_cache(maxsize=MOST_SAMPLED)  # a command asks several times
def _digest_middle(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    """Return a digest of the bytes in the middle, where recordings are seldom silent."""
    with open(path, "rb", buffering=0) as file:
        file.seek(max(0, (size - SAMPLE_BYTES) // 2))
        return hashlib.sha256(file.read(SAMPLE_BYTES)).hexdigest()[:10]
