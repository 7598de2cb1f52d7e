"""Where the metrics of a training go: anything that takes numbers at a step."""

from typing import Protocol, runtime_checkable


class Writer(Protocol):
    """Where metrics go; one that has `flush` is flushed before each save."""

    def scalars(self, step: int, metrics: dict[str, float], /) -> None:
        """Write the metrics of a step."""
        ...


@runtime_checkable
class Buffered(Protocol):
    """A writer that keeps some of what it was given in memory."""

    def flush(self) -> None:
        """Write all of it."""
        ...
