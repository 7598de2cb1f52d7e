"""The configs that come with genlab, by name: `quickstart` is configs/quickstart.py, wherever
genlab is installed.

They live once, in the folder configs/ of the checkout; setup.py puts a copy into a wheel, as
genlab/configs. A path that exists always wins over a name.
"""

import difflib
import os
import shlex
from importlib import metadata
from pathlib import Path

from genlab.config.errors import ConfigError, one_line

PACKAGE = Path(__file__).parents[1]
EXAMPLE = "configs/quickstart.py"
UNPINNED = ("beam",)  # extras that need older packages than constraints.txt names


def is_checkout() -> bool:
    """Return whether this genlab is a checkout, or an editable install of one, and not a wheel."""
    return not (PACKAGE / "configs").is_dir()


def install_command(extra: str = "") -> str:
    """Return what installs the packages of `extra`, or those of genlab itself, from any directory.

    pip does not look up a package that is installed, be it from a wheel or from a checkout: it adds
    what is missing.
    """
    name = f"[{extra}]" if extra else ""
    if is_checkout() and not is_installed():
        # The name alone would mean a package of that name on the index.
        root = PACKAGE.parent
        pins = "" if extra in UNPINNED else f" -c {shlex.quote(str(root / 'constraints.txt'))}"
        return f"python -m pip install -e {shlex.quote(f'{root}{name}')}{pins}"
    return f"python -m pip install 'genlab{name}'"


def is_installed() -> bool:
    """Return whether pip knows genlab, which also runs from a checkout that nobody installed."""
    try:
        metadata.distribution("genlab")
    except metadata.PackageNotFoundError:
        return False
    return True


def shipped_folder() -> Path:
    """Return the folder of the configs that come with genlab."""
    return (PACKAGE.parent if is_checkout() else PACKAGE) / "configs"


def shipped_configs() -> dict[str, Path]:
    """Return the file of every config by its name, which is that of the file without its folder and
    ending.
    """
    return {path.stem: path for path in sorted(shipped_folder().rglob("*.py"))}


def _names_like(text: str | Path, configs: dict[str, Path]) -> str:
    """Return the names there are and the one that was meant; who wrote a path meant a path."""
    path = Path(text)
    near = difflib.get_close_matches(path.stem, configs, n=1)
    names = f": {', '.join(configs)}" if str(text) == path.stem else " such as quickstart"
    return f"{names}; did you mean {near[0]!r}?" if near else names


def find_config(text: str | Path) -> Path:
    """Return the file of a config: that of a path, of a run directory, or of a name such as
    `moshi`.

    A preset may be named with its folder, as in `presets/moshi`.

    Raises:
        ConfigError: if there is neither such a file nor such a name; it says which names there are.
    """
    path = Path(text)
    # `os.path` returns False for names longer than the system takes, where pathlib raises.
    if os.path.isdir(path):
        path = path / "config.json"
    elif not os.path.exists(path):
        configs, folder = shipped_configs(), shipped_folder()
        named = configs.get(path.name)
        if named is not None and str(text) in (
            path.name,
            str(named.relative_to(folder).with_suffix("")),
        ):
            return named
        raise ConfigError(
            f"config {one_line(str(path), 200)}: no such file; give a config file such as "
            f"{EXAMPLE}, a run directory, or a name{_names_like(text, configs)}"
        )
    if not os.path.isfile(path):
        raise ConfigError(
            f"config {one_line(str(path), 200)}: no such file; give a config file such as "
            f"{EXAMPLE} or a run directory"
        )
    return path
