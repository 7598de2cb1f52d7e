"""Devices, hosts, meshes, memory, signals."""

from typing import TYPE_CHECKING

from genlab import lazy_names

if TYPE_CHECKING:
    from genlab.machine.sharding import ShardingConfig, use_mesh

__all__ = ["ShardingConfig", "use_mesh"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ShardingConfig": "genlab.machine.sharding",
        "use_mesh": "genlab.machine.sharding",
    },
)
