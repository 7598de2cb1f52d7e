"""Copies of the configs that come with genlab, for people to edit."""

import os
from pathlib import Path

from genlab.config.errors import GenlabError
from genlab.config.shipped import shipped_configs, shipped_folder
from genlab.run.stored import write_atomically


def write_configs(folder: Path) -> list[Path]:
    """Write every config to `folder`, presets into a folder of their own, and return their paths.

    A file that is there already stays as it is; one that differs is refused before anything is
    written. So a command that was stopped can be given again.

    Raises:
        GenlabError: if `folder` is a file, or a file there differs from the config of the same
            name.
    """
    if folder.exists() and not folder.is_dir():
        raise GenlabError(f"{folder}: not a folder; give one that exists, or the name of a new one")
    sources = {path.relative_to(shipped_folder()): path for path in shipped_configs().values()}
    texts = {
        folder / name: path.read_text(encoding="utf-8") for name, path in sorted(sources.items())
    }
    for path, text in texts.items():
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == text.encode()):
            raise GenlabError(
                f"{path}: already exists, and is not as it comes with genlab; nothing was "
                "written, give another folder"
            )
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, text)
    return list(texts)
