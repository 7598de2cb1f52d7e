"""Codecs that others published, read from their own files, most often a config.json and
safetensors; no torch, no pickle.

In: a config class of the lab (which knows the published names and files) and a directory, or the id
of a repository on the Hugging Face Hub. Out: the codec with its weights. Files are read only after
their headers are consistent with their sizes and not larger than the model that config.json
describes; then every tensor must be wanted, found and of the right shape, and what is not is named.

Layouts: PyTorch keeps convolutions as [out, in, frames], transposed ones as [in, out, frames] and
products as [out, in]. A weight-normalised pair (g, v) becomes the one kernel g v / |v|, the norm
over all axes but the first.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import KeyPath
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genlab.codecs.base import Codec, PublishedConfig
from genlab.config import GenlabError
from genlab.nets.weights import WeightsError, read_header
from genlab.run.stored import parse_stored, read_content

# A published file may also hold what only training needs, such as running averages of the
# codebooks.
MAX_BYTES_PER_PARAMETER = 16
MAX_CONFIG_BYTES = 1 << 20
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
RESTORE = "restore the file"
_PAIRS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


class Published(NamedTuple):
    """A codec from published files. `fingerprint` is 10 hex digits of the SHA-256 of the config and
    the files.
    """

    codec: Codec
    config: PublishedConfig
    fingerprint: str
    directory: Path


def load_published(
    config_class: type[PublishedConfig], source: str | None = None, **changes: Any
) -> Published:
    """Load a codec from a directory, or from the Hub (`source` is a repository id; absent means the
    usual one).

    Args:
        config_class: the class of the port, for example `MimiConfig`.
        source: a directory with the files, or a repository id.
        changes: fields of the config that replace what config.json says, for example the number of
            codebooks used.

    Raises:
        GenlabError: if the files cannot be had, or are not what they should be; the text
            names file and tensor.
    """
    directory = config_class.find(source)
    config = config_class.describe(directory)
    config = config.from_dict(config.to_dict() | changes)
    abstract = nnx.eval_shape(lambda: config.build(key=jax.random.key(0)))
    graph, state = nnx.split(abstract)
    tree = nnx.to_pure_dict(state)
    num_parameters = sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(tree))
    found = config.read(directory, num_parameters)
    filled = fill(tree, found.tensors, config, directory)
    # Arrays of jax: numpy ones would be copied to the device in every call.
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, filled))
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for path in found.files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return Published(nnx.merge(graph, state), config, digest.hexdigest()[:10], directory)


def find_directory(source: str, subfolder: str = "") -> Path:
    """Return the directory that `source` names, downloading what is missing of a repository.

    With a `subfolder` only that part of a repository is meant; a directory may be the repository or
    the part. What was downloaded before is taken as it is, without asking the Hub.

    Raises:
        GenlabError: if it is neither a directory nor something the Hub gives.
    """
    local = find_local(source, subfolder)
    if local is not None:
        return local
    if not _HUB_ID.fullmatch(source):
        raise GenlabError(
            f"{source}: no such directory, nor the id of a Hub repository (OWNER/NAME)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(source, allow_patterns=_patterns(subfolder))) / subfolder
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise GenlabError(
            f"{source}: not a directory here, and the Hub did not give it "
            f"({type(error).__name__}: {reason:.120}); copy its config.json and safetensors into "
            "a directory and name that"
        ) from None


def needs_download(source: str, subfolder: str = "") -> bool:
    """Return whether `source` is the id of a repository that is not on this machine."""
    return _HUB_ID.fullmatch(source) is not None and find_local(source, subfolder) is None


def find_local(source: str, subfolder: str = "") -> Path | None:
    """Return the directory that `source` names on this machine, None if it has to be downloaded.

    A repository whose download was cut short counts as missing.
    """
    if os.path.isdir(source):  # pathlib raises on names longer than the system takes
        part = Path(source) / subfolder
        return part if part.is_dir() else Path(source)
    if not _HUB_ID.fullmatch(source):
        return None
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            source, allow_patterns=_patterns(subfolder), local_files_only=True
        )
    except (OSError, ValueError):  # LocalEntryNotFoundError is one
        return None
    directory = Path(found) / subfolder
    wanted = {"config.json"}
    for index in directory.glob("*.safetensors.index.json"):
        wanted |= set(_files_of(index))
    present = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    return directory if wanted <= present and any(directory.glob("*.safetensors")) else None


def _files_of(index: Path) -> list[str]:
    """Return the files that an index lists; a damaged one wants what is not there."""
    try:
        return list(map(str, json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ["a readable index"]


def _patterns(subfolder: str) -> list[str]:
    names = ("config.json", "*.safetensors", "*.safetensors.index.json")
    return [str(Path(subfolder) / name) for name in names]


def read_config(directory: Path) -> dict[str, Any]:
    """Return the published config.json.

    Raises:
        GenlabError: if it is missing, oversized, or not a JSON object.
    """
    path = directory / "config.json"
    content = read_content(path, fix=RESTORE, max_bytes=MAX_CONFIG_BYTES)
    if content is None:
        raise GenlabError(f"{path}: no such file; {RESTORE}")
    return parse_stored(content, dict[str, Any], path=path, fix=RESTORE)


def weight_files(directory: Path, conversion: str = "") -> list[Path]:
    """Return the safetensors files of a directory, in name order; `conversion` is the advice if
    there is none.

    Raises:
        WeightsError: if there is none; pickled weights are not read.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        others = sorted(
            path.name
            for path in directory.iterdir()
            if path.suffix in {".bin", ".pt", ".pth", ".ckpt"}
        )
        hint = (
            f"; {others[0]} is a pickle, which is never read: convert it to safetensors"
            if others
            else ""
        )
        raise WeightsError(
            f"{directory}: no .safetensors file{hint}" + (f"; {conversion}" if conversion else "")
        )
    return files


