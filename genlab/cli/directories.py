"""Words of the command line that name a run directory, and the errors where they name none."""

import os
from collections.abc import Sequence
from pathlib import Path

from genlab.config import ConfigError, GenlabError
from genlab.config.errors import meant, shorten
from genlab.config.shipped import shipped_configs
from genlab.data.nearest import near_folder
from genlab.experiment import Comparison

DATA_WORDS = ("check", "encode", "fetch", "import", "export")  # before a config or a directory


def name_arms(config: Comparison, path: Path) -> str:
    """Return what to say to somebody who wants to sample a comparison: which of its arms can be."""
    trained = sorted(str(found.parent) for found in path.glob("arms/*/seed*/config.json"))
    kinds = f"{path}: kind 'compare', but this command needs 'decoder'"
    if trained:
        return f"{kinds}: name one of the trained arms: {', '.join(trained)}"
    runs = ", ".join(f"arms/{name}/seed{config.seeds[0]}" for name in config.arms)
    return f"{kinds}: train it with `genlab compare`, then name one of {runs} in its run directory"


def run_directory(path: str) -> Path:
    """Return a run directory.

    Raises:
        GenlabError: if it is no directory; it names the one that was meant.
    """
    directory = Path(path)
    if not os.path.isdir(directory):
        raise GenlabError(
            f"{path}: expected a run directory, for example runs/first{near_folder(path)}"
        )
    return directory


def require_run(path: str, example: str) -> None:
    """Refuse what names neither a run directory nor a config; the names of configs would be no
    help.

    Raises:
        GenlabError: with an example.
    """
    if not os.path.exists(path) and path not in shipped_configs():
        raise GenlabError(
            f"{path}: no such directory; expected a run directory, for example {example}"
            f"{near_folder(path)}"
        )


def refuse_slip_of_check(config: str, rest: Sequence[str]) -> None:
    """Refuse `data CHEKC CONFIG`: two words without a `=` are no config with overrides.

    Raises:
        ConfigError: if the first was to be one of `DATA_WORDS`.
    """
    if not rest or "=" in rest[0] or os.path.exists(config):
        return
    for word in DATA_WORDS:
        if meant(config, [word]):
            told = f"{word} {rest[0]}"
            raise ConfigError(f"{shorten(config)}: no such config; did you mean '{told}'?")
