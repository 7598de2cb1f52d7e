"""Rows of a batch over all chips of this process: each chip computes some of them.

In: a batch whose leaves have the rows first, and what all rows share. Out: the same arrays, split
or whole on every chip. One program serves all chips (GSPMD), and random numbers that are drawn for
a batch do not depend on how it is split (`jax_threefry_partitionable`), so only rounding may differ
between layouts. On one device nothing is moved.
"""

import dataclasses
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from genlab.machine.sharding import ShardingConfig

Tree = TypeVar("Tree")
_AXIS = "rows"


@dataclasses.dataclass(frozen=True)
class RowSplit:
    """The devices that share the rows of a batch, none if there is one device only."""

    devices: tuple[object, ...] = ()

    def fit(self, count: int) -> int:
        """Return how many rows are computed for `count`: each device has as many."""
        share = max(1, len(self.devices))
        return -(-count // share) * share

    def split(self, batch: Tree) -> Tree:
        """Return a batch with its rows split; their number must be one that `fit` gives."""
        return self._put(batch, PartitionSpec(_AXIS))

    def whole(self, tree: Tree) -> Tree:
        """Return arrays whole on every device."""
        return self._put(tree, PartitionSpec())

    def _put(self, tree: Tree, spec: PartitionSpec) -> Tree:
        if not self.devices:
            return tree
        mesh: Mesh = jax.make_mesh(
            (len(self.devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=self.devices
        )
        return jax.device_put(tree, NamedSharding(mesh, spec))


ALONE = RowSplit()


def all_chips(config: ShardingConfig) -> RowSplit:
    """Return a split over the chips of this process. Fake CPU devices share the cores of one
    machine: of these only as many as the mesh of `config` names.
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        devices = devices[: config.num_named]
    return RowSplit(tuple(devices)) if len(devices) > 1 else ALONE


def fill_rows(batch: Tree, rows: int) -> Tree:
    """Return a batch of `rows` rows, filled up with copies of its first one."""

    def fill(leaf: np.ndarray) -> np.ndarray:
        missing = rows - len(leaf)
        return np.concatenate([leaf, np.repeat(leaf[:1], missing, axis=0)]) if missing else leaf

    return jax.tree.map(fill, batch)