def read_tensors(files: list[Path], max_bytes: int) -> dict[str, np.ndarray]:
    """Return all tensors of the files as float32 (integers as they are).

    Raises:
        WeightsError: if a header lies about a file, a name comes twice, or the files hold more than
            `max_bytes`.
    """
    tensors: dict[str, np.ndarray] = {}
    for path in files:
        num_bytes = path.stat().st_size
        if num_bytes > max_bytes:
            raise WeightsError(
                f"{path}: {num_bytes} bytes, but config.json describes a model of at most "
                f"{max_bytes}"
            )
        # safetensors would map a truncated file and fail, or crash, on first use.
        ends = [entry["data_offsets"][1] for entry in read_header(path).values()]
        if not ends or max(ends) != num_bytes:
            raise WeightsError(
                f"{path}: {num_bytes} bytes, its header promises {max(ends, default=0)}; restore "
                "the file"
            )
        try:
            loaded = load_file(path)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise WeightsError(
                f"{path}: safetensors refuses the file ({error!s:.80}); restore it"
            ) from None
        for name, array in loaded.items():
            if name in tensors:
                raise WeightsError(
                    f"{path}: tensor {name!r} is in another file as well; remove one"
                )
            # Half precision in the file is a matter of its size; the port computes in float32.
            is_integer = np.issubdtype(array.dtype, np.integer) or array.dtype == bool
            tensors[name] = array if is_integer else array.astype(np.float32)
            if not is_integer and not np.isfinite(tensors[name]).all():
                raise WeightsError(
                    f"{path}: tensor {name!r} holds values that are not finite; restore the file"
                )
    return tensors


def fold_weight_norm(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors with every weight-normalised pair replaced by the weight it stands for."""
    folded = dict(tensors)
    for gain_name, direction_name in _PAIRS:
        for name in [name for name in folded if name.endswith("." + gain_name)]:
            stem = name.removesuffix(gain_name)
            if stem + direction_name in folded:
                gain = folded.pop(name)
                direction = folded.pop(stem + direction_name)
                norm = np.sqrt(
                    np.sum(direction**2, axis=tuple(range(1, direction.ndim)), keepdims=True)
                )
                folded[stem + "weight"] = gain * direction / np.maximum(norm, 1e-12)
    return folded


def fill(
    tree: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    config: PublishedConfig,
    directory: Path,
) -> dict[str, Any]:
    """Return `tree` with every leaf taken from `tensors`, renamed and in our layout.

    Raises:
        WeightsError: naming the tensors that are missing, unknown or of another shape.
    """
    used: set[str] = set()
    problems: list[str] = []

    def take(path: KeyPath, leaf: Any) -> np.ndarray:
        ours = ".".join(str(getattr(part, "key", part)) for part in path)
        # A list of names: layers that are separate in their file and stacked along a first axis
        # here.
        names = config.published_name(ours)
        is_stack = not isinstance(names, str)
        shape = leaf.shape[1:] if is_stack else leaf.shape
        parts = []
        for name in names if is_stack else [names]:
            used.add(name)
            wanted = _published_shape(ours, shape)
            if name not in tensors:
                problems.append(f"{name!r} is missing")
            # Axes of size 1 differ between a linear layer and a convolution of one tap; the rest
            # must agree.
            elif _squeeze(tensors[name].shape) != _squeeze(wanted):
                problems.append(
                    f"{name!r} has shape {list(tensors[name].shape)}, expected {list(wanted)}"
                )
            else:
                parts.append(_to_our_layout(ours, tensors[name].reshape(wanted)).reshape(shape))
        # With a problem noted above the value is never used; any array lets the walk go on, so that
        # one error lists all tensors.
        if is_stack and len(parts) == leaf.shape[0]:
            return np.stack(parts).astype(leaf.dtype)
        return parts[0].astype(leaf.dtype) if parts else np.zeros((), leaf.dtype)

    filled = jax.tree_util.tree_map_with_path(take, tree)
    unknown = [
        name
        for name in tensors
        if name not in used and not re.fullmatch(config.published_extras, name)
    ]
    problems += [f"{name!r} is not part of this model" for name in unknown]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WeightsError(
            f"{directory}: tensors do not fit config.json: {', '.join(problems[:5])}{more}"
        )
    return filled


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _published_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that PyTorch keeps for our parameter."""
    leaf = path.rsplit(".", 1)[-1]
    if leaf == "kernel":
        return shape[::-1]
    if leaf == "transposed_kernel":
        return (*shape[1:], shape[0]) if len(shape) == 3 else (shape[1], 1, shape[0])
    return shape


def _to_our_layout(path: str, array: np.ndarray) -> np.ndarray:
    leaf = path.rsplit(".", 1)[-1]
    if leaf == "kernel":
        return array.transpose()
    if leaf == "transposed_kernel":
        return np.moveaxis(array, -1, 0)
    return array
