"""Training curves of a run, read back from its event files, as one attempt after another left them.

In: a run directory. Out: points per tag. An attempt that resumed at a step hides what earlier ones
wrote after it, as in TensorBoard, so a run that was interrupted has one curve. Nothing here imports
jax.
"""

from collections.abc import Callable
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

Curve = list[tuple[int, float]]
"""(step, value), in the order of the steps."""

MOST_POINTS = 200  # more cannot be told apart on a page, and it would grow with the training


def read_curves(run_dir: Path, wanted: Callable[[str], bool]) -> dict[str, Curve]:
    """Return the scalars whose tag is `wanted`, at most `MOST_POINTS` of each; empty if there are
    no event files.
    """
    # What was written after the training (samples, scores) holds no curve, and much audio.
    files = [path for path in run_dir.glob("*tfevents*") if path.suffix != ".samples"]
    attempts = [
        events for path in files if (events := list(LegacyEventFileLoader(str(path)).Load()))
    ]
    curves: dict[str, Curve] = {}
    for events in sorted(attempts, key=lambda events: events[0].wall_time):
        for event in events:
            _take(event, curves, wanted)
    return {
        tag: _thin(sorted(dict(points).items())) for tag, points in sorted(curves.items()) if points
    }


def _take(event: Event, curves: dict[str, Curve], wanted: Callable[[str], bool]) -> None:
    if event.HasField("session_log") and event.session_log.status == SessionLog.START:
        for points in curves.values():
            points[:] = [(step, value) for step, value in points if step < event.step]
    for value in event.summary.value:
        if value.HasField("simple_value") and wanted(value.tag):
            curves.setdefault(value.tag, []).append((event.step, value.simple_value))


def _thin(points: Curve) -> Curve:
    """Return every n-th point, and the last one always."""
    every = -(-len(points) // MOST_POINTS)
    return points if every <= 1 else [*points[:-1:every], points[-1]]
