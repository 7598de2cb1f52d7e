"""Corpora behind one function: a config in, a `Manifest` with 16 kHz audio on disk out.

`build_corpus` is idempotent (a finished corpus is read, not built), resumable (work goes on in `NAME.partial`) and
atomic (only a whole corpus carries its final name). The name holds a digest of the config and of what it reads, so a
changed setting or a changed source file makes another corpus and never mixes with the old one.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from genlab.config import digest
from genlab.data.embedded import RECIPE_VERSION, Embedded, build_embedded
from genlab.data.manifest import MANIFEST_NAME, Manifest

Progress = Callable[[str, int, int], None]
Corpus = Embedded

CACHE_VARIABLE = "GENLAB_CACHE"


def cache_root() -> Path:
    """Return the directory for built corpora and token stores: $GENLAB_CACHE, else `.genlab_cache` here."""
    return Path(os.environ.get(CACHE_VARIABLE) or ".genlab_cache").expanduser()


def build_corpus(config: Corpus, cache_dir: Path | None = None, progress: Progress | None = None) -> Manifest:
    """Return the manifest of the corpus, building what is missing.

    Args:
        config: any member of `Corpus`.
        cache_dir: where corpora live; `cache_root()` if absent.
        progress: called with a stage name, the number of things done, and their total.

    Raises:
        GenlabError: if the corpus cannot be built.
    """
    cache_dir = cache_root() if cache_dir is None else Path(cache_dir)
    final = cache_dir / f"{config.kind}-{corpus_key(config)}"
    if (final / MANIFEST_NAME).exists():
        return Manifest.load(final)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _only_builder(cache_dir / f".{final.name}.lock"):
        if (final / MANIFEST_NAME).exists():  # another process built it while this one waited
            return Manifest.load(final)
        partial = cache_dir / f"{final.name}.partial"
        partial.mkdir(exist_ok=True)
        manifest = Manifest(build_embedded(config, partial, progress), partial)
        manifest.save(partial)
        shutil.rmtree(partial / "shards", ignore_errors=True)
        os.replace(partial, final)
    return Manifest.load(final)


def corpus_key(config: Corpus) -> str:
    """Return 10 hex digits that change with anything that could change the built corpus."""
    return digest({"config": config.to_dict(), "recipe": RECIPE_VERSION})


@contextmanager
def _only_builder(path: Path) -> Iterator[None]:
    # An operating-system lock, so a killed builder leaves none behind.
    with open(path, "w") as file:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
