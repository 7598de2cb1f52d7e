"""What is saved beside the arrays of a checkpoint: what makes it ours, and what adds up.

In: the metadata of a checkpoint. Out: `Meta`, or an error that names the field: the checksum says
that they are as they were written, not who wrote them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pydantic
from pydantic import JsonValue
from typing_extensions import TypedDict

from genlab.run.checkpoint import CheckpointMismatch
from genlab.run.stored import describe_problem
from genlab.training.looks import LookEntry


@dataclasses.dataclass
class Tally:
    """What adds up over the steps and the attempts; saved with every checkpoint."""

    wall_s: float = 0.0
    compile_s: float = 0.0
    data_wait_s: float = 0.0
    host_s: float = 0.0  # the device waited while the host logged, saved or handed over a step
    batch_hash: str = ""
    last_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    looks: list[LookEntry] = dataclasses.field(default_factory=list)
    look_s: float = 0.0  # of looking at validation; no part of wall_s

    def speed_since(self, last: "Tally", steps: int) -> dict[str, float]:
        """Return the speed over `steps` updates since `last`, and where their time went."""
        wall_s, wait_s, host_s = (
            getattr(self, name) - getattr(last, name)
            for name in ("wall_s", "data_wait_s", "host_s")
        )
        shares = {"data_wait": wait_s, "host": host_s, "device": wall_s - wait_s - host_s}
        return {"steps_per_s": steps / wall_s} | {
            f"{name}_fraction": max(seconds, 0.0) / wall_s for name, seconds in shares.items()
        }


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class Meta(TypedDict):
    """What training writes there; `identity` is what a resumed run must share."""

    identity: dict[str, JsonValue]
    tally: Tally


def read_meta(meta: Mapping[str, object], run_dir: Path) -> Meta:
    """Return what training keeps beside the arrays.

    Raises:
        CheckpointMismatch: naming the field that is missing or of another type.
    """
    try:
        return pydantic.TypeAdapter(Meta).validate_python(meta)
    except pydantic.ValidationError as error:
        raise CheckpointMismatch(
            f"{run_dir}: metadata of the checkpoint: {describe_problem(error)}; "
            "use another run directory"
        ) from None
