"""Several processes that train one model: how they find each other, what they agree on, and who
writes.

On a TPU pod, or under Slurm, every host runs the same command and `join` finds the others;
elsewhere JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say
where they are. They share the run directory. All of them compute and save their part of a
checkpoint; process 0, the leader, alone writes everything else. With one process every function
here returns at once.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from genlab.config import GenlabError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TIMEOUT_VARIABLE = "GENLAB_HEARTBEAT_TIMEOUT_S"
BARRIER_MS = 7 * 24 * 3600 * 1000  # the others may have a long time to wait for the leader

# Under this key JAX leaves word, for all processes, that one of them got SIGTERM.
PREEMPTION_KEY = "RECEIVED_PREEMPTION_NOTICE"

_barriers = itertools.count()
_loops_that_ask = 0
_has_agreed = False  # all of them to end at a step: what follows is their own way out


def join() -> None:
    """Join the other processes, if this one was started as one of several; call it before anything
    computes.

    Raises:
        GenlabError: if only some of `VARIABLES` are set, or are not numbers.
    """
    given = [os.environ.get(name) for name in VARIABLES]
    if any(given):
        address, count, index = given
        if not (address and (count or "").isdecimal() and (index or "").isdecimal()):
            wanted = (
                "an address host:port, a number of processes and the number of this one, from 0"
            )
            raise GenlabError(
                f"{', '.join(VARIABLES)}={given}: expected {wanted}; set all three or none"
            )
        jax.distributed.initialize(
            address,
            int(count or 0),
            int(index or 0),
            heartbeat_timeout_seconds=heartbeat_timeout_s(),
        )
    elif os.environ.get("JAX_PLATFORMS") != "cpu":
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_timeout_s())
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


def index() -> int:
    """Return the number of this process, 0 for the leader."""
    return jax.process_index()


def heartbeat_timeout_s() -> int:
    """Return after how many seconds of silence a process counts as dead: 30, or
    GENLAB_HEARTBEAT_TIMEOUT_S.

    Raises:
        GenlabError: if the variable is not a number of seconds.
    """
    value = os.environ.get(TIMEOUT_VARIABLE, "30")
    if not value.isdecimal() or not int(value):
        raise GenlabError(f"{TIMEOUT_VARIABLE}={value!r}: expected whole seconds, at least 1")
    return int(value)


def coordination_client() -> Any:
    """Return the connection by which the processes talk without a device; JAX has no public name
    for it.
    """
    from jax._src import distributed

    return distributed.global_state.client


def coordinator_address() -> str:
    """Return host:port of the leader."""
    from jax._src import distributed

    return distributed.global_state.coordinator_address or ""


def wait_for_all(what: str) -> None:
    """Return when every process has come here; unlike a collective this has no limit of minutes."""
    if is_one_of_several():
        coordination_client().wait_at_barrier(f"genlab/{next(_barriers)}/{what}", BARRIER_MS)


def is_any(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return bool(collect(np.array([flag])).any())


def collect(rows: Shaped[np.ndarray, "n *c"]) -> Shaped[np.ndarray, "m *c"]:
    """Return the rows of all processes, those of the leader first; each gives as many."""
    if not is_one_of_several():
        return rows
    from jax.experimental import multihost_utils

    return np.concatenate(list(multihost_utils.process_allgather(rows)))


@contextlib.contextmanager
def asking_at_steps() -> Iterator[None]:
    """Say that in this context `is_preempted` is asked at every step: there a SIGTERM waits for the
    next one.
    """
    global _loops_that_ask
    _loops_that_ask += 1
    try:
        yield
    finally:
        _loops_that_ask -= 1


def must_end(client: Any) -> bool:
    """Return whether SIGTERM came to any process while this one is at nothing that will ask."""
    if _loops_that_ask or _has_agreed:
        return False
    try:
        return bool(client.key_value_try_get(PREEMPTION_KEY))
    except Exception:  # JAX's word for a key that nobody has set
        return False


def is_preempted(step: int) -> bool:
    """Return whether SIGTERM came to any process, the same in all of them at the same step."""
    global _has_agreed
    from jax.experimental import multihost_utils

    is_now = multihost_utils.reached_preemption_sync_point(step)
    _has_agreed |= is_now
    return is_now
