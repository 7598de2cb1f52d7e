"""Whether the loader keeps up with the accelerator: the share of a step spent waiting."""

from collections.abc import Mapping, Sequence
from functools import partial

from genlab.nets.backbone import BackboneConfig
from genlab.speed.bench import WORKLOADS
from genlab.speed.hardware.size import FULL, HardwareSize, ModelSize
from genlab.speed.hardware.step import Case, Row
from genlab.speed.size import BenchSize

MOST_WAITING = 0.02  # of the time of a step


class Loading:
    """Does the loader keep up?"""

    name = "loader"
    question = "Does the loader keep up, or does the accelerator wait for batches?"
    share = 1.0
    environment: Mapping[str, str] = {}

    def cases(self, size: HardwareSize) -> Sequence[Case]:
        """Return the smallest model first: its steps are the shortest."""
        return [Case(model.name, partial(_wait, size, model)) for model in size.models]


def _wait(size: HardwareSize, model: ModelSize) -> Row:
    asked = BenchSize(
        backbone=BackboneConfig(
            width=model.width, layers=model.layers, heads=model.heads, dtype=size.dtype
        ),
        codebooks=size.codebooks,
        entries=size.entries,
        latent_channels=size.latent_channels,
        frames=size.frames,
        batch=model.clips,
    )
    # The product's store, loader and training step, as `genlab bench data_loader` runs them.
    with WORKLOADS["data_loader"](asked) as workload:
        for _ in range(size.training):
            workload.run()
        note = workload.note()
    share = float(note.split("waited for ")[1].split("%")[0]) / 100
    return {
        "waiting_share": share,
        "tolerance": MOST_WAITING,
        # On the cores that jax computes on too, a share says nothing about the loader.
        "passed": size is not FULL or share <= MOST_WAITING,
        "clips": model.clips,
        "steps": size.training,
    }
