"""What the pack imports, and which wheels to carry to a machine without network that lacks some.

Nothing outside the standard library is imported, so that a machine where almost everything is
missing is told so in one line.
"""

import importlib.util
import sys
from typing import NamedTuple


class Need(NamedTuple):
    """A package that the pack imports; `wheel` is what to download."""

    imports: str
    wheel: str


# A machine with a framework has these.
FRAMEWORK = tuple(
    Need(name, wheel)
    for name, wheel in (
        ("jax", "jax"),
        ("flax", "flax"),
        ("optax", "optax"),
        ("orbax.checkpoint", "orbax-checkpoint"),
        ("numpy", "numpy"),
        ("scipy", "scipy"),
        ("jaxtyping", "jaxtyping"),
        ("typing_extensions", "typing-extensions"),
        ("safetensors", "safetensors"),
        ("rich", "rich"),
        ("etils", "etils"),
    )
)
# These it often lacks. They are small; `wheels_command` gathers them.
CARRIED = tuple(
    Need(name, wheel)
    for name, wheel in (
        ("pydantic", "pydantic"),
        ("pydantic_core", "pydantic-core"),
        ("annotated_types", "annotated-types"),
        ("typing_inspection", "typing-inspection"),
        ("grain", "grain"),
        ("array_record", "array-record"),
        ("soundfile", "soundfile"),
        ("soxr", "soxr"),
        ("cffi", "cffi"),
        ("pycparser", "pycparser"),
        ("librosa", "librosa"),
        ("decorator", "decorator"),
        ("pooch", "pooch"),
        ("platformdirs", "platformdirs"),
    )
)
# Imported by librosa before 1.0, which is what a download with Python 3.11 picks.
WITH_LIBROSA = "audioread"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def find_missing() -> list[Need]:
    """Return the packages that cannot be found here; none is imported."""
    return [need for need in (*FRAMEWORK, *CARRIED) if not _is_there(need.imports)]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that holds it
        return False


def wheels_command(folder: str = "wheels", python: str = "") -> str:
    """Return the command that gathers what is carried into `folder`, for a machine with this
    `python` (such as "3.12"; by default ours) on x86-64 Linux.
    """
    version = python or ".".join(map(str, sys.version_info[:2]))
    places = " ".join(f"--platform {name}_x86_64" for name in PLATFORMS)
    # Each package is named, so that nothing comes along that the machine has already.
    return (
        "python -m pip download --no-deps --only-binary=:all: --implementation cp "
        f"--python-version {version} {places} -c constraints.txt -d {folder} "
        + " ".join([*(need.wheel for need in CARRIED), WITH_LIBROSA])
    )


def install_commands(folder: str = "wheels") -> str:
    """Return what to run on the machine, beside the folder of wheels."""
    return (
        f"python -m pip install --no-index --no-deps --target site {folder}/*.whl && "
        "export PYTHONPATH=$PWD/site:$PWD"
    )
