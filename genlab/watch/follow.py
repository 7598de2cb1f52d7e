"""Trackio or Weights & Biases beside TensorBoard: what a training writes, sent there as well.

In: `SERVICE:PROJECT` and the metrics of a training under the tags that TensorBoard gets. Out: calls
of the service's own package, which both have the same: `init`, `log` and `finish`. TensorBoard's
files stay what a run is read from: a service that fails is said once, and training goes on.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Protocol

from pydantic import JsonValue

from genlab.config import GenlabError
from genlab.config.errors import one_line, shorten
from genlab.machine import hosts

SERVICES = ("trackio", "wandb")


class Scalars(Protocol):
    """What takes numbers by tag at a step."""

    def scalars(self, step: int, values: Mapping[str, float], /) -> None:
        """Write the numbers of a step."""
        ...


class Follower:
    """One run of a service, told what the first writer is told.

    Args:
        first: TensorBoard's writer.
        service: the imported package of the service.
    """

    def __init__(self, first: Scalars, service: ModuleType):
        self._first = first
        self._service: ModuleType | None = service

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write to the first writer, then to the service."""
        self._first.scalars(step, values)
        if self._service is None:
            return
        try:
            self._service.log(dict(values), step=step)
        except Exception as error:  # the network of a service is no reason to lose a run
            self._service = None
            print(f"{_said(error)}; training goes on without it", file=sys.stderr)


def check_follow(text: str) -> None:
    """Refuse what does not name a service and a project.

    Raises:
        ValueError: with the form of it.
    """
    service, _, project = text.partition(":")
    if service not in SERVICES or not project.strip():
        raise ValueError(
            f"follow={shorten(text)}: expected SERVICE:PROJECT with one of {', '.join(SERVICES)}, "
            "for example trackio:speech"
        )


@contextlib.contextmanager
def followed(
    first: Scalars, follow: str | None, name: str, config: Mapping[str, JsonValue]
) -> Iterator[Scalars]:
    """Yield where to write: `first` alone, or `first` and the service that `follow` names.

    Args:
        first: TensorBoard's writer.
        follow: SERVICE:PROJECT, or nothing.
        name: of the run in the project; a run that is resumed has the same one.
        config: shown beside it.

    Raises:
        GenlabError: if the package of the service is not installed, or refuses to begin.
    """
    if follow is None or not hosts.is_leader():
        yield first
        return
    service, _, project = follow.partition(":")
    try:
        package = _load(service)
    except ImportError as error:
        # Its own parts may be missing too, which installing it again mends.
        missing = "is not installed" if error.name in (None, service) else _said(error)
        raise GenlabError(
            f"settings.follow={follow!r}: {service}: {missing}; pip install {service}"
        ) from None
    try:
        package.init(project=project, name=name, config=dict(config), resume="allow")
    except Exception as error:
        raise GenlabError(f"settings.follow={follow!r}: {_said(error)}") from None
    try:
        yield Follower(first, package)
    finally:
        with contextlib.suppress(Exception):  # what was trained is on disk
            package.finish()


def _load(service: str) -> ModuleType:
    # By name, so that no text of a config decides which module runs.
    if service == "wandb":
        import wandb

        return wandb
    import trackio

    return trackio


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {shorten(one_line(str(error)))}"
