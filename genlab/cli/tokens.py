"""`genlab data import`, `export` and `check PATH`: tokens that were encoded elsewhere."""

import argparse
from pathlib import Path

from genlab.cli.fetch import fetch_data
from genlab.config import ConfigError
from genlab.data.own.export import export_store
from genlab.data.own.labels import describe_labels, read_labels
from genlab.data.own.source import TokenFiles
from genlab.data.own.spec import SPEC_NAME
from genlab.data.own.statistics import inspect_tokens, is_picture
from genlab.data.store import TokenStore
from genlab.experiment import Comparison, DecoderRun
from genlab.load import load_experiment
from genlab.run.cache import cache_root
from genlab.run.ownership import refuse_to_replace
from genlab.run.stored import write_whole
from genlab.watch.progress import Progress


def act_on_words(arguments: argparse.Namespace) -> bool:
    """Do what `genlab data WORD ...` asks for; False if it asks to check a config."""
    word, words = arguments.config, arguments.overrides
    if word == "fetch":
        fetch_data(arguments)
    elif word == "import":
        _import(words)
    elif word == "encode":
        from genlab.cli.encode import encode_data

        encode_data(arguments)
    elif word == "export":
        _export(arguments)
    elif words and _is_token_directory(words[0]):
        _check(words[0], arguments.picture)
    else:
        return False
    return True


def _is_token_directory(path: str) -> bool:
    """Return whether somebody's tokens are there, and not a config; a bucket holds no config."""
    return "://" in path or (Path(path) / SPEC_NAME).exists()


def _import(words: list[str]) -> None:
    """Import tokens into the cache, as a comparison would, and say what is there."""
    if len(words) != 1:
        raise ConfigError("import: expected one directory of tokens: genlab data import DIR")
    files = TokenFiles(Path(words[0]).expanduser())
    with Progress() as progress:
        store = files.open(cache_root(), progress)
    print(f"token store {store.directory}: {store.num_clips:,} clips, {store.info.manifest_hash}")
    for name, split in store.info.splits.items():
        print(f"  {name}: {split.clips:,} clips, {split.seconds / 60:.1f} min")
    print("\n".join(_describe_labels(store)))
    print(f"next: genlab compare own_tokens data.tokens={words[0]}")


def _describe_labels(store: TokenStore) -> list[str]:
    """Return what conditions by name can be told of the clips."""
    told = describe_labels(read_labels(store.directory).values(), store.num_clips)
    if not told:
        return ["  no columns beside text, speaker and split: nothing else can be told by name"]
    return [*told, "  a column is told by condition.parts (docs/conditions.md in the repository)"]


def _check(path: str, picture: Path | None) -> None:
    """Read every clip of a directory of tokens, and print what is in it."""
    if picture is not None:
        refuse_to_replace(picture, is_picture(picture))
    with Progress() as progress:
        found = inspect_tokens(TokenFiles(Path(path)), progress)
    print("\n".join([f"{path}: every row is as it should be", *found.lines()]))
    if picture is not None:
        write_whole(picture, found.picture())
        print(f"picture: {picture}")


def _export(arguments: argparse.Namespace) -> None:
    """Write the tokens of a config, or of a directory of tokens, in a format that others read."""
    words = [word for word in arguments.overrides if "=" not in word]
    overrides = tuple(word for word in arguments.overrides if "=" in word)
    if len(words) != 2:
        raise ConfigError(
            "export: expected a config or a directory of tokens, and a directory to write: genlab "
            "data export quickstart my_tokens --format npz"
        )
    source, out = words[0], Path(words[1])
    with Progress() as progress:
        # A directory of tokens comes first: neither a run directory nor a config has tokens.json.
        if _is_token_directory(source):
            files = TokenFiles(Path(source))
            store, codec = files.open(cache_root(), progress), files.spec.codec
        else:
            config = load_experiment(source, overrides, trust_code=arguments.trust_code)
            if not isinstance(config, Comparison | DecoderRun):
                raise ConfigError(
                    f"{source}: kind {config.kind!r} has no tokens, expected a comparison"
                )
            store, own = config.data.open(progress), config.data.own
            codec = config.data.codec or ("" if own is None else own.spec.codec)
        number = export_store(store, out, arguments.format, codec, progress)
    print(f"{out}: {number:,} clips as {arguments.format}; next: genlab data check {out}")
