"""`genlab data fetch`: list the corpora that can be downloaded, or put one into a folder."""

import argparse
import shlex
from pathlib import Path

from genlab.config import ConfigError
from genlab.data.sources import SOURCES_PATH, Source, find_source, read_sources
from genlab.watch.progress import Progress


def fetch_data(arguments: argparse.Namespace) -> int:
    """List corpora, or download one.

    Raises:
        ConfigError: if the words are not NAME DIR.
    """
    from genlab.data.fetch import fetch

    sources = read_sources(arguments.sources or SOURCES_PATH)
    words = arguments.overrides
    if not words:
        print("\n".join(_listed(name, source) for name, source in sources.items()))
        return 0
    if len(words) != 2 or "=" in words[0]:
        raise ConfigError(
            "fetch: expected a name and a folder, for example genlab data fetch "
            f"{next(iter(sources))} audio; genlab data fetch lists the names"
        )
    name, folder = words
    source = find_source(sources, name)
    # Before the first byte: who may not use it can still stop.
    print(f"{source.title}; {source.page}", flush=True)
    print(f"licence: {source.licence}; to be named: {source.attribution}", flush=True)
    with Progress() as progress:
        fetch(name, source, Path(folder), progress)
    path = shlex.quote(str(Path(folder) / source.folder))
    print(f"{folder}: whole, every checksum is right; fetched.json says where it is from")
    print(
        f"genlab data configs/quickstart.py data.corpus.kind={source.kind} data.corpus.path={path}"
    )
    return 0


def _listed(name: str, source: Source) -> str:
    size = source.num_bytes
    shown = f"{size / 1e9:.1f} GB" if size is not None else "size not known"
    return f"{name:<22} {source.title}; {source.licence}; {shown}"
