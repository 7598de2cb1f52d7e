"""genlab: autoregressive, masked parallel and diffusion decoders for audio, compared on one token
space.

Importing this package imports nothing heavy, and its folders import what they name only when it is
asked for:

    >>> from genlab.codecs import load_codec
    >>> from genlab.decoders import ARConfig, ARSampler, Task

docs/surface.md in the repository lists the names that are supported; everything else may move.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genlab.studies.finished import load_run

# These libraries send telemetry unless it is turned off before they are first imported. It is
# turned off here, because every import from genlab runs this file first; child processes inherit
# the variables.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["SKYPILOT_DISABLE_USAGE_COLLECTION"] = "1"

__version__ = "0.1.0"


def lazy_names(
    package: str, places: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that re-exports names of its modules (PEP
    562).

    A module is imported when one of its names is first asked for. Modules inside the package are
    found as always, because Python looks for them once `__getattr__` has raised.

    Args:
        package: its `__name__`.
        places: the module of every name.
    """

    def get(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(places[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *places})


__all__ = ["load_run"]

__getattr__, __dir__ = lazy_names(__name__, {"load_run": "genlab.studies.finished"})
