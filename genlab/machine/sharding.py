"""How a model lies on many chips: one mesh, and how parameters and batches are split over its axes.

In: the sizes of three axes and, by their paths, the splits that parameters state where they are
made. Out: shardings. `data` and `fsdp` split the batch; `fsdp` also splits the parameters, which
are gathered where they are used (ZeRO-3, 1910.02054); `tensor` splits heads and inner channels, a
product split by columns followed by one split by rows (1909.08053), so that a pair costs one sum.
Paths of moments and averages end with the path of their parameter, so they lie where it does.

A mesh is set with `use_mesh` or `jax.set_mesh`; without one every function here leaves its argument
as it is, so programs for one device hold none of this. An axis that does not divide a dimension
leaves it whole.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pydantic
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import GetAttrKey, KeyPath
from jaxtyping import Array, PyTree, Shaped

from genlab.config import Config, ConfigError

AXES = ("data", "fsdp", "tensor")
# What splits the first axis of a batch.
BATCH = ("data", "fsdp")

# How the last axes of a parameter are split; layers stacked in front of them stay whole. A product
# split by columns feeds one split by rows, head by head or channel by channel.
COLUMNS = PartitionSpec("fsdp", "tensor")
ROWS = PartitionSpec("tensor", "fsdp")
# For a product that has no partner.
INPUTS = PartitionSpec("fsdp", None)
# For a table of vectors that are looked up.
CHANNELS = PartitionSpec(None, "fsdp")
# For what is small: every chip holds all of it.
WHOLE = PartitionSpec()
# How each parameter is split, by its path (genlab.nets.param.splits_of).
Splits = Mapping[str, PartitionSpec]


class ShardingConfig(Config):
    """Sizes of the mesh axes; one of them at most may be None, which takes the devices that the
    others leave. Nothing here changes a result.

    Fake CPU devices share the cores of one machine, so on CPUs only as many are used as the sizes
    name.
    """

    data: int | None = pydantic.Field(default=1, ge=1)
    """Devices that hold whole copies and share the batch."""
    fsdp: int | None = pydantic.Field(default=None, ge=1)
    """Devices that share the batch and split every parameter among themselves."""
    tensor: int | None = pydantic.Field(default=1, ge=1)
    """Devices that split the columns and rows of each matrix product."""

    @pydantic.model_validator(mode="after")
    def _check_open(self) -> "ShardingConfig":
        if sum(size is None for size in self._sizes) > 1:
            raise ValueError(
                f"data, fsdp, tensor={self._sizes}: only one of them can be None, what the others "
                "leave"
            )
        return self

    @property
    def _sizes(self) -> tuple[int | None, ...]:
        return (self.data, self.fsdp, self.tensor)

    @property
    def num_named(self) -> int:
        """The devices that the given sizes ask for."""
        return int(np.prod([size for size in self._sizes if size is not None]))

    def sizes(self, num_devices: int) -> tuple[int, ...]:
        """Return the axis sizes on so many devices.

        Raises:
            ConfigError: if they do not make up that number.
        """
        left, rest = divmod(num_devices, self.num_named)
        if rest or (left > 1 and None not in self._sizes):
            raise ConfigError(
                f"sharding data, fsdp, tensor={self._sizes}: {num_devices} devices are available; "
                "give sizes whose product divides that, and None for the one that takes what is "
                "left"
            )
        return tuple(left if size is None else size for size in self._sizes)


def make_mesh(config: ShardingConfig, devices: Sequence[Any]) -> Mesh:
    """Return the mesh of `config` over `devices`."""
    # Explicit axes, the default, would make every product state its output's sharding.
    return jax.make_mesh(
        config.sizes(len(devices)), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
    )


@contextlib.contextmanager
def use_mesh(config: ShardingConfig) -> Iterator[None]:
    """Compute on all devices of all processes while the context lasts; with one device nothing is
    set.
    """
    devices = jax.devices()
    is_shared_core = devices[0].platform == "cpu" and jax.process_count() == 1
    devices = devices[: config.num_named] if is_shared_core else devices
    if len(devices) == 1 == config.num_named:
        yield
        return
    with jax.set_mesh(make_mesh(config, devices)):
        yield


@contextlib.contextmanager
def leave_mesh() -> Iterator[None]:
    """Compute on this process's first device, where `gather` puts arrays, while a mesh is set."""
    if not mesh_sizes():
        yield
        return
    alone = jax.make_mesh(
        (1,), ("alone",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:1]
    )
    with jax.set_mesh(alone):
        yield


