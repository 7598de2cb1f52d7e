"""Several processes that train one model: how they find each other, what they agree on, and who writes.

On a TPU pod, or under Slurm, every host runs the same command and `join` finds the others; elsewhere
JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say where they are. They share
the run directory. All of them compute and save their part of a checkpoint; process 0, the leader, alone writes
everything else. With one process every function here returns at once.
"""

import os

import jax
import numpy as np
from jaxtyping import Shaped

from genlab.config import GenlabError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Join the other processes, if this one was started as one of several; call it before anything computes.

    Raises:
        GenlabError: if only some of `VARIABLES` are set, or are not numbers.
    """
    given = [os.environ.get(name) for name in VARIABLES]
    if any(given):
        address, count, index = given
        if not (address and (count or "").isdecimal() and (index or "").isdecimal()):
            wanted = "an address host:port, a number of processes and the number of this one, from 0"
            raise GenlabError(f"{', '.join(VARIABLES)}={given}: expected {wanted}; set all three or none")
        jax.distributed.initialize(address, int(count or 0), int(index or 0))
    elif os.environ.get("JAX_PLATFORMS") != "cpu":
        try:
            jax.distributed.initialize()
        except ValueError as error:
            # What it says on a machine that is no part of a cluster.
            if "should be defined" not in str(error):
                raise


def is_one_of_several() -> bool:
    """Return whether other processes train the same model."""
    return jax.process_count() > 1


def is_leader() -> bool:
    """Return whether this process writes what is written once."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Return when every process has come here."""
    if is_one_of_several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def is_any(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return bool(collect(np.array([flag])).any())


def collect(rows: Shaped[np.ndarray, "n *c"]) -> Shaped[np.ndarray, "m *c"]:
    """Return the rows of all processes, those of the leader first; each gives as many."""
    if not is_one_of_several():
        return rows
    from jax.experimental import multihost_utils

    return np.concatenate(list(multihost_utils.process_allgather(rows)))


def is_preempted(step: int) -> bool:
    """Return whether SIGTERM came to any process, the same in all of them at the same step."""
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