def mesh_sizes() -> dict[str, int]:
    """Return the axis sizes of the mesh that is set, or nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    return dict(mesh.shape) if set(AXES) <= set(mesh.axis_names) else {}


def compiled_platform() -> str:
    """Return the platform that the program being traced is for: "cpu", "gpu" or "tpu"."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    platform = jax.default_backend() if device is None else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def compiler_options() -> dict[str, str | bool]:
    """Return what to tell the compiler about a program for the mesh that is set."""
    if not mesh_sizes() or compiled_platform() != "tpu":
        return {}
    # Products whose weights are split along the inputs would run shard by shard while the shards go
    # round, and add into the whole output each time: of the traffic to memory more than half.
    # Gathering the weights first costs less.
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def spec_of(
    path: str,
    shape: tuple[int, ...],
    splits: Splits,
    sizes: dict[str, int],
) -> PartitionSpec:
    """Return how the leaf at `path` is split: like the parameter with whose path it ends, if any.

    If there are several such parameters, the one with the longest path counts. Other leaves stay
    whole.
    """
    words = path.split("/")
    ends = ("/".join(words[start:]) for start in range(len(words)))
    split = next((splits[end] for end in ends if end in splits), WHOLE)
    if len(split) > len(shape):
        return WHOLE
    return fit(PartitionSpec(*(None,) * (len(shape) - len(split)), *split), shape, sizes)


def fit(spec: PartitionSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> PartitionSpec:
    """Return `spec` without the axes that do not divide their dimension; of several on one, the
    first that do stay.
    """
    fitted = []
    for dimension, entry in zip(shape, (*spec, *(None,) * len(shape))):
        kept: list[str] = []
        for axis in (entry,) if isinstance(entry, str) else entry or ():
            if dimension % np.prod([sizes[name] for name in (*kept, axis)]) == 0:
                kept.append(axis)
        fitted.append(tuple(kept) if len(kept) > 1 else kept[0] if kept else None)
    return PartitionSpec(*fitted)


def specs_of(tree: PyTree, splits: Splits, sizes: dict[str, int]) -> PyTree:
    """Return the `PartitionSpec` of every leaf of parameters, of a training state, or of shapes of
    them.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: spec_of(path_name(path), leaf.shape, splits, sizes), tree
    )


def path_name(path: KeyPath) -> str:
    """Return the words of a key path, joined by slashes.

    They are the same for an `nnx.State` and for its pure dict.
    """
    # A path through an `nnx.State` ends with an attribute of the variable.
    path = path[:-1] if len(path) > 1 and path[-1] == GetAttrKey("value") else path
    return "/".join(
        str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))
        for entry in path
    )


def lay_out(tree: PyTree, splits: Splits) -> PyTree:
    """Ask the compiler to split every leaf like its parameter; for use under `jax.jit`."""
    if not (sizes := mesh_sizes()):
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, specs_of(tree, splits, sizes))


def constrain(x: Shaped[Array, "..."], *axes: str | tuple[str, ...] | None) -> Shaped[Array, "..."]:
    """Ask the compiler to split the leading axes of an activation as named; for use under
    `jax.jit`.
    """
    if not (sizes := mesh_sizes()):
        return x
    return jax.lax.with_sharding_constraint(x, fit(PartitionSpec(*axes), x.shape, sizes))


def place(tree: PyTree, splits: Splits) -> PyTree:
    """Return shapes that say where their arrays belong, from shapes or arrays."""
    if not (sizes := mesh_sizes()):
        return tree
    mesh = jax.sharding.get_mesh()

    def placed(leaf: jax.ShapeDtypeStruct, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(placed, tree, specs_of(tree, splits, sizes))


def batch_shardings(args: PyTree, mesh: Mesh) -> PyTree:
    """Return the sharding of every leaf of a batch: its first axis over `data` and `fsdp`."""
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, fit(PartitionSpec(BATCH), leaf.shape, dict(mesh.shape))),
        args,
    )


def put_batch(args: PyTree) -> PyTree:
    """Return the batch on the devices; each process gives its own rows, process 0 the first."""
    if not mesh_sizes():
        return jax.device_put(args)
    mesh = jax.sharding.get_mesh()
    count = jax.process_count()

    def put(leaf: np.ndarray) -> jax.Array:
        shape = (len(leaf) * count, *leaf.shape[1:])
        sharding = NamedSharding(mesh, fit(PartitionSpec(BATCH), shape, dict(mesh.shape)))
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree.map(put, args)


def put_everywhere(tree: PyTree) -> PyTree:
    """Return arrays that all processes have made alike as whole arrays on every device."""
    if not mesh_sizes():
        return tree
    return jax.device_put(tree, NamedSharding(jax.sharding.get_mesh(), PartitionSpec()))


def abstract_batch(args: PyTree) -> PyTree:
    """Return the shapes of a whole batch, with their shardings, for compilation."""
    if not mesh_sizes():
        return args
    shardings = batch_shardings(args, jax.sharding.get_mesh())
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding),
        args,
        shardings,
    )


def gather(tree: PyTree) -> PyTree:
    """Return the arrays whole on this process's first device, where sampling and scoring run."""
    if not mesh_sizes():
        return tree
    everywhere = NamedSharding(jax.sharding.get_mesh(), PartitionSpec())
    whole = jax.jit(lambda tree: tree, out_shardings=everywhere)(tree)
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf.addressable_data(0), jax.local_devices()[0]), whole
    )
